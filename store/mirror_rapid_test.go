package store

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/overspan/overspan"
)

// A history drives a mirror through random writes and mishaps, beside what the
// lists say.
type history struct {
	scribe
	memory   *Memory
	faulty   *Faulty
	mirror   *Mirror
	followed map[int]bool
	revision int64
	compacts bool
}

// step draws one thing to happen.
func (h *history) step(t *rapid.T) {
	n := rapid.IntRange(1, 3).Draw(t, "which")
	slot := rapid.IntRange(2, 12).Draw(t, "slot")
	run := rapid.IntRange(1, 3).Draw(t, "version")
	size := uint64(1) << rapid.IntRange(0, 2).Draw(t, "size")
	block := overspan.BlockAt(overspan.Slot(slot), size)
	// As in life, whoever writes an endpoint rewrites its flight key.
	flight := func(node int) Op { return Put(h.keys.Flight(nodeID(node)), []byte("{}")) }
	choices := []func(){
		func() { h.put(t, h.node(n, run)) },
		func() { h.put(t, h.presence(n, run)) },
		func() { h.put(t, h.network(n, run)) },
		func() { h.put(t, h.endpoint(n, run, slot), flight(run)) },
		func() { h.put(t, h.onlyBlock(n, run, block)...) },
		func() { h.put(t, h.want(n, 4, run), h.presence(n, run), h.endpoint(n, run, slot), flight(run)) },
		func() { h.put(t, Delete(h.keys.Segment(netID(n)))) },
		func() { h.put(t, Delete(Key(h.keys.Node(nodeID(n)))), Delete(Key(h.keys.Live(nodeID(n))))) },
		func() { h.put(t, Delete(Key(h.keys.Network(netID(n)))), Delete(Key(h.keys.Frozen()))) },
		func() { h.put(t, Delete(Key(h.keys.Endpoint(netID(n), overspan.Slot(slot))))) },
		func() { h.put(t, Put(h.keys.Frozen(), []byte("{}"))) },
		func() { h.put(t, flight(n)) },
		func() { h.faulty.DropWatches(overspan.ErrUnavailable) },
		func() { h.faulty.SetDown(true); h.put(t, h.node(n, run)); h.faulty.SetDown(false) },
		func() { h.follow(n, !h.followed[n]) },
		func() {
			if h.compacts {
				h.memory.Compact(h.revision)
			}
		},
	}
	choices[rapid.IntRange(0, len(choices)-1).Draw(t, "step")]()
}

// onlyBlock puts a block and deletes those that it overlaps: no transaction of
// ours leaves two blocks around one slot.
func (h *history) onlyBlock(net, node int, block overspan.Range) []Op {
	ops := []Op{h.block(net, node, block)}
	for _, size := range overspan.BlockSizes() {
		switch {
		case size < block.Size:
			ops = append(ops, Delete(h.keys.BlocksWithin(netID(net), block, size)))
		case size > block.Size:
			ops = append(ops, Delete(Key(h.keys.Block(netID(net), overspan.BlockAt(block.First, size)))))
		}
	}
	return ops
}

func (h *history) put(t *rapid.T, ops ...Op) {
	res, err := h.memory.Txn(context.Background(), Txn{Then: ops})
	if err != nil {
		t.Fatalf("write: %v", err)
	}
	h.revision = res.Revision
}

func (h *history) follow(n int, yes bool) {
	h.followed[n] = yes
	if yes {
		h.mirror.Follow(netID(n))
		return
	}
	h.mirror.Unfollow(netID(n))
}

// settle waits for the newest revision and compares all.
func (h *history) settle(t *testing.T, rt *rapid.T) {
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	if err := h.mirror.WaitRevision(ctx, h.revision); err != nil {
		rt.Fatal(err)
	}
	var nets []int
	for n, yes := range h.followed {
		if yes {
			nets = append(nets, n)
		}
	}
	want := h.expected(t, h.revision, nets...)
	got := *h.mirror.Snapshot()
	// The wait does not wait for a network to go.
	shown := got.Segments
	got.Segments = overspan.Segments{}
	for id := range want.Segments.Keys() {
		got.Segments.Put(id, shown.Get(id))
	}
	if diff := diffSnapshots(want, &got); diff != "" {
		rt.Fatalf("at %d (-want +got):\n%s", h.revision, diff)
	}
}

// run plays a history with a mirror that runs meanwhile.
func (h *history) run(t *testing.T, rt *rapid.T, watch func(*overspan.Snapshot)) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { h.mirror.Run(ctx) })
	if watch != nil {
		wg.Go(func() {
			for {
				select {
				case <-h.mirror.Changed():
					watch(h.mirror.Snapshot())
				case <-ctx.Done():
					return
				}
			}
		})
	}
	for range rapid.IntRange(1, 5).Draw(rt, "rounds") {
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			h.step(rt)
		}
		h.settle(t, rt)
	}
}

func newHistory(t *testing.T, compacts bool) *history {
	memory := NewMemory(1)
	faulty := NewFaulty(memory)
	keys := testKeys(t, "random")
	return &history{
		scribe: scribe{memory, keys}, memory: memory, faulty: faulty, followed: map[int]bool{}, revision: 1, compacts: compacts,
		mirror: NewMirror(faulty, keys, MirrorConfig{Resync: time.Millisecond, Probe: time.Second}),
	}
}

// Whatever happens, a mirror comes to say what a list says.
func TestMirrorEqualsAList(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		h := newHistory(t, true)
		h.run(t, rt, nil)
		if n := h.mirror.LostEvents(); n != 0 {
			rt.Errorf("%d events lost that were not", n)
		}
	})
}

// Every segment that is published is the network's interior at exactly its
// revision, and the revision of snapshots never goes back.
func TestMirrorSegmentsAreWhole(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		h := newHistory(t, false)
		last := int64(0)
		h.run(t, rt, func(s *overspan.Snapshot) {
			if s.Revision < last {
				t.Errorf("snapshot of revision %d after one of %d", s.Revision, last)
			}
			last = s.Revision
			for id, seg := range s.Segments.All() {
				l, err := h.memory.List(context.Background(), h.keys.Segment(id), seg.Revision)
				if err != nil {
					t.Errorf("list at %d: %v", seg.Revision, err)
					continue
				}
				want := newPart(h.keys, l.KVs, nil).segment(seg.Revision)
				if diff := cmp.Diff(want, seg, snapshotOptions()...); diff != "" {
					t.Errorf("segment at %d (-want +got):\n%s", seg.Revision, diff)
				}
			}
		})
	})
}
