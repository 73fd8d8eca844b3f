package store

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/proto"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

func testKeys(t testing.TB, cluster string) Keys {
	t.Helper()
	keys, err := NewKeys(cluster)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// testID makes a whole id from a word and a number.
func testID[T ~string](kind byte, n int) T { return T(fmt.Sprintf("%c%063x", kind, n)) }

func netID(n int) overspan.NetworkID { return testID[overspan.NetworkID]('e', n) }
func nodeID(n int) overspan.NodeID   { return testID[overspan.NodeID]('d', n) }

// A scribe writes records as a session would, without its guards.
type scribe struct {
	KV
	keys Keys
}

func (w scribe) write(t testing.TB, ops ...Op) int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	res, err := w.Txn(ctx, Txn{Then: ops})
	if err != nil {
		t.Fatalf("write: %v", err)
	}
	return res.Revision
}

func record(key string, msg proto.Message) Op {
	value, err := Marshal(msg)
	if err != nil {
		panic(err)
	}
	return Put(key, value)
}

func (w scribe) node(n, version int) Op {
	return record(w.keys.Node(nodeID(n)), overspanv1.NodeRecord(overspan.Node{
		ID: nodeID(n), Name: fmt.Sprint("host", n), MTU: 1500, Version: fmt.Sprint(version),
		VTEPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 99, 0, byte(n)})},
	}))
}

func (w scribe) presence(n, run int) Op {
	return record(w.keys.Live(nodeID(n)), overspanv1.PresenceRecord(overspan.Presence{Instance: fmt.Sprint("run", run), PID: 7}))
}

func (w scribe) network(n, vni int) Op {
	return record(w.keys.Network(netID(n)), overspanv1.NetworkRecord(overspan.Network{
		ID: netID(n), Name: fmt.Sprint("net", n), Driver: overspan.DriverOverlay, VNI: uint32(vni), MTU: 1450, Underlay: overspan.IPv4,
		IPv4: overspan.Subnet{
			Prefix:  netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n), 0, 0}), 24),
			Gateway: netip.AddrFrom4([4]byte{10, byte(n), 0, 1}),
		},
	}))
}

func (w scribe) block(net, node int, r overspan.Range) Op {
	return record(w.keys.Block(netID(net), r), overspanv1.BlockRecord(overspan.Block{Range: r, Node: nodeID(node)}))
}

func (w scribe) endpoint(net, node, slot int) Op {
	return record(w.keys.Endpoint(netID(net), overspan.Slot(slot)), overspanv1.EndpointRecord(overspan.Endpoint{
		ID: testID[overspan.EndpointID]('a', slot), Network: netID(net), Node: nodeID(node), Name: fmt.Sprint("web", slot),
		Slots: []overspan.Slot{overspan.Slot(slot)}, IPv4: netip.AddrFrom4([4]byte{10, byte(net), 0, byte(slot)}),
		MAC: overspan.MAC{0x02, 0x42, 10, byte(net), 0, byte(slot)},
	}))
}

func (w scribe) want(net, holder, asker int) Op {
	return record(w.keys.Want(netID(net), nodeID(holder), nodeID(asker)), overspanv1.WantRecord(overspan.Want{}, 5))
}

// expected builds the snapshot of a revision from lists alone.
func (w scribe) expected(t testing.TB, rev int64, followed ...int) *overspan.Snapshot {
	t.Helper()
	part := func(r KeyRange) *part {
		ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
		defer cancel()
		l, err := w.List(ctx, r, rev)
		if err != nil {
			t.Fatalf("list at %d: %v", rev, err)
		}
		return newPart(w.keys, l.KVs, nil)
	}
	meta := part(Prefix(w.keys.Meta()))
	nodes := part(w.keys.Nodes()).nodes.share()
	for id, p := range part(w.keys.Lives()).lives.rows {
		if n := nodes[id]; n != nil {
			n.Presence = p
		}
	}
	s := &overspan.Snapshot{
		Revision: rev, Meta: meta.meta, Frozen: meta.frozen, Nodes: nodes,
		Networks: part(w.keys.Networks()).networks.share(),
		Segments: map[overspan.NetworkID]*overspan.Segment{},
	}
	for _, n := range followed {
		s.Segments[netID(n)] = part(w.keys.Segment(netID(n))).segment(rev)
	}
	return s
}

// diffSnapshots ignores by how much a snapshot is ahead of its revision.
func diffSnapshots(want, got *overspan.Snapshot) string {
	return cmp.Diff(want, got, snapshotOptions()...)
}

func snapshotOptions() cmp.Options {
	return cmp.Options{
		cmpopts.IgnoreFields(overspan.Snapshot{}, "Revision", "Bad"),
		cmpopts.IgnoreFields(overspan.Segment{}, "Revision"),
		cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}),
	}
}

// startMirror runs a mirror until the test ends.
func startMirror(t *testing.T, kv KV, keys Keys, cfg MirrorConfig, follow ...int) *Mirror {
	t.Helper()
	m := NewMirror(kv, keys, cfg)
	for _, n := range follow {
		m.Follow(netID(n))
	}
	runMirror(t, m)
	return m
}

func runMirror(t *testing.T, m *Mirror) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := m.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
}

func waitRevision(t *testing.T, m *Mirror, rev int64) *overspan.Snapshot {
	t.Helper()
	if err := m.WaitRevision(testContext(t), rev); err != nil {
		t.Fatal(err)
	}
	s := m.Snapshot()
	if s.Revision < rev {
		t.Fatalf("snapshot of revision %d after the wait for %d", s.Revision, rev)
	}
	return s
}

// eventually waits for what nothing announces.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx := testContext(t)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

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
	if !s.Frozen || s.Nodes[nodeID(1)].Presence != nil {
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
	if seg := s.Segments[netID(1)]; len(seg.Wants) != 2 || seg.Wants[0].Asker != nodeID(2) {
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
	eventually(t, "the segment goes", func() bool { return len(m.Snapshot().Segments) == 1 })
	once, err := m.Segment(testContext(t), netID(1))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(w.expected(t, rev, 1).Segments[netID(1)], once, snapshotOptions()...); diff != "" {
		t.Errorf("segment listed once (-want +got):\n%s", diff)
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
		if _, ok := s.Segments[netID(1)].Endpoints[overspan.Slot(i+2)]; !ok {
			t.Fatalf("sync %d: the endpoint written before is not in the snapshot", i)
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

func TestMirrorKeepsWhatABadRecordSaid(t *testing.T) {
	w := scribe{NewMemory(1), testKeys(t, "bad")}
	faulty := NewFaulty(w)
	m := startMirror(t, faulty, w.keys, MirrorConfig{}, 1)
	waitRevision(t, m, w.write(t, w.node(1, 1), w.endpoint(1, 1, 9), w.endpoint(1, 1, 10)))
	rev := w.write(t, Put(w.keys.Node(nodeID(1)), []byte("{")), Put(w.keys.Node(nodeID(2)), []byte("no")),
		Put(w.keys.Endpoint(netID(1), 9), []byte("{}")), Put(w.keys.Segment(netID(1)).Key+"rubbish", nil))

	check := func(s *overspan.Snapshot) {
		t.Helper()
		if n := s.Nodes[nodeID(1)]; n == nil || n.Version != "1" {
			t.Errorf("node 1 is %+v, want what it said before", n)
		}
		if n := s.Nodes[nodeID(2)]; n != nil {
			t.Errorf("node 2 is %+v, want none", n)
		}
		seg := s.Segments[netID(1)]
		if seg.Bad != 2 || seg.Endpoints[9] == nil || seg.Endpoints[10] == nil {
			t.Errorf("segment %+v, want 2 bad records and both endpoints", seg)
		}
		var bad []string
		for _, b := range s.Bad {
			bad = append(bad, b.Key)
			if b.Err == "" {
				t.Errorf("bad record %s without an error", b.Key)
			}
		}
		want := []string{
			w.keys.Endpoint(netID(1), 9), w.keys.Segment(netID(1)).Key + "rubbish",
			w.keys.Node(nodeID(1)), w.keys.Node(nodeID(2)),
		}
		if diff := cmp.Diff(want, bad); diff != "" {
			t.Errorf("bad records (-want +got):\n%s", diff)
		}
	}
	check(waitRevision(t, m, rev))

	faulty.DropWatches(ErrCompacted) // a listing keeps them as well
	rev = w.write(t, w.node(3, 1))
	check(waitRevision(t, m, rev))

	rev = w.write(t, w.node(1, 2), Delete(Key(w.keys.Node(nodeID(2)))), w.endpoint(1, 1, 9), Delete(Key(w.keys.Segment(netID(1)).Key+"rubbish")))
	s := waitRevision(t, m, rev)
	if len(s.Bad) != 0 || s.Segments[netID(1)].Bad != 0 || s.Nodes[nodeID(1)].Version != "2" {
		t.Errorf("after the repair: bad %v, node %+v", s.Bad, s.Nodes[nodeID(1)])
	}
}

// lossy is a KV whose watches leave out the events of some keys.
type lossy struct {
	KV
	leaveOut string
}

func (l lossy) Watch(ctx context.Context, r KeyRange, after int64) <-chan Batch {
	out := make(chan Batch)
	in := l.KV.Watch(ctx, r, after)
	go func() {
		defer close(out)
		for b := range in {
			var kept []Event
			for _, e := range b.Events {
				if !strings.Contains(e.Key, l.leaveOut) {
					kept = append(kept, e)
				}
			}
			b.Events = kept
			select {
			case out <- b:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

func TestMirrorFindsLostEvents(t *testing.T) {
	w := scribe{NewMemory(1), testKeys(t, "lossy")}
	m := startMirror(t, lossy{w, "/nodes/"}, w.keys, MirrorConfig{Resync: 20 * time.Millisecond})
	waitRevision(t, m, 1)
	rev := w.write(t, w.node(1, 1), w.node(2, 1))
	eventually(t, "the lost events are found", func() bool { return len(m.Snapshot().Nodes) == 2 })
	if n := m.LostEvents(); n != 2 {
		t.Errorf("%d lost events, want 2", n)
	}
	if diff := diffSnapshots(w.expected(t, rev), waitRevision(t, m, rev)); diff != "" {
		t.Errorf("snapshot (-want +got):\n%s", diff)
	}
}

func TestMirrorDoubtsAnEtcdThatWentBack(t *testing.T) {
	memory := NewMemory(1)
	w := scribe{memory, testKeys(t, "back")}
	backup := w.write(t, w.node(1, 1))
	m := startMirror(t, memory, w.keys, MirrorConfig{Probe: 10 * time.Millisecond})
	rev := w.write(t, w.node(2, 1))
	before := waitRevision(t, m, rev)

	memory.Rollback(backup)
	eventually(t, "the doubt", func() bool { return m.Doubt() != "" })
	if _, err := m.Stale(); err == nil || !strings.Contains(err.Error(), "rolled back") {
		t.Errorf("stale: %v, want that etcd was rolled back", err)
	}
	if err := m.WaitRevision(testContext(t), rev+1); !errors.Is(err, overspan.ErrUnavailable) {
		t.Errorf("wait: error %v, want ErrUnavailable", err)
	}
	for i := range 5 { // past the old revision again
		w.write(t, Delete(Prefix(w.keys.Nodes().Key)), w.network(i+1, 1))
	}
	if err := m.Sync(testContext(t)); !errors.Is(err, overspan.ErrUnavailable) {
		t.Errorf("sync: error %v, want ErrUnavailable", err)
	}
	if got := m.Snapshot(); got != before {
		t.Errorf("a snapshot of a doubtful etcd was published: %+v", got)
	}
}

func TestMirrorDoubtsAnEtcdThatIsNotTheOneOfTheLastRun(t *testing.T) {
	tests := []struct {
		name string
		cfg  MirrorConfig
		text string
	}{
		{"another cluster", MirrorConfig{ClusterID: 2}, "replaced"},
		{"an older revision", MirrorConfig{ClusterID: 1, Revision: 1000}, "rolled back"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := startMirror(t, NewMemory(1), testKeys(t, "other"), tt.cfg)
			eventually(t, "the doubt", func() bool { return strings.Contains(m.Doubt(), tt.text) })
			if s := m.Snapshot(); s != nil {
				t.Errorf("snapshot %+v, want none", s)
			}
		})
	}
}

func TestMirrorIsStaleWhileEtcdIsAway(t *testing.T) {
	w := scribe{NewMemory(1), testKeys(t, "away")}
	faulty := NewFaulty(w)
	m := startMirror(t, faulty, w.keys, MirrorConfig{Probe: 10 * time.Millisecond})
	before := waitRevision(t, m, w.write(t, w.node(1, 1)))
	if since, err := m.Stale(); err != nil || !since.IsZero() {
		t.Errorf("stale since %v: %v, want fresh", since, err)
	}
	faulty.SetDown(true)
	eventually(t, "stale", func() bool { _, err := m.Stale(); return err != nil })
	since, err := m.Stale()
	if !errors.Is(err, overspan.ErrUnavailable) || since.IsZero() || time.Since(since) > testTimeout {
		t.Errorf("stale since %v: %v", since, err)
	}
	if m.Snapshot() != before {
		t.Error("the snapshot did not stay")
	}
	ctx, cancel := context.WithTimeout(testContext(t), 50*time.Millisecond)
	defer cancel()
	if err := m.WaitRevision(ctx, before.Revision+1); !errors.Is(err, overspan.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("wait: error %v, want ErrUnavailable by the deadline", err)
	}
	rev := w.write(t, w.node(2, 1))
	faulty.SetDown(false)
	waitRevision(t, m, rev)
	eventually(t, "fresh again", func() bool { _, err := m.Stale(); return err == nil })
}

// hesitant is a KV that lists one range only when it may.
type hesitant struct {
	KV
	at  string
	may chan struct{}
}

func (h hesitant) List(ctx context.Context, r KeyRange, rev int64) (Listing, error) {
	if r.Key == h.at {
		select {
		case <-h.may:
		case <-ctx.Done():
			return Listing{}, ctx.Err()
		}
	}
	return h.KV.List(ctx, r, rev)
}

func TestMirrorPublishesNothingHalfListed(t *testing.T) {
	w := scribe{NewMemory(1), testKeys(t, "half")}
	rev := w.write(t, w.node(1, 1), w.network(1, 1), w.endpoint(1, 1, 9), w.endpoint(2, 1, 9))
	slow := hesitant{w, w.keys.Segment(netID(1)).Key, make(chan struct{})}
	m := startMirror(t, slow, w.keys, MirrorConfig{}, 1)
	short, cancel := context.WithTimeout(testContext(t), 100*time.Millisecond)
	defer cancel()
	if err := m.WaitRevision(short, rev); err == nil || m.Snapshot() != nil {
		t.Errorf("a first snapshot without a followed network: %+v", m.Snapshot())
	}
	close(slow.may)
	waitRevision(t, m, rev)

	// Later ones go on without a network that is not listed yet.
	slow = hesitant{w, w.keys.Segment(netID(2)).Key, make(chan struct{})}
	m = startMirror(t, slow, w.keys, MirrorConfig{}, 1)
	waitRevision(t, m, rev)
	m.Follow(netID(2))
	rev = w.write(t, w.node(2, 1))
	eventually(t, "a snapshot goes past", func() bool { m.want(rev); return m.Snapshot().Revision >= rev })
	if _, ok := m.Snapshot().Segments[netID(2)]; ok {
		t.Error("a segment that was not listed")
	}
	close(slow.may)
	if s := waitRevision(t, m, rev); len(s.Segments[netID(2)].Endpoints) != 1 {
		t.Errorf("segment %+v, want its endpoint", s.Segments[netID(2)])
	}
}

func TestMirrorSurvivesARestartOfEtcd(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	server := startServer(t, dir)
	kv, err := Dial(DialConfig{Endpoints: server.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	defer closeKV(t, kv)
	w := scribe{kv, testKeys(t, "restart")}
	m := NewMirror(kv, w.keys, MirrorConfig{Probe: 500 * time.Millisecond})
	m.Follow(netID(1))
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { m.Run(ctx) })
	defer wg.Wait()
	defer cancel()
	waitRevision(t, m, w.write(t, w.node(1, 1), w.endpoint(1, 1, 9)))

	server.Close()
	eventually(t, "stale", func() bool { _, err := m.Stale(); return err != nil })
	if _, err := m.Stale(); !strings.Contains(err.Error(), "etcd unreachable at unix://"+dir) {
		t.Errorf("stale: %v, want the endpoint that is unreachable", err)
	}
	server = startServer(t, dir)
	defer server.Close()
	rev := w.write(t, w.node(2, 1), w.endpoint(1, 1, 10))
	if diff := diffSnapshots(w.expected(t, rev, 1), waitRevision(t, m, rev)); diff != "" {
		t.Errorf("after the restart (-want +got):\n%s", diff)
	}
	eventually(t, "fresh again", func() bool { _, err := m.Stale(); return err == nil })
}
