package ipam

import (
	"iter"
	"math"
	"math/bits"
	"slices"

	"github.com/overspan/overspan"
)

// A space is the slots of a network that may be lent to an endpoint that asks
// for no certain address. It may be huge (a /8, an IPv6 /64), so nothing here
// walks over its slots: the cost is that of the blocks and reserved slots.
type space struct {
	window   overspan.Range  // the network, or its range; empty if Size is 0
	reserved []overspan.Slot // those of the window that are never lent, ascending
}

func spaceOf(n *overspan.Network) space {
	window := overspan.Range{Size: uint64(n.Slots())}
	candidates := []overspan.Slot{0}
	for _, s := range []overspan.Subnet{n.IPv4, n.IPv6} {
		if !s.IsValid() {
			continue
		}
		if s.Range.IsValid() {
			window = intersect(window, rangeSlots(s))
		}
		if s.Prefix.Addr().Is4() {
			candidates = append(candidates, 1<<(32-s.Prefix.Bits())-1)
		}
		if at, ok := s.Slot(s.Gateway); ok {
			candidates = append(candidates, at)
		}
		for _, a := range s.Aux {
			if at, ok := s.Slot(a); ok {
				candidates = append(candidates, at)
			}
		}
	}
	slices.Sort(candidates)
	reserved := slices.DeleteFunc(slices.Compact(candidates), func(s overspan.Slot) bool {
		return !window.Contains(s) || n.Reserved(s) == ""
	})
	return space{window: window, reserved: reserved}
}

// rangeSlots returns the slots of a subnet's range; none if they cannot be
// numbered, being 2^64 or more above the subnet's base.
func rangeSlots(s overspan.Subnet) overspan.Range {
	first, ok := s.Slot(s.Range.Addr())
	if !ok {
		return overspan.Range{}
	}
	size := uint64(math.MaxUint64)
	if host := s.Range.Addr().BitLen() - s.Range.Bits(); host < 64 {
		size = 1 << host
	}
	return overspan.Range{First: first, Size: size}
}

// intersect returns the slots that two ranges share; Size 0 if none.
func intersect(a, b overspan.Range) overspan.Range {
	if a.Size == 0 || b.Size == 0 || !a.Overlaps(b) {
		return overspan.Range{}
	}
	first, last := max(a.First, b.First), min(a.Last(), b.Last())
	return overspan.Range{First: first, Size: uint64(last-first) + 1}
}

// slotsOf yields the slots of a block-sized range, lowest first.
func slotsOf(r overspan.Range) iter.Seq[overspan.Slot] {
	return func(yield func(overspan.Slot) bool) {
		for i := range r.Size {
			if !yield(r.First + overspan.Slot(i)) {
				return
			}
		}
	}
}

// lends reports whether the slot may be lent to an endpoint that asks for any.
func (sp space) lends(s overspan.Slot) bool {
	if !sp.window.Contains(s) {
		return false
	}
	_, reserved := slices.BinarySearch(sp.reserved, s)
	return !reserved
}

// count returns how many slots of the range may be lent.
func (sp space) count(r overspan.Range) uint64 {
	r = intersect(r, sp.window)
	if r.Size == 0 {
		return 0
	}
	from, _ := slices.BinarySearch(sp.reserved, r.First)
	to, last := slices.BinarySearch(sp.reserved, r.Last())
	if last {
		to++
	}
	return r.Size - uint64(to-from)
}

// barren returns the blocks of a size in which every slot is reserved.
func (sp space) barren(size uint64) []overspan.Range {
	var out []overspan.Range
	for i := 0; i < len(sp.reserved); {
		block := overspan.BlockAt(sp.reserved[i], size)
		n := i
		for n < len(sp.reserved) && block.Contains(sp.reserved[n]) {
			n++
		}
		if uint64(n-i) == size {
			out = append(out, block)
		}
		i = n
	}
	return out
}

// unclaimed returns the maximal ranges of the window without a slot of taken,
// lowest first. Ranges of taken may overlap each other.
func (sp space) unclaimed(taken []overspan.Range) []overspan.Range {
	inside := make([]overspan.Range, 0, len(taken)+1)
	for _, t := range taken {
		if t = intersect(t, sp.window); t.Size > 0 {
			inside = append(inside, t)
		}
	}
	slices.SortFunc(inside, byFirst)
	end := sp.window.First + overspan.Slot(sp.window.Size)
	inside = append(inside, overspan.Range{First: end, Size: 1})

	var gaps []overspan.Range
	next := sp.window.First
	for _, t := range inside {
		if t.First > next {
			gaps = append(gaps, overspan.Range{First: next, Size: uint64(t.First - next)})
		}
		next = max(next, t.Last()+1)
	}
	return gaps
}

// place returns the n-th block of a size, counted modulo how many there are,
// that fits into the gaps; ok is false if none does.
func place(gaps []overspan.Range, size, n uint64) (block overspan.Range, ok bool) {
	var total uint64
	for _, g := range gaps {
		_, k := fitting(g, size)
		total += k
	}
	if total == 0 {
		return overspan.Range{}, false
	}
	n %= total
	for _, g := range gaps {
		first, k := fitting(g, size)
		if n < k {
			return overspan.Range{First: first + overspan.Slot(n*size), Size: size}, true
		}
		n -= k
	}
	return overspan.Range{}, false
}

// fitting returns the first aligned block of a size in a gap, and how many
// there are.
func fitting(gap overspan.Range, size uint64) (first overspan.Slot, n uint64) {
	first = overspan.BlockAt(gap.First+overspan.Slot(size-1), size).First
	end := gap.First + overspan.Slot(gap.Size)
	if first >= end {
		return first, 0
	}
	return first, uint64(end-first) / size
}

// blockSize returns how large a block to claim while so many slots are free:
// a sixteenth of them, so that many nodes find room, as a power of two.
func blockSize(free uint64) uint64 { return min(overspan.MaxBlockSize, floorPow2(free/16)) }

// floorPow2 returns the largest power of two that is at most n, and 1 for 0.
func floorPow2(n uint64) uint64 { return 1 << (bits.Len64(max(n, 1)) - 1) }

// cover returns the fewest blocks that make up block without hole, which is an
// aligned part of it, lowest first.
func cover(block, hole overspan.Range) []overspan.Range {
	var out []overspan.Range
	for size := hole.Size; size < block.Size; size *= 2 {
		half := overspan.BlockAt(hole.First, size)
		out = append(out, overspan.Range{First: half.First ^ overspan.Slot(size), Size: size})
	}
	slices.SortFunc(out, byFirst)
	return out
}

func byFirst(a, b overspan.Range) int {
	switch {
	case a.First < b.First:
		return -1
	case a.First > b.First:
		return 1
	}
	return 0
}
