package overlay

import (
	"net/netip"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/kernel"
)

// Entries returns those forwarding entries and neighbours of a network's Plan
// that lead to some slots. It takes time in proportion to these alone, so that
// a block that is claimed in a large network costs no look at all the others.
func Entries(n *overspan.Network, self overspan.NodeID, seg *overspan.Segment, nodes map[overspan.NodeID]*overspan.Node, slots []overspan.Range) kernel.State {
	p := planner{network: n, dev: overspan.VXLANName(n.ID), segment: seg}
	p.state.FDB, p.state.Neighs = make(map[kernel.FDBKey]kernel.Dest), make(map[kernel.NeighKey]kernel.LLAddr)
	vtep := func(s overspan.Slot) netip.Addr {
		b, held := seg.Holder(s)
		if node := nodes[b.Node]; held && b.Node != self && node != nil {
			return node.VTEP(n.Underlay)
		}
		return netip.Addr{}
	}
	for s := range each(slots) {
		to := vtep(s)
		if !to.IsValid() {
			continue
		}
		p.slot(s, to)
		if e := seg.Endpoints.Get(s); e != nil && n.IsException(*e) {
			p.exception(s, e, to)
		}
	}
	return p.state
}

// Keys returns every key that Entries may return an entry for: what stands in
// the kernel under one of them and is not among the entries is to go.
func Keys(n *overspan.Network, seg *overspan.Segment, slots []overspan.Range) (fdb []kernel.FDBKey, neighs []kernel.NeighKey) {
	dev := overspan.VXLANName(n.ID)
	for s := range each(slots) {
		if n.Derives(s) {
			fdb = append(fdb, kernel.FDBKey{Dev: dev, MAC: n.MAC(s)})
		}
		if e := seg.Endpoints.Get(s); e != nil && s == e.Slot && n.IsException(*e) && !e.MAC.IsDerived() {
			fdb = append(fdb, kernel.FDBKey{Dev: dev, MAC: e.MAC})
		}
		for _, subnet := range []overspan.Subnet{n.IPv4, n.IPv6} {
			if a := subnet.Addr(s); a.IsValid() {
				neighs = append(neighs, kernel.NeighKey{Dev: dev, IP: a})
			}
		}
	}
	return fdb, neighs
}

// each yields the slots of ranges.
func each(ranges []overspan.Range) func(yield func(overspan.Slot) bool) {
	return func(yield func(overspan.Slot) bool) {
		for _, r := range ranges {
			for i := range r.Size {
				if !yield(r.First + overspan.Slot(i)) {
					return
				}
			}
		}
	}
}
