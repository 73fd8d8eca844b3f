package daemon

import (
	"cmp"
	"slices"
	"time"
)

// A chronicle holds values by id and lists them oldest first. A list that it
// has given away never changes, so that nobody needs a copy of his own: the
// reconciler lists everything at every pass.
type chronicle[K cmp.Ordered, V any] struct {
	id   func(*V) K
	born func(*V) time.Time

	byID map[K]V
	list []V // shared with all who asked: longer by an append, but never changed in place
}

func newChronicle[K cmp.Ordered, V any](id func(*V) K, born func(*V) time.Time, values []V) *chronicle[K, V] {
	c := &chronicle[K, V]{id: id, born: born, byID: map[K]V{}}
	for _, v := range values {
		c.put(v)
	}
	return c
}

// all returns the values, oldest first.
func (c *chronicle[K, V]) all() []V { return c.list[:len(c.list):len(c.list)] }

func (c *chronicle[K, V]) get(id K) (V, bool) {
	v, ok := c.byID[id]
	return v, ok
}

// put adds a value, or changes the one of the same id.
func (c *chronicle[K, V]) put(v V) {
	c.drop(c.id(&v), &v)
	i, there := c.find(&v)
	switch {
	case there:
		c.list = slices.Clone(c.list)
		c.list[i] = v
	case i == len(c.list):
		c.list = append(c.list, v)
	default:
		c.list = slices.Insert(slices.Clone(c.list), i, v)
	}
	c.byID[c.id(&v)] = v
}

// remove reports whether there was a value of the id.
func (c *chronicle[K, V]) remove(id K) bool {
	_, there := c.byID[id]
	c.drop(id, nil)
	delete(c.byID, id)
	return there
}

// drop takes a value out of the list, unless another that is to take its place
// was born at the same moment.
func (c *chronicle[K, V]) drop(id K, unless *V) {
	old, there := c.byID[id]
	if !there || unless != nil && c.born(&old).Equal(c.born(unless)) {
		return
	}
	if i, listed := c.find(&old); listed {
		c.list = slices.Delete(slices.Clone(c.list), i, i+1)
	}
}

// find returns where a value is in the list, or belongs.
func (c *chronicle[K, V]) find(v *V) (int, bool) {
	born, id := c.born(v), c.id(v)
	return slices.BinarySearchFunc(c.list, id, func(o V, id K) int {
		return cmp.Or(c.born(&o).Compare(born), cmp.Compare(c.id(&o), id))
	})
}
