package overspan

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// clashing returns ids of which several share each place in an IDMap.
func clashing() []string {
	bySlot := map[Slot][]string{}
	for i := range 4000 {
		id := fmt.Sprintf("%064x", i)
		bySlot[idSlot(id)] = append(bySlot[idSlot(id)], id)
	}
	out := []string{"", "short"}
	for _, ids := range bySlot {
		if len(ids) > 1 {
			out = append(out, ids...)
		}
	}
	return slices.Sorted(slices.Values(out))
}

// TestIDMapIsAMap holds an IDMap against a map over random histories, and every
// copy that was taken on the way against what it was then.
func TestIDMapIsAMap(t *testing.T) {
	ids := clashing()
	if len(ids) < 10 {
		t.Fatalf("no ids that share a place: %v", ids)
	}
	type copied struct {
		got  IDMap[string, int]
		want map[string]int
	}
	rapid.Check(t, func(t *rapid.T) {
		var m IDMap[string, int]
		model := map[string]int{}
		var copies []copied
		for range rapid.IntRange(0, 150).Draw(t, "steps") {
			id := rapid.SampledFrom(ids[:10]).Draw(t, "id")
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0:
				m.Delete(id)
				delete(model, id)
			case 1:
				copies = append(copies, copied{m, maps.Clone(model)})
			default:
				v := rapid.IntRange(0, 3).Draw(t, "value")
				m.Put(id, v)
				model[id] = v
			}
			want, there := model[id]
			if v, ok := m.Lookup(id); ok != there || v != want || m.Get(id) != want {
				t.Fatalf("%s is %d, %t; want %d, %t", id, v, ok, want, there)
			}
		}
		for _, c := range append(copies, copied{m, model}) {
			if got := maps.Collect(c.got.All()); !maps.Equal(got, c.want) || c.got.Len() != len(c.want) {
				t.Fatalf("%d values %v, want %v", c.got.Len(), got, c.want)
			}
			if fresh := IDMapOf(c.want); len(slices.Collect(fresh.Changes(c.got))) > 0 {
				t.Fatalf("%v is another than one made anew", c.want)
			}
			want := slices.Sorted(Changes(c.want, model))
			for _, changes := range [][]string{slices.Sorted(m.Changes(c.got)), slices.Sorted(c.got.Changes(m))} {
				if !slices.Equal(changes, want) {
					t.Fatalf("changes %v, want %v", changes, want)
				}
			}
		}
	})
}

// TestIDMapStopsWhenAsked: every loop over a map may end early.
func TestIDMapStopsWhenAsked(t *testing.T) {
	var m IDMap[string, int]
	for _, id := range clashing() {
		m.Put(id, 1)
	}
	seen := 0
	for range m.All() {
		seen++
		break
	}
	for range m.Keys() {
		seen++
		break
	}
	for range m.Changes(IDMap[string, int]{}) {
		seen++
		break
	}
	for range (IDMap[string, int]{}).Changes(m) {
		seen++
		break
	}
	if seen != 4 {
		t.Errorf("%d rounds, want 4", seen)
	}
}
