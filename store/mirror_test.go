package store

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

func TestMirror(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	kinds := []struct {
		name string
		kv   KV
	}{
		{"memory", NewMemory(1)},
		{"etcd", dialServer(t, server)},
		{"etcd in process", inProcess(t, server)},
	}
	tests := []struct {
		name string
		run  func(*testing.T, scribe)
	}{
		{"shows what was there and what comes", testMirrorFollows},
		{"shows the interior of followed networks alone", testMirrorSegments},
		{"is as new as a sync", testMirrorSync},
		{"is in time where nothing happens after a network was followed", testMirrorSyncIdle},
		{"goes on after watches were dropped and history compacted", testMirrorDropped},
		{"does not change what it has published", testMirrorImmutable},
	}
	for i, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			for j, tt := range tests {
				t.Run(tt.name, func(t *testing.T) {
					tt.run(t, scribe{kind.kv, testKeys(t, fmt.Sprintf("c%d-%d", i, j))})
				})
			}
		})
	}
}

func testMirrorFollows(t *testing.T, w scribe) {
	rev := w.write(t, w.node(1, 1), w.presence(1, 1), w.network(1, 100), record(w.keys.Meta(), testMeta()))
	m := startMirror(t, w, w.keys, MirrorConfig{})
	s := waitRevision(t, m, rev)
	if diff := diffSnapshots(w.expected(t, rev), s); diff != "" {
		t.Errorf("first snapshot (-want +got):\n%s", diff)
	}
	if s.Nodes[nodeID(1)].Presence == nil || s.Meta.Schema != 1 || len(s.Networks) != 1 {
		t.Errorf("first snapshot lacks what was written: %+v", s)
	}

	w.write(t, w.node(2, 1), w.node(1, 2), Put(w.keys.Frozen(), []byte("{}")))
	w.write(t, Delete(Key(w.keys.Live(nodeID(1)))))
	rev = w.write(t, Delete(Key(w.keys.Network(netID(1)))), w.network(2, 101))
	s = waitRevision(t, m, rev)
	if diff := diffSnapshots(w.expected(t, rev), s); diff != "" {
		t.Errorf("later snapshot (-want +got):\n%s", diff)
	}
	if s.Frozen == nil || s.Nodes[nodeID(1)].Presence != nil {
		t.Errorf("later snapshot: frozen %v, presence %v", s.Frozen, s.Nodes[nodeID(1)].Presence)
	}
	if id, seen := m.Seen(); id == 0 || seen < rev {
		t.Errorf("seen: cluster %x up to %d, want %d", id, seen, rev)
	}
}

func testMeta() *overspanv1.Meta {
	return overspanv1.MetaRecord(overspan.Meta{
		Schema: 1, ClusterID: strings.Repeat("c", 64),
		Pools: overspan.Pools{
			Overlay: overspan.Pool{Prefix: netip.MustParsePrefix("10.0.0.0/8"), Bits: 24},
			Bridge:  overspan.Pool{Prefix: netip.MustParsePrefix("172.16.0.0/12"), Bits: 24},
			IPv6:    overspan.Pool{Prefix: netip.MustParsePrefix("fd00::/48"), Bits: 64},
		},
		VNIs: overspan.VNIRange{First: 1, Last: 4096},
	})
}

func testMirrorSegments(t *testing.T, w scribe) {
	m := startMirror(t, w, w.keys, MirrorConfig{}, 1)
	inside := func(net int) int64 {
		return w.write(t, w.network(net, net), w.block(net, 1, overspan.Range{First: 16, Size: 16}),
			w.endpoint(net, 1, 17), w.want(net, 1, 2), w.want(net, 1, 3),
			Put(w.keys.EndpointName(netID(net), "web"), []byte("{}")))
	}
	inside(1)
	rev := inside(2)
	s := waitRevision(t, m, rev)
	if diff := diffSnapshots(w.expected(t, rev, 1), s); diff != "" {
		t.Errorf("followed one network (-want +got):\n%s", diff)
	}
	if seg := s.Segments.Get(netID(1)); len(seg.Wants) != 2 || seg.Wants[0].Asker != nodeID(2) {
		t.Errorf("wants %+v, want two, sorted", seg.Wants)
	}

	m.Follow(netID(2))
	s = waitRevision(t, m, rev)
	if diff := diffSnapshots(w.expected(t, rev, 1, 2), s); diff != "" {
		t.Errorf("followed two (-want +got):\n%s", diff)
	}

	// A split: the block goes and a smaller one comes at the same first slot.
	rev = w.write(t, Delete(Key(w.keys.Block(netID(2), overspan.Range{First: 16, Size: 16}))),
		w.block(2, 2, overspan.Range{First: 24, Size: 8}), w.block(2, 1, overspan.Range{First: 16, Size: 8}))
	s = waitRevision(t, m, rev)
	if diff := diffSnapshots(w.expected(t, rev, 1, 2), s); diff != "" {
		t.Errorf("after a split (-want +got):\n%s", diff)
	}

	m.Unfollow(netID(1))
	eventually(t, "the segment goes", func() bool { return m.Snapshot().Segments.Len() == 1 })
	once, err := m.Segment(testContext(t), netID(1))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(w.expected(t, rev, 1).Segments.Get(netID(1)), once, snapshotOptions()...); diff != "" {
		t.Errorf("segment listed once (-want +got):\n%s", diff)
	}
	w.write(t, w.network(3, 1), w.block(3, 1, overspan.Range{First: 0, Size: 8}))
	for n, want := range map[int]bool{1: true, 2: true, 3: false, 4: false} {
		if got, err := m.InUse(testContext(t), netID(n)); got != want || err != nil {
			t.Errorf("network %d in use: %t, %v; want %t", n, got, err, want)
		}
	}
}

func testMirrorSync(t *testing.T, w scribe) {
	m := startMirror(t, w, w.keys, MirrorConfig{}, 1)
	for i := range 30 {
		w.write(t, w.endpoint(1, 1, i+2))
		if err := m.Sync(testContext(t)); err != nil {
			t.Fatal(err)
		}
		s := m.Snapshot()
		if _, ok := s.Segments.Get(netID(1)).Endpoints.Lookup(overspan.Slot(i + 2)); !ok {
			t.Fatalf("sync %d: the endpoint written before is not in the snapshot", i)
		}
	}
}

// testMirrorSyncIdle: a new watch waits for a revision that may never come, and
// must not keep the others from telling how far they are.
func testMirrorSyncIdle(t *testing.T, w scribe) {
	m := startMirror(t, w, w.keys, MirrorConfig{Probe: time.Hour, Resync: time.Hour}, 1)
	for n := 2; n < 5; n++ {
		w.write(t, w.endpoint(n, 1, 2))
		m.Follow(netID(n))
		if err := m.Sync(testContext(t)); err != nil {
			t.Fatal(err)
		}
		if m.Snapshot().Segments.Get(netID(n)).Endpoints.Get(2) == nil {
			t.Errorf("network %d is followed, but its endpoint is not in the snapshot", n)
		}
	}
}

func testMirrorDropped(t *testing.T, w scribe) {
	faulty := NewFaulty(w.KV)
	m := startMirror(t, faulty, w.keys, MirrorConfig{}, 1)
	waitRevision(t, m, w.write(t, w.node(1, 1), w.endpoint(1, 1, 9)))
	for i, cause := range []error{ErrCompacted, overspan.ErrUnavailable, ErrCompacted} {
		faulty.SetDown(true)
		w.write(t, w.node(2, i), w.endpoint(1, 1, 10+i))
		rev := w.write(t, Delete(Key(w.keys.Node(nodeID(1)))), Delete(Key(w.keys.Endpoint(netID(1), 9))))
		compact(t, w.KV, rev)
		faulty.SetDown(false)
		faulty.DropWatches(cause)
		s := waitRevision(t, m, rev)
		if diff := diffSnapshots(w.expected(t, rev, 1), s); diff != "" {
			t.Errorf("round %d (-want +got):\n%s", i, diff)
		}
	}
	if n := m.LostEvents(); n != 0 {
		t.Errorf("%d lost events, want none: a gap that is known is no loss", n)
	}
}

func compact(t *testing.T, kv KV, rev int64) {
	t.Helper()
	switch kv := kv.(type) {
	case *Memory:
		kv.Compact(rev)
	case *Etcd:
		etcdSubject(kv).compact(t, rev)
	}
}

func testMirrorImmutable(t *testing.T, w scribe) {
	rev := w.write(t, w.node(1, 1), w.network(1, 1), w.endpoint(1, 1, 9), w.block(1, 1, overspan.Range{First: 8, Size: 8}))
	m := startMirror(t, w, w.keys, MirrorConfig{}, 1)
	s := waitRevision(t, m, rev)
	want := w.expected(t, rev, 1)
	rev = w.write(t, w.node(1, 2), w.node(2, 1), w.presence(1, 1), Delete(Key(w.keys.Network(netID(1)))),
		Delete(Prefix(w.keys.Segment(netID(1)).Key)))
	waitRevision(t, m, rev)
	if diff := diffSnapshots(want, s); diff != "" {
		t.Errorf("an old snapshot has changed (-want +got):\n%s", diff)
	}
}
