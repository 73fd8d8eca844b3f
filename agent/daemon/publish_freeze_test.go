package daemon

import (
	"strings"
	"testing"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/ipam"
	"github.com/overspan/overspan/store"
)

// touch has every node write something.
func (c *testCluster) touch() {
	c.t.Helper()
	for _, n := range c.nodes {
		n.eventually("it writes", func() bool {
			session, err := n.registrar.session()
			return err == nil && session.DropWant(c.t.Context(), overspan.Want{Network: "none", Holder: n.Self(), Asker: n.Self(), CreateRevision: 1}) == nil
		})
	}
}

// rollBack takes etcd back to a revision. That few were lost is noticed late: the
// nodes are told to look.
func (c *testCluster) rollBack(to int64) {
	c.t.Helper()
	for _, n := range c.nodes {
		n.line.SetDown(true)
	}
	c.etcd.Rollback(to)
	for _, n := range c.nodes {
		// A run that ended since is back as well, and here it has the number of a
		// process that is alive.
		c.forgetPresence(n)
		n.line.SetDown(false)
		if session, err := n.registrar.session(); err == nil {
			session.Recheck()
		}
	}
	c.frozen(c.nodes...)
}

// Etcd may go back once more while the cluster is frozen: each node reports again.
func TestSecondRollbackIsReported(t *testing.T) {
	c := newTestCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	h1.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	backup := c.revision()
	h1.connect(ConnectRequest{Network: "demo", Target: h1.container("a")})
	h2.connect(ConnectRequest{Network: "demo", Target: h2.container("b")})
	c.rollBack(backup)
	for range 2 {
		h1.eventually("both have reported", func() bool { return len(c.keys("reports/")) == 2 })
		again := c.revision()
		c.touch()
		before := map[*testNode]*store.Session{}
		for _, n := range c.nodes {
			before[n], _ = n.registrar.session()
		}
		c.rollBack(again)
		for _, n := range c.nodes {
			n.eventually("it has noticed", func() bool {
				now, err := n.registrar.session()
				return err == nil && now != before[n]
			})
		}
	}
	c.accept()
	c.whole()
}

// What came back from the past, a block that had been yielded, is given up again,
// so that its owner can publish what it has there.
func TestYieldedBlockOfThePastIsGivenUp(t *testing.T) {
	c := newTestCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	h1.create(CreateRequest{Spec: ipam.Spec{Name: "demo", Subnets: []string{"10.20.0.0/24"}}})
	a := h1.connect(ConnectRequest{Network: "demo", Target: h1.container("a")})
	h2.connect(ConnectRequest{Network: "demo", Target: h2.container("b")})
	backup := c.revision()
	moved := h2.connect(ConnectRequest{Network: "demo", Target: h2.container("moved"), IP: "10.20.0.5"})
	if b, _ := h2.mirrorSegment(a.Network).Holder(moved.Slot); b.Node != h2.Self() || b.Size != 1 {
		t.Fatalf("slot %d lies in %s of %s, want it yielded to h2", moved.Slot, b, b.Node)
	}
	c.rollBack(backup)
	c.accept()
	c.whole()
	h1.served(a)
	h2.served(moved)
	seg := h1.mirrorSegment(a.Network)
	for slot := a.Slot; slot < 8; slot++ {
		want := h1
		if slot == moved.Slot {
			want = h2
		}
		if b, _ := seg.Holder(slot); b.Node != want.Self() {
			t.Errorf("slot %d is held by %q, want %s", slot, b.Node, want.cfg.NodeName)
		}
	}
}

// An address and a name that had moved to another node stay there, though etcd
// shows them at their old home again.
func TestMovedEndpointStaysAtItsNewHome(t *testing.T) {
	c := newTestCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	h1.create(CreateRequest{Spec: ipam.Spec{Name: "demo", Subnets: []string{"10.20.0.0/24"}}})
	h2.connect(ConnectRequest{Network: "demo", Target: h2.container("b"), Name: "b"})
	old := h1.connect(ConnectRequest{Network: "demo", Target: h1.container("web"), Name: "web"})
	backup := c.revision()
	if _, _, err := h1.Disconnect(t.Context(), "demo", "web"); err != nil {
		t.Fatal(err)
	}
	home := h2.connect(ConnectRequest{Network: "demo", Target: h2.container("web"), Name: "web", IP: old.IPv4.String()})
	c.rollBack(backup)
	c.accept()
	c.whole()
	h2.served(home)
}

// leftNetwork has a node make two networks, and leave one of them again. It
// returns the endpoint that the node had there, and a revision at which it had.
func leftNetwork(n *testNode) (overspan.Endpoint, int64) {
	n.t.Helper()
	n.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	n.connect(ConnectRequest{Network: "demo", Target: n.container("other"), Name: "other"})
	n.create(CreateRequest{Spec: ipam.Spec{Name: "left"}})
	e := n.connect(ConnectRequest{Network: "left", Target: n.container("a"), Name: "a"})
	backup := e.ModRevision
	if _, _, err := n.Disconnect(n.t.Context(), "left", "a"); err != nil {
		n.t.Fatal(err)
	}
	session, err := n.registrar.session()
	if err != nil {
		n.t.Fatal(err)
	}
	for b := range n.mirrorSegment(e.Network).Blocks.Values() {
		if err := session.ReleaseBlock(n.t.Context(), e.Network, b); err != nil {
			n.t.Fatal(err)
		}
	}
	n.eventually("the network is idle", func() bool { return len(n.idleNetworks()) == 1 })
	n.leaveIdle(n.t.Context())
	n.eventually("the network is left", func() bool { return n.Snapshot().Segments.Get(e.Network) == nil })
	return e, backup
}

// A node that has missed the freeze and its acceptance looks for what is of the
// past just as those that have not.
func TestNodeThatMissedTheFreezeFindsWhatIsOfThePast(t *testing.T) {
	c := newTestCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	e, backup := leftNetwork(h2)
	h1.connect(ConnectRequest{Network: "demo", Target: h1.container("b"), Name: "b"})
	h2.stop()
	h1.eventually("h2 is seen to be down", func() bool { return h1.Snapshot().Nodes[h2.Self()].Presence == nil })
	h1.line.SetDown(true)
	c.etcd.Rollback(backup)
	c.forgetPresence(h1)
	c.forgetPresence(h2)
	h1.line.SetDown(false)
	c.frozen(h1)
	c.accept()
	h1.eventually("the freeze is over", func() bool { return h1.Snapshot().Frozen == nil })

	h2.start()
	h2.eventually("the network that it left is followed", func() bool { return h2.Snapshot().Segments.Get(e.Network) != nil })
	h2.eventually("its endpoint of the past is released", func() bool { return !h2.published(e) })
}

// What etcd shows of this node in a network that it has left is given up, too:
// nobody would ever look for it.
func TestBlockOfThePastInANetworkThatWasLeftIsGivenUp(t *testing.T) {
	c := newTestCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	e, backup := leftNetwork(h1)

	c.rollBack(backup)
	h2.eventually("nothing is left of h1 there", func() bool {
		seg := h2.mirrorSegment(e.Network)
		return seg.Blocks.Len() == 0 && seg.Endpoints.Len() == 0
	})
	c.accept()
	c.whole()
	h1.eventually("the network is idle again", func() bool { return len(h1.idleNetworks()) == 1 })
	h1.leaveIdle(t.Context())
	h1.eventually("the network is left again", func() bool { return h1.Snapshot().Segments.Get(e.Network) == nil })
}

// An endpoint that was lost before etcd lost its past is lost afterwards, even
// where etcd shows its record again.
func TestLostEndpointStaysLostInAFreeze(t *testing.T) {
	c := newTestCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	h1.create(CreateRequest{Spec: ipam.Spec{Name: "demo", Subnets: []string{"10.20.0.0/24"}}})
	web := h1.connect(ConnectRequest{Network: "demo", Target: h1.container("web"), Name: "web"})
	kept := h1.connect(ConnectRequest{Network: "demo", Target: h1.container("kept"), Name: "kept"})
	h2.connect(ConnectRequest{Network: "demo", Target: h2.container("b"), Name: "b"})
	backup := c.revision()
	h1.stop()
	c.remove(h1)
	home := h2.connect(ConnectRequest{Network: "demo", Target: h2.container("web"), Name: "web", IP: web.IPv4.String()})
	h1.start()
	h1.served(kept)
	h1.eventually("the loss is told", func() bool { return len(h1.lostNames()) == 1 })

	c.rollBack(backup)
	if h1.plugged(web) {
		t.Error("the lost endpoint is on its network again")
	}
	c.accept()
	h1.eventually("it goes by etcd alone", func() bool { return h1.Snapshot().Frozen == nil })
	h1.served(kept)
	h2.served(home)
	if why := h1.lostNames()["web"]; why == "" || h1.plugged(web) {
		t.Errorf("web is lost: %q, and plugged in: %t", why, h1.plugged(web))
	}
	if _, _, err := h1.Disconnect(t.Context(), "demo", "web"); err != nil {
		t.Fatal(err)
	}
	h2.served(home)
	c.whole()
}

// A network that etcd has forgotten, and whose name and subnet another has taken
// since, is not published: the node says so, and after the acceptance its
// endpoints are lost.
func TestForgottenNetworkWhoseNameIsTaken(t *testing.T) {
	c := newTestCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	backup := c.revision()
	h1.create(CreateRequest{Spec: ipam.Spec{Name: "demo", Subnets: []string{"10.20.0.0/24"}}})
	web := h1.connect(ConnectRequest{Network: "demo", Target: h1.container("web"), Name: "web"})
	h1.stop()
	h2.stop()
	c.etcd.Rollback(backup)
	for _, n := range c.nodes {
		c.forgetPresence(n)
	}
	// A node that knows nothing of the past creates it anew.
	h3 := c.add()
	h3.create(CreateRequest{Spec: ipam.Spec{Name: "demo", Subnets: []string{"10.20.0.0/24"}}})
	h1.start()
	c.frozen(h1)
	h1.eventually("the failure is reported", func() bool {
		st := h1.Status(t.Context())
		for _, r := range st.Freeze.Reports {
			if r.Name == "h1" && r.Report != nil && len(r.Report.Failures) > 0 {
				return true
			}
		}
		return false
	})
	if !h1.plugged(web) {
		t.Error("the endpoint is off its network while the cluster is frozen")
	}
	if _, _, err := h1.Accept(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	h1.eventually("the loss is told", func() bool { return h1.lostNames()["web"] == "network demo was removed; disconnect it" })
	h1.eventually("nothing of it is left in the kernel", func() bool { return len(h1.kernel.State().Links) == 0 })
	if _, _, err := h1.Disconnect(t.Context(), "demo", "web"); err != nil {
		t.Fatal(err)
	}
	h1.clean()
	h1.connect(ConnectRequest{Network: "demo", Target: h1.container("web"), Name: "web"})
}

// A rollback into the midst of a removal brings back a network that is on its way
// out, in which a node holds blocks that it cannot give up any more.
func TestRollbackIntoARemoval(t *testing.T) {
	c := newTestCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	subnet := ipam.Spec{Name: "demo", Subnets: []string{"10.20.0.0/28"}}
	old := h1.create(CreateRequest{Spec: subnet})
	h2.connect(ConnectRequest{Network: "demo", Target: h2.container("gone")})
	if _, _, err := h2.Disconnect(t.Context(), "demo", "netns:/run/netns/h2-gone"); err != nil {
		t.Fatal(err)
	}
	from := c.revision()
	if _, err := h1.RemoveNetwork(t.Context(), "demo"); err != nil {
		t.Fatal(err)
	}
	midst := c.marked(old, from)
	h1.create(CreateRequest{Spec: subnet})
	h1.connect(ConnectRequest{Network: "demo", Target: h1.container("web")})
	c.touch()
	blocks, err := c.etcd.List(t.Context(), store.Prefix("/overspan/test/v1/net/"+string(old.ID)+"/blocks/"), midst)
	if err != nil || len(blocks.KVs) == 0 {
		t.Fatalf("no block is in the network that is on its way out: %v", err)
	}
	c.rollBack(midst)
	c.accept()
	c.whole()
	if left := c.keys("networks/"+string(old.ID), "net/"+string(old.ID)); len(left) > 0 {
		t.Errorf("of the network that had been removed are left %v", left)
	}
}

// marked returns the first revision after one at which a network is on its way out.
func (c *testCluster) marked(n *overspan.Network, after int64) int64 {
	c.t.Helper()
	for rev := after + 1; rev <= c.revision(); rev++ {
		l, err := c.etcd.List(c.t.Context(), store.Key("/overspan/test/v1/networks/"+string(n.ID)), rev)
		if err != nil {
			c.t.Fatal(err)
		}
		if len(l.KVs) == 1 && strings.Contains(string(l.KVs[0].Value), `"deleting"`) {
			return rev
		}
	}
	c.t.Fatalf("network %s was never on its way out", n.Name)
	return 0
}
