package store

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
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
		Revision: rev, Meta: meta.meta, Frozen: meta.frozen, Accepted: meta.accepted, Nodes: nodes,
		Networks: part(w.keys.Networks()).networks.share(),
	}
	for _, n := range followed {
		s.Segments.Put(netID(n), part(w.keys.Segment(netID(n))).segment(rev))
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
		cmp.Transformer("map", func(m overspan.Segments) map[overspan.NetworkID]*overspan.Segment {
			return maps.Collect(m.All())
		}),
		cmp.Transformer("map", func(m overspan.SlotMap[overspan.Block]) map[overspan.Slot]overspan.Block {
			return maps.Collect(m.All())
		}),
		cmp.Transformer("map", func(m overspan.SlotMap[*overspan.Endpoint]) map[overspan.Slot]*overspan.Endpoint {
			return maps.Collect(m.All())
		}),
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
