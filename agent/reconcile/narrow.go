package reconcile

import (
	"slices"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/kernel"
	"github.com/overspan/overspan/overlay"
)

// singleMost is how many slots are looked at one by one; for more, the whole
// network is read at once, which costs less.
const singleMost = 4096

// A basis is what a network's plan followed from, its ports apart, when the
// kernel was last in line with it. If all that has changed since is who holds
// some slots, a pass looks at the entries of these, and not at the tens of
// thousands around them. It says where to look, never what is there: that is
// read as always.
type basis struct {
	network *overspan.Network
	segment *overspan.Segment
	nodes   map[overspan.NodeID]*overspan.Node
}

// basis returns what the plan of an overlay network follows from; ok is false
// if not all of it is known, or this node is no member.
func (in Input) basis(id overspan.NetworkID) (b basis, ok bool) {
	b = basis{network: in.Snapshot.Networks[id], segment: in.Snapshot.Segments.Get(id), nodes: in.Snapshot.Nodes}
	if b.network == nil || b.segment == nil || b.network.Driver != overspan.DriverOverlay {
		return b, false
	}
	self := b.nodes[in.Self]
	ok = b.segment.Bad == 0 && in.Snapshot.Frozen == nil && in.Member(id) &&
		self != nil && self.VTEP(b.network.Underlay).IsValid()
	return b, ok
}

// slotsSince returns the slots whose entries may differ from those that follow
// from an older basis; ok is false if more may.
func (b basis) slotsSince(old basis, self overspan.NodeID) (slots []overspan.Range, ok bool) {
	if b.network.ID != old.network.ID || b.network.ModRevision != old.network.ModRevision {
		return nil, false
	}
	elsewhere := movedNodes(old.nodes, b.nodes)
	if _, here := elsewhere[self]; here {
		return nil, false
	}
	if len(elsewhere) > 0 {
		for block := range b.segment.Blocks.Values() {
			if _, moved := elsewhere[block.Node]; moved {
				slots = append(slots, block.Range)
			}
		}
	}
	for first := range b.segment.Blocks.Changes(old.segment.Blocks) {
		for _, seg := range []*overspan.Segment{old.segment, b.segment} {
			if block, held := seg.Blocks.Lookup(first); held {
				slots = append(slots, block.Range)
			}
		}
	}
	for s := range b.segment.Endpoints.Changes(old.segment.Endpoints) {
		if exception(old.network, old.segment, s) != exception(b.network, b.segment, s) {
			slots = append(slots, overspan.Range{First: s, Size: 1})
		}
	}
	var n uint64
	for _, r := range slots {
		n += r.Size
	}
	return slots, n <= singleMost
}

// movedNodes returns the nodes that came, went, or changed their VTEPs.
func movedNodes(old, new map[overspan.NodeID]*overspan.Node) map[overspan.NodeID]struct{} {
	out := map[overspan.NodeID]struct{}{}
	for id := range overspan.Changes(old, new) {
		if was, n := old[id], new[id]; was == nil || n == nil || !slices.Equal(was.VTEPs, n.VTEPs) {
			out[id] = struct{}{}
		}
	}
	return out
}

// narrow returns what of a scope has to be looked at: of the networks of which
// only the desired state has changed, the entries of some slots and this node's
// ports in them, where that is all. What is planned for these entries comes
// with it.
func (r *Reconciler) narrow(in Input, scope kernel.Scope, changed []overspan.NetworkID) (kernel.Scope, kernel.State) {
	var entries kernel.State
	if len(r.conflicts) > 0 {
		return scope, entries // of what stands in the way the whole is to be seen
	}
	networks := scope.Networks
	scope.Networks = nil
	for _, id := range networks {
		slots, ok := r.changedSlots(in, id)
		if !ok || !slices.Contains(changed, id) {
			scope.Networks = append(scope.Networks, id)
			continue
		}
		now, old := in.Snapshot.Segments.Get(id), r.bases[id].segment
		n := in.Snapshot.Networks[id]
		entries.Take(overlay.Entries(n, in.Self, now, in.Snapshot.Nodes, slots))
		for _, seg := range []*overspan.Segment{old, now} {
			fdb, neighs := overlay.Keys(n, seg, slots)
			scope.FDB, scope.Neighs = append(scope.FDB, fdb...), append(scope.Neighs, neighs...)
		}
		scope.Endpoints = append(scope.Endpoints, in.portsWithin(id, slots)...)
	}
	scope.FDB, scope.Neighs = unique(scope.FDB), unique(scope.Neighs)
	return scope, entries
}

func (r *Reconciler) changedSlots(in Input, id overspan.NetworkID) ([]overspan.Range, bool) {
	old, known := r.bases[id]
	_, failed := r.failed[Part{Network: id}]
	now, whole := in.basis(id)
	if !known || failed || !whole {
		return nil, false
	}
	return now.slotsSince(old, in.Self)
}

// portsWithin returns this node's endpoints that own one of some slots. Their
// containers' ends are as they were.
func (in Input) portsWithin(id overspan.NetworkID, slots []overspan.Range) (ports []kernel.EndpointKey) {
	for _, a := range in.Local.Attachments.InNetwork(id) {
		within := func(s overspan.Slot) bool {
			return slices.ContainsFunc(slots, func(r overspan.Range) bool { return r.Contains(s) })
		}
		if slices.ContainsFunc(a.Endpoint.Slots, within) {
			ports = append(ports, kernel.EndpointKey{Network: id, Endpoint: a.Endpoint.ID})
		}
	}
	return ports
}

// rebase remembers which networks a pass over a scope has brought in line, but
// for what it left undone.
func (r *Reconciler) rebase(scope kernel.Scope, in Input, left partSet) {
	if scope.All {
		clear(r.bases)
		scope.Networks = in.members()
	}
	for _, id := range scope.Networks {
		delete(r.bases, id)
		if b, ok := in.basis(id); ok && !left.has(Part{Network: id}) && !left.has(stray) {
			r.bases[id] = b
		}
	}
}

// unique drops what is named twice.
func unique[K comparable](keys []K) []K {
	seen := make(map[K]struct{}, len(keys))
	return slices.DeleteFunc(keys, func(k K) bool {
		_, before := seen[k]
		seen[k] = struct{}{}
		return before
	})
}
