package main

import "testing"

func TestHeapMayGrow(t *testing.T) {
	for _, test := range []struct {
		name string
		live uint64
		want int
	}{
		{"nothing collected yet", 0, 400},
		{"an idle agent", 4 << 20, 400},
		{"as much as the room", 16 << 20, 100},
		{"where half of it is the room", 32 << 20, 50},
		{"a large cluster", 64 << 20, 50},
	} {
		if got := percentFor(test.live); got != test.want {
			t.Errorf("%s: %d %%, want %d %%", test.name, got, test.want)
		}
	}
}
