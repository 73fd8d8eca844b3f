package overspan_test

import (
	"maps"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/overspan/overspan"
)

// slots are drawn near each other, far apart and at the ends, so that maps of
// every height come up.
func slotGen() *rapid.Generator[overspan.Slot] {
	return rapid.OneOf(
		rapid.Map(rapid.Uint64Range(0, 200), func(n uint64) overspan.Slot { return overspan.Slot(n) }),
		rapid.Map(rapid.Uint64(), func(n uint64) overspan.Slot { return overspan.Slot(n) }),
		rapid.Map(rapid.IntRange(0, 63), func(n int) overspan.Slot { return 1 << n }),
		rapid.Map(rapid.IntRange(1, 64), func(n int) overspan.Slot { return 1<<n - 1 }),
	)
}

// TestSlotMapIsAMap holds a SlotMap against a map over random histories, and
// every copy that was taken on the way against what it was then.
func TestSlotMapIsAMap(t *testing.T) {
	type copied struct {
		got  overspan.SlotMap[int]
		want map[overspan.Slot]int
	}
	rapid.Check(t, func(t *rapid.T) {
		var m overspan.SlotMap[int]
		model := map[overspan.Slot]int{}
		var copies []copied
		slot := slotGen()
		for range rapid.IntRange(0, 150).Draw(t, "steps") {
			s := slot.Draw(t, "slot")
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0:
				m.Delete(s)
				delete(model, s)
			case 1:
				copies = append(copies, copied{m, maps.Clone(model)})
			default:
				v := rapid.IntRange(0, 3).Draw(t, "value")
				m.Put(s, v)
				model[s] = v
			}
			if v, ok := m.Lookup(s); ok != has(model, s) || v != model[s] || m.Get(s) != model[s] {
				t.Fatalf("slot %d is %d, %t; want %d, %t", s, v, ok, model[s], has(model, s))
			}
		}
		for _, c := range append(copies, copied{m, model}) {
			checkSlotMap(t, c.got, c.want)
			checkChanges(t, m, c.got, model, c.want)
			checkChanges(t, c.got, m, c.want, model)
		}
	})
}

func has(m map[overspan.Slot]int, s overspan.Slot) bool {
	_, ok := m[s]
	return ok
}

func checkSlotMap(t *rapid.T, got overspan.SlotMap[int], want map[overspan.Slot]int) {
	t.Helper()
	var order []overspan.Slot
	all := map[overspan.Slot]int{}
	for s, v := range got.All() {
		order = append(order, s)
		all[s] = v
	}
	if !maps.Equal(all, want) || !slices.IsSorted(order) || got.Len() != len(want) {
		t.Fatalf("%d values: %v in the order %v, want %v", got.Len(), all, order, want)
	}
	r := overspan.Range{First: slotGen().Draw(t, "first"), Size: rapid.Uint64Range(0, 200).Draw(t, "size")}
	if r.First > 0 {
		r.Size = min(r.Size, uint64(-r.First)) // none behind the last slot
	}
	within := 0
	for s := range want {
		if r.Contains(s) {
			within++
		}
	}
	if n := got.Count(r); n != within {
		t.Fatalf("%d values from %d on in %d slots, want %d", n, r.First, r.Size, within)
	}
	if n := len(slices.Collect(got.Values())); n != len(want) {
		t.Fatalf("%d values, want %d", n, len(want))
	}
	// Whatever its history, a map has one shape.
	if fresh := overspan.SlotMapOf(want); !reflect.DeepEqual(got, fresh) || !got.Equal(fresh) {
		t.Fatalf("%v is another than one made anew", all)
	}
}

func checkChanges(t *rapid.T, now, old overspan.SlotMap[int], nowModel, oldModel map[overspan.Slot]int) {
	t.Helper()
	var want []overspan.Slot
	for s, v := range nowModel {
		if was, ok := oldModel[s]; !ok || was != v {
			want = append(want, s)
		}
	}
	for s := range oldModel {
		if !has(nowModel, s) {
			want = append(want, s)
		}
	}
	slices.Sort(want)
	if got := slices.Collect(now.Changes(old)); !slices.Equal(got, want) {
		t.Fatalf("changes %v, want %v", got, want)
	}
	if now.Equal(old) != (len(want) == 0) {
		t.Fatalf("equal: %t, but %d changes", now.Equal(old), len(want))
	}
}

// TestSlotMapStopsWhenAsked: every loop over a map may end early.
func TestSlotMapStopsWhenAsked(t *testing.T) {
	var m overspan.SlotMap[int]
	for s := range overspan.Slot(200) {
		m.Put(s*7, 1)
	}
	seen := 0
	for range m.All() {
		seen++
		break
	}
	for range m.Values() {
		seen++
		break
	}
	for range m.Changes(overspan.SlotMap[int]{}) {
		seen++
		break
	}
	if seen != 3 {
		t.Errorf("%d rounds, want 3", seen)
	}
}

// BenchmarkSlotMap measures one change and what it takes to find it.
func BenchmarkSlotMap(b *testing.B) {
	for name, size := range map[string]overspan.Slot{"1k": 1000, "50k": 50_000} {
		var m overspan.SlotMap[*overspan.Endpoint]
		for s := range size {
			m.Put(s, &overspan.Endpoint{Slot: s})
		}
		b.Run("put/slots="+name, func(b *testing.B) {
			e := &overspan.Endpoint{}
			for i := 0; b.Loop(); i++ {
				m.Put(overspan.Slot(i)%size, e)
			}
		})
		b.Run("changes/slots="+name, func(b *testing.B) {
			old := m
			m.Put(size/2, &overspan.Endpoint{})
			for b.Loop() {
				for range m.Changes(old) {
				}
			}
		})
	}
}
