package overspan

import (
	"fmt"
	"iter"
	"reflect"
	"slices"
	"time"
)

// A Snapshot is the desired state at one etcd revision. It is immutable: all
// who hold one may read it at once, and nobody changes it.
type Snapshot struct {
	// Revision is the least frontier of the watches that it was made from:
	// everything up to it is in, some things after it may be.
	Revision int64

	Meta     Meta
	Frozen   *Freeze // nil: the cluster is not frozen
	Accepted uint64  // how often an operator has accepted what etcd had become
	Nodes    map[NodeID]*Node
	Networks map[NetworkID]*Network

	// Segments holds what is inside a network, only for those networks whose
	// interior this node follows.
	Segments Segments

	// Bad lists records that could not be read. What they should have said is
	// unknown, not absent.
	Bad []BadRecord
}

// Segment returns the interior of a network; nil if it is not known, as nothing is
// where there is no snapshot.
func (s *Snapshot) Segment(id NetworkID) *Segment {
	if s == nil {
		return nil
	}
	return s.Segments.Get(id)
}

// NodeName returns what people call a node: its short id where it is not registered
// any more, and where there is no snapshot.
func (s *Snapshot) NodeName(id NodeID) string {
	if s != nil {
		if n := s.Nodes[id]; n != nil && n.Name != "" {
			return n.Name
		}
	}
	return ShortID(id)
}

// DifferingNetworks returns the networks whose record or interior differs between
// two snapshots.
func DifferingNetworks(old, new *Snapshot) []NetworkID {
	ids := slices.Collect(new.Segments.Changes(old.Segments))
	ids = slices.AppendSeq(ids, Changes(old.Networks, new.Networks))
	slices.Sort(ids)
	return slices.Compact(ids)
}

// Segments are the interiors of networks. Snapshots share those that have not
// changed.
type Segments = IDMap[NetworkID, *Segment]

// A Segment is the interior of one network. Blocks are keyed by their first
// slot, endpoints by every slot that they own.
type Segment struct {
	Revision  int64 // frontier of the network's own watch
	Blocks    SlotMap[Block]
	Endpoints SlotMap[*Endpoint]
	Wants     []Want
	Bad       int // unreadable records among them
}

// HeldBy reports whether a node holds a block of the network.
func (s *Segment) HeldBy(node NodeID) bool {
	for b := range s.Blocks.Values() {
		if b.Node == node {
			return true
		}
	}
	return false
}

// ForeignHolder returns another node than self that holds one of an endpoint's slots;
// "" if there is none.
func (s *Segment) ForeignHolder(e Endpoint, self NodeID) NodeID {
	for _, slot := range e.Slots {
		if b, ok := s.Holder(slot); ok && b.Node != self {
			return b.Node
		}
	}
	return ""
}

// Holder returns the block around a slot; ok is false if nobody holds it.
func (s *Segment) Holder(slot Slot) (b Block, ok bool) {
	for _, size := range BlockSizes() {
		if b, ok = s.Blocks.Lookup(BlockAt(slot, size).First); ok && b.Contains(slot) {
			return b, true
		}
	}
	return Block{}, false
}

// A Freeze forbids all claims, attaches and creations in the cluster, and all
// deletions in any kernel: etcd may have forgotten what it once knew. It lasts
// until an operator accepts what etcd holds now.
type Freeze struct {
	Reason   string
	Node     NodeID // who noticed
	NodeName string
	Since    time.Time
	Revision int64 // create-revision of the freeze's key
}

// Refusal returns the error with which everything is refused that a freeze
// forbids.
func (f Freeze) Refusal() error {
	return Errorf(ErrUnavailable, "the cluster is frozen: %s: see ctl status, then accept what etcd holds with ctl cluster accept", f.Reason)
}

// A Report is what a node has published again during a freeze: what its journal
// holds and etcd did not.
type Report struct {
	NodeName  string
	Since     time.Time // when the node had finished
	Networks  int
	Blocks    int
	Endpoints int
	Failures  []string // what could not be published and why, a sentence each
}

// Meta is what the cluster was set up with.
type Meta struct {
	Schema    int
	ClusterID string
	Pools     Pools
	VNIs      VNIRange
}

// Pools are where automatic subnets come from.
type Pools struct {
	Overlay Pool // IPv4, for overlay networks
	Bridge  Pool // IPv4, for bridges
	IPv6    Pool // for both
}

// A VNIRange is the VXLAN network identifiers that are ours, both ends included.
type VNIRange struct {
	First, Last uint32
}

// String shows a range as it is set: 65536-131071.
func (r VNIRange) String() string { return fmt.Sprintf("%d-%d", r.First, r.Last) }

// Contains reports whether a VNI is ours.
func (r VNIRange) Contains(vni uint32) bool { return r.First <= vni && vni <= r.Last }

// A BadRecord is a key whose value cannot be read, and why.
type BadRecord struct {
	Key string
	Err string
}

// Changes yields, in no order, the keys under which two maps differ. Where the maps
// are one it costs nothing, else one look for each key.
func Changes[K, V comparable](old, new map[K]V) iter.Seq[K] {
	return func(yield func(K) bool) {
		if SameMap(old, new) {
			return
		}
		kept := 0
		for k, v := range new {
			was, there := old[k]
			if there {
				kept++
			}
			if (!there || was != v) && !yield(k) {
				return
			}
		}
		if kept == len(old) {
			return
		}
		for k := range old {
			if _, there := new[k]; !there && !yield(k) {
				return
			}
		}
	}
}

// SameMap reports whether two maps are one, as those of two snapshots are in
// which nothing has changed.
func SameMap[K comparable, V any](a, b map[K]V) bool {
	return reflect.ValueOf(a).Pointer() == reflect.ValueOf(b).Pointer()
}
