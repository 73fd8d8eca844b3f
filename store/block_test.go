package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/overspan/overspan"
)

func TestClaimProvesThatNothingOverlaps(t *testing.T) {
	forEachKV(t, func(t *testing.T, connect func(*testing.T) KV) {
		a, b := open(t, connect(t), testConfig(1)), open(t, connect(t), testConfig(2))
		n := a.create(t, testNetwork(1))
		for _, held := range overspan.BlockSizes() {
			// A block of each size around slot 64, against one of each size that
			// begins before, in and behind it.
			block := a.claim(t, n, 64, held)
			for _, size := range overspan.BlockSizes() {
				for _, at := range []overspan.Slot{63, 64, 64 + overspan.Slot(held) - 1, 64 + overspan.Slot(held)} {
					r := overspan.BlockAt(at, size)
					got, err := b.Claim(testContext(t), n, r, false)
					switch {
					case r.Overlaps(block.Range):
						if !errors.Is(err, overspan.ErrConflict) {
							t.Errorf("claim %s beside %s: %v, want a conflict", r, block.Range, err)
						}
					case err != nil:
						t.Errorf("claim %s beside %s: %v", r, block.Range, err)
					default:
						if err := b.ReleaseBlock(testContext(t), n.ID, got); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
			if err := a.ReleaseBlock(testContext(t), n.ID, block); err != nil {
				t.Fatal(err)
			}
		}
		_, err := a.Claim(testContext(t), n, overspan.Range{First: 1, Size: 2}, false)
		wantClass(t, err, overspan.ErrInvalid, "not an aligned power of two")
		changed := *n
		changed.ModRevision--
		_, err = a.Claim(testContext(t), &changed, overspan.Range{Size: 64}, false)
		wantClass(t, err, overspan.ErrConflict, "network net1 was changed meanwhile")
	})
}

func TestReleaseBlock(t *testing.T) {
	forEachKV(t, func(t *testing.T, connect func(*testing.T) KV) {
		r := open(t, connect(t), testConfig(1))
		n := r.create(t, testNetwork(1))
		b := r.claim(t, n, 0, 64)
		e := r.attach(t, n, b, "web", 63)
		wantClass(t, r.ReleaseBlock(testContext(t), n.ID, b), overspan.ErrInUse)
		if _, err := r.Detach(testContext(t), e); err != nil {
			t.Fatal(err)
		}
		for range 2 { // a block that is gone is no error
			if err := r.ReleaseBlock(testContext(t), n.ID, b); err != nil {
				t.Fatal(err)
			}
		}
		again := r.claim(t, n, 0, 64)
		if err := r.ReleaseBlock(testContext(t), n.ID, b); err != nil {
			t.Fatal(err)
		}
		r.attach(t, n, again, "web", 2) // the old epoch has released nothing
	})
}

func TestAcks(t *testing.T) {
	forEachKV(t, func(t *testing.T, connect func(*testing.T) KV) {
		r := open(t, connect(t), testConfig(1))
		n := r.create(t, testNetwork(1))
		b := r.claim(t, n, 0, 64)
		asked, err := r.AskAck(testContext(t), n.ID, b)
		if err != nil {
			t.Fatal(err)
		}
		if !asked.Ack || asked.CreateRevision != b.CreateRevision || asked.ModRevision <= b.ModRevision {
			t.Errorf("block %+v after asking for %+v", asked, b)
		}
		again, err := r.AskAck(testContext(t), n.ID, b)
		if err != nil || again != asked {
			t.Errorf("asked again: %+v, %v, want %+v", again, err, asked)
		}
		if err := putAck(testContext(t), r, n, asked.ModRevision); err != nil {
			t.Fatal(err)
		}
		acks, err := r.Acks(testContext(t), n.ID)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(map[overspan.NodeID]int64{nodeID(1): asked.ModRevision}, acks); diff != "" {
			t.Errorf("acks (-want +got):\n%s", diff)
		}
		if err := r.ReleaseBlock(testContext(t), n.ID, b); err != nil {
			t.Fatal(err)
		}
		_, err = r.AskAck(testContext(t), n.ID, b)
		wantClass(t, err, overspan.ErrConflict)
	})
}

// blocksOf lists a network's blocks as "first+size holder".
func blocksOf(t *testing.T, r run, n overspan.NetworkID) []string {
	t.Helper()
	var out []string
	for _, kv := range mustList(t, r.kv, r.keys.Blocks(n), 0).KVs {
		b, err := r.keys.block(kv)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Sprintf("%d+%d h%d", b.First, b.Size, slices.Index([]overspan.NodeID{"", nodeID(1), nodeID(2)}, b.Node)))
	}
	slices.Sort(out)
	return out
}

func TestYield(t *testing.T) {
	ranges := func(in ...overspan.Range) []overspan.Range { return in }
	forEachKV(t, func(t *testing.T, connect func(*testing.T) KV) {
		holder, asker := open(t, connect(t), testConfig(1)), open(t, connect(t), testConfig(2))
		n := holder.create(t, testNetwork(1))
		from := holder.claim(t, n, 0, 8)
		holder.attach(t, n, from, "web", 2)
		slot := overspan.Slot(4)
		old, err := asker.PutWant(testContext(t), n, nodeID(1), nil)
		if err != nil {
			t.Fatal(err)
		}
		want, err := asker.PutWant(testContext(t), n, nodeID(1), &slot)
		if err != nil {
			t.Fatal(err)
		}
		ctx := testContext(t)
		give, keep := overspan.Range{First: 4, Size: 4}, ranges(overspan.Range{First: 0, Size: 4})
		wantClass(t, holder.Yield(ctx, n, old, from, give, keep), overspan.ErrNotFound, "not wanted any more")
		wantClass(t, holder.Yield(ctx, n, want, from, give, nil), overspan.ErrInvalid)
		wantClass(t, holder.Yield(ctx, n, want, from, keep[0], ranges(give)), overspan.ErrInUse)
		if err := holder.Yield(ctx, n, want, from, give, keep); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"0+4 h1", "4+4 h2"}, blocksOf(t, holder, n.ID)); diff != "" {
			t.Errorf("blocks (-want +got):\n%s", diff)
		}
		if left := mustList(t, holder.kv, holder.keys.Wants(n.ID), 0).KVs; len(left) != 0 {
			t.Errorf("wants are left: %v", left)
		}
		_, err = holder.Attach(ctx, AttachRequest{Endpoint: holder.endpoint(n, "late", 5), Network: n, Blocks: []overspan.Block{from}})
		wantClass(t, err, overspan.ErrConflict, "block 0-7 of network net1 is no longer what this node held")
	})
}

func TestYieldOfAWholeBlockChangesItsEpoch(t *testing.T) {
	forEachKV(t, func(t *testing.T, connect func(*testing.T) KV) {
		holder, asker := open(t, connect(t), testConfig(1)), open(t, connect(t), testConfig(2))
		n := holder.create(t, testNetwork(1))
		from := holder.claim(t, n, 5, 1)
		slot := overspan.Slot(5)
		want, err := asker.PutWant(testContext(t), n, nodeID(1), &slot)
		if err != nil {
			t.Fatal(err)
		}
		if err := holder.Yield(testContext(t), n, want, from, from.Range, nil); err != nil {
			t.Fatal(err)
		}
		asker.claim(t, n, 5, 1)
		_, err = holder.Attach(testContext(t), AttachRequest{Endpoint: holder.endpoint(n, "late", 5), Network: n, Blocks: []overspan.Block{from}})
		wantClass(t, err, overspan.ErrConflict)
	})
}

func TestYieldToARemovedNode(t *testing.T) {
	kv := NewMemory(1)
	holder, asker := open(t, kv, testConfig(1)), open(t, kv, testConfig(2))
	n := holder.create(t, testNetwork(1))
	from := holder.claim(t, n, 0, 2)
	want, err := asker.PutWant(testContext(t), n, nodeID(1), nil)
	if err != nil {
		t.Fatal(err)
	}
	mustTxn(t, kv, Txn{Then: []Op{Delete(Key(asker.keys.Node(nodeID(2))))}})
	err = holder.Yield(testContext(t), n, want, from, overspan.Range{First: 0, Size: 1}, []overspan.Range{{First: 1, Size: 1}})
	wantClass(t, err, overspan.ErrNotFound, "was removed")
	if err := holder.DropWant(testContext(t), want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"0+2 h1"}, blocksOf(t, holder, n.ID)); diff != "" {
		t.Errorf("blocks (-want +got):\n%s", diff)
	}
}

// TestBlocksNeverOverlap lets three nodes claim, split and give back at random
// and at once; no two blocks share a slot at any revision.
func TestBlocksNeverOverlap(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		kv := NewMemory(1)
		ctx, cancel := context.WithCancel(t.Context())
		var running, busy sync.WaitGroup
		defer running.Wait()
		defer cancel()
		var nodes [3]*Session
		for i := range nodes {
			var err error
			if nodes[i], err = Open(ctx, kv, testConfig(i+1)); err != nil {
				rt.Fatal(err)
			}
			running.Go(func() { _ = nodes[i].Run(ctx) })
		}
		n, err := nodes[0].CreateNetwork(ctx, fixed(testNetwork(1)))
		if err != nil {
			rt.Fatal(err)
		}
		for i, s := range nodes {
			steps := rapid.SliceOfN(rapid.Custom(drawStep), 1, 12).Draw(rt, fmt.Sprintf("steps of h%d", i+1))
			asker := nodes[(i+1)%len(nodes)]
			busy.Go(func() {
				for _, st := range steps {
					if err := st.take(ctx, s, asker, &n); err != nil {
						t.Error(err)
					}
				}
			})
		}
		busy.Wait()
		var last int64
		for rev := n.CreateRevision; ; rev++ {
			list, err := kv.List(ctx, nodes[0].keys.Blocks(n.ID), rev)
			if errors.Is(err, ErrFuture) {
				break
			}
			if err != nil {
				rt.Fatal(err)
			}
			checkDisjoint(rt, nodes[0].keys, list.KVs)
			last = rev
		}
		if last <= n.CreateRevision {
			rt.Skip("nothing was claimed")
		}
	})
}

// A step claims a range; then it may give it back or split it for another node.
type step struct {
	at     overspan.Range
	follow int // 0 keeps it, 1 gives it back, 2 splits it
}

func drawStep(t *rapid.T) step {
	size := rapid.SampledFrom(overspan.BlockSizes()).Draw(t, "size")
	return step{
		at:     overspan.BlockAt(overspan.Slot(rapid.IntRange(0, 127).Draw(t, "slot")), size),
		follow: rapid.IntRange(0, 2).Draw(t, "follow"),
	}
}

func (st step) take(ctx context.Context, s, asker *Session, n *overspan.Network) error {
	b, err := s.Claim(ctx, n, st.at, false)
	if errors.Is(err, overspan.ErrConflict) {
		return nil
	}
	if err != nil {
		return err
	}
	switch {
	case st.follow == 1:
		return s.ReleaseBlock(ctx, n.ID, b)
	case st.follow == 2 && b.Size > 1:
		w, err := asker.PutWant(ctx, n, s.cfg.Node.ID, nil)
		if err != nil {
			return err
		}
		half := b.Size / 2
		return s.Yield(ctx, n, w, b, overspan.Range{First: b.First, Size: half}, []overspan.Range{{First: b.First + overspan.Slot(half), Size: half}})
	}
	return nil
}

func checkDisjoint(t *rapid.T, keys Keys, kvs []KeyValue) {
	lent := make(map[overspan.Slot]overspan.Block)
	for _, kv := range kvs {
		b, err := keys.block(kv)
		if err != nil {
			t.Fatal(err)
		}
		for slot := b.First; slot <= b.Last(); slot++ {
			if other, is := lent[slot]; is {
				t.Fatalf("slot %d lies in %+v and in %+v", slot, other, b)
			}
			lent[slot] = b
		}
	}
}

// putAck is PutAck of a session that has told nothing of the network yet.
func putAck(ctx context.Context, r run, n *overspan.Network, revision int64) error {
	_, err := r.PutAck(ctx, n, revision, 0)
	return err
}

// An acknowledgement that was given up, and is carried out late, takes back nothing
// that was told after it.
func TestLateAckTakesNothingBack(t *testing.T) {
	kv := NewFaulty(NewMemory(1))
	r := open(t, kv, testConfig(1))
	n := r.create(t, testNetwork(1))
	last, err := r.PutAck(testContext(t), n, 5, 0)
	mustDo(t, err)
	kv.InjectTxn(TxnLate)
	_, err = r.PutAck(testContext(t), n, 10, last)
	wantClass(t, err, overspan.ErrUnavailable)
	_, err = r.PutAck(testContext(t), n, 20, last)
	mustDo(t, err)
	late, err := kv.Deliver(testContext(t))
	mustDo(t, err)
	if len(late) != 1 || late[0].OK {
		t.Errorf("late is %+v; want one transaction that did nothing", late)
	}
	acks, err := r.Acks(testContext(t), n.ID)
	mustDo(t, err)
	if acks[nodeID(1)] != 20 {
		t.Errorf("acknowledged is %v, want 20", acks)
	}
}
