package ipam

import (
	"slices"

	"github.com/overspan/overspan"
)

// A Restoration is what a node does in a network so that it holds again what it
// held before etcd lost it, and no more.
type Restoration struct {
	// Slots are the used slots that nobody holds, a block of one each: they are
	// claimed first, and alone, so that each stands or falls by itself.
	Slots []overspan.Range

	// Around are the largest free parts of those former blocks in which the node
	// has a used slot. They are claimed when Slots are, and never cover one.
	Around []overspan.Range

	// Surplus are own blocks of which etcd says more than the node knows.
	Surplus []Surplus
}

// A Surplus is a block that etcd says is the node's, though it is not, or not
// as a whole: it came back from a past in which the node had not given it up.
type Surplus struct {
	Block overspan.Block
	Keep  []overspan.Range // the parts that are the node's, lowest first; empty: none is
}

// Restore compares what a node held and what it uses with the blocks that stand
// now. Former are the blocks that it held, used are the slots of its endpoints;
// what it uses is its own even where it lay in no former block, since that may
// be known from an older moment. Used slots that another holds are left out:
// who asks finds them in the segment.
//
// A caller that does not know what the node held passes no former blocks and
// ignores Surplus.
func Restore(self overspan.NodeID, former []overspan.Range, used []overspan.Slot, now *overspan.Segment) Restoration {
	var out Restoration
	mine := map[overspan.Slot]struct{}{} // used slots that are the node's, or will be
	for _, slot := range slices.Compact(slices.Sorted(slices.Values(used))) {
		b, held := now.Holder(slot)
		if held && b.Node != self {
			continue
		}
		mine[slot] = struct{}{}
		if !held {
			out.Slots = append(out.Slots, overspan.BlockAt(slot, 1))
		}
	}
	uses := func(slot overspan.Slot) bool {
		_, ok := mine[slot]
		return ok
	}
	for _, block := range slices.SortedFunc(slices.Values(former), byFirst) {
		if !slices.ContainsFunc(slices.Collect(slotsOf(block)), uses) {
			continue
		}
		out.Around = append(out.Around, parts(block, func(slot overspan.Slot) bool {
			_, held := now.Holder(slot)
			return !held && !uses(slot)
		})...)
	}
	for _, b := range (View{Segment: now, Self: self}).own() {
		keep := parts(b.Range, func(slot overspan.Slot) bool {
			return uses(slot) || slices.ContainsFunc(former, func(f overspan.Range) bool { return f.Contains(slot) })
		})
		if !slices.Equal(keep, []overspan.Range{b.Range}) {
			out.Surplus = append(out.Surplus, Surplus{Block: b, Keep: keep})
		}
	}
	return out
}

// parts returns the largest blocks within a block in which every slot is wanted,
// lowest first.
func parts(block overspan.Range, wanted func(overspan.Slot) bool) []overspan.Range {
	whole := true
	for slot := range slotsOf(block) {
		whole = whole && wanted(slot)
	}
	switch {
	case whole:
		return []overspan.Range{block}
	case block.Size == 1:
		return nil
	}
	half := block.Size / 2
	low := overspan.Range{First: block.First, Size: half}
	high := overspan.Range{First: block.First + overspan.Slot(half), Size: half}
	return append(parts(low, wanted), parts(high, wanted)...)
}
