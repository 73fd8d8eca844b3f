package local

import (
	"cmp"
	"slices"
	"time"

	"github.com/overspan/overspan"
)

// A Chronicle holds values by id and lists them oldest first. A copy is another
// chronicle: what is put into one or removed from it the other does not see, and
// nobody changes a value or a list that he got from it. So nobody needs a copy of
// his own, and ByID tells what differs between two copies.
type Chronicle[K ~string, V any] struct {
	id   func(*V) K
	born func(*V) time.Time

	ByID overspan.IDMap[K, *V]
	List []*V
}

func newChronicle[K ~string, V any](id func(*V) K, born func(*V) time.Time) Chronicle[K, V] {
	return Chronicle[K, V]{id: id, born: born}
}

// Get returns a copy of a value; ok is false if there is none of the id.
func (c *Chronicle[K, V]) Get(id K) (v V, ok bool) {
	if at := c.ByID.Get(id); at != nil {
		return *at, true
	}
	return v, false
}

// put adds a value, or changes the one of the same id.
func (c *Chronicle[K, V]) put(v *V) {
	c.remove(c.id(v))
	c.List = c.with(c.List, v)
	c.ByID.Put(c.id(v), v)
}

// remove takes a value out and returns it; nil if there is none of the id.
func (c *Chronicle[K, V]) remove(id K) *V {
	old := c.ByID.Get(id)
	if old != nil {
		c.List = c.without(c.List, old)
		c.ByID.Delete(id)
	}
	return old
}

// with returns a copy of a list with one more value, at eight bytes each.
func (c *Chronicle[K, V]) with(list []*V, v *V) []*V {
	i, _ := slices.BinarySearchFunc(list, v, c.compare)
	return slices.Insert(slices.Clip(list), i, v)
}

// without returns a copy of a list without a value that is in it.
func (c *Chronicle[K, V]) without(list []*V, v *V) []*V {
	i, _ := slices.BinarySearchFunc(list, v, c.compare)
	return slices.Delete(slices.Clone(list), i, i+1)
}

func (c *Chronicle[K, V]) compare(a, b *V) int {
	return cmp.Or(c.born(a).Compare(c.born(b)), cmp.Compare(c.id(a), c.id(b)))
}
