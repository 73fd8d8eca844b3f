package kernel

import "testing"

// TestGenerations has changes heard of before, while and after tools of ours run.
func TestGenerations(t *testing.T) {
	told := map[uint32]bool{}
	hear := func(g *generations, numbers ...uint32) {
		for _, n := range numbers {
			g.heard(n, func() { told[n] = true })
		}
	}
	for name, tt := range map[string]struct {
		story func(*generations)
		told  []uint32
	}{
		"of others": {func(g *generations) { hear(g, 1, 2) }, []uint32{1, 2}},
		"ours, heard when the tool has ended": {func(g *generations) {
			g.begin()
			g.end(4, 5)
			hear(g, 5, 6)
		}, []uint32{6}},
		"ours, heard while it runs": {func(g *generations) {
			g.begin()
			hear(g, 5)
			g.end(4, 5)
		}, nil},
		"others' while a tool runs": {func(g *generations) {
			g.begin()
			hear(g, 5, 6)
			g.end(4, 6)
		}, []uint32{5, 6}},
		"others' before a tool of two that changes something": {func(g *generations) {
			g.begin()
			g.begin()
			hear(g, 5)
			g.end(5, 6)
			hear(g, 6)
			g.end(6, 6)
		}, []uint32{5}},
		"a tool that changes nothing": {func(g *generations) {
			g.begin()
			g.end(6, 6)
			hear(g, 6, 7)
		}, []uint32{6, 7}},
	} {
		t.Run(name, func(t *testing.T) {
			clear(told)
			tt.story(&generations{})
			for n := range uint32(8) {
				want := false
				for _, w := range tt.told {
					want = want || w == n
				}
				if told[n] != want {
					t.Errorf("generation %d told of: %v", n, told[n])
				}
			}
		})
	}
}
