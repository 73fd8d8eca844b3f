package daemon

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/await"
	"github.com/overspan/overspan/ipam"
	"github.com/overspan/overspan/store"
)

// naming lists the keys that name a node, in themselves or in their value.
func (c *testCluster) naming(id overspan.NodeID) []string {
	c.t.Helper()
	l, err := c.etcd.List(c.t.Context(), store.Prefix("/overspan/test/v1/"), 0)
	if err != nil {
		c.t.Fatal(err)
	}
	var out []string
	for _, kv := range l.KVs {
		if strings.Contains(kv.Key, string(id)) || strings.Contains(string(kv.Value), string(id)) {
			out = append(out, kv.Key)
		}
	}
	return out
}

// awaits returns once an event of a kind has come.
func (n *testNode) awaits(events <-chan Event, kind, action, name string) Event {
	n.t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		select {
		case e := <-events:
			if e.Type == kind && e.Action == action && e.Name == name {
				return e
			}
		case <-deadline:
			n.t.Fatalf("%s: not in time: event %s %s %s", n.cfg.NodeName, kind, action, name)
		}
	}
}

func TestRemoveNode(t *testing.T) {
	c := newTestCluster(t, 3)
	h1, h2, h3 := c.nodes[0], c.nodes[1], c.nodes[2]
	h1.create(CreateRequest{Spec: ipam.Spec{Name: "demo", Subnets: []string{"10.5.0.0/24"}}})
	h1.connect(ConnectRequest{Network: "demo", Target: h1.container("one")})
	h2.connect(ConnectRequest{Network: "demo", Target: h2.container("two")})
	lost := h3.connect(ConnectRequest{Network: "demo", Target: h3.container("web"), Name: "web"})
	for _, ref := range []string{"h1", string(h1.Self())} {
		if _, err := h1.RemoveNode(t.Context(), ref, true); !errors.Is(err, overspan.ErrInvalid) {
			t.Errorf("a node that was asked to remove itself: %v", err)
		}
	}
	if _, err := h1.RemoveNode(t.Context(), "h3", false); !errors.Is(err, overspan.ErrInUse) {
		t.Errorf("removal of a node that is up: %v", err)
	}
	id := h3.Self()
	events := h2.Subscribe(t.Context(), Span{})
	h3.stop()
	h2.awaits(events, "node", "down", "h3")
	again := ConnectRequest{Network: "demo", Target: h1.container("web"), Name: "web", IP: lost.IPv4.String()}
	for _, req := range []ConnectRequest{again, {Network: "demo", Target: again.Target, Name: "web"}} {
		if _, err := h1.Connect(t.Context(), req); err == nil || !strings.Contains(err.Error(), "ctl node rm h3") {
			t.Errorf("connect with what an absent node holds: %v; want it to name ctl node rm h3", err)
		}
	}
	removed, err := h1.RemoveNode(t.Context(), "h3", false)
	if want := (RemovedNode{ID: id, Name: "h3", Endpoints: 1, Blocks: 1}); err != nil || removed != want {
		t.Errorf("removed is %+v, %v; want %+v", removed, err, want)
	}
	h2.awaits(events, "node", "remove", "h3")
	if left := c.naming(id); len(left) > 0 {
		t.Errorf("left of the removed node: %v", left)
	}
	moved := h1.connect(again)
	h2.eventually("the address is reached at its new home", func() bool { return h2.sendsTo(moved, h1) })
	for _, n := range []*testNode{h1, h2} {
		n.clean()
		for _, dst := range n.kernel.State().FDB {
			if dst.String() == h3.cfg.Underlay[0] {
				t.Errorf("%s still sends frames to the removed node", n.cfg.NodeName)
			}
		}
	}
	if _, err := h1.RemoveNode(t.Context(), "h3", false); !errors.Is(err, overspan.ErrNotFound) {
		t.Errorf("second removal: %v", err)
	}
}

func TestHalfARemovalCanBeFinishedByItsName(t *testing.T) {
	c := newTestCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	id := h2.Self()
	h2.stop()
	c.txn(
		store.Delete(store.Key("/overspan/test/v1/nodes/"+string(id))),
		store.Put("/overspan/test/v1/removing/"+string(id), []byte(`{"name":"h2","by":"h3"}`)),
	)
	leaving, err := h1.Leaving(t.Context())
	if diff := cmp.Diff(map[overspan.NodeID]string{id: "h2"}, leaving); err != nil || diff != "" {
		t.Errorf("nodes on their way out (-want +got): %v\n%s", err, diff)
	}
	if removed, err := h1.RemoveNode(t.Context(), "h2", false); err != nil || removed.ID != id {
		t.Errorf("removed is %+v, %v", removed, err)
	}
	if left := c.naming(id); len(left) > 0 {
		t.Errorf("left of the removed node: %v", left)
	}
}

func TestHousekeepingFinishesHalfARemoval(t *testing.T) {
	c := newTestCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	id := h2.Self()
	h2.stop()
	h1.stop()
	c.txn(
		store.Delete(store.Key("/overspan/test/v1/nodes/"+string(id))),
		store.Put("/overspan/test/v1/removing/"+string(id), []byte(`{"name":"h2","by":"h3"}`)),
	)
	h1.cfg.Resync = 50 * time.Millisecond
	h1.start()
	h1.eventually("the removal is finished", func() bool { return len(c.naming(id)) == 0 })
}

func TestNodeThatIsAwayForTooLongIsRemoved(t *testing.T) {
	c := newTestCluster(t, 3)
	for _, n := range c.nodes {
		n.stop()
		n.cfg.ReapAfter = 500 * time.Millisecond
		n.start()
	}
	h1, h2, h3 := c.nodes[0], c.nodes[1], c.nodes[2]
	h1.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	h3.connect(ConnectRequest{Network: "demo", Target: h3.container("web"), Name: "web"})
	id := h3.Self()
	events := h1.Subscribe(t.Context(), Span{})
	h3.stop()
	h1.awaits(events, "node", "down", "h3")
	h1.awaits(events, "node", "remove", "h3")
	h2.eventually("nothing is left of the node", func() bool { return len(c.naming(id)) == 0 })
	if got := c.keys("nodes/"); len(got) != 2 {
		t.Errorf("registered are %v, want the two that are up", got)
	}
}

// A breaker is a line to etcd that breaks as soon as one more change is carried out.
type breaker struct {
	*store.Faulty
	armed atomic.Bool
}

func (b *breaker) Txn(ctx context.Context, txn store.Txn) (store.Result, error) {
	res, err := b.Faulty.Txn(ctx, txn)
	if err == nil && res.OK && len(txn.If) > 0 && b.armed.CompareAndSwap(true, false) {
		b.SetDown(true)
	}
	return res, err
}

// What was carried out is told as that, though etcd does not answer any more when
// this node wants to see it.
func TestChangeStandsThoughNobodySeesIt(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, 3)
	h1, h2 := c.nodes[0], c.nodes[1]
	h1.stop()
	line := &breaker{Faulty: h1.line}
	h1.kv = line
	h1.start()
	c.nodes[2].stop()
	for _, tt := range []struct {
		name string
		do   func() error
		seen func(*overspan.Snapshot) bool
	}{
		{"network create", func() error {
			_, err := h1.CreateNetwork(t.Context(), CreateRequest{Spec: ipam.Spec{Name: "demo", Driver: "overlay"}})
			return err
		}, func(s *overspan.Snapshot) bool { return len(s.Networks) == 1 }},
		{"node drain", func() error {
			_, err := h1.DrainNode(t.Context(), "h2", true)
			return err
		}, func(s *overspan.Snapshot) bool { return s.Nodes[h2.Self()].Draining }},
	} {
		h1.eventually("it is registered", func() bool { _, err := h1.registrar.session(); return err == nil })
		line.armed.Store(true)
		if err := tt.do(); err != nil {
			t.Errorf("%s: %v; want success: it was carried out", tt.name, err)
		}
		h1.line.SetDown(false)
		h2.eventually(tt.name+" is seen", func() bool { return tt.seen(h2.Snapshot()) })
		h1.eventually(tt.name+" is seen", func() bool { return tt.seen(h1.Snapshot()) })
	}
}

func TestDrain(t *testing.T) {
	c := newTestCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	net := h1.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	h1.connect(ConnectRequest{Network: "demo", Target: h1.container("one")})
	kept := h2.connect(ConnectRequest{Network: "demo", Target: h2.container("kept")})
	blocks := func() (own []overspan.Block) {
		for b := range h1.mirrorSegment(net.ID).Blocks.Values() {
			if b.Node == h2.Self() {
				own = append(own, b)
			}
		}
		return own
	}
	session, err := h2.registrar.session()
	if err != nil {
		t.Fatal(err)
	}
	// The blocks that are there lie anywhere.
	err = overspan.ErrConflict
	for first := overspan.Slot(16); errors.Is(err, overspan.ErrConflict) && first < 240; first += 16 {
		_, err = session.Claim(t.Context(), net, overspan.Range{First: first, Size: 16}, false)
	}
	if err != nil {
		t.Fatal(err)
	}
	events := h2.Subscribe(t.Context(), Span{})
	n, err := h1.DrainNode(t.Context(), "h2", true)
	if err != nil || !n.Draining || n.Name != "h2" {
		t.Fatalf("drain returns %+v, %v", n, err)
	}
	h2.awaits(events, "node", "drain", "h2")
	refused := func(when string) {
		t.Helper()
		_, err := h2.Connect(t.Context(), ConnectRequest{Network: "demo", Target: h2.container("new")})
		if !errors.Is(err, overspan.ErrUnavailable) || !strings.Contains(err.Error(), "ctl node undrain h2") {
			t.Errorf("%s: connect says %v, want how to undrain", when, err)
		}
	}
	refused("drained")
	h2.eventually("the empty block is given back", func() bool { return len(blocks()) == 1 })
	if !h1.sendsTo(kept, h2) {
		t.Error("the endpoint of a draining node is not served any more")
	}
	h2.stop()
	h2.start()
	refused("started again")
	if _, _, err := h2.Disconnect(t.Context(), "demo", kept.Name); err != nil {
		t.Fatal(err)
	}
	h2.eventually("all blocks are given back", func() bool { return len(blocks()) == 0 })
	h2.eventually("the network's devices are gone", func() bool { return len(h2.kernel.State().Links) == 0 })
	if _, err := h2.DrainNode(t.Context(), "h2", false); err != nil {
		t.Fatal(err)
	}
	h2.connect(ConnectRequest{Network: "demo", Target: h2.container("new")})
	h2.clean()
}

// A network whose devices have gone from a node is not taken for one that is in line
// there: what the next attach needs is made first.
func TestDevicesThatHaveGoneAreMissed(t *testing.T) {
	c := newTestCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	net := h1.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	e := h1.connect(ConnectRequest{Network: "demo", Target: h1.container("one")})
	if _, _, err := h1.Disconnect(t.Context(), "demo", e.Name); err != nil {
		t.Fatal(err)
	}
	if !h1.realised.has(net.ID) {
		t.Fatal("the network is not known to be in line")
	}
	if _, err := h2.RemoveNode(t.Context(), "h1", true); err != nil {
		t.Fatal(err)
	}
	h1.eventually("the network's devices are gone", func() bool { return len(h1.kernel.State().Links) == 0 })
	h1.eventually("that is known", func() bool { return !h1.realised.has(net.ID) })
}

func TestEndpointOfAnAbsentNodeIsFreedByForce(t *testing.T) {
	c := newTestCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	net := h1.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	h1.connect(ConnectRequest{Network: "demo", Target: h1.container("one")})
	taken := h2.connect(ConnectRequest{Network: "demo", Target: h2.container("taken"), Name: "taken"})
	kept := h2.connect(ConnectRequest{Network: "demo", Target: h2.container("kept"), Name: "kept"})
	_, _, err := h1.ForceDisconnect(t.Context(), "demo", "taken")
	if !errors.Is(err, overspan.ErrInUse) || !strings.Contains(err.Error(), "disconnect taken from network demo by force: its node h2 is up: disconnect it there") {
		t.Errorf("by force from a node that is up: %v", err)
	}
	h2.stop()
	h1.eventually("h2 is down", func() bool { return h1.Snapshot().Nodes[h2.Self()].Presence == nil })
	_, _, err = h1.Disconnect(t.Context(), "demo", "taken")
	if !errors.Is(err, overspan.ErrNotFound) || !strings.Contains(err.Error(), "on node h2, which is away: free it with --force") {
		t.Errorf("without force: %v", err)
	}
	e, pending, err := h1.ForceDisconnect(t.Context(), "demo", "taken")
	if err != nil || pending || e.ID != taken.ID {
		t.Fatalf("by force: %+v, pending %t, %v", e, pending, err)
	}
	if got := h1.mirrorSegment(net.ID).Endpoints.Get(taken.Slot); got != nil {
		t.Errorf("its record still stands: %+v", got)
	}
	_, _, err = h1.ForceDisconnect(t.Context(), "demo", "taken")
	if !errors.Is(err, overspan.ErrNotFound) || !strings.Contains(err.Error(), "on any node") {
		t.Errorf("once more: %v", err)
	}

	h2.start()
	h2.eventually("it is taken off", func() bool {
		return len(h2.Attachments()) == 1 && h2.kernel.State().Links[overspan.VethName(taken.ID)].Master == ""
	})
	h2.eventually("the note is dropped", func() bool { return len(c.keys("evicted/")) == 0 })
	if !slices.ContainsFunc(h2.Status(t.Context()).Warnings, func(w string) bool {
		return strings.Contains(w, "endpoint taken of h2-taken was disconnected from network demo by node h1")
	}) {
		t.Errorf("status says nothing of it: %q", h2.Status(t.Context()).Warnings)
	}
	if !h1.sendsTo(kept, h2) {
		t.Error("the other endpoint is not served any more")
	}
	h2.clean()
	h2.connect(ConnectRequest{Network: "demo", Target: h2.container("taken"), Name: "taken"})
	if w := h2.Status(t.Context()).Warnings; len(w) > 0 {
		t.Errorf("connected again, status still warns: %q", w)
	}
}

// TestEvictionIsToldThoughItFails: the kernel refuses to take off what was freed
// by force; it is told once nevertheless, and taken off at last.
func TestEvictionIsToldThoughItFails(t *testing.T) {
	c := newTestCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	h1.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	taken := h2.connect(ConnectRequest{Network: "demo", Target: h2.container("taken"), Name: "taken"})
	h2.stop()
	h1.eventually("h2 is down", func() bool { return h1.Snapshot().Nodes[h2.Self()].Presence == nil })
	if _, _, err := h1.ForceDisconnect(t.Context(), "demo", "taken"); err != nil {
		t.Fatal(err)
	}
	h2.kernel.FailNext("doom link "+overspan.VethName(taken.ID), overspan.Errorf(overspan.ErrConflict, "not today"))
	begun := time.Now()
	h2.start()
	if got := h2.awaits(h2.Subscribe(t.Context(), Span{Since: begun}), "endpoint", "evict", "taken").Attributes["by"]; got != "h1" {
		t.Errorf("the event says that it was evicted by %q", got)
	}
	h2.eventually("status tells of it", func() bool {
		return slices.ContainsFunc(h2.Status(t.Context()).Warnings, func(w string) bool { return strings.Contains(w, "taken was disconnected") })
	})
	h2.eventually("it is taken off", func() bool { return len(h2.Attachments()) == 0 && !h2.plugged(taken) })
	h2.eventually("the note is dropped", func() bool {
		await.Wake(h2.evictionsDue) // what housekeeping does
		return len(c.keys("evicted/")) == 0
	})
	told := map[string]int{}
	for e := range h2.Subscribe(t.Context(), Span{Since: begun, Until: time.Now()}) {
		told[e.Action]++
	}
	if told["evict"] != 1 || told["disconnect"] != 1 {
		t.Errorf("told: %v; want one evict and one disconnect", told)
	}
}

// TestWhatWasFreedByForceStaysFree: also if its node is removed before it hears
// of it.
func TestWhatWasFreedByForceStaysFree(t *testing.T) {
	c := newTestCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	h1.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	taken := h2.connect(ConnectRequest{Network: "demo", Target: h2.container("taken"), Name: "taken"})
	kept := h2.connect(ConnectRequest{Network: "demo", Target: h2.container("kept"), Name: "kept"})
	h2.stop()
	h1.eventually("h2 is down", func() bool { return h1.Snapshot().Nodes[h2.Self()].Presence == nil })
	if _, _, err := h1.ForceDisconnect(t.Context(), "demo", "taken"); err != nil {
		t.Fatal(err)
	}
	if _, err := h1.RemoveNode(t.Context(), "h2", false); err != nil {
		t.Fatal(err)
	}
	h2.start()
	h2.served(kept)
	h2.eventually("it is taken off", func() bool { return len(h2.Attachments()) == 1 && !h2.plugged(taken) })
	h2.eventually("the note is dropped", func() bool { return len(c.keys("evicted/")) == 0 })
	if h2.published(taken) {
		t.Error("it was published again")
	}
	h2.clean()
}
