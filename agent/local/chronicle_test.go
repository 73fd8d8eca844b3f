package local

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A note is something that was made at a time.
type note struct {
	id   string
	born time.Time
	text int
}

func byAge(a, b note) int {
	if c := a.born.Compare(b.born); c != 0 {
		return c
	}
	return slices.Compare([]byte(a.id), []byte(b.id))
}

// TestChronicle holds a chronicle against a map over random histories, and each
// list that it gave away against what that was then.
func TestChronicle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newChronicle(func(n *note) string { return n.id }, func(n *note) time.Time { return n.born })
		model := map[string]note{}
		var given [][]*note
		var copies [][]note
		for i := range rapid.IntRange(1, 40).Draw(t, "steps") {
			id := rapid.SampledFrom([]string{"a", "b", "c", "d", "e"}).Draw(t, "id")
			if rapid.IntRange(0, 2).Draw(t, "what") == 0 {
				was, there := model[id]
				if got := c.remove(id); (got != nil) != there || there && *got != was {
					t.Fatalf("removed %v of %s, want %v, %t", got, id, was, there)
				}
				delete(model, id)
			} else {
				v := note{id, time.Unix(int64(rapid.IntRange(0, 4).Draw(t, "born")), 0), i}
				c.put(&v)
				model[id] = v
			}
			var want []note
			for _, v := range model {
				want = append(want, v)
			}
			slices.SortFunc(want, byAge)
			if got := valuesOf(c.List); !slices.Equal(got, want) {
				t.Fatalf("got %v, want %v", got, want)
			}
			if got, there := c.Get(id); got != model[id] || there != slices.Contains(want, model[id]) {
				t.Fatalf("%s is %v, want %v", id, got, model[id])
			}
			given, copies = append(given, c.List), append(copies, want)
		}
		for i := range given {
			if got := valuesOf(given[i]); !slices.Equal(got, copies[i]) {
				t.Fatalf("list %d became %v, was %v", i, got, copies[i])
			}
		}
	})
}
