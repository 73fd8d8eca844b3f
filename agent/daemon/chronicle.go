package daemon

import (
	"cmp"
	"slices"
	"time"

	"github.com/overspan/overspan"
)

// A chronicle holds values by id and lists them oldest first. A copy is another
// chronicle: what is put into one or removed from it the other does not see, and
// nobody changes a value or a list that he got from it. So nobody needs a copy of
// his own, and byID tells what differs between two copies.
type chronicle[K ~string, V any] struct {
	id   func(*V) K
	born func(*V) time.Time

	byID overspan.IDMap[K, *V]
	list []*V
}

func newChronicle[K ~string, V any](id func(*V) K, born func(*V) time.Time) chronicle[K, V] {
	return chronicle[K, V]{id: id, born: born}
}

func (c *chronicle[K, V]) get(id K) (v V, ok bool) {
	if at := c.byID.Get(id); at != nil {
		return *at, true
	}
	return v, false
}

// put adds a value, or changes the one of the same id.
func (c *chronicle[K, V]) put(v *V) {
	c.remove(c.id(v))
	c.list = c.with(c.list, v)
	c.byID.Put(c.id(v), v)
}

// remove takes a value out and returns it; nil if there is none of the id.
func (c *chronicle[K, V]) remove(id K) *V {
	old := c.byID.Get(id)
	if old != nil {
		c.list = c.without(c.list, old)
		c.byID.Delete(id)
	}
	return old
}

// with returns a copy of a list with one more value, at eight bytes each.
func (c *chronicle[K, V]) with(list []*V, v *V) []*V {
	i, _ := slices.BinarySearchFunc(list, v, c.compare)
	return slices.Insert(slices.Clip(list), i, v)
}

// without returns a copy of a list without a value that is in it.
func (c *chronicle[K, V]) without(list []*V, v *V) []*V {
	i, _ := slices.BinarySearchFunc(list, v, c.compare)
	return slices.Delete(slices.Clone(list), i, i+1)
}

func (c *chronicle[K, V]) compare(a, b *V) int {
	return cmp.Or(c.born(a).Compare(c.born(b)), cmp.Compare(c.id(a), c.id(b)))
}
