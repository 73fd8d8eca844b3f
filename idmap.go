package overspan

import "iter"

// An IDMap holds a value for each of some ids, in no order that means anything. It
// is to ids what a SlotMap is to slots: a copy is free and another map, and Changes
// finds what differs between copies of one map without a look at the rest.
//
// The zero IDMap is empty. Put and Delete need one goroutine at a time, as with any
// variable; copies may be read and changed by others meanwhile.
type IDMap[K ~string, V comparable] struct {
	rows SlotMap[*idRow[K, V]] // by idSlot
	size int
}

// An idRow is immutable. It holds the value of one id, and leads to those of the
// others whose idSlot is the same: hardly ever one.
type idRow[K ~string, V comparable] struct {
	id   K
	v    V
	next *idRow[K, V]
}

// idBits makes an IDMap three nodes deep. Of a thousand ids two share a slot.
const idBits = 3 * digitBits

// idSlot spreads ids over slots, by FNV-1a. Ids are drawn at random, so that their
// end is as good as the whole.
func idSlot[K ~string](id K) Slot {
	const enough = 12
	h := uint32(2166136261)
	for _, c := range []byte(id[max(0, len(id)-enough):]) {
		h = (h ^ uint32(c)) * 16777619
	}
	return Slot(h>>idBits^h) & (1<<idBits - 1)
}

// IDMapOf returns an IDMap of what a map holds.
func IDMapOf[K ~string, V comparable](from map[K]V) IDMap[K, V] {
	var m IDMap[K, V]
	for id, v := range from {
		m.Put(id, v)
	}
	return m
}

// Len returns how many ids have a value.
func (m IDMap[K, V]) Len() int { return m.size }

// Get returns an id's value; the zero value if it has none.
func (m IDMap[K, V]) Get(id K) V {
	v, _ := m.Lookup(id)
	return v
}

// Lookup returns an id's value; ok is false if it has none.
func (m IDMap[K, V]) Lookup(id K) (v V, ok bool) { return m.rows.Get(idSlot(id)).lookup(id) }

// Put gives an id a value.
func (m *IDMap[K, V]) Put(id K, v V) {
	s := idSlot(id)
	rest := m.rows.Get(s)
	if _, there := rest.lookup(id); there {
		rest = rest.without(id)
	} else {
		m.size++
	}
	m.rows.Put(s, &idRow[K, V]{id: id, v: v, next: rest})
}

// Delete takes an id's value away, if it has one.
func (m *IDMap[K, V]) Delete(id K) {
	if _, there := m.Lookup(id); !there {
		return
	}
	m.size--
	s := idSlot(id)
	if rest := m.rows.Get(s).without(id); rest != nil {
		m.rows.Put(s, rest)
	} else {
		m.rows.Delete(s)
	}
}

// All yields the ids that have a value.
func (m IDMap[K, V]) All() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for r := range m.rows.Values() {
			for ; r != nil; r = r.next {
				if !yield(r.id, r.v) {
					return
				}
			}
		}
	}
}

// Keys yields the ids that have a value, in the order of All.
func (m IDMap[K, V]) Keys() iter.Seq[K] {
	return func(yield func(K) bool) {
		for id := range m.All() {
			if !yield(id) {
				return
			}
		}
	}
}

// Changes yields the ids that two maps hold different values for, or only one of
// them any. It costs what has changed between copies of one map, however large they
// are.
func (m IDMap[K, V]) Changes(old IDMap[K, V]) iter.Seq[K] {
	return func(yield func(K) bool) {
		for s := range m.rows.Changes(old.rows) {
			now, was := m.rows.Get(s), old.rows.Get(s)
			for r := now; r != nil; r = r.next {
				if v, there := was.lookup(r.id); (!there || v != r.v) && !yield(r.id) {
					return
				}
			}
			for r := was; r != nil; r = r.next {
				if _, there := now.lookup(r.id); !there && !yield(r.id) {
					return
				}
			}
		}
	}
}

// lookup returns the value that a row, or one that it leads to, holds for an id. A
// nil row holds nothing.
func (r *idRow[K, V]) lookup(id K) (v V, ok bool) {
	for ; r != nil; r = r.next {
		if r.id == id {
			return r.v, true
		}
	}
	return v, false
}

// without returns the rows but for that of an id, which is among them; nil if none
// is left.
func (r *idRow[K, V]) without(id K) *idRow[K, V] {
	if r.id == id {
		return r.next
	}
	return &idRow[K, V]{id: r.id, v: r.v, next: r.next.without(id)}
}
