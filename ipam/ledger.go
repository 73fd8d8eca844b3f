package ipam

import (
	"sync"
	"time"

	"github.com/overspan/overspan"
)

// A ledger is what an Allocator remembers of one network.
type ledger struct {
	// gate admits one search for any slot at a time. It may be held for long,
	// so that whoever answers other nodes' wants must not need it: two nodes
	// that ask each other would wait for each other.
	gate chan struct{}

	// mu guards what follows. It is held from looking to marking, never while
	// waiting for anything.
	mu      sync.Mutex
	held    map[overspan.Slot]struct{}
	resting map[overspan.Slot]time.Time
	waiting int
	idle    map[tenure]time.Time // since when an empty block is known to be empty

	// mine are this node's blocks among those of the view that was seen last:
	// the next view's follow from what has changed.
	seen, mine overspan.SlotMap[overspan.Block]
}

// A tenure is one block at one epoch.
type tenure struct {
	overspan.Range
	epoch int64
}

func newLedger() *ledger {
	return &ledger{
		gate:    make(chan struct{}, 1),
		held:    map[overspan.Slot]struct{}{},
		resting: map[overspan.Slot]time.Time{},
		idle:    map[tenure]time.Time{},
	}
}

// complete adds to a view what the ledger knows. The view shares the ledger's
// maps: the caller holds mu for as long as it decides by them.
func (l *ledger) complete(v View, now time.Time) View {
	for s, until := range l.resting {
		if !now.Before(until) {
			delete(l.resting, s)
		}
	}
	for first := range v.Segment.Blocks.Changes(l.seen) {
		if b, held := v.Segment.Blocks.Lookup(first); held && b.Node == v.Self {
			l.mine.Put(first, b)
		} else {
			l.mine.Delete(first)
		}
	}
	l.seen = v.Segment.Blocks
	v.Held, v.Resting, v.Waiting, v.mine = l.held, l.resting, l.waiting, &l.mine
	return v
}

// hold keeps slots from being lent or given. The caller holds mu.
func (l *ledger) hold(slots ...overspan.Slot) {
	for _, s := range slots {
		l.held[s] = struct{}{}
		delete(l.resting, s)
	}
}

func (l *ledger) leaveQueue() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting--
}

// emptySince returns those of the idle blocks that have been so since a time,
// and remembers when each of the others was first seen. The caller holds mu.
func (l *ledger) emptySince(idle []overspan.Block, since, now time.Time) []overspan.Block {
	seen := make(map[tenure]time.Time, len(idle))
	var out []overspan.Block
	for _, b := range idle {
		t := tenure{Range: b.Range, epoch: b.CreateRevision}
		first, known := l.idle[t]
		if !known {
			first = now
		}
		seen[t] = first
		if !first.After(since) {
			out = append(out, b)
		}
	}
	l.idle = seen
	return out
}

// setAside holds the slots of a block that is on its way to another node, or
// back. The caller holds mu; putBack ends it.
func (l *ledger) setAside(r overspan.Range) {
	for s := range slotsOf(r) {
		l.held[s] = struct{}{}
	}
}

func (l *ledger) putBack(r overspan.Range) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for s := range slotsOf(r) {
		delete(l.held, s)
	}
}
