package history

import (
	"testing"

	"github.com/overspan/overspan"
)

// No slot comes behind the last one of an IPv6 subnet: whoever counts on to it
// begins anew.
func TestBlockAtTheLastSlotOverlaps(t *testing.T) {
	last := overspan.Range{First: 1<<64 - 1, Size: 1}
	whole := overspan.BlockAt(last.First, overspan.MaxBlockSize)
	for _, r := range []overspan.Range{last, whole} {
		seg := &overspan.Segment{}
		seg.Blocks.Put(r.First, overspan.Block{Range: r})
		for _, q := range []overspan.Range{last, whole} {
			if got := overlapping(seg, q); len(got) != 1 || got[0].Range != r {
				t.Errorf("with %s overlap %v; want %s alone", q, got, r)
			}
		}
	}
}
