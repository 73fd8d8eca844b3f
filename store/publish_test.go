package store

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// freezeNow freezes a cluster as a node does that finds etcd without its past.
func freezeNow(t *testing.T, r run) {
	t.Helper()
	mustTxn(t, r.kv, Txn{Then: []Op{Put(r.keys.Frozen(), mustMarshal(&overspanv1.Frozen{Reason: "a test"}))}})
}

func TestReclaim(t *testing.T) {
	forEachKV(t, func(t *testing.T, connect func(*testing.T) KV) {
		r, other := open(t, connect(t), testConfig(1)), open(t, connect(t), testConfig(2))
		n := r.create(t, testNetwork(1))
		other.claim(t, n, 8, 4)
		freezeNow(t, r)
		if _, err := r.Claim(testContext(t), n, overspan.Range{First: 4, Size: 1}, false); !errors.Is(err, overspan.ErrUnavailable) {
			t.Fatalf("claim while frozen: %v", err)
		}
		b, err := r.Reclaim(testContext(t), n, overspan.Range{First: 4, Size: 1}, true)
		if err != nil || b.CreateRevision == 0 || b.Node != nodeID(1) || !b.Ack {
			t.Fatalf("reclaim while frozen: %+v, %v", b, err)
		}
		_, err = r.Reclaim(testContext(t), n, overspan.Range{First: 8, Size: 1}, true)
		wantClass(t, err, overspan.ErrConflict, "claimed already")
		changed := *n
		changed.ModRevision--
		_, err = r.Reclaim(testContext(t), &changed, overspan.Range{First: 5, Size: 1}, true)
		wantClass(t, err, overspan.ErrConflict, "network net1 was changed meanwhile")
	})
}

func TestReattach(t *testing.T) {
	forEachKV(t, func(t *testing.T, connect func(*testing.T) KV) {
		r, other := open(t, connect(t), testConfig(1)), open(t, connect(t), testConfig(2))
		network := testNetwork(1)
		network.IPv6 = overspan.Subnet{Prefix: netip.MustParsePrefix("fd00::/64")}
		n := r.create(t, network)
		b, far := r.claim(t, n, 0, 64), other.claim(t, n, 64, 64)
		other.attach(t, n, far, "away", 70)
		freezeNow(t, r)
		e := r.endpoint(n, "web", 2)
		e.Slots, e.IPv6 = []overspan.Slot{2, 9}, n.IPv6.Addr(9)
		req := AttachRequest{Endpoint: e, Network: n, Blocks: []overspan.Block{b}}
		first, err := r.Reattach(testContext(t), req)
		if err != nil || first.CreateRevision == 0 {
			t.Fatalf("reattach: %+v, %v", first, err)
		}
		again, err := r.Reattach(testContext(t), req)
		if err != nil {
			t.Fatalf("reattach of what stands: %v", err)
		}
		if diff := cmp.Diff(first, again, snapshotOptions()); diff != "" {
			t.Errorf("reattached once more (-want +got):\n%s", diff)
		}
		// Its ports have moved: the record is written over, and is still its own.
		req.Endpoint.Ports = []overspan.Port{{Protocol: overspan.TCP, Port: 80, HostIP: netip.IPv4Unspecified(), HostPort: 8080}}
		moved, err := r.Reattach(testContext(t), req)
		if err != nil || moved.CreateRevision != first.CreateRevision || moved.ModRevision <= first.ModRevision {
			t.Errorf("reattached with other ports: %+v, %v", moved, err)
		}
		standing, err := r.keys.endpoint(mustList(t, r.kv, Key(r.keys.Endpoint(n.ID, 9)), 0).KVs[0])
		if diff := cmp.Diff(moved, standing, snapshotOptions()); diff != "" || err != nil {
			t.Errorf("its record (-want +got):\n%s, %v", diff, err)
		}
		e = req.Endpoint
		dual := func(name string, slot overspan.Slot) overspan.Endpoint {
			e := r.endpoint(n, name, slot)
			e.IPv6 = n.IPv6.Addr(slot)
			return e
		}
		for _, tc := range []struct {
			name  string
			spoil func(*AttachRequest)
			class error
			text  string
		}{
			{"slot is another's", func(a *AttachRequest) { a.Endpoint = dual("two", 2) }, overspan.ErrInUse, "belongs to web on h1"},
			{"name is another's", func(a *AttachRequest) { a.Endpoint = dual("away", 3) }, overspan.ErrExists, "away on h2"},
			{"block is another by now", func(a *AttachRequest) {
				a.Endpoint = dual("two", 3)
				a.Blocks[0].CreateRevision--
			}, overspan.ErrConflict, "no longer what this node held"},
			{"only half of its slots stand", func(a *AttachRequest) { a.Endpoint.Slots, a.Endpoint.IPv6 = []overspan.Slot{2, 4}, n.IPv6.Addr(4) }, overspan.ErrInUse, "belongs to web on h1"},
		} {
			t.Run(tc.name, func(t *testing.T) {
				req := AttachRequest{Endpoint: e, Network: n, Blocks: []overspan.Block{b}}
				tc.spoil(&req)
				_, err := r.Reattach(testContext(t), req)
				wantClass(t, err, tc.class, tc.text)
			})
		}
	})
}

// A caller that gives up has asked for what is served all the same: it stays.
func TestReattachOfWhoGivesUpIsNotUndone(t *testing.T) {
	kv := NewFaulty(NewMemory(1))
	r := open(t, kv, testConfig(1))
	n := r.create(t, testNetwork(1))
	b := r.claim(t, n, 0, 64)
	e := r.endpoint(n, "web", 2)
	kv.InjectTxn(TxnUnanswered, TxnHangs)
	ctx, cancel := context.WithTimeout(testContext(t), 100*time.Millisecond)
	defer cancel()
	_, err := r.Reattach(ctx, AttachRequest{Endpoint: e, Network: n, Blocks: []overspan.Block{b}})
	wantClass(t, err, overspan.ErrUnavailable)
	got, err := r.Reattach(testContext(t), AttachRequest{Endpoint: e, Network: n, Blocks: []overspan.Block{b}})
	if err != nil || got.CreateRevision == 0 {
		t.Errorf("asked again: %+v, %v", got, err)
	}
}

// Somebody has deleted some of an endpoint's keys by hand: those that are left
// are its own, and in nobody's way.
func TestReattachBesideItsOwnRemnants(t *testing.T) {
	forEachKV(t, func(t *testing.T, connect func(*testing.T) KV) {
		r := open(t, connect(t), testConfig(1))
		network := testNetwork(1)
		network.IPv6 = overspan.Subnet{Prefix: netip.MustParsePrefix("fd00::/64")}
		n := r.create(t, network)
		b := r.claim(t, n, 0, 64)
		e := r.endpoint(n, "web", 2)
		e.Slots, e.IPv6, e.MAC = []overspan.Slot{2, 9}, n.IPv6.Addr(9), overspan.MAC{0x0a, 0, 0, 0, 0, 1}
		req := AttachRequest{Endpoint: e, Network: n, Blocks: []overspan.Block{b}}
		if _, err := r.Reattach(testContext(t), req); err != nil {
			t.Fatal(err)
		}
		want := dump(t, r.kv)
		for _, gone := range [][]string{
			{r.keys.Endpoint(n.ID, 2), r.keys.Endpoint(n.ID, 9)},
			{r.keys.Endpoint(n.ID, 9)},
			{r.keys.EndpointName(n.ID, "web"), r.keys.Endpoint(n.ID, 2)},
			{r.keys.MAC(n.ID, e.MAC), r.keys.Endpoint(n.ID, 2)},
		} {
			var by Txn
			for _, key := range gone {
				by.Then = append(by.Then, Delete(Key(key)))
			}
			mustTxn(t, r.kv, by)
			again, err := r.Reattach(testContext(t), req)
			if err != nil || again.CreateRevision == 0 {
				t.Fatalf("without %v: %+v, %v", gone, again, err)
			}
			flight := r.keys.Flight(nodeID(1))
			if diff := cmp.Diff(without(want, flight), without(dump(t, r.kv), flight)); diff != "" {
				t.Errorf("without %v, afterwards (-want +got):\n%s", gone, diff)
			}
		}
	})
}

func TestRestoreNetwork(t *testing.T) {
	forEachKV(t, func(t *testing.T, connect func(*testing.T) KV) {
		r, other := open(t, connect(t), testConfig(1)), open(t, connect(t), testConfig(2))
		n := r.create(t, testNetwork(1))
		created := without(dump(t, r.kv))
		if err := r.RemoveNetwork(testContext(t), n); err != nil {
			t.Fatal(err)
		}
		freezeNow(t, r)
		first, err := r.RestoreNetwork(testContext(t), *n)
		if err != nil || first.CreateRevision <= n.CreateRevision {
			t.Fatalf("restored as %+v, %v", first, err)
		}
		again, err := other.RestoreNetwork(testContext(t), *n)
		if err != nil {
			t.Fatalf("restored by another: %v", err)
		}
		if diff := cmp.Diff(first, again, snapshotOptions()); diff != "" {
			t.Errorf("restored once more (-want +got):\n%s", diff)
		}
		created[r.keys.Frozen()] = dump(t, r.kv)[r.keys.Frozen()]
		if diff := cmp.Diff(created, without(dump(t, r.kv))); diff != "" {
			t.Errorf("keys (-want +got):\n%s", diff)
		}
		for _, tc := range []struct {
			name  string
			spoil func(*overspan.Network)
			class error
			text  string
		}{
			{"name", func(n *overspan.Network) { n.Name = "net1" }, overspan.ErrExists, "name net1 is taken by network " + overspan.ShortID(netID(1))},
			{"VNI", func(n *overspan.Network) { n.VNI = 70001 }, overspan.ErrExists, "VNI 70001 is taken by network net1"},
			{"subnet", func(n *overspan.Network) { n.IPv4 = testNetwork(1).IPv4 }, overspan.ErrInUse, "subnet 10.0.1.0/24 overlaps 10.0.1.0/24 of network net1"},
			{"on its way out", func(n *overspan.Network) { n.Deleting = true }, overspan.ErrNotFound, "is being removed"},
		} {
			t.Run(tc.name, func(t *testing.T) {
				n := testNetwork(2)
				tc.spoil(&n)
				_, err := r.RestoreNetwork(testContext(t), n)
				wantClass(t, err, tc.class, tc.text)
			})
		}
	})
}

func TestDiscardNetwork(t *testing.T) {
	forEachKV(t, func(t *testing.T, connect func(*testing.T) KV) {
		r := open(t, connect(t), testConfig(1))
		before := without(dump(t, r.kv), r.keys.SubnetsVersion())
		n := r.create(t, testNetwork(1))
		b := r.claim(t, n, 0, 64)
		e := r.attach(t, n, b, "web", 9)
		wantClass(t, r.DiscardNetwork(testContext(t), n), overspan.ErrInUse, "still have endpoints or blocks in it")
		if _, err := r.Detach(testContext(t), e); err != nil {
			t.Fatal(err)
		}
		wantClass(t, r.DiscardNetwork(testContext(t), n), overspan.ErrInUse)
		if err := r.ReleaseBlock(testContext(t), n.ID, b); err != nil {
			t.Fatal(err)
		}
		freezeNow(t, r)
		for range 2 { // one that is gone is no error
			if err := r.DiscardNetwork(testContext(t), n); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(before, without(dump(t, r.kv), r.keys.Frozen(), r.keys.SubnetsVersion())); diff != "" {
			t.Errorf("keys (-want +got):\n%s", diff)
		}
	})
}

// A removal of the past that was under way had freed the name, which another
// network has by now, and takes the blocks that nobody will give up any more.
func TestDiscardOfAHalfRemovedNetwork(t *testing.T) {
	r := open(t, NewMemory(1), testConfig(1))
	n := r.create(t, testNetwork(1))
	r.claim(t, n, 0, 64)
	if marked, err := r.mark(testContext(t), n); err != nil || !marked {
		t.Fatal(marked, err)
	}
	again := testNetwork(2)
	again.Name = n.Name
	r.create(t, again)
	if err := r.DiscardNetwork(testContext(t), n); err != nil {
		t.Fatal(err)
	}
	if len(mustList(t, r.kv, r.keys.NetworkNames(n.Name), 0).KVs) != 1 {
		t.Error("the name of the other network is gone")
	}
	if left := mustList(t, r.kv, r.keys.Segment(n.ID), 0).KVs; len(left) > 0 {
		t.Errorf("in the network that was discarded are %v", left)
	}
}

func TestReshape(t *testing.T) {
	forEachKV(t, func(t *testing.T, connect func(*testing.T) KV) {
		r := open(t, connect(t), testConfig(1))
		n := r.create(t, testNetwork(1))
		b := r.claim(t, n, 0, 64)
		e := r.attach(t, n, b, "web", 9)
		freezeNow(t, r)
		blocks := func(pairs ...uint64) []overspan.Range {
			var out []overspan.Range
			for i := 0; i < len(pairs); i += 2 {
				out = append(out, overspan.Range{First: overspan.Slot(pairs[i]), Size: pairs[i+1]})
			}
			return out
		}
		for _, keep := range [][]overspan.Range{blocks(0, 64), blocks(0, 128), blocks(64, 1), blocks(8, 2, 9, 1), blocks(1, 2), blocks(0, 32, 32, 32)} {
			_, err := r.Reshape(testContext(t), n, b, keep)
			wantClass(t, err, overspan.ErrInvalid, "no parts of it")
		}
		for _, keep := range [][]overspan.Range{nil, blocks(0, 8), blocks(8, 1, 10, 2)} {
			_, err := r.Reshape(testContext(t), n, b, keep)
			wantClass(t, err, overspan.ErrInUse, "endpoints stand in the rest")
		}
		parts, err := r.Reshape(testContext(t), n, b, blocks(32, 16, 8, 2))
		if err != nil || len(parts) != 2 || parts[1].Range != blocks(8, 2)[0] || parts[1].CreateRevision <= b.CreateRevision {
			t.Fatalf("reshaped to %+v, %v", parts, err)
		}
		if diff := cmp.Diff([]string{"32+16 h1", "8+2 h1"}, blocksOf(t, r, n.ID)); diff != "" {
			t.Errorf("blocks (-want +got):\n%s", diff)
		}
		_, err = r.Reshape(testContext(t), n, b, blocks(0, 1))
		wantClass(t, err, overspan.ErrConflict, "no longer what this node held")
		if _, err := r.Detach(testContext(t), e); err != nil {
			t.Fatalf("detach from a part: %v", err)
		}
		if _, err := r.Reshape(testContext(t), n, parts[1], nil); err != nil {
			t.Fatalf("give up the whole: %v", err)
		}
		if diff := cmp.Diff([]string{"32+16 h1"}, blocksOf(t, r, n.ID)); diff != "" {
			t.Errorf("blocks (-want +got):\n%s", diff)
		}
	})
}

// The largest reshape is one that etcd takes: every second slot of a block of 64.
func TestLargestReshape(t *testing.T) {
	forEachKV(t, func(t *testing.T, connect func(*testing.T) KV) {
		r := open(t, connect(t), testConfig(1))
		n := r.create(t, testNetwork(1))
		b := r.claim(t, n, 0, 64)
		var odd, allButOne []overspan.Range
		for slot := range overspan.Slot(64) {
			if slot%2 == 1 {
				odd = append(odd, overspan.Range{First: slot, Size: 1})
			}
		}
		if _, err := r.Reshape(testContext(t), n, b, odd); err != nil {
			t.Fatal(err)
		}
		b = r.claim(t, n, 64, 64)
		for slot := range overspan.Slot(63) {
			allButOne = append(allButOne, overspan.Range{First: 64 + slot, Size: 1})
		}
		if _, err := r.Reshape(testContext(t), n, b, allButOne); err != nil {
			t.Fatal(err)
		}
		if got := len(blocksOf(t, r, n.ID)); got != len(odd)+len(allButOne) {
			t.Errorf("%d blocks, want %d", got, len(odd)+len(allButOne))
		}
	})
}

func TestGapsAndPartsMakeUpTheWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		whole := overspan.BlockAt(overspan.Slot(rapid.IntRange(0, 255).Draw(t, "slot")), rapid.SampledFrom(overspan.BlockSizes()).Draw(t, "size"))
		var parts []overspan.Range
		for i := range rapid.IntRange(0, 6).Draw(t, "parts") {
			parts = append(parts, overspan.BlockAt(
				overspan.Slot(rapid.IntRange(0, 255).Draw(t, fmt.Sprintf("slot %d", i))),
				rapid.SampledFrom(overspan.BlockSizes()).Draw(t, fmt.Sprintf("size %d", i))))
		}
		covered := map[overspan.Slot]int{}
		fits := true
		for _, p := range parts {
			for slot := p.First; slot <= p.Last(); slot++ {
				covered[slot]++
				fits = fits && covered[slot] == 1 && whole.Contains(slot)
			}
		}
		gaps, ok := gapsIn(whole, parts)
		if ok != fits {
			t.Fatalf("%v of %s: ok is %t", parts, whole, ok)
		}
		for _, g := range gaps {
			for slot := g.First; slot <= g.Last(); slot++ {
				covered[slot]++
			}
		}
		for slot := whole.First; ok && slot <= whole.Last(); slot++ {
			if covered[slot] != 1 {
				t.Fatalf("%v and gaps %v of %s: slot %d is covered %d times", parts, gaps, whole, slot, covered[slot])
			}
		}
	})
}

// No slot comes behind the last one of an IPv6 subnet.
func TestGapsAtTheLastSlot(t *testing.T) {
	whole := overspan.BlockAt(1<<64-1, overspan.MaxBlockSize)
	low := overspan.Range{First: whole.First, Size: 32}
	high := overspan.Range{First: whole.First + 32, Size: 32}
	for _, tt := range []struct{ parts, gaps []overspan.Range }{
		{nil, []overspan.Range{whole}},
		{[]overspan.Range{low}, []overspan.Range{high}},
		{[]overspan.Range{high}, []overspan.Range{low}},
		{[]overspan.Range{high, low}, nil},
	} {
		if gaps, ok := gapsIn(whole, tt.parts); !ok || !slices.Equal(gaps, tt.gaps) {
			t.Errorf("gaps that %v leaves of %s are %v, %t; want %v", tt.parts, whole, gaps, ok, tt.gaps)
		}
	}
	for _, wrong := range [][]overspan.Range{{whole, low}, {{First: whole.First - 64, Size: 64}}, {{First: 0, Size: 64}}} {
		if _, ok := gapsIn(whole, wrong); ok {
			t.Errorf("%v pass for parts of %s", wrong, whole)
		}
	}
}
