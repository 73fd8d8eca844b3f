package store

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"
	"pgregory.net/rapid"

	"github.com/overspan/overspan"
)

// A snapshot can be older than the cluster's settings: the first agent reads
// etcd before it has set the cluster up.
func TestJournalKeepsASnapshotWithoutSettings(t *testing.T) {
	j := openJournal(t, filepath.Join(t.TempDir(), "journal.db"))
	if err := j.SaveSnapshot(&overspan.Snapshot{Revision: 3}, j.Identity().Node); err != nil {
		t.Fatal(err)
	}
	got, err := reopen(t, j).Snapshot()
	if err != nil || got == nil || got.Revision != 3 || got.Meta != (overspan.Meta{}) {
		t.Errorf("got %+v, %v; want revision 3 without settings", got, err)
	}
}

// TestJournalFollowsSnapshots saves the snapshots of a random history, some with
// a restart in between: what is read back is what a fresh journal holds of the
// last one, byte for byte.
func TestJournalFollowsSnapshots(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		path := filepath.Join(dir, overspan.NewID())
		open := func(path string) *Journal {
			j := must(OpenJournal(path))(t)
			j.most = 2
			return j
		}
		j := open(path)
		defer func() { j.Close() }()
		snap := &overspan.Snapshot{}
		for range rapid.IntRange(1, 12).Draw(rt, "snapshots") {
			snap = nextSnapshot(rt, snap)
			if err := j.SaveSnapshot(snap, nodeID(1)); err != nil {
				rt.Fatal(err)
			}
			if rapid.IntRange(0, 4).Draw(rt, "restart") == 0 {
				if err := j.Close(); err != nil {
					rt.Fatal(err)
				}
				j = open(path)
			}
		}
		fresh := open(path + "-fresh")
		defer fresh.Close()
		if err := fresh.SaveSnapshot(snap, nodeID(1)); err != nil {
			rt.Fatal(err)
		}
		if diff := cmp.Diff(savedKeys(t, fresh), savedKeys(t, j)); diff != "" {
			rt.Fatalf("(-fresh +followed):\n%s", diff)
		}
	})
}

// savedKeys returns what a journal holds of a snapshot, but for its head's
// revisions.
func savedKeys(t *testing.T, j *Journal) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := j.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte(bucketSnapshot)).ForEach(func(key, value []byte) error {
			if string(key) == keySnapshot {
				var head savedHead
				err := json.Unmarshal(value, &head)
				out[keySnapshot] = fmt.Sprint(head.Bad, slices.Sorted(maps.Keys(head.Segments)))
				return err
			}
			out[string(key)] = string(value)
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// nextSnapshot draws what may follow a snapshot; what it does not change it
// shares with it.
func nextSnapshot(t *rapid.T, old *overspan.Snapshot) *overspan.Snapshot {
	s := *old
	s.Revision++
	id := netID(rapid.IntRange(1, 2).Draw(t, "network"))
	edit := func(change func(*overspan.Segment)) {
		seg := overspan.Segment{Revision: s.Revision}
		if was := s.Segments.Get(id); was != nil {
			seg = *was
		}
		change(&seg)
		s.Segments.Put(id, &seg)
	}
	slot := overspan.Slot(rapid.IntRange(0, 6).Draw(t, "slot"))
	owner := nodeID(rapid.IntRange(1, 2).Draw(t, "owner"))
	switch rapid.IntRange(0, 9).Draw(t, "what") {
	case 0:
		s.Meta = overspan.Meta{Schema: rapid.IntRange(0, 1).Draw(t, "schema")}
	case 1:
		s.Frozen = rapid.SampledFrom([]*overspan.Freeze{nil, {Reason: "lost", Node: owner, Revision: s.Revision}}).Draw(t, "frozen")
		s.Accepted = uint64(slot)
	case 2:
		s.Nodes = adding(s.Nodes, owner, &overspan.Node{ID: owner, ModRevision: s.Revision})
	case 3:
		s.Nodes = adding(s.Nodes, owner, &overspan.Node{ID: owner, Presence: &overspan.Presence{Revision: s.Revision}})
	case 4:
		s.Nodes = dropping(s.Nodes, owner)
	case 5:
		n := testNetwork(1)
		n.ID, n.ModRevision = id, s.Revision
		s.Networks = adding(s.Networks, id, &n)
	case 6:
		if rapid.Bool().Draw(t, "left") {
			s.Segments.Delete(id)
		} else {
			s.Networks = dropping(s.Networks, id)
		}
	case 7:
		size := rapid.SampledFrom([]uint64{1, 2}).Draw(t, "size")
		edit(func(seg *overspan.Segment) {
			seg.Blocks.Delete(slot)
			seg.Blocks.Put(slot, overspan.Block{Range: overspan.Range{First: slot, Size: size}, Node: owner, ModRevision: s.Revision})
		})
	case 8:
		mac := rapid.SampledFrom([]overspan.MAC{{0x02, 0x42, 10, 0, 1, byte(slot)}, {0x0a, 1}}).Draw(t, "MAC")
		edit(func(seg *overspan.Segment) {
			seg.Endpoints.Put(slot, &overspan.Endpoint{Node: owner, Slot: slot, Slots: []overspan.Slot{slot}, MAC: mac, ModRevision: s.Revision})
		})
	case 9:
		edit(func(seg *overspan.Segment) {
			seg.Blocks.Delete(slot)
			seg.Endpoints.Delete(slot)
			seg.Bad = int(slot)
		})
	}
	return &s
}

func adding[K comparable, V any](m map[K]V, k K, v V) map[K]V {
	out := maps.Clone(m)
	if out == nil {
		out = map[K]V{}
	}
	out[k] = v
	return out
}

func dropping[K comparable, V any](m map[K]V, k K) map[K]V {
	out := maps.Clone(m)
	delete(out, k)
	return out
}

// BenchmarkSaveSnapshot measures what one claim costs the journal beside a
// thousand nodes and as many blocks.
func BenchmarkSaveSnapshot(b *testing.B) {
	const nodes = 1000
	n := testNetwork(1)
	n.ID = netID(1)
	n.IPv4.Prefix = netip.MustParsePrefix("10.0.0.0/8")
	seg := &overspan.Segment{}
	s := &overspan.Snapshot{
		Nodes:    map[overspan.NodeID]*overspan.Node{},
		Networks: map[overspan.NetworkID]*overspan.Network{n.ID: &n},
		Segments: overspan.IDMapOf(map[overspan.NetworkID]*overspan.Segment{n.ID: seg}),
	}
	for i := range nodes {
		id := nodeID(i)
		s.Nodes[id] = &overspan.Node{ID: id, Name: "h", MTU: 1500, VTEPs: []netip.Addr{netip.MustParseAddr("10.99.0.1")}}
		first := overspan.Slot(i * overspan.MaxBlockSize)
		seg.Blocks.Put(first, overspan.Block{Range: overspan.Range{First: first, Size: overspan.MaxBlockSize}, Node: id})
	}
	for _, first := range []bool{true, false} {
		b.Run(map[bool]string{true: "whole", false: "claim"}[first], func(b *testing.B) {
			j, err := OpenJournal(filepath.Join(b.TempDir(), "journal.db"))
			if err != nil {
				b.Fatal(err)
			}
			defer j.Close()
			for b.Loop() {
				if first {
					j.saved = nil
				}
				next, later := *s, *seg
				s.Revision++
				later.Blocks.Put(0, overspan.Block{Range: overspan.Range{Size: 1}, Node: nodeID(1), ModRevision: s.Revision})
				next.Segments = overspan.IDMapOf(map[overspan.NetworkID]*overspan.Segment{n.ID: &later})
				if err := j.SaveSnapshot(&next, nodeID(1)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
