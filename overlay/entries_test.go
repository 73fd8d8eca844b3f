package overlay_test

import (
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/kernel"
	"github.com/overspan/overspan/overlay"
)

// TestEntriesAreAPartOfThePlan: whatever slots are asked about, their entries
// are those of the plan that stand under their keys; and all slots' are all.
func TestEntriesAreAPartOfThePlan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n, nodes := drawNetwork(t), cluster()
		seg := drawSegment(t, n)
		plan, _ := overlay.Plan(n, self, seg, nodes, vxlanPort)
		plan.Links = nil

		all := slices.Collect(ones(slotsOf(n)))
		some := slices.DeleteFunc(slices.Clone(all), func(overspan.Range) bool { return rapid.Bool().Draw(t, "left out") })
		for _, slots := range [][]overspan.Range{all, some} {
			fdb, neighs := overlay.Keys(n, seg, slots)
			want := plan.Clone()
			maps.DeleteFunc(want.FDB, func(k kernel.FDBKey, _ kernel.Dest) bool { return !slices.Contains(fdb, k) })
			maps.DeleteFunc(want.Neighs, func(k kernel.NeighKey, _ kernel.LLAddr) bool { return !slices.Contains(neighs, k) })
			if got := overlay.Entries(n, self, seg, nodes, slots); !got.Equal(want) {
				t.Fatalf("entries of %v (-want +got):\n%s", slots, cmp.Diff(want.Lines(), got.Lines()))
			}
			if len(slots) == len(all) {
				if diff := cmp.Diff(plan, want, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
					t.Fatalf("no slot has the key of (-plan +keys):\n%s", diff)
				}
			}
		}
	})
}

// ones yields every slot as a range of its own.
func ones(slots func(func(overspan.Slot) bool)) func(func(overspan.Range) bool) {
	return func(yield func(overspan.Range) bool) {
		for s := range slots {
			if !yield(overspan.Range{First: s, Size: 1}) {
				return
			}
		}
	}
}

// BenchmarkEntries measures the plan of one block beside 50,000 other slots.
func BenchmarkEntries(b *testing.B) {
	seg := &overspan.Segment{}
	for first := overspan.Slot(0); first < 50_000; first += overspan.MaxBlockSize {
		seg.Blocks.Put(first, overspan.Block{Range: overspan.Range{First: first, Size: overspan.MaxBlockSize}, Node: "a"})
	}
	n := *demo
	n.IPv4.Prefix = netip.MustParsePrefix("10.0.0.0/16")
	nodes := cluster()
	for b.Loop() {
		overlay.Entries(&n, self, seg, nodes, []overspan.Range{{First: 640, Size: overspan.MaxBlockSize}})
	}
}
