package daemon

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/ipam"
	"github.com/overspan/overspan/store"
)

// remove takes everything in a node's name out of etcd, as the removal of a node
// does that is away.
func (c *testCluster) remove(n *testNode) {
	c.t.Helper()
	const root = "/overspan/test/v1/"
	id := string(n.Self())
	l, err := c.etcd.List(c.t.Context(), store.Prefix(root), 0)
	if err != nil {
		c.t.Fatal(err)
	}
	var txn store.Txn
	for _, kv := range l.KVs {
		key := strings.TrimPrefix(kv.Key, root)
		own := strings.HasSuffix(key, "/"+id) || strings.HasPrefix(key, "net/") && strings.Contains(string(kv.Value), id)
		// A name refers to its endpoint, and that to its node.
		for _, a := range n.local.AllAttachments() {
			own = own || strings.HasPrefix(key, "net/") && strings.Contains(string(kv.Value), string(a.Endpoint.ID))
		}
		if own {
			txn.Then = append(txn.Then, store.Delete(store.Key(kv.Key)))
		}
	}
	if _, err := c.etcd.Txn(c.t.Context(), txn); err != nil {
		c.t.Fatal(err)
	}
}

// lostNames returns why endpoints of a node are lost, by name.
func (n *testNode) lostNames() map[string]string {
	out := map[string]string{}
	for _, a := range n.Attachments() {
		if a.Lost != "" {
			out[a.Endpoint.Name] = a.Lost
		}
	}
	return out
}

// plugged reports whether the host end of an endpoint's veth is on the bridge.
func (n *testNode) plugged(e overspan.Endpoint) bool {
	return n.kernel.State().Links[overspan.VethName(e.ID)].Master == overspan.BridgeName(e.Network)
}

// published reports whether etcd has an endpoint's record as it was.
func (n *testNode) published(e overspan.Endpoint) bool {
	at := n.mirrorSegment(e.Network).Endpoints.Get(e.Slot)
	return at != nil && at.ID == e.ID && at.Name == e.Name && at.IPv4 == e.IPv4 && at.MAC == e.MAC
}

// served waits until nothing is left to be published and checks that endpoints
// are served: by a record, a held slot and a plugged port.
func (n *testNode) served(ends ...overspan.Endpoint) {
	n.t.Helper()
	for _, e := range ends {
		n.eventually(e.Name+" is published", func() bool { return n.published(e) })
		n.eventually(e.Name+" is plugged in", func() bool { return n.plugged(e) })
		if b, held := n.mirrorSegment(e.Network).Holder(e.Slot); !held || b.Node != n.Self() {
			n.t.Errorf("%s is published, but its slot is held by %q", e.Name, b.Node)
		}
	}
}

// mirrorSegment lists a network's interior from etcd.
func (n *testNode) mirrorSegment(id overspan.NetworkID) *overspan.Segment {
	seg, err := n.Segment(n.t.Context(), id)
	if err != nil {
		n.t.Fatal(err)
	}
	return seg
}

// A node that was removed while it was away comes back with its containers:
// what nobody took is published again with the same addresses, and traffic never
// stopped.
func TestReturningNodePublishesWhatIsStillFree(t *testing.T) {
	c := newTestCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	h1.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	web := h1.connect(ConnectRequest{Network: "demo", Target: h1.container("web"), Name: "web"})
	db := h1.connect(ConnectRequest{Network: "demo", Target: h1.container("db"), Name: "db", MAC: "0a:00:00:00:00:01"})
	h2.connect(ConnectRequest{Network: "demo", Target: h2.container("peer"), Name: "peer"})
	before := h1.atRest()
	h1.stop()
	c.remove(h1)
	if left := c.keys("net/"); len(left) != 3 {
		t.Fatalf("the removal leaves %v, want h2's block, endpoint and name", left)
	}
	h1.start()
	h1.served(web, db)
	h1.eventually("nothing is left to look at", h1.rec.Settled)
	if !h1.kernel.State().Equal(before) {
		t.Error("publishing again changed the kernel")
	}
	h2.eventually("h2 sends to h1", func() bool { return h2.sendsTo(web, h1) && h2.sendsTo(db, h1) })
	registration := h1.registration()
	h1.eventually("all are of the new registration", func() bool {
		return !slices.ContainsFunc(h1.Attachments(), func(a overspan.Attachment) bool { return a.Registration != registration })
	})

	next := h1.connect(ConnectRequest{Network: "demo", Target: h1.container("next"), Name: "next"})
	if next.Slot == web.Slot || next.Slot == db.Slot {
		t.Errorf("slot %d was lent twice", next.Slot)
	}
	if _, _, err := h1.Disconnect(t.Context(), "demo", "web"); err != nil {
		t.Fatal(err)
	}
	h2.eventually("its record is gone", func() bool { return !h2.published(web) })
	for _, n := range c.nodes {
		n.clean()
	}
}

func (n *testNode) registration() int64 {
	n.t.Helper()
	session, err := n.registrar.session()
	if err != nil {
		n.t.Fatal(err)
	}
	return session.Registration()
}

// Of a node that returns, an address that has moved stays where it is now; the
// port is off its network, and is told as lost.
func TestReturningNodeLosesWhatOthersHave(t *testing.T) {
	c := newTestCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	h1.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	web := h1.connect(ConnectRequest{Network: "demo", Target: h1.container("web"), Name: "web"})
	kept := h1.connect(ConnectRequest{Network: "demo", Target: h1.container("kept"), Name: "kept"})
	renamed := h1.connect(ConnectRequest{Network: "demo", Target: h1.container("renamed"), Name: "renamed"})
	h1.stop()
	c.remove(h1)
	h2.eventually("h2 has seen it", func() bool { return h2.Snapshot().Nodes[h1.Self()] == nil })
	moved := h2.connect(ConnectRequest{Network: "demo", Target: h2.container("web"), Name: "web", IP: web.IPv4.String()})
	h2.connect(ConnectRequest{Network: "demo", Target: h2.container("renamed"), Name: "renamed"})

	h1.start()
	h1.served(kept)
	h1.eventually("both losses are told", func() bool { return len(h1.lostNames()) == 2 })
	lost := h1.lostNames()
	if got, want := lost["web"], fmt.Sprintf("%s now belongs to node h2; disconnect it and connect it again", web.IPv4); got != want {
		t.Errorf("web: %q, want %q", got, want)
	}
	if got, want := lost["renamed"], "its name now belongs to endpoint renamed on node h2; disconnect it and connect it again"; got != want {
		t.Errorf("renamed: %q, want %q", got, want)
	}
	h1.eventually("both ports are off", func() bool { return !h1.plugged(web) && !h1.plugged(renamed) })
	h1.eventually("h1 sends to the address's new home", func() bool { return h1.sendsTo(moved, h2) })
	warnings := strings.Join(h1.Status(t.Context()).Warnings, "\n")
	for _, name := range []string{"web", "renamed"} {
		if !strings.Contains(warnings, "endpoint "+name+" is off its network: ") {
			t.Errorf("status does not tell of %s:\n%s", name, warnings)
		}
	}
	h1.clean()

	// As it was told to do.
	for name, flags := range map[string]ConnectRequest{"web": {}, "renamed": {Name: "other"}} {
		if _, pending, err := h1.Disconnect(t.Context(), "demo", name); err != nil || pending {
			t.Fatalf("disconnect %s: pending %t, %v", name, pending, err)
		}
		flags.Network, flags.Target, flags.Name = "demo", "netns:/run/netns/h1-"+name, name+"-again"
		if again := h1.connect(flags); again.IPv4 == web.IPv4 {
			t.Errorf("%s is lent again", again.IPv4)
		}
	}
	if lost := h1.lostNames(); len(lost) > 0 {
		t.Errorf("still lost: %v", lost)
	}
	if !h2.published(moved) {
		t.Error("the disconnect of the lost endpoint took the new one's record")
	}
	for _, n := range c.nodes {
		n.clean()
	}
}

// An endpoint that is lost comes back by itself when what was in its way is gone.
func TestLostEndpointIsPublishedOnceItCanBe(t *testing.T) {
	c := newTestCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	h1.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	web := h1.connect(ConnectRequest{Network: "demo", Target: h1.container("web"), Name: "web"})
	h2.connect(ConnectRequest{Network: "demo", Target: h2.container("other"), Name: "other"})
	h1.stop()
	c.remove(h1)
	h2.connect(ConnectRequest{Network: "demo", Target: h2.container("web"), Name: "web"})
	h1.start()
	h1.eventually("the loss is told", func() bool { return len(h1.lostNames()) == 1 })
	if _, _, err := h2.Disconnect(t.Context(), "demo", "web"); err != nil {
		t.Fatal(err)
	}
	h1.served(web)
	h1.eventually("nothing is lost", func() bool { return len(h1.lostNames()) == 0 })
	for _, n := range c.nodes {
		n.clean()
	}
}

// The network of a returning node's endpoints may be gone, and another of its
// name be there.
func TestReturningNodeWithoutItsNetwork(t *testing.T) {
	for _, recreated := range []bool{false, true} {
		t.Run(fmt.Sprintf("recreated %t", recreated), func(t *testing.T) {
			c := newTestCluster(t, 2)
			h1, h2 := c.nodes[0], c.nodes[1]
			h1.create(CreateRequest{Spec: ipam.Spec{Name: "demo", Subnets: []string{"10.20.0.0/24"}}})
			web := h1.connect(ConnectRequest{Network: "demo", Target: h1.container("web"), Name: "web"})
			h1.stop()
			c.remove(h1)
			if _, err := h2.RemoveNetwork(t.Context(), "demo"); err != nil {
				t.Fatal(err)
			}
			if recreated {
				h2.create(CreateRequest{Spec: ipam.Spec{Name: "demo", Subnets: []string{"10.20.0.0/24"}}})
				h2.connect(ConnectRequest{Network: "demo", Target: h2.container("web"), Name: "web", IP: web.IPv4.String()})
			}
			h1.start()
			h1.eventually("the loss is told", func() bool { return len(h1.lostNames()) == 1 })
			if got, want := h1.lostNames()["web"], "network demo was removed; disconnect it"; got != want {
				t.Errorf("web: %q, want %q", got, want)
			}
			h1.eventually("nothing of it is left in the kernel", func() bool { return len(h1.kernel.State().Links) == 0 })
			h1.clean()
			if _, pending, err := h1.Disconnect(t.Context(), "demo", "web"); err != nil || pending {
				t.Fatalf("disconnect: pending %t, %v", pending, err)
			}
			h1.eventually("the network is not followed any more", func() bool { return len(h1.follows.all()) == 0 })
			if recreated {
				if again := h1.connect(ConnectRequest{Network: "demo", Target: h1.container("web"), Name: "web2"}); again.IPv4 == web.IPv4 {
					t.Errorf("%s is lent twice", again.IPv4)
				}
			}
			for _, n := range c.nodes {
				n.clean()
			}
		})
	}
}

// An agent that runs while its node is removed registers anew and publishes at
// once; the ports are not touched.
func TestRemovalOfARunningNode(t *testing.T) {
	c := newTestCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	h1.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	web := h1.connect(ConnectRequest{Network: "demo", Target: h1.container("web"), Name: "web"})
	peer := h2.connect(ConnectRequest{Network: "demo", Target: h2.container("peer"), Name: "peer"})
	h1.eventually("nothing is left to look at", h1.rec.Settled)
	before, ops := h1.kernel.State(), len(h1.ops.since(0))
	was, err := h1.registrar.session()
	if err != nil {
		t.Fatal(err)
	}
	c.remove(h1)
	was.Recheck()
	h1.eventually("h1 is registered anew", func() bool {
		now, err := h1.registrar.session()
		return err == nil && now != was
	})
	h1.served(web)
	h1.eventually("nothing is left to look at", h1.rec.Settled)
	if !h1.kernel.State().Equal(before) {
		t.Error("the kernel is another than before")
	}
	for _, op := range h1.ops.since(ops) {
		if strings.Contains(op, overspan.VethName(web.ID)) {
			t.Errorf("the port was touched: %s", op)
		}
	}
	h2.eventually("h2 sends to h1", func() bool { return h2.sendsTo(web, h1) && h1.sendsTo(peer, h2) })
}

// A journal that does not say under which registration a record was written
// learns it, and nothing else happens.
func TestOlderJournalLearnsItsRegistrations(t *testing.T) {
	c := newTestCluster(t, 1)
	n := c.nodes[0]
	n.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	web := n.connect(ConnectRequest{Network: "demo", Target: n.container("web"), Name: "web"})
	n.stop()
	j, err := store.OpenJournal(n.cfg.JournalPath())
	if err != nil {
		t.Fatal(err)
	}
	all, err := j.Attachments()
	if err != nil || len(all) != 1 {
		t.Fatal(all, err)
	}
	all[0].Registration, all[0].NetworkName = 0, ""
	if err := j.PutAttachment(all[0]); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	before := c.keys("net/")
	n.start()
	n.eventually("the registration is noted", func() bool { return n.Attachments()[0].Registration == n.registration() })
	n.served(web)
	if got := c.keys("net/"); fmt.Sprint(got) != fmt.Sprint(before) {
		t.Errorf("etcd has %v, want %v", got, before)
	}
	n.clean()
}

// While etcd is away nothing is lost; what was begun goes on when it is back.
func TestPublishingWaitsForEtcd(t *testing.T) {
	c := newTestCluster(t, 2)
	h1 := c.nodes[0]
	h1.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	var ends []overspan.Endpoint
	for i := range 5 {
		ends = append(ends, h1.connect(ConnectRequest{Network: "demo", Target: h1.container(fmt.Sprint("web", i))}))
	}
	h1.eventually("nothing is left to look at", h1.rec.Settled)
	h1.stop()
	c.remove(h1)
	h1.start()
	h1.served(ends...)
	h1.clean()
}
