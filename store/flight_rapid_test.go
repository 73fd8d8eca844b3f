package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/overspan/overspan"
)

// TestAnswersAreTrue attaches and detaches at random under random faults: what
// stands in etcd is what the answers said.
func TestAnswersAreTrue(t *testing.T) {
	faults := rapid.SliceOfN(rapid.SampledFrom([]TxnFault{TxnPasses, TxnLost, TxnUnanswered, TxnHangs, TxnLate}), 0, 4)
	rapid.Check(t, func(rt *rapid.T) {
		w := newWitness(t, rt)
		defer w.stop()
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			w.kv.InjectTxn(faults.Draw(rt, "faults")...)
			slot := overspan.Slot(rapid.IntRange(2, 4).Draw(rt, "slot"))
			if _, is := w.attached[slot]; is && rapid.Bool().Draw(rt, "detach") {
				w.detach(rt, slot)
			} else {
				w.attach(rt, slot)
			}
			if rapid.Bool().Draw(rt, "deliver") {
				w.deliver(rt)
			}
		}
		w.deliver(rt)
		w.check(rt)
	})
}

// A witness notes what a session answered.
type witness struct {
	run
	kv       *Faulty
	ctx      context.Context
	stop     func()
	network  overspan.Network
	block    overspan.Block
	attached map[overspan.Slot]overspan.Endpoint
}

func newWitness(t *testing.T, rt *rapid.T) *witness {
	w := &witness{kv: NewFaulty(NewMemory(1)), attached: make(map[overspan.Slot]overspan.Endpoint)}
	s, err := Open(t.Context(), w.kv, testConfig(1))
	if err != nil {
		rt.Fatal(err)
	}
	s.flights.timeout, s.flights.backoff = 2*time.Millisecond, 100*time.Microsecond
	w.run = run{Session: s}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = s.Run(ctx) })
	w.ctx, w.stop = ctx, func() { cancel(); running.Wait() }
	if w.network, err = s.CreateNetwork(ctx, fixed(testNetwork(1))); err != nil {
		rt.Fatal(err)
	}
	if w.block, err = s.Claim(ctx, &w.network, overspan.Range{Size: 64}, false); err != nil {
		rt.Fatal(err)
	}
	return w
}

func (w *witness) attach(t *rapid.T, slot overspan.Slot) {
	_, taken := w.attached[slot]
	e, err := w.Attach(w.ctx, AttachRequest{
		Endpoint: w.endpoint(&w.network, fmt.Sprintf("web%d", slot), slot),
		Network:  &w.network, Blocks: []overspan.Block{w.block},
	})
	switch {
	case err == nil && taken:
		t.Fatalf("slot %d was lent twice", slot)
	case err == nil:
		w.attached[slot] = e
	case errors.Is(err, overspan.ErrUnavailable), taken && errors.Is(err, overspan.ErrInUse):
	default:
		t.Fatal(err)
	}
}

func (w *witness) detach(t *rapid.T, slot overspan.Slot) {
	_, err := w.Detach(w.ctx, w.attached[slot])
	if err == nil {
		delete(w.attached, slot)
	} else if !errors.Is(err, overspan.ErrUnavailable) {
		t.Fatal(err)
	}
}

func (w *witness) deliver(t *rapid.T) {
	if _, err := w.kv.Deliver(w.ctx); err != nil {
		t.Fatal(err)
	}
}

func (w *witness) check(t *rapid.T) {
	want, got := make(map[string]string), make(map[string]string)
	for slot, e := range w.attached {
		want[w.keys.Endpoint(w.network.ID, slot)] = string(e.ID)
	}
	list, err := w.kv.List(w.ctx, w.keys.Endpoints(w.network.ID), 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range list.KVs {
		e, err := w.keys.endpoint(kv)
		if err != nil {
			t.Fatal(err)
		}
		got[kv.Key] = string(e.ID)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("records (-want +got):\n%s", diff)
	}
}
