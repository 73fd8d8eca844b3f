package ipam

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/overspan/overspan"
)

func TestRestore(t *testing.T) {
	for _, tc := range []struct {
		name   string
		former []string
		used   []overspan.Slot
		now    map[string]string // "first+size" to node
		want   string
	}{
		{
			name: "nothing was held, nothing is used",
			now:  map[string]string{"8+8": "h2"},
		},
		{
			name:   "an empty etcd: each used slot alone, then the rest of its block",
			former: []string{"8+8"}, used: []overspan.Slot{9, 8},
			want: "claim 8+1 9+1, around 10+2 12+4",
		},
		{
			name:   "a block without a used slot is not restored",
			former: []string{"8+8", "16+8"}, used: []overspan.Slot{9},
			want: "claim 9+1, around 8+1 10+2 12+4",
		},
		{
			name: "after a removal only what is used comes back",
			used: []overspan.Slot{9, 70},
			want: "claim 9+1 70+1",
		},
		{
			name:   "a used slot inside an own block is held already",
			former: []string{"8+8"}, used: []overspan.Slot{9}, now: map[string]string{"8+8": "h1"},
		},
		{
			name:   "what others hold by now stays theirs",
			former: []string{"8+8"}, used: []overspan.Slot{8, 13}, now: map[string]string{"12+4": "h2"},
			want: "claim 8+1, around 9+1 10+2",
		},
		{
			name:   "a block whose used slot is another's is not restored around it",
			former: []string{"8+8"}, used: []overspan.Slot{13}, now: map[string]string{"13+1": "h2"},
		},
		{
			name: "a block of the past that was given up goes",
			now:  map[string]string{"8+8": "h1"},
			want: "give up 8+8",
		},
		{
			name:   "of a block of the past that was split the parts are kept",
			former: []string{"8+2", "12+4"}, used: []overspan.Slot{12}, now: map[string]string{"8+8": "h1"},
			want: "give up 8+8 but 8+2 12+4",
		},
		{
			name: "what is used is kept even if it lay in no known block",
			used: []overspan.Slot{10}, now: map[string]string{"8+4": "h1"},
			want: "give up 8+4 but 10+1",
		},
		{
			name:   "smaller own blocks within a former one are no surplus",
			former: []string{"8+8"}, used: []overspan.Slot{8}, now: map[string]string{"8+2": "h1", "12+4": "h1"},
			want: "around 10+2",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var former []overspan.Range
			for _, text := range tc.former {
				former = append(former, block(t, text, "h1").Range)
			}
			now := scene{spec: Spec{Subnets: []string{"10.0.0.0/24"}}, blocks: tc.now}.view(t).Segment
			if diff := cmp.Diff(tc.want, restorationText(Restore("h1", former, tc.used, now))); diff != "" {
				t.Errorf("restoration (-want +got):\n%s", diff)
			}
		})
	}
}

func restorationText(r Restoration) string {
	list := func(ranges []overspan.Range) string {
		var out strings.Builder
		for _, b := range ranges {
			fmt.Fprintf(&out, " %d+%d", b.First, b.Size)
		}
		return out.String()
	}
	var parts []string
	if len(r.Slots) > 0 {
		parts = append(parts, "claim"+list(r.Slots))
	}
	if len(r.Around) > 0 {
		parts = append(parts, "around"+list(r.Around))
	}
	for _, s := range r.Surplus {
		text := "give up" + list([]overspan.Range{s.Block.Range})
		if len(s.Keep) > 0 {
			text += " but" + list(s.Keep)
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, ", ")
}

// drawBlocks draws blocks that do not overlap, each with a holder.
func drawBlocks(t *rapid.T, label string, nodes ...overspan.NodeID) map[overspan.Slot]overspan.Block {
	out := map[overspan.Slot]overspan.Block{}
	for i := range rapid.IntRange(0, 8).Draw(t, "number of "+label) {
		r := overspan.BlockAt(
			overspan.Slot(rapid.IntRange(0, 127).Draw(t, fmt.Sprintf("slot in %s %d", label, i))),
			rapid.SampledFrom(overspan.BlockSizes()).Draw(t, fmt.Sprintf("size of %s %d", label, i)))
		free := true
		for _, b := range out {
			free = free && !b.Overlaps(r)
		}
		if free {
			out[r.First] = overspan.Block{Range: r, Node: rapid.SampledFrom(nodes).Draw(t, fmt.Sprintf("holder of %s %d", label, i))}
		}
	}
	return out
}

// TestRestoreHoldsAgainWhatIsItsOwn carries random restorations out and looks at
// what is held then.
func TestRestoreHoldsAgainWhatIsItsOwn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var former []overspan.Range
		for _, b := range drawBlocks(t, "former blocks", "h1") {
			former = append(former, b.Range)
		}
		var used []overspan.Slot
		for _, n := range rapid.SliceOfN(rapid.IntRange(0, 127), 0, 10).Draw(t, "used slots") {
			used = append(used, overspan.Slot(n))
		}
		now := &overspan.Segment{Blocks: overspan.SlotMapOf(drawBlocks(t, "standing blocks", "h1", "h2"))}
		r := Restore("h1", former, used, now)

		after := &overspan.Segment{}
		put := func(r overspan.Range, node overspan.NodeID) {
			if !r.IsBlock() {
				t.Fatalf("%s is no block", r)
			}
			for b := range after.Blocks.Values() {
				if b.Overlaps(r) {
					t.Fatalf("%s of %s overlaps %s of %s", r, node, b.Range, b.Node)
				}
			}
			after.Blocks.Put(r.First, overspan.Block{Range: r, Node: node})
		}
		surplus := map[overspan.Slot]Surplus{}
		for _, s := range r.Surplus {
			surplus[s.Block.First] = s
		}
		for first, b := range now.Blocks.All() {
			s, is := surplus[first]
			if !is {
				put(b.Range, b.Node)
				continue
			}
			if s.Block != b || b.Node != "h1" {
				t.Fatalf("given up is %+v, but there stands %+v", s.Block, b)
			}
			for _, part := range s.Keep {
				put(part, "h1")
			}
		}
		for _, b := range append(r.Slots, r.Around...) {
			put(b, "h1")
		}
		checkRestored(t, former, used, now, after)
	})
}

// checkRestored holds what is held after a restoration against what should be.
func checkRestored(t *rapid.T, former []overspan.Range, used []overspan.Slot, now, after *overspan.Segment) {
	restored := map[overspan.Slot]bool{} // all that h1 may hold
	for _, f := range former {
		for slot := range slotsOf(f) {
			restored[slot] = true
		}
	}
	for _, slot := range used {
		restored[slot] = true
		if b, _ := after.Holder(slot); b.Node != "h1" {
			if was, held := now.Holder(slot); !held || was.Node == "h1" {
				t.Fatalf("slot %d is used, but not held", slot)
			}
		}
		for _, f := range former {
			if b, _ := after.Holder(slot); b.Node != "h1" || !f.Contains(slot) {
				continue
			}
			for s := range slotsOf(f) {
				if _, held := after.Holder(s); !held {
					t.Fatalf("slot %d is free, though it lies in %s around slot %d", s, f, slot)
				}
			}
		}
	}
	for slot := range overspan.Slot(192) {
		b, held := after.Holder(slot)
		was, _ := now.Holder(slot)
		switch {
		case was.Node == "h2" && b.Node != "h2":
			t.Fatalf("slot %d is taken from h2", slot)
		case held && b.Node == "h1" && !restored[slot]:
			t.Fatalf("slot %d is neither used nor was it held", slot)
		}
	}
	if again := Restore("h1", former, used, after); len(again.Slots)+len(again.Around)+len(again.Surplus) > 0 {
		t.Fatalf("done once more: %s", restorationText(again))
	}
}
