package ipam

import (
	"cmp"
	"slices"
	"time"

	"github.com/overspan/overspan"
)

// A View is what a node knows of one network when it decides. It is read only.
type View struct {
	Network *overspan.Network
	Segment *overspan.Segment
	Self    overspan.NodeID

	Up   func(overspan.NodeID) bool   // whether a node is present and can answer
	Name func(overspan.NodeID) string // for messages

	// Held are slots of this node that are attached or about to be, which the
	// segment may not show yet, and those that it is just giving away.
	Held map[overspan.Slot]struct{}

	// Resting are released slots that cool down, with the time until when;
	// only the keys count.
	Resting map[overspan.Slot]time.Time

	// Waiting is how many endpoints of this node wait for any slot: so many
	// are not given to others.
	Waiting int

	mine *overspan.SlotMap[overspan.Block] // this node's blocks; nil: to be found among all
}

// own returns this node's blocks, lowest first.
func (v View) own() []overspan.Block {
	if v.mine != nil {
		return slices.Collect(v.mine.Values())
	}
	var out []overspan.Block
	for b := range v.Segment.Blocks.Values() {
		if b.Node == v.Self {
			out = append(out, b)
		}
	}
	return out
}

// used reports whether an endpoint has the slot, or is about to have it.
func (v View) used(s overspan.Slot) bool {
	if _, held := v.Held[s]; held {
		return true
	}
	_, attached := v.Segment.Endpoints.Lookup(s)
	return attached
}

// vacant reports whether no slot of the range is used.
func (v View) vacant(r overspan.Range) bool {
	for s := range slotsOf(r) {
		if v.used(s) {
			return false
		}
	}
	return true
}

// rests reports whether a slot of the range cools down.
func (v View) rests(r overspan.Range) bool {
	for s := range slotsOf(r) {
		if _, ok := v.Resting[s]; ok {
			return true
		}
	}
	return false
}

// A load is what one node holds of a network's space.
type load struct {
	node overspan.NodeID
	held uint64 // slots of its blocks that may be lent
	used uint64 // those of them that endpoints have, as far as is known
}

func (l load) free() uint64 { return l.held - l.used }

// loads returns what each member holds, ordered by node id.
func (v View) loads(sp space) []load {
	members := map[overspan.NodeID]*load{}
	for b := range v.Segment.Blocks.Values() {
		l := members[b.Node]
		if l == nil {
			l = &load{node: b.Node}
			members[b.Node] = l
		}
		lends := sp.count(b.Range)
		l.held += lends
		if lends == b.Size {
			l.used += uint64(v.Segment.Endpoints.Count(b.Range))
			continue
		}
		for s := range slotsOf(b.Range) {
			if _, attached := v.Segment.Endpoints.Lookup(s); attached && sp.lends(s) {
				l.used++
			}
		}
	}
	use := func(s overspan.Slot) {
		if b, ok := v.Segment.Holder(s); ok && sp.lends(s) {
			members[b.Node].used++
		}
	}
	for s := range v.Held {
		if _, counted := v.Segment.Endpoints.Lookup(s); !counted {
			use(s)
		}
	}
	out := make([]load, 0, len(members))
	for _, l := range members {
		out = append(out, *l)
	}
	slices.SortFunc(out, func(a, b load) int { return cmp.Compare(a.node, b.node) })
	return out
}
