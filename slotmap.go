package overspan

import (
	"iter"
	"math/bits"
	"slices"
)

// A SlotMap holds a value for each of some slots, in their order. Copying one
// is free and makes two maps: what is put into or deleted from either the other
// does not see. So a snapshot shares with the next all that did not change, and
// Changes finds what did without a look at the rest.
//
// The zero SlotMap is empty. Put and Delete need one goroutine at a time, as
// with any variable; copies may be read and changed by others meanwhile.
type SlotMap[V comparable] struct {
	root  *slotNode[V]
	shift uint // of the root's digit; minimal, so that equal maps have one shape
	size  int
}

// A slotNode is immutable. It covers the slots that share all digits above its
// own; its bit i is set if it holds something for digit i. Below the root none
// is empty.
type slotNode[V comparable] struct {
	set  uint64
	kids []*slotNode[V] // one per bit, or
	vals []V            // one per bit, of the last digit
}

// digitBits makes the nodes of the last digit as large as the largest block.
const digitBits = 6

// SlotMapOf returns a SlotMap of what a map holds.
func SlotMapOf[V comparable](from map[Slot]V) SlotMap[V] {
	var m SlotMap[V]
	for s, v := range from {
		m.Put(s, v)
	}
	return m
}

// Len returns how many slots have a value.
func (m SlotMap[V]) Len() int { return m.size }

// Get returns a slot's value; the zero value if it has none.
func (m SlotMap[V]) Get(s Slot) V {
	v, _ := m.Lookup(s)
	return v
}

// Lookup returns a slot's value; ok is false if it has none.
func (m SlotMap[V]) Lookup(s Slot) (v V, ok bool) {
	if m.root == nil || !m.spans(s) {
		return v, false
	}
	n := m.root
	for shift := m.shift; ; shift -= digitBits {
		i, there := n.find(digit(s, shift))
		switch {
		case !there:
			return v, false
		case shift == 0:
			return n.vals[i], true
		}
		n = n.kids[i]
	}
}

// Put gives a slot a value.
func (m *SlotMap[V]) Put(s Slot, v V) {
	for !m.spans(s) {
		m.grow()
	}
	root, more := m.root.with(s, v, m.shift)
	m.root = root
	m.size += more
}

// Delete takes a slot's value away, if it has one.
func (m *SlotMap[V]) Delete(s Slot) {
	if _, there := m.Lookup(s); !there {
		return
	}
	m.root = m.root.without(s, m.shift)
	m.size--
	for m.root != nil && m.shift > 0 && m.root.set == 1 {
		m.root = m.root.kids[0]
		m.shift -= digitBits
	}
	if m.root == nil {
		m.shift = 0
	}
}

// All yields the slots that have a value, lowest first.
func (m SlotMap[V]) All() iter.Seq2[Slot, V] {
	return func(yield func(Slot, V) bool) {
		if m.root != nil {
			m.root.each(0, m.shift, yield)
		}
	}
}

// Values yields the values, by slot.
func (m SlotMap[V]) Values() iter.Seq[V] {
	return func(yield func(V) bool) {
		for _, v := range m.All() {
			if !yield(v) {
				return
			}
		}
	}
}

// Count returns how many slots of a range have a value. For a block it costs a
// look at one node.
func (m SlotMap[V]) Count(r Range) int {
	if m.root == nil || r.Size == 0 {
		return 0
	}
	return m.root.count(0, m.shift, r)
}

// Changes yields the slots that two maps hold different values for, or only
// one of them any. It costs what has changed between copies of one map, however
// large they are.
func (m SlotMap[V]) Changes(old SlotMap[V]) iter.Seq[Slot] {
	return func(yield func(Slot) bool) {
		for m.shift < old.shift {
			m.grow()
		}
		for old.shift < m.shift {
			old.grow()
		}
		differ(m.root, old.root, 0, m.shift, yield)
	}
}

// Equal reports whether two maps hold the same values for the same slots.
func (m SlotMap[V]) Equal(o SlotMap[V]) bool {
	if m.size != o.size {
		return false
	}
	for range m.Changes(o) {
		return false
	}
	return true
}

// spans reports whether the root has a place for a slot.
func (m SlotMap[V]) spans(s Slot) bool { return s>>m.shift < 1<<digitBits }

// grow gives the map one more digit.
func (m *SlotMap[V]) grow() {
	if m.root != nil {
		m.root = &slotNode[V]{set: 1, kids: []*slotNode[V]{m.root}}
	}
	m.shift += digitBits
}

func digit(s Slot, shift uint) uint { return uint(s>>shift) & (1<<digitBits - 1) }

// find returns where in the node's slice a digit is, or belongs.
func (n *slotNode[V]) find(d uint) (i int, there bool) {
	bit := uint64(1) << d
	return bits.OnesCount64(n.set & (bit - 1)), n.set&bit != 0
}

// with returns a node that holds a slot's value, and how many more slots that
// are than before: 0 or 1. A nil node is an empty one.
func (n *slotNode[V]) with(s Slot, v V, shift uint) (*slotNode[V], int) {
	if n == nil {
		n = &slotNode[V]{}
	}
	d := digit(s, shift)
	i, there := n.find(d)
	out := &slotNode[V]{set: n.set | 1<<d}
	if shift == 0 {
		if there {
			out.vals = slices.Clone(n.vals)
			out.vals[i] = v
			return out, 0
		}
		out.vals = inserted(n.vals, i, v)
		return out, 1
	}
	if there {
		kid, more := n.kids[i].with(s, v, shift-digitBits)
		out.kids = slices.Clone(n.kids)
		out.kids[i] = kid
		return out, more
	}
	var none *slotNode[V]
	kid, more := none.with(s, v, shift-digitBits)
	out.kids = inserted(n.kids, i, kid)
	return out, more
}

// without returns a node without a slot that it has; nil if it then has none.
func (n *slotNode[V]) without(s Slot, shift uint) *slotNode[V] {
	d := digit(s, shift)
	i, _ := n.find(d)
	if shift > 0 {
		if kid := n.kids[i].without(s, shift-digitBits); kid != nil {
			out := &slotNode[V]{set: n.set, kids: slices.Clone(n.kids)}
			out.kids[i] = kid
			return out
		}
	}
	set := n.set &^ (1 << d)
	switch {
	case set == 0:
		return nil
	case shift == 0:
		return &slotNode[V]{set: set, vals: removed(n.vals, i)}
	}
	return &slotNode[V]{set: set, kids: removed(n.kids, i)}
}

// each yields what a node holds, and reports whether to go on.
func (n *slotNode[V]) each(base Slot, shift uint, yield func(Slot, V) bool) bool {
	i := 0
	for set := n.set; set != 0; set &= set - 1 {
		s := base | Slot(bits.TrailingZeros64(set))<<shift
		if shift == 0 {
			if !yield(s, n.vals[i]) {
				return false
			}
		} else if !n.kids[i].each(s, shift-digitBits, yield) {
			return false
		}
		i++
	}
	return true
}

// count returns how many slots of a range a node holds.
func (n *slotNode[V]) count(base Slot, shift uint, r Range) int {
	set := n.set
	if r.First > base {
		set &= ^uint64(0) << min((r.First-base)>>shift, 64)
	}
	if r.Last() < base {
		return 0
	}
	if last := (r.Last() - base) >> shift; last < 1<<digitBits-1 {
		set &= 1<<(last+1) - 1
	}
	if shift == 0 {
		return bits.OnesCount64(set)
	}
	total := 0
	for ; set != 0; set &= set - 1 {
		d := uint(bits.TrailingZeros64(set))
		i, _ := n.find(d)
		total += n.kids[i].count(base|Slot(d)<<shift, shift-digitBits, r)
	}
	return total
}

// differ yields the slots in which two nodes of one place differ, and reports
// whether to go on. A nil node is an empty one.
func differ[V comparable](a, b *slotNode[V], base Slot, shift uint, yield func(Slot) bool) bool {
	if a == b {
		return true
	}
	if a == nil {
		a = &slotNode[V]{}
	}
	if b == nil {
		b = &slotNode[V]{}
	}
	for set := a.set | b.set; set != 0; set &= set - 1 {
		d := uint(bits.TrailingZeros64(set))
		s := base | Slot(d)<<shift
		i, inA := a.find(d)
		j, inB := b.find(d)
		if shift == 0 {
			if inA && inB && a.vals[i] == b.vals[j] {
				continue
			}
			if !yield(s) {
				return false
			}
			continue
		}
		var x, y *slotNode[V]
		if inA {
			x = a.kids[i]
		}
		if inB {
			y = b.kids[j]
		}
		if !differ(x, y, s, shift-digitBits, yield) {
			return false
		}
	}
	return true
}

// inserted returns a copy of exactly the length that it needs: most nodes are
// never copied again.
func inserted[T any](from []T, i int, v T) []T {
	out := make([]T, len(from)+1)
	copy(out, from[:i])
	out[i] = v
	copy(out[i+1:], from[i:])
	return out
}

func removed[T any](from []T, i int) []T {
	out := make([]T, len(from)-1)
	copy(out, from[:i])
	copy(out[i:], from[i+1:])
	return out
}
