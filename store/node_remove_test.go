package store

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// A removalWorld is two nodes that share a network, of which the second is to be
// removed.
type removalWorld struct {
	kv      KV // h1's
	keys    Keys
	h1, h2  run
	network *overspan.Network
	block   overspan.Block    // h1's
	without map[string]string // what etcd held before h2 came
}

// populate gives h2 at least one of everything that can stand in a node's name.
// With many, the endpoints need more than one batch.
func populate(t *testing.T, connect func(*testing.T) KV, many int) *removalWorld {
	t.Helper()
	w := &removalWorld{kv: connect(t), keys: testKeys(t, "test")}
	w.h1 = open(t, w.kv, testConfig(1))
	w.network = w.h1.create(t, testNetwork(1))
	w.block = w.h1.claim(t, w.network, 0, 64)
	w.h1.attach(t, w.network, w.block, "kept", 2)
	mustDo(t, putAck(testContext(t), w.h1, w.network, 1))
	// It outlives the removal: the node has not heard of it.
	mustTxn(t, w.kv, Txn{Then: []Op{Put(w.keys.Eviction(nodeID(2), overspan.EndpointID(overspan.NewID())), []byte("{}"))}})
	w.without = dump(t, w.kv)

	w.h2 = open(t, connect(t), testConfig(2))
	w.fill(t, w.h2, many)
	if _, err := w.h1.PutWant(testContext(t), w.network, nodeID(2), nil); err != nil {
		t.Fatal(err)
	}
	mustTxn(t, w.kv, Txn{Then: []Op{Put(w.keys.Report(nodeID(2)), []byte("{}"))}})
	return w
}

// fill has a node own all that a node can write by itself.
func (w *removalWorld) fill(t *testing.T, r run, many int) {
	t.Helper()
	n := w.network
	b := r.claim(t, n, 64, 64)
	r.claim(t, n, 128, 1)
	for i := range many {
		r.attach(t, n, b, fmt.Sprintf("web%d", i), 64+overspan.Slot(i))
	}
	odd := r.endpoint(n, "odd", 64+overspan.Slot(many))
	odd.MAC = overspan.MAC{0x06, 1, 2, 3, 4, 5}
	if _, err := r.Attach(testContext(t), AttachRequest{Endpoint: odd, Network: n, Blocks: []overspan.Block{b}}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.PutWant(testContext(t), n, nodeID(1), nil); err != nil {
		t.Fatal(err)
	}
	mustDo(t, putAck(testContext(t), r, n, 1))
	local := testNetwork(9)
	local.Driver, local.Node, local.VNI, local.Underlay = overspan.DriverBridge, r.cfg.Node.ID, 0, ""
	own := r.create(t, local)
	r.attach(t, own, r.claim(t, own, 0, 64), "here", 2)
}

// die ends h2's agent, and its presence with it.
func (w *removalWorld) die(t *testing.T) {
	t.Helper()
	mustDo(t, w.h2.stop())
}

// registered returns h2 as its registration stands.
func (w *removalWorld) registered(t *testing.T) overspan.Node {
	t.Helper()
	n, err := w.keys.node(mustList(t, w.kv, Key(w.keys.Node(nodeID(2))), 0).KVs[0])
	mustDo(t, err)
	return n
}

// clean checks that h2 has left nothing behind, and that of what was there
// before it nothing is missing.
func (w *removalWorld) clean(t *testing.T) {
	t.Helper()
	if diff := cmp.Diff(without(w.without, w.keys.SubnetsVersion()), without(dump(t, w.kv), w.keys.SubnetsVersion())); diff != "" {
		t.Errorf("after the removal (-want +got):\n%s", diff)
	}
	if left := mustList(t, w.kv, Key(w.keys.Flight(nodeID(2))), 0).KVs; len(left) > 0 {
		t.Errorf("the flight key of the removed node is left: %v", left)
	}
}

func mustDo(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// removeNode removes a node from its registration to its mark.
func removeNode(ctx context.Context, by *Session, n overspan.Node, force bool) (Freed, error) {
	if err := by.BeginNodeRemoval(ctx, n, force); err != nil {
		return Freed{}, err
	}
	return by.EndNodeRemoval(ctx, n)
}

func TestRemoveNode(t *testing.T) {
	forEachKV(t, func(t *testing.T, connect func(*testing.T) KV) {
		w := populate(t, connect, 4)
		h2 := w.registered(t)
		_, err := removeNode(testContext(t), w.h1.Session, h2, false)
		wantClass(t, err, overspan.ErrInUse, "node h2 is up: stop its agent, or use --force; one that has died counts as up until its presence expires")
		w.die(t)
		twin := w.h1.endpoint(w.network, "web1", 3)
		_, err = w.h1.Attach(testContext(t), AttachRequest{Endpoint: twin, Network: w.network, Blocks: []overspan.Block{w.block}})
		wantClass(t, err, overspan.ErrExists, "web1 on h2, a node that is away", "remove it for good with ctl node rm h2")
		freed, err := removeNode(testContext(t), w.h1.Session, h2, false)
		mustDo(t, err)
		if want := (Freed{Endpoints: 6, Blocks: 3}); freed != want {
			t.Errorf("freed are %+v, want %+v", freed, want)
		}
		w.clean(t)
		_, err = removeNode(testContext(t), w.h1.Session, h2, false)
		wantClass(t, err, overspan.ErrNotFound, "node h2 not found")

		w.h2 = open(t, connect(t), testConfig(2))
		_, err = removeNode(testContext(t), w.h1.Session, h2, true)
		wantClass(t, err, overspan.ErrConflict, "node h2 has registered anew")
		w.fill(t, w.h2, 4) // all of it can be used again
	})
}

func TestRemoveNodeByForce(t *testing.T) {
	forEachKV(t, func(t *testing.T, connect func(*testing.T) KV) {
		w := populate(t, connect, 4)
		if _, err := removeNode(testContext(t), w.h1.Session, w.registered(t), true); err != nil {
			t.Fatal(err)
		}
		w.clean(t)
		w.h2.Recheck()
		wantClass(t, w.h2.wait(t), overspan.ErrFenced, "registration of node")
		w.clean(t)
	})
}

func TestRemoveNodeWhileFrozen(t *testing.T) {
	w := populate(t, always(NewMemory(1)), 4)
	w.die(t)
	mustTxn(t, w.kv, Txn{Then: []Op{Put(w.keys.Frozen(), mustMarshal(&overspanv1.Frozen{Reason: "etcd went back"}))}})
	before := dump(t, w.kv)
	_, err := removeNode(testContext(t), w.h1.Session, w.registered(t), true)
	wantClass(t, err, overspan.ErrUnavailable, "the cluster is frozen: etcd went back")
	if diff := cmp.Diff(without(before), without(dump(t, w.kv))); diff != "" {
		t.Errorf("a frozen cluster was changed (-want +got):\n%s", diff)
	}
}

func always(kv KV) func(*testing.T) KV { return func(*testing.T) KV { return kv } }

// A mortal line to etcd ends after some transactions.
type mortal struct {
	KV
	left int // transactions; not for several goroutines
}

func (m *mortal) Txn(ctx context.Context, t Txn) (Result, error) {
	if m.left == 0 {
		return Result{}, overspan.Errorf(overspan.ErrUnavailable, "transaction: %w", errInjected)
	}
	m.left--
	return m.KV.Txn(ctx, t)
}

// The remover dies after each of its transactions in turn; another agent, which
// looks now and then, finishes what it has begun.
func TestHalfARemovalOfANodeIsFinished(t *testing.T) {
	for died, done := 0, false; !done; died++ {
		w := populate(t, always(NewMemory(1)), 60)
		w.die(t)
		mark := Txn{Then: []Op{Delete(Key(w.keys.Node(nodeID(2)))), Put(w.keys.Removing(nodeID(2)), []byte("{}"))}}
		mustTxn(t, w.kv, mark)
		sweeper := NewNodeSweeper(w.kv, w.keys)
		finished, err := sweeper.Sweep(testContext(t))
		if err != nil || len(finished) > 0 {
			t.Fatalf("first look: finished %v, %v; want that the remover has time", finished, err)
		}
		_, err = FinishNodeRemoval(testContext(t), &mortal{KV: w.kv, left: died}, w.keys, nodeID(2))
		done = err == nil
		if !done {
			wantClass(t, err, overspan.ErrUnavailable, "free what node")
			finished, err = sweeper.Sweep(testContext(t))
			if err != nil || len(finished) != 1 || finished[0].Node != nodeID(2) {
				t.Fatalf("second look: finished %v, %v; want h2", finished, err)
			}
		}
		w.clean(t)
		if died > 20 {
			t.Fatal("the removal has no end")
		}
	}
}

// The remover's process stops before each of its transactions in turn, the node
// comes back and takes what it had, and then the transaction arrives.
func TestLateRemoverTouchesNothingOfTheReturnedNode(t *testing.T) {
	for paused, done := 0, false; !done; paused++ {
		w := populate(t, always(NewMemory(1)), 60)
		w.die(t)
		mustTxn(t, w.kv, Txn{Then: []Op{Delete(Key(w.keys.Node(nodeID(2)))), Put(w.keys.Removing(nodeID(2)), []byte("{}"))}})
		line := NewFaulty(w.kv)
		line.InjectTxn(append(make([]TxnFault, paused), TxnLate)...)
		_, err := FinishNodeRemoval(testContext(t), line, w.keys, nodeID(2))
		done = err == nil
		if !done {
			wantClass(t, err, overspan.ErrUnavailable)
		}
		w.h2 = open(t, w.kv, testConfig(2))
		w.fill(t, w.h2, 60)
		before := dump(t, w.kv)
		if _, err := line.Deliver(testContext(t)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, dump(t, w.kv)); diff != "" {
			t.Errorf("late by %d transactions, the remover changed what the returned node has (-want +got):\n%s", paused, diff)
		}
		if paused > 20 {
			t.Fatal("the removal has no end")
		}
	}
}

// The remover's first transaction is under way while the node comes back.
func TestLateRemovalOfAReturnedNode(t *testing.T) {
	memory := NewMemory(1)
	w := populate(t, always(memory), 4)
	w.die(t)
	before := w.registered(t)
	line := NewFaulty(memory)
	h3 := open(t, line, testConfig(3))
	if _, err := removeNode(testContext(t), w.h1.Session, before, false); err != nil {
		t.Fatal(err)
	}
	w.h2 = open(t, memory, testConfig(2))
	w.fill(t, w.h2, 4)
	line.InjectTxn(TxnLate)
	_, err := removeNode(testContext(t), h3.Session, before, true)
	wantClass(t, err, overspan.ErrConflict, "registered anew")
	want := without(dump(t, memory))
	if _, err := line.Deliver(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, without(dump(t, memory))); diff != "" {
		t.Errorf("a late removal (-want +got):\n%s", diff)
	}
}

func TestSeveralFinishOneRemoval(t *testing.T) {
	forEachKV(t, func(t *testing.T, connect func(*testing.T) KV) {
		w := populate(t, connect, 60)
		w.die(t)
		mustTxn(t, w.kv, Txn{Then: []Op{Delete(Key(w.keys.Node(nodeID(2)))), Put(w.keys.Removing(nodeID(2)), []byte("{}"))}})
		done := make(chan error)
		var freed [4]Freed
		for i := range freed {
			kv := connect(t)
			go func() {
				var err error
				freed[i], err = FinishNodeRemoval(testContext(t), kv, w.keys, nodeID(2))
				done <- err
			}()
		}
		var all Freed
		for range freed {
			mustDo(t, <-done)
		}
		for _, one := range freed {
			all.add(one)
		}
		if want := (Freed{Endpoints: 62, Blocks: 3}); all.Endpoints > want.Endpoints || all.Blocks > want.Blocks {
			t.Errorf("together they say to have freed %+v of %+v", all, want)
		}
		w.clean(t)
	})
}

// What cannot be read may be anybody's: it is left, and does not stand in the
// way of the removal.
func TestRemovalLeavesUnreadableRecordsAlone(t *testing.T) {
	w := populate(t, always(NewMemory(1)), 4)
	w.die(t)
	bad := w.keys.Endpoint(w.network.ID, 100)
	mustTxn(t, w.kv, Txn{Then: []Op{Put(bad, []byte("?"))}})
	if _, err := removeNode(testContext(t), w.h1.Session, w.registered(t), false); err != nil {
		t.Fatal(err)
	}
	w.without[bad] = "?"
	w.clean(t)
}

// An index key that another endpoint has by now is not deleted.
func TestRemovalSparesTheNameOfAnother(t *testing.T) {
	w := populate(t, always(NewMemory(1)), 4)
	w.die(t)
	name := w.keys.EndpointName(w.network.ID, "web1")
	value := mustMarshal(&overspanv1.Reference{Network: string(w.network.ID), Slot: 2, Endpoint: overspan.NewID()})
	mustTxn(t, w.kv, Txn{Then: []Op{Put(name, value)}})
	if _, err := removeNode(testContext(t), w.h1.Session, w.registered(t), false); err != nil {
		t.Fatal(err)
	}
	w.without[name] = string(value)
	w.clean(t)
}

func TestNodeRemovalsAreListed(t *testing.T) {
	w := populate(t, always(NewMemory(1)), 1)
	w.die(t)
	line := NewFaulty(w.kv)
	h3 := open(t, line, testConfig(3))
	line.InjectTxn(TxnPasses, TxnLost, TxnLost, TxnLost, TxnLost, TxnLost, TxnLost, TxnLost, TxnLost)
	ctx, cancel := context.WithTimeout(testContext(t), 100*time.Millisecond)
	defer cancel()
	_, err := removeNode(ctx, h3.Session, w.registered(t), false)
	wantClass(t, err, overspan.ErrUnavailable, "node h2 is removed, but not all that it held is free yet")
	got, err := NodeRemovals(testContext(t), w.kv, w.keys)
	if err != nil || len(got) != 1 || got[0].Node != nodeID(2) || got[0].Name != "h2" || got[0].By != "h3" || got[0].Since.IsZero() {
		t.Errorf("removals under way: %+v, %v; want h2's, by h3", got, err)
	}
}

// One whose removal cannot be finished does not hold up the others.
func TestSweepGoesOnBehindAFailure(t *testing.T) {
	memory, keys := NewMemory(1), testKeys(t, "test")
	mustTxn(t, memory, Txn{Then: []Op{Put(keys.Removing(nodeID(1)), []byte("{}")), Put(keys.Removing(nodeID(2)), []byte("{}"))}})
	line := NewFaulty(memory)
	sweeper := NewNodeSweeper(line, keys)
	if finished, err := sweeper.Sweep(testContext(t)); err != nil || len(finished) > 0 {
		t.Fatalf("first look: finished %v, %v", finished, err)
	}
	line.InjectTxn(TxnLost)
	finished, err := sweeper.Sweep(testContext(t))
	wantClass(t, err, overspan.ErrUnavailable)
	if len(finished) != 1 || finished[0].Node != nodeID(2) {
		t.Errorf("second look: finished %v, want the node behind the one that failed", finished)
	}
	finished, err = sweeper.Sweep(testContext(t))
	if err != nil || len(finished) != 1 || finished[0].Node != nodeID(1) {
		t.Errorf("third look: finished %v, %v; want the one that failed before", finished, err)
	}
}
