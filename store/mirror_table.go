package store

import (
	"maps"
	"reflect"
)

// A table is a map that is shared with snapshots and cloned before the first
// change after that.
type table[K comparable, V any] struct {
	rows   map[K]V
	shared bool
}

func (t *table[K, V]) own() {
	if t.rows == nil || t.shared {
		rows := make(map[K]V, len(t.rows)+1)
		maps.Copy(rows, t.rows)
		t.rows, t.shared = rows, false
	}
}

func (t *table[K, V]) put(k K, v V) {
	t.own()
	t.rows[k] = v
}

func (t *table[K, V]) remove(k K) {
	if _, ok := t.rows[k]; ok {
		t.own()
		delete(t.rows, k)
	}
}

// share returns the map for a snapshot; never nil.
func (t *table[K, V]) share() map[K]V {
	if t.rows == nil {
		t.own()
	}
	t.shared = true
	return t.rows
}

func (t *table[K, V]) differences(o *table[K, V]) int {
	n := 0
	for k, v := range t.rows {
		if other, ok := o.rows[k]; !ok || !reflect.DeepEqual(v, other) {
			n++
		}
	}
	for k := range o.rows {
		if _, ok := t.rows[k]; !ok {
			n++
		}
	}
	return n
}

// keepRow copies a row unless there is one already.
func keepRow[K comparable, V any](to, from *table[K, V], k K) {
	v, ok := from.rows[k]
	if _, taken := to.rows[k]; ok && !taken {
		to.put(k, v)
	}
}
