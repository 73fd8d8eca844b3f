package daemon

import (
	"errors"
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
			return s != nil && s.Frozen != nil && n.history.remembered() != nil && err == nil
		})
	}
}

// accept ends the freeze.
func (c *testCluster) accept(force bool) {
	c.t.Helper()
	if _, _, err := c.nodes[0].Accept(c.t.Context(), force); err != nil {
		c.t.Fatal(err)
	}
	for _, n := range c.nodes {
		n.eventually("the freeze is over", func() bool { return n.Snapshot().Frozen == nil })
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
		n.eventually("nothing is left to look at", n.rec.settled)
		before = append(before, n.kernel.State())
	}
	events := h3.Subscribe(t.Context())

	c.etcd.Rollback(backup)
	c.frozen(c.nodes...)
	for i, n := range c.nodes {
		n.eventually("nothing is left to look at", n.rec.settled)
		if !n.kernel.State().Equal(before[i]) {
			t.Errorf("the rollback changed the kernel of %s", n.cfg.NodeName)
		}
		if n.Snapshot().Segments[a.Network].Endpoints.Get(b.Slot) == nil {
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
	h1.eventually("nothing is left to look at", h1.rec.settled)
	meta, before := h1.Snapshot().Meta, h1.kernel.State()

	c.etcd.Replace(2)
	c.frozen(h1, h2)
	if got := h2.mirror.Snapshot().Meta; got != meta {
		t.Errorf("the settings are %+v, want those of before, %+v", got, meta)
	}
	if s := h1.Snapshot(); s.Networks[net.ID] == nil || s.Segments[net.ID].Endpoints.Get(b.Slot) == nil {
		t.Error("h1 has forgotten with etcd")
	}
	h1.eventually("nothing is left to look at", h1.rec.settled)
	if !h1.kernel.State().Equal(before) {
		t.Error("the empty etcd changed the kernel")
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
	h1.eventually("nothing is left to look at", h1.rec.settled)
	h2.eventually("nothing is left to look at", h2.rec.settled)
	n1, n2 := len(h1.ops.since(0)), len(h2.ops.since(0))
	if _, err := c.etcd.Txn(t.Context(), store.Txn{Then: []store.Op{store.Delete(store.Prefix("/overspan/test/"))}}); err != nil {
		t.Fatal(err)
	}
	c.frozen(c.nodes...)
	for _, n := range c.nodes {
		n.eventually("nothing is left to look at", n.rec.settled)
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
	before := h1.kernel.State()
	h1.stop()
	h2.stop()
	c.etcd.Rollback(backup)
	// The leases of the past expire in time.
	if _, err := c.etcd.Txn(t.Context(), store.Txn{Then: []store.Op{store.Delete(store.Prefix("/overspan/test/v1/live/"))}}); err != nil {
		t.Fatal(err)
	}
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
	h1.eventually("nothing is left to look at", h1.rec.settled)
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
	h1.eventually("nothing is left to look at", h1.rec.settled)
	before := h1.kernel.State()
	c.etcd.Rollback(backup)
	c.frozen(h1)
	for range 2 {
		h1.stop()
		h1.start()
		c.frozen(h1)
		h1.eventually("nothing is left to look at", h1.rec.settled)
		if !h1.kernel.State().Equal(before) {
			t.Error("the restart changed the kernel")
		}
		if holder, _ := h1.Snapshot().Segments[a.Network].Holder(b.Slot); holder.Node != h2.Self() {
			t.Error("the memory is lost")
		}
	}
}
