package store

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overspan/overspan"
)

// distant is a KV behind a network: a transaction takes its time. It counts
// those that write.
type distant struct {
	KV
	txns atomic.Int64
}

func (d *distant) Txn(ctx context.Context, t Txn) (Result, error) {
	if len(t.If) > 0 {
		d.txns.Add(1)
		<-time.After(2 * time.Millisecond)
	}
	return d.KV.Txn(ctx, t)
}

func TestAttachesShareFlights(t *testing.T) {
	forEachKV(t, func(t *testing.T, connect func(*testing.T) KV) {
		kv := &distant{KV: connect(t)}
		r := open(t, kv, testConfig(1))
		n := r.create(t, testNetwork(1))
		blocks := []overspan.Block{r.claim(t, n, 0, 64), r.claim(t, n, 64, 64)}
		r.attach(t, n, blocks[0], "taken", 50)

		before := kv.txns.Load()
		const count = 100
		var attached [count]overspan.Endpoint
		var errs [count]error
		var wg sync.WaitGroup
		for i := range count {
			slot := overspan.Slot(2 + i)
			b := blocks[slot/64]
			wg.Go(func() {
				attached[i], errs[i] = r.Attach(testContext(t), AttachRequest{
					Endpoint: r.endpoint(n, fmt.Sprintf("web%d", i), slot), Network: n, Blocks: []overspan.Block{b},
				})
			})
		}
		wg.Wait()
		for i, err := range errs {
			if i == 48 {
				wantClass(t, err, overspan.ErrInUse, "address already in use: 10.0.1.50 of network net1 belongs to taken on h1")
			} else if err != nil {
				t.Errorf("attach web%d: %v", i, err)
			}
		}
		if used := kv.txns.Load() - before; used > count/3 {
			t.Errorf("%d attaches took %d transactions, want far fewer", count, used)
		}
		if got := len(mustList(t, kv, r.keys.Endpoints(n.ID), 0).KVs); got != count {
			t.Errorf("%d records stand, want %d", got, count)
		}

		before = kv.txns.Load()
		for i, e := range attached {
			if errs[i] == nil {
				wg.Go(func() {
					if _, err := r.Detach(testContext(t), e); err != nil {
						t.Errorf("detach %s: %v", e.Name, err)
					}
				})
			}
		}
		wg.Wait()
		if used := kv.txns.Load() - before; used > count/3 {
			t.Errorf("%d detaches took %d transactions, want far fewer", count, used)
		}
		if got := keysOf(mustList(t, kv, r.keys.Endpoints(n.ID), 0).KVs); len(got) != 1 {
			t.Errorf("records %v stand, want one", got)
		}
	})
}

// largest returns as many requests as share a flight, each of the largest kind.
func largest(t *testing.T, s *Session, n *overspan.Network) []*request {
	t.Helper()
	var group []*request
	for i := range maxGroup {
		slots := []overspan.Slot{overspan.Slot(2 + 2*i), overspan.Slot(3 + 2*i)}
		r, err := s.attach(AttachRequest{
			Network: n,
			Endpoint: overspan.Endpoint{
				ID: overspan.EndpointID(overspan.NewID()), Network: n.ID, Node: nodeID(1), Name: fmt.Sprintf("%s-%d", n.Name, i),
				Slot: slots[0], Slots: slots, IPv4: n.IPv4.Addr(slots[0]), IPv6: n.IPv6.Addr(slots[1]),
				MAC: overspan.MAC{0x0a, 0, 0, 0, 0, byte(i)},
			},
			Blocks: []overspan.Block{{Range: overspan.Range{First: slots[0], Size: 1}}, {Range: overspan.Range{First: slots[1], Size: 1}}},
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.done = make(chan answer, 1)
		group = append(group, r)
	}
	return group
}

// TestLargestFlight proves that the largest group of the largest requests is
// within etcd's limits, and so is settling it.
func TestLargestFlight(t *testing.T) {
	forEachKV(t, func(t *testing.T, connect func(*testing.T) KV) {
		kv := NewFaulty(connect(t))
		s, err := Open(testContext(t), kv, testConfig(1)) // not running: the test launches by itself
		if err != nil {
			t.Fatal(err)
		}
		for i, fault := range []TxnFault{TxnPasses, TxnUnanswered} {
			n := testNetwork(i)
			n.IPv6 = overspan.Subnet{Prefix: netip.MustParsePrefix("fd00::/64")}
			// Neither network nor blocks stand: the guards compare absent keys.
			group, rest := board(largest(t, s, &n))
			if len(group) != maxGroup || len(rest) != 0 {
				t.Fatalf("%d board and %d stay behind", len(group), len(rest))
			}
			kv.InjectTxn(fault)
			s.flights.launch(testContext(t), group)
			for _, r := range group {
				if a := <-r.done; a.err != nil || !a.res.OK {
					t.Fatalf("%s: %+v", r.what, a)
				}
			}
			if got := len(mustList(t, kv, s.keys.Endpoints(n.ID), 0).KVs); got != 2*maxGroup {
				t.Errorf("%d records stand, want %d", got, 2*maxGroup)
			}
		}
	})
}

func TestUnknownOutcomesAreSettled(t *testing.T) {
	t.Parallel()
	var rows []row
	for _, tt := range []struct {
		name   string
		faults []TxnFault
		fails  bool // with ErrUnavailable, and nothing stands
	}{
		{name: "lost", faults: []TxnFault{TxnLost}},
		{name: "committed", faults: []TxnFault{TxnUnanswered}},
		{name: "hangs", faults: []TxnFault{TxnHangs}},
		{name: "late", faults: []TxnFault{TxnLate}},
		{name: "committed, settling lost", faults: []TxnFault{TxnUnanswered, TxnLost, TxnHangs}},
		{name: "committed, settling unanswered", faults: []TxnFault{TxnUnanswered, TxnUnanswered}},
		{name: "lost, settling unanswered", faults: []TxnFault{TxnLost, TxnUnanswered}},
		{name: "late, settling late", faults: []TxnFault{TxnLate, TxnLate}},
		{name: "committed the second time", faults: []TxnFault{TxnLost, TxnPasses, TxnUnanswered}},
		{name: "lost each time", faults: slices.Concat(slices.Repeat([]TxnFault{TxnLost, TxnPasses}, maxFlights-1), []TxnFault{TxnLate}), fails: true},
	} {
		rows = append(rows, row{tt.name, func(t *testing.T, connect func(*testing.T) KV) {
			kv := NewFaulty(connect(t))
			r := open(t, kv, testConfig(1))
			n := r.create(t, testNetwork(1))
			b := r.claim(t, n, 0, 64)
			before := dump(t, kv)

			kv.InjectTxn(tt.faults...)
			e, err := r.Attach(testContext(t), AttachRequest{Endpoint: r.endpoint(n, "web", 2), Network: n, Blocks: []overspan.Block{b}})
			if late, err := kv.Deliver(testContext(t)); err != nil {
				t.Fatal(err)
			} else if slices.ContainsFunc(late, func(r Result) bool { return r.OK }) {
				t.Error("a late transaction committed after it was settled")
			}
			if tt.fails {
				wantClass(t, err, overspan.ErrUnavailable)
			} else {
				if err != nil {
					t.Fatal(err)
				}
				if got := mustList(t, kv, Key(r.keys.Endpoint(n.ID, 2)), 0).KVs; len(got) != 1 || got[0].CreateRevision != e.CreateRevision {
					t.Errorf("record is %v, want one of revision %d", got, e.CreateRevision)
				}
				if _, err := r.Detach(testContext(t), e); err != nil {
					t.Fatal(err)
				}
			}
			after := dump(t, kv)
			delete(before, r.keys.Flight(nodeID(1)))
			delete(after, r.keys.Flight(nodeID(1)))
			if diff := cmp.Diff(before, after); diff != "" {
				t.Errorf("something was left behind (-want +got):\n%s", diff)
			}
		}})
	}
	forEachKVAndRow(t, rows)
}

// TestSettledGroupFailsOneByOne loses the answer of a group of which one fails.
func TestSettledGroupFailsOneByOne(t *testing.T) {
	forEachKV(t, func(t *testing.T, connect func(*testing.T) KV) {
		kv := NewFaulty(connect(t))
		r := open(t, kv, testConfig(1))
		n := r.create(t, testNetwork(1))
		b := r.claim(t, n, 0, 64)
		gone := r.attach(t, n, b, "gone", 2)
		r.attach(t, n, b, "taken", 3)
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		r = run{Session: reopened(t, kv)}

		requests := make([]*request, 3)
		for i, slot := range []overspan.Slot{3, 4} {
			var err error
			if requests[i], err = r.Session.attach(AttachRequest{Endpoint: r.endpoint(n, fmt.Sprintf("web%d", i), slot), Network: n, Blocks: []overspan.Block{b}}, nil); err != nil {
				t.Fatal(err)
			}
		}
		requests[2] = r.detach(gone)
		for _, q := range requests {
			q.done = make(chan answer, 1)
		}
		kv.InjectTxn(TxnUnanswered)
		r.flights.launch(testContext(t), requests)
		for i, want := range []bool{false, true, true} {
			a := <-requests[i].done
			if a.err != nil || a.res.OK != want {
				t.Errorf("%s: %v, %v, want %v", requests[i].what, a.res.OK, a.err, want)
			}
			if !want && len(found(a.res)) == 0 {
				t.Errorf("%s: nothing tells why it failed", requests[i].what)
			}
		}
	})
}

// reopened opens a session of node 1 without running it.
func reopened(t *testing.T, kv KV) *Session {
	t.Helper()
	s, err := Open(testContext(t), kv, testConfig(1))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestCallerGivesUp(t *testing.T) {
	t.Parallel()
	var rows []row
	for _, tt := range []struct {
		name    string
		fault   TxnFault
		undoing bool
	}{
		{"the attach had committed", TxnUnanswered, true},
		{"the attach was lost", TxnLost, false},
	} {
		rows = append(rows, row{tt.name, func(t *testing.T, connect func(*testing.T) KV) {
			kv := NewFaulty(connect(t))
			undone := make(chan overspan.Endpoint, 1)
			cfg := testConfig(1)
			cfg.Undone = func(e overspan.Endpoint) { undone <- e }
			r := open(t, kv, cfg)
			n := r.create(t, testNetwork(1))
			b := r.claim(t, n, 0, 64)
			e := r.endpoint(n, "web", 2)

			kv.InjectTxn(tt.fault, TxnHangs)
			ctx, cancel := context.WithTimeout(testContext(t), 100*time.Millisecond)
			defer cancel()
			_, err := r.Attach(ctx, AttachRequest{Endpoint: e, Network: n, Blocks: []overspan.Block{b}})
			wantClass(t, err, overspan.ErrUnavailable, "attach web to network net1: etcd unreachable", "injected fault")
			if tt.undoing {
				if got := <-undone; got.ID != e.ID {
					t.Errorf("undone is %v, want %v", got, e)
				}
			}
			// What comes next flies behind all that.
			r.attach(t, n, b, "web", 2)
		}})
	}
	forEachKVAndRow(t, rows)
}

// What cannot be undone may be carried out after its caller has given up: the error
// says where to look, unless it was never sent.
func TestCallerIsToldWhereToLook(t *testing.T) {
	t.Parallel()
	const look = "it may be carried out all the same: see ctl node ls"
	for _, tt := range []struct {
		name   string
		faults []TxnFault
		behind bool // another flight is in the air
		drains bool
		look   bool
	}{
		{"it had committed", []TxnFault{TxnUnanswered, TxnHangs}, false, true, true},
		{"it was lost", []TxnFault{TxnLost, TxnHangs}, false, false, true},
		{"it was never sent", []TxnFault{TxnLost, TxnHangs, TxnHangs}, true, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			kv := NewFaulty(NewMemory(1))
			r := open(t, kv, testConfig(1))
			open(t, kv, testConfig(2))
			n := r.create(t, testNetwork(1))
			b := r.claim(t, n, 0, 64)
			kv.InjectTxn(tt.faults...)
			ctx, cancel := context.WithTimeout(testContext(t), 100*time.Millisecond)
			defer cancel()
			if tt.behind {
				_, err := r.Attach(ctx, AttachRequest{Endpoint: r.endpoint(n, "web", 2), Network: n, Blocks: []overspan.Block{b}})
				wantClass(t, err, overspan.ErrUnavailable, "attach web to network net1")
				ctx, cancel = context.WithTimeout(testContext(t), 100*time.Millisecond)
				defer cancel()
			}
			_, err := r.Drain(ctx, nodeID(2), true)
			wantClass(t, err, overspan.ErrUnavailable, "drain node")
			if got := strings.Contains(err.Error(), look); got != tt.look {
				t.Errorf("error is %v; want it to say where to look: %t", err, tt.look)
			}
			r.attach(t, n, b, "next", 3) // flies behind all that
			node, err := r.keys.node(mustList(t, kv, Key(r.keys.Node(nodeID(2))), 0).KVs[0])
			if err != nil || node.Draining != tt.drains {
				t.Errorf("registration is %+v, %v; want it draining: %t", node, err, tt.drains)
			}
		})
	}
}

func TestCallersWaitWhileEtcdIsAway(t *testing.T) {
	kv := NewFaulty(NewMemory(1))
	r := open(t, kv, testConfig(1))
	n := r.create(t, testNetwork(1))
	b := r.claim(t, n, 0, 64)
	kv.SetDown(true)
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(testContext(t), 200*time.Millisecond)
			defer cancel()
			_, err := r.Attach(ctx, AttachRequest{Endpoint: r.endpoint(n, fmt.Sprintf("web%d", i), overspan.Slot(2+i)), Network: n, Blocks: []overspan.Block{b}})
			if !errors.Is(err, overspan.ErrUnavailable) || !strings.Contains(err.Error(), "etcd unreachable") {
				t.Errorf("attach without etcd: %v", err)
			}
		})
	}
	wg.Wait()
	kv.SetDown(false)
	r.attach(t, n, b, "late", 2)
	if got := mustList(t, kv, r.keys.Endpoints(n.ID), 0).KVs; len(got) != 1 {
		t.Errorf("%d records stand, want that of the last attach", len(got))
	}
}
