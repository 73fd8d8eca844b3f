package daemon

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/ipam"
	"github.com/overspan/overspan/store"
)

// txn changes etcd behind the agents' backs.
func (c *testCluster) txn(ops ...store.Op) {
	c.t.Helper()
	if _, err := c.etcd.Txn(c.t.Context(), store.Txn{Then: ops}); err != nil {
		c.t.Fatal(err)
	}
}

func TestInteriorOutlivesTheRecordOfItsNetwork(t *testing.T) {
	c := newTestCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	net := h1.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	h1.connect(ConnectRequest{Network: "demo", Target: h1.container("web")})
	h2.connect(ConnectRequest{Network: "demo", Target: h2.container("web")})

	const root = "/overspan/test/v1/"
	c.txn(store.Delete(store.Key(root + "networks/" + string(net.ID))))
	h1.eventually("the record is gone", func() bool { return h1.networkByID(net.ID) == nil })
	l, err := c.etcd.List(t.Context(), store.Prefix(root+"net/"+string(net.ID)+"/blocks/"), 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range l.KVs { // every block asks to be acknowledged again
		c.txn(store.Put(kv.Key, kv.Value))
	}
	h1.eventually("the blocks have been looked at", func() bool { return h1.health.appliedTo(net.ID) > l.Revision })
	h1.eventually("nothing is left to look at", h1.rec.Settled)
}

func TestConnectWhileItsSandboxIsForgotten(t *testing.T) {
	c := newTestCluster(t, 1)
	n := c.nodes[0]
	n.create(CreateRequest{Spec: ipam.Spec{Name: "one"}})
	n.create(CreateRequest{Spec: ipam.Spec{Name: "two"}})
	target := n.container("web")
	n.connect(ConnectRequest{Network: "one", Target: target})
	sb, a := n.Sandboxes()[0], n.Attachments()[0]

	unlock, err := n.gates.lock(t.Context(), string(sb.ID))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := n.Connect(t.Context(), ConnectRequest{Network: "two", Target: target})
		done <- err
	}()
	n.eventually("connect waits at the gate", func() bool {
		n.gates.mu.Lock()
		defer n.gates.mu.Unlock()
		l := n.gates.locks[string(sb.ID)]
		return l.users == 2
	})
	// What a disconnect does once it is through the gate.
	if _, err := n.detach(t.Context(), a); err != nil {
		t.Error(err)
	}
	n.forgetIfUnused(sb)
	unlock()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, known := n.local.Sandbox(n.Attachments()[0].Sandbox); !known {
		t.Error("the endpoint is in a sandbox that nobody knows: its end would not be noticed")
	}
	n.kernel.LoseNetns(strings.TrimPrefix(target, "netns:"))
	n.eventually("the endpoint ends with its sandbox", func() bool { return len(n.Attachments()) == 0 })
}

// heldLists is a line to etcd that answers no listing of one range before open
// is closed.
type heldLists struct {
	store.KV
	key  string
	open chan struct{}
}

func (h heldLists) List(ctx context.Context, r store.KeyRange, rev int64) (store.Listing, error) {
	if r.Key == h.key {
		select {
		case <-h.open:
		case <-ctx.Done():
			return store.Listing{}, ctx.Err()
		}
	}
	return h.KV.List(ctx, r, rev)
}

// Whether etcd is the one that the node knows only its first snapshot tells.
func TestNodeRegistersAfterItsFirstSnapshot(t *testing.T) {
	c := newTestCluster(t, 1)
	n := c.nodes[0]
	n.stop()
	held := heldLists{KV: n.line, key: "/overspan/test/v1/networks/", open: make(chan struct{})}
	n.kv = held
	n.launch()
	n.eventually("the journal's snapshot stands in", func() bool { return n.Snapshot() != nil })
	if lives := c.keys("live/"); len(lives) > 0 {
		t.Errorf("the node is present before it knows which etcd this is: %v", lives)
	}
	close(held.open)
	n.eventually("the node is registered", func() bool { _, err := n.registrar.session(); return err == nil })
	net := n.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	if net.MTU != 1450 {
		t.Errorf("MTU is %d, want that of this node's underlay less the overhead, 1450", net.MTU)
	}
}

func TestSecondReleaseFreesNoSlotOfAnother(t *testing.T) {
	c := newTestCluster(t, 1)
	n := c.nodes[0]
	net := n.create(CreateRequest{Spec: ipam.Spec{Name: "demo", Subnets: []string{"10.5.0.0/30"}}})
	first := n.connect(ConnectRequest{Network: "demo", Target: n.container("first")})
	if _, _, err := n.Disconnect(t.Context(), "demo", first.Name); err != nil {
		t.Fatal(err)
	}
	// An attach holds the only slot again, and its record does not stand yet.
	lease, err := n.alloc.Acquire(t.Context(), net.ID, ipam.Addrs{})
	if err != nil {
		t.Fatal(err)
	}
	n.releaser.postpone(first)
	n.eventually("the second release is done", func() bool {
		left, err := n.journal.Releases()
		return err == nil && len(left) == 0
	})
	if _, err := n.alloc.Acquire(t.Context(), net.ID, ipam.Addrs{}); !errors.Is(err, overspan.ErrExhausted) {
		t.Errorf("slot %d is lent while it is held: %v", lease.Slots[0], err)
	}
}

func TestLateTransactionOfTheLastRunIsUndone(t *testing.T) {
	c := newTestCluster(t, 1)
	n := c.nodes[0]
	n.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	e := n.connect(ConnectRequest{Network: "demo", Target: n.container("web")})
	a, _ := n.local.Attachment(e.ID)
	sb, _ := n.local.Sandbox(a.Sandbox)
	n.stop()
	j, err := store.OpenJournal(n.cfg.JournalPath())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(j.DeleteAttachmentIn(sb, e.ID), j.Close()); err != nil {
		t.Fatal(err)
	}
	keys := []string{"net/" + string(e.Network) + "/endpoints/", "net/" + string(e.Network) + "/names/"}
	if got := c.keys(keys...); len(got) != 2 {
		t.Fatalf("before the restart: %v", got)
	}
	l, err := c.etcd.List(t.Context(), store.Prefix("/overspan/test/v1/net/"), 0)
	if err != nil {
		t.Fatal(err)
	}
	// The transaction is still on its way when the first snapshot is taken.
	var late []store.Op
	for _, kv := range l.KVs {
		if strings.Contains(kv.Key, "/endpoints/") || strings.Contains(kv.Key, "/names/") {
			c.txn(store.Delete(store.Key(kv.Key)))
			late = append(late, store.Put(kv.Key, kv.Value))
		}
	}
	var once sync.Once
	n.kv = watchedTxns{KV: n.line, before: func(txn store.Txn) {
		if len(txn.Then) == 3 { // the registration, after which it could not commit
			n.eventually("the first snapshot", func() bool { return n.Snapshot() != nil })
			once.Do(func() { c.txn(late...) })
		}
	}}
	n.start()
	n.eventually("the record is gone", func() bool { return len(c.keys(keys...)) == 0 })
}

func TestNetworkIsFollowedAsLongAsSomethingIsOwnedThere(t *testing.T) {
	c := newTestCluster(t, 1)
	n := c.nodes[0]
	net := n.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	ctx := t.Context()
	session, err := n.registrar.session()
	if err != nil {
		t.Fatal(err)
	}
	if err := n.follow(ctx, net.ID); err != nil {
		t.Fatal(err)
	}
	// The caller of the attach gives up before the mirror shows the block.
	block, err := session.Claim(ctx, net, overspan.Range{First: 0, Size: 64}, true)
	if err != nil {
		t.Fatal(err)
	}
	n.settle(net.ID)
	n.leaveIdle(ctx)
	if got := n.follows.all(); len(got) != 1 {
		t.Errorf("followed are %v: nobody would give back block %s", got, block)
	}
	n.eventually("the network is in line", func() bool { return n.health.appliedTo(net.ID) > 0 })
	if err := session.ReleaseBlock(ctx, net.ID, block); err != nil {
		t.Fatal(err)
	}
	n.eventually("the block is seen to go", func() bool { return len(n.idleNetworks()) == 1 })
	n.leaveIdle(ctx)
	if got := n.follows.all(); len(got) != 0 {
		t.Errorf("followed are %v, though nothing is owned there", got)
	}
	n.eventually("nothing of it is remembered", func() bool { return n.health.appliedTo(net.ID) == 0 })
}

// What an attach whose caller has given up puts into etcd late may stand at a
// slot of this node before its snapshot shows it.
func TestAttachMeetsALateRecordAtItsSlot(t *testing.T) {
	c := newTestCluster(t, 1)
	n := c.nodes[0]
	n.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	n.stop()
	var met []string
	var meet func(store.Txn)
	meet = func(txn store.Txn) {
		for _, op := range txn.Then {
			if op.Txn != nil {
				meet(*op.Txn)
			}
			if op.Kind == store.OpPut && strings.Contains(op.Range.Key, "/endpoints/") && len(met) < 2 {
				met = append(met, op.Range.Key)
				c.txn(store.Put(op.Range.Key, op.Value))
			}
		}
	}
	n.kv = watchedTxns{KV: n.line, before: meet}
	n.start()
	e := n.connect(ConnectRequest{Network: "demo", Target: n.container("web")})
	n.eventually("the late records are gone", func() bool { return len(c.keys("net/"+string(e.Network)+"/endpoints/")) == 1 })
	if len(met) != 2 || met[0] == met[1] {
		t.Errorf("records were met at %v", met)
	}
	if _, err := n.Connect(t.Context(), ConnectRequest{Network: "demo", Target: n.container("other"), IP: e.IPv4.String()}); !errors.Is(err, overspan.ErrInUse) {
		t.Errorf("an address that was asked for and is in use: %v", err)
	}
	n.clean()
}

func TestAttachBeginsWhileItsNetworkIsLeft(t *testing.T) {
	var steps []string
	leaving, joined := make(chan struct{}), make(chan struct{})
	f := followers{
		follow: func(overspan.NetworkID) { steps = append(steps, "follow") },
		unfollow: func(overspan.NetworkID) {
			close(leaving)
			select { // as long as an attach could overtake
			case <-joined:
			case <-time.After(50 * time.Millisecond):
			}
			steps = append(steps, "unfollow")
		},
	}
	f.keep("demo")
	var left sync.WaitGroup
	left.Go(func() { f.dropIdle("demo", func() bool { return false }) })
	<-leaving
	f.count("demo", 1)
	close(joined)
	left.Wait()
	if want := []string{"follow", "unfollow", "follow"}; !slices.Equal(steps, want) {
		t.Errorf("steps are %v, want %v: the attach waits for a network that nobody follows", steps, want)
	}
}
