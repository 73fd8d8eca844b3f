package ipam

import (
	"slices"

	"github.com/overspan/overspan"
)

// A Grant is what a holder gives up to an asker, in one transaction: From goes,
// Keep and Give come.
type Grant struct {
	From overspan.Block
	Give overspan.Range   // the asker's
	Keep []overspan.Range // remain the holder's: From without Give, lowest first
}

// Answer returns what this node, the holder, gives to a want: for a certain
// slot that slot, if it is unused; else the largest unused part of a block that
// is no more than half of what this node has free, resting slots last. ok is
// false if there is nothing to give.
func Answer(v View, w overspan.Want) (grant Grant, ok bool) {
	if w.Holder != v.Self || w.Asker == v.Self {
		return Grant{}, false
	}
	sp := spaceOf(v.Network)
	free := v.free(sp)
	spare := uint64(0)
	if waiting := uint64(v.Waiting); free > waiting {
		spare = free - waiting
	}
	if w.Slot != nil {
		if spare == 0 && sp.lends(*w.Slot) {
			return Grant{}, false
		}
		return v.giveExact(*w.Slot)
	}
	if spare == 0 {
		return Grant{}, false
	}
	limit := min(overspan.MaxBlockSize, floorPow2(min(spare, free/2)))
	if grant, ok = v.giveAny(sp, limit, false); ok {
		return grant, true
	}
	return v.giveAny(sp, limit, true)
}

// free counts the slots of own blocks that could be lent now, resting ones too.
func (v View) free(sp space) uint64 {
	var n uint64
	for _, b := range v.own() {
		for s := range slotsOf(b.Range) {
			if sp.lends(s) && !v.used(s) {
				n++
			}
		}
	}
	return n
}

func (v View) giveExact(slot overspan.Slot) (Grant, bool) {
	b, held := v.Segment.Holder(slot)
	if !held || b.Node != v.Self || v.used(slot) || v.Network.Reserved(slot) != "" {
		return Grant{}, false
	}
	give := overspan.BlockAt(slot, 1)
	return Grant{From: b, Give: give, Keep: cover(b.Range, give)}, true
}

// giveAny finds the largest part of an own block, of at most limit slots, that
// is unused and has something to lend. It looks from the top down, because the
// node itself takes from the bottom up.
func (v View) giveAny(sp space, limit uint64, resting bool) (Grant, bool) {
	own := v.own()
	slices.Reverse(own)
	for size := limit; size > 0; size /= 2 {
		for _, b := range own {
			for i := b.Size / size; i > 0; i-- {
				part := overspan.Range{First: b.First + overspan.Slot((i-1)*size), Size: size}
				if sp.count(part) > 0 && v.vacant(part) && (resting || !v.rests(part)) {
					return Grant{From: b, Give: part, Keep: cover(b.Range, part)}, true
				}
			}
		}
	}
	return Grant{}, false
}

// Idle returns the own blocks in which no slot is used or rests, lowest first:
// they may be given back. Where this node has an endpoint it keeps the first
// that it could lend from, so that the next attach finds room at once.
func Idle(v View) []overspan.Block {
	if v.Waiting > 0 {
		return nil
	}
	sp := spaceOf(v.Network)
	keep := v.attached()
	var out []overspan.Block
	for _, b := range v.own() {
		if !v.vacant(b.Range) || v.rests(b.Range) {
			continue
		}
		if keep && sp.count(b.Range) > 0 {
			keep = false
			continue
		}
		out = append(out, b)
	}
	return out
}

// Vacant returns the own blocks in which no slot is used, lowest first, even if
// one rests; none while an endpoint waits for a slot.
func Vacant(v View) []overspan.Block {
	if v.Waiting > 0 {
		return nil
	}
	return slices.DeleteFunc(v.own(), func(b overspan.Block) bool { return !v.vacant(b.Range) })
}

// attached reports whether this node has an endpoint in the network.
func (v View) attached() bool {
	if len(v.Held) > 0 {
		return true
	}
	for e := range v.Segment.Endpoints.Values() {
		if e.Node == v.Self {
			return true
		}
	}
	return false
}
