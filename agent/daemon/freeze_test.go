package daemon

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/ipam"
	"github.com/overspan/overspan/kernel"
	"github.com/overspan/overspan/store"
)

// revision returns etcd's.
func (c *testCluster) revision() int64 {
	c.t.Helper()
	l, err := c.etcd.List(c.t.Context(), store.Key("x"), 0)
	if err != nil {
		c.t.Fatal(err)
	}
	return l.Revision
}

// frozen waits until every node goes by its memory beside a new history.
func (c *testCluster) frozen(nodes ...*testNode) {
	c.t.Helper()
	for _, n := range nodes {
		n.eventually("it is frozen", func() bool {
			s := n.mirror.Trusted()
			_, err := n.registrar.session()
			return s != nil && s.Frozen != nil && n.knowledge().Memory != nil && err == nil
		})
	}
}

// forgetPresence ends a presence that a rollback has brought back, as time does:
// nobody keeps its lease alive.
func (c *testCluster) forgetPresence(n *testNode) {
	c.t.Helper()
	live := store.Key("/overspan/test/v1/live/" + string(n.Self()))
	if _, err := c.etcd.Txn(c.t.Context(), store.Txn{Then: []store.Op{store.Delete(live)}}); err != nil {
		c.t.Fatal(err)
	}
}

// accept ends the freeze once every node that is up has reported.
func (c *testCluster) accept() {
	c.t.Helper()
	first := c.nodes[0]
	first.eventually("all is published again", func() bool {
		_, _, err := first.Accept(c.t.Context(), false)
		if err != nil && !errors.Is(err, overspan.ErrUnavailable) {
			c.t.Fatal(err)
		}
		return err == nil
	})
}

// whole checks that the cluster is as if nothing had happened: every endpoint of
// every node stands in etcd, no address is lent twice, all reach all, and every
// kernel is in line.
func (c *testCluster) whole() {
	c.t.Helper()
	for _, n := range c.nodes {
		n.eventually("it goes by etcd alone", func() bool {
			s := n.Snapshot()
			return s != nil && s.Frozen == nil && n.knowledge().Memory == nil
		})
	}
	addrs := map[string]string{}
	for _, n := range c.nodes {
		for _, a := range n.local.AllAttachments() {
			e := a.Endpoint
			n.eventually("endpoint "+e.Name+" stands in etcd", func() bool {
				at := n.mirrorSegment(e.Network).Endpoints.Get(e.Slot)
				return at != nil && at.ID == e.ID
			})
			if other, taken := addrs[e.IPv4.String()]; taken {
				c.t.Errorf("%s and %s have the address %s", other, e.Name, e.IPv4)
			}
			addrs[e.IPv4.String()] = e.Name
			for _, peer := range c.nodes {
				if peer != n && len(peer.local.InNetwork(e.Network)) > 0 {
					peer.eventually("it reaches "+e.Name, func() bool { return peer.sendsTo(e, n) })
				}
			}
		}
	}
	for _, n := range c.nodes {
		n.eventually("the end of the freeze is looked at", func() bool {
			_, drift, err := n.Verify(c.t.Context())
			return err == nil && len(drift) == 0
		})
		n.clean()
	}
}

func TestRollbackFreezesAndChangesNoKernel(t *testing.T) {
	c := newTestCluster(t, 3)
	h1, h2, h3 := c.nodes[0], c.nodes[1], c.nodes[2]
	h1.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	h1.connect(ConnectRequest{Network: "demo", Target: h1.container("old")})
	backup := c.revision()
	a := h1.connect(ConnectRequest{Network: "demo", Target: h1.container("a")})
	b := h2.connect(ConnectRequest{Network: "demo", Target: h2.container("b")})
	h3.connect(ConnectRequest{Network: "demo", Target: h3.container("c")})
	var before []kernel.State
	for _, n := range c.nodes {
		before = append(before, n.atRest())
	}
	events := h3.Subscribe(t.Context(), Span{})

	c.etcd.Rollback(backup)
	c.frozen(c.nodes...)
	for i, n := range c.nodes {
		n.eventually("nothing is left to look at", n.rec.Settled)
		if !n.kernel.State().Equal(before[i]) {
			t.Errorf("the rollback changed the kernel of %s", n.cfg.NodeName)
		}
		if n.Snapshot().Segments.Get(a.Network).Endpoints.Get(b.Slot) == nil {
			t.Errorf("%s has forgotten an endpoint with etcd", n.cfg.NodeName)
		}
	}
	e := <-events
	for e.Type == "node" { // up and down
		e = <-events
	}
	if e.Type != "cluster" || e.Action != "freeze" || !strings.Contains(e.Attributes["reason"], "rolled back") {
		t.Errorf("told as %+v", e)
	}
	for what, do := range map[string]func() error{
		"connect": func() error {
			_, err := h2.Connect(t.Context(), ConnectRequest{Network: "demo", Target: h2.container("new")})
			return err
		},
		"create": func() error {
			_, err := h2.CreateNetwork(t.Context(), CreateRequest{Spec: ipam.Spec{Name: "two", Driver: "overlay"}})
			return err
		},
		"remove": func() error { _, err := h2.RemoveNetwork(t.Context(), "demo"); return err },
	} {
		if err := do(); !errors.Is(err, overspan.ErrUnavailable) || !strings.Contains(err.Error(), "ctl cluster accept") {
			t.Errorf("%s while frozen: %v", what, err)
		}
	}
	if _, _, err := h2.Disconnect(t.Context(), "demo", b.Name); err != nil {
		t.Errorf("disconnect while frozen: %v", err)
	}
	if _, there := h2.kernel.State().Links[overspan.VethName(b.ID)]; there {
		t.Error("the port of a disconnected endpoint is still there")
	}
	status := h3.Status(t.Context())
	if status.Freeze == nil || len(status.Freeze.Reports) != 3 {
		t.Errorf("status tells of the freeze: %+v", status.Freeze)
	}
}

func TestReplacedEtcdIsSetUpFromMemory(t *testing.T) {
	c := newTestCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	net := h1.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	h1.connect(ConnectRequest{Network: "demo", Target: h1.container("a")})
	b := h2.connect(ConnectRequest{Network: "demo", Target: h2.container("b")})
	h1.eventually("nothing is left to look at", h1.rec.Settled)
	meta, before := h1.Snapshot().Meta, h1.kernel.State()

	c.etcd.Replace(2)
	c.frozen(h1, h2)
	if got := h2.mirror.Snapshot().Meta; got != meta {
		t.Errorf("the settings are %+v, want those of before, %+v", got, meta)
	}
	if s := h1.Snapshot(); s.Networks[net.ID] == nil || s.Segments.Get(net.ID).Endpoints.Get(b.Slot) == nil {
		t.Error("h1 has forgotten with etcd")
	}
	h1.eventually("nothing is left to look at", h1.rec.Settled)
	if !h1.kernel.State().Equal(before) {
		t.Error("the empty etcd changed the kernel")
	}
}

// Lists show from memory the nodes that etcd has forgotten. To act on one is not
// refused as if there were none.
func TestForgottenNodeIsNotCalledUnknown(t *testing.T) {
	c := newTestCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	h1.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	h1.connect(ConnectRequest{Network: "demo", Target: h1.container("a")})
	b := h2.connect(ConnectRequest{Network: "demo", Target: h2.container("b")})
	h1.eventually("it knows b", func() bool { return h1.sendsTo(b, h2) })
	h2.stop()
	c.etcd.Replace(2)
	c.frozen(h1)
	if h1.Snapshot().Nodes[h2.Self()] == nil {
		t.Error("h1 has forgotten h2 with etcd")
	}
	_, rm := h1.RemoveNode(t.Context(), "h2", true)
	_, drain := h1.DrainNode(t.Context(), "h2", true)
	_, _, evict := h1.ForceDisconnect(t.Context(), "demo", b.Name)
	for what, err := range map[string]error{"node rm": rm, "node drain": drain, "disconnect --force": evict} {
		if !errors.Is(err, overspan.ErrUnavailable) || !strings.Contains(err.Error(), "the cluster is frozen") {
			t.Errorf("%s: %v, want it to say that the cluster is frozen", what, err)
		}
	}
}

// One who lost nothing of its own goes by what it knew as well.
func TestOwnRecordGoneIsASign(t *testing.T) {
	c := newTestCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	h1.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	a := h1.connect(ConnectRequest{Network: "demo", Target: h1.container("a")})
	h2.connect(ConnectRequest{Network: "demo", Target: h2.container("b")})
	key := "/overspan/test/v1/net/" + string(a.Network) + "/endpoints/0000000000000002"
	if _, err := c.etcd.Txn(t.Context(), store.Txn{Then: []store.Op{store.Delete(store.Key(key))}}); err != nil {
		t.Fatal(err)
	}
	c.frozen(h1, h2)
	if why := h2.Snapshot().Frozen; why.NodeName != "h1" || !strings.Contains(why.Reason, "the record of "+a.Name) {
		t.Errorf("frozen by %s: %s", why.NodeName, why.Reason)
	}
}

// The whole prefix is deleted: every watch tells of it, none may be believed.
func TestDeletedPrefixDeletesNothingInAnyKernel(t *testing.T) {
	c := newTestCluster(t, 3)
	h1, h2 := c.nodes[0], c.nodes[1]
	h1.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	for i, n := range c.nodes {
		n.connect(ConnectRequest{Network: "demo", Target: n.container(string(rune('a' + i)))})
	}
	h1.eventually("nothing is left to look at", h1.rec.Settled)
	h2.eventually("nothing is left to look at", h2.rec.Settled)
	n1, n2 := len(h1.ops.since(0)), len(h2.ops.since(0))
	if _, err := c.etcd.Txn(t.Context(), store.Txn{Then: []store.Op{store.Delete(store.Prefix("/overspan/test/"))}}); err != nil {
		t.Fatal(err)
	}
	c.frozen(c.nodes...)
	for _, n := range c.nodes {
		n.eventually("nothing is left to look at", n.rec.Settled)
	}
	for _, op := range append(h1.ops.since(n1), h2.ops.since(n2)...) {
		t.Errorf("done in a kernel: %s", op)
	}
}

func TestRollbackWhileTheAgentIsDownIsNoticedBeforeItWrites(t *testing.T) {
	c := newTestCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	h1.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	h1.connect(ConnectRequest{Network: "demo", Target: h1.container("a")})
	backup := c.revision()
	for range 5 {
		e := h1.connect(ConnectRequest{Network: "demo", Target: h1.container("b")})
		if _, _, err := h1.Disconnect(t.Context(), "demo", e.Name); err != nil {
			t.Fatal(err)
		}
	}
	h1.connect(ConnectRequest{Network: "demo", Target: h1.container("b")})
	before := h1.atRest()
	h1.stop()
	h2.stop()
	c.etcd.Rollback(backup)
	c.forgetPresence(h1)
	wrote := false
	h1.kv = watchedTxns{KV: h1.line, before: func(txn store.Txn) {
		for _, op := range txn.Then {
			if op.Kind == store.OpPut && !wrote {
				wrote = true
				if !strings.HasSuffix(op.Range.Key, "/meta/frozen") {
					t.Errorf("first of all it writes %s", op.Range.Key)
				}
			}
		}
	}}
	h1.start()
	c.frozen(h1)
	h1.eventually("nothing is left to look at", h1.rec.Settled)
	if !h1.kernel.State().Equal(before) {
		t.Error("the restart after a rollback changed the kernel")
	}
}

// An agent that starts during a freeze takes what its journal has for memory.
func TestRestartDuringAFreezeKeepsTheMemory(t *testing.T) {
	c := newTestCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	h1.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	backup := c.revision()
	a := h1.connect(ConnectRequest{Network: "demo", Target: h1.container("a")})
	b := h2.connect(ConnectRequest{Network: "demo", Target: h2.container("b")})
	h2.stop() // so that nobody publishes its endpoint
	before := h1.atRest()
	c.etcd.Rollback(backup)
	c.frozen(h1)
	for range 2 {
		h1.stop()
		h1.start()
		c.frozen(h1)
		h1.eventually("nothing is left to look at", h1.rec.Settled)
		if !h1.kernel.State().Equal(before) {
			t.Error("the restart changed the kernel")
		}
		if holder, _ := h1.Snapshot().Segments.Get(a.Network).Holder(b.Slot); holder.Node != h2.Self() {
			t.Error("the memory is lost")
		}
	}
}

func TestRollbackIsPublishedAgainAndAccepted(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(c *testCluster, backup int64)
	}{
		{"an older backup", func(c *testCluster, backup int64) { c.etcd.Rollback(backup) }},
		{"an empty one", func(c *testCluster, _ int64) { c.etcd.Replace(2) }},
		{"the prefix deleted", func(c *testCluster, _ int64) {
			if _, err := c.etcd.Txn(c.t.Context(), store.Txn{Then: []store.Op{store.Delete(store.Prefix("/overspan/test/"))}}); err != nil {
				c.t.Fatal(err)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newTestCluster(t, 3)
			h1, h2, h3 := c.nodes[0], c.nodes[1], c.nodes[2]
			h1.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
			gone := h1.connect(ConnectRequest{Network: "demo", Target: h1.container("gone")})
			h2.connect(ConnectRequest{Network: "demo", Target: h2.container("kept")})
			backup := c.revision()
			if _, _, err := h1.Disconnect(t.Context(), "demo", gone.Name); err != nil {
				t.Fatal(err)
			}
			for i := range 10 {
				n := c.nodes[i%3]
				n.connect(ConnectRequest{Network: "demo", Target: n.container(fmt.Sprint("late", i))})
			}
			h1.create(CreateRequest{Spec: ipam.Spec{Name: "two"}})
			h3.connect(ConnectRequest{Network: "two", Target: h3.container("other")})
			var before []kernel.State
			for _, n := range c.nodes {
				before = append(before, n.atRest())
			}

			tt.spoil(c, backup)
			c.frozen(c.nodes...)
			c.accept()
			c.whole()
			for i, n := range c.nodes {
				for _, op := range kernel.Diff(before[i], n.kernel.State()) {
					t.Errorf("the kernel of %s is another than before: %s", n.cfg.NodeName, op)
				}
			}
			h2.eventually("an endpoint that was disconnected before has gone again", func() bool {
				at := h2.mirrorSegment(gone.Network).Endpoints.Get(gone.Slot)
				return at == nil || at.ID != gone.ID
			})
			for _, n := range c.nodes {
				n.connect(ConnectRequest{Network: "demo", Target: n.container("new")})
				n.connect(ConnectRequest{Network: "two", Target: n.container("new2")})
			}
			c.whole()
			if left := c.keys("meta/frozen", "reports/"); len(left) > 0 {
				t.Errorf("left in etcd: %v", left)
			}
		})
	}
}

// A node that was down all the while does not freeze the cluster again, and
// publishes what it holds.
func TestNodeThatWasDownIsToldOfTheAcceptance(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(c *testCluster, backup int64)
	}{
		{"an older backup", func(c *testCluster, backup int64) { c.etcd.Rollback(backup) }},
		{"an empty one", func(c *testCluster, _ int64) { c.etcd.Replace(2) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newTestCluster(t, 3)
			h1, h2, h3 := c.nodes[0], c.nodes[1], c.nodes[2]
			h1.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
			h1.connect(ConnectRequest{Network: "demo", Target: h1.container("a")})
			backup := c.revision()
			h2.connect(ConnectRequest{Network: "demo", Target: h2.container("b")})
			h3.connect(ConnectRequest{Network: "demo", Target: h3.container("c")})
			h3.stop()
			h1.eventually("h3 is seen to be down", func() bool { return h1.Snapshot().Nodes[h3.Self()].Presence == nil })
			tt.spoil(c, backup)
			c.forgetPresence(h3)
			c.frozen(h1, h2)
			c.accept()
			h1.eventually("the freeze is over", func() bool { return h1.Snapshot().Frozen == nil })
			h3.start()
			h1.eventually("h3's endpoint stands in etcd", func() bool { return slices.Equal(names(h1, "demo"), []string{"h1-a", "h2-b", "h3-c"}) })
			c.whole()
			if left := c.keys("meta/frozen"); len(left) > 0 {
				t.Error("frozen again")
			}
		})
	}
}

// names returns those of a network's endpoints in etcd.
func names(n *testNode, network string) []string {
	found, err := findNetwork(n.Snapshot(), n.Self(), network)
	if err != nil {
		return nil
	}
	var out []string
	for e := range n.mirrorSegment(found.ID).Endpoints.Values() {
		out = append(out, e.Name)
	}
	slices.Sort(out)
	return out
}

// A rollback that no revision tells of: who lost a record knows by that, and so
// does who only sees what others have lost, before it takes it off its kernel.
func TestRollbackWithAHigherRevision(t *testing.T) {
	c := newTestCluster(t, 3)
	h1, h2, h3 := c.nodes[0], c.nodes[1], c.nodes[2]
	h1.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	h1.connect(ConnectRequest{Network: "demo", Target: h1.container("a")})
	backup := c.revision()
	for i := range 3 {
		h3.connect(ConnectRequest{Network: "demo", Target: h3.container(fmt.Sprint("late", i))})
	}
	h1.eventually("nothing is left to look at", h1.rec.Settled)
	before := len(h1.ops.since(0))
	c.etcd.RollbackAhead(backup)
	c.frozen(h1, h2, h3)
	c.accept()
	c.whole()
	for _, op := range h1.ops.since(before) {
		t.Errorf("done in the kernel of a node that has lost nothing: %s", op)
	}
}

// A node that could not reach etcd all the while does not freeze the cluster
// again, though what its agent has seen is gone and no revision tells it why.
func TestNodeThatWasCutOffIsToldOfTheAcceptance(t *testing.T) {
	c := newTestCluster(t, 3)
	h1, h2, h3 := c.nodes[0], c.nodes[1], c.nodes[2]
	h1.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	for _, n := range c.nodes {
		n.connect(ConnectRequest{Network: "demo", Target: n.container("a")})
	}
	backup := c.revision()
	h1.connect(ConnectRequest{Network: "demo", Target: h1.container("b")})
	h2.connect(ConnectRequest{Network: "demo", Target: h2.container("b")})
	h3.connect(ConnectRequest{Network: "demo", Target: h3.container("b")})
	h3.eventually("nothing is left to look at", h3.rec.Settled)
	h3.line.SetDown(true)
	c.forgetPresence(h3)
	h1.eventually("h3 is seen to be away", func() bool { return h1.Snapshot().Nodes[h3.Self()].Presence == nil })
	c.etcd.RollbackAhead(backup)
	c.forgetPresence(h3)
	c.frozen(h1, h2)
	c.accept()
	h1.eventually("the freeze is over", func() bool { return h1.Snapshot().Frozen == nil })
	h3.line.SetDown(false)
	h1.eventually("all of h3 stands in etcd", func() bool {
		return slices.Equal(names(h1, "demo"), []string{"h1-a", "h1-b", "h2-a", "h2-b", "h3-a", "h3-b"})
	})
	c.whole()
	if left := c.keys("meta/frozen"); len(left) > 0 {
		t.Error("frozen again")
	}
	if s := h1.Snapshot(); s.Accepted != 1 {
		t.Errorf("%d acceptances, want 1", s.Accepted)
	}
}
