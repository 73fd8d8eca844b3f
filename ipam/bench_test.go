package ipam

import (
	"fmt"
	"testing"
	"time"

	"github.com/overspan/overspan"
)

// crowd is a network in which others hold blocks of 64 and use half of each,
// and h1 holds some of which it uses all.
func crowd(b *testing.B, subnet string, others, own int) View {
	b.Helper()
	v := scene{spec: Spec{Subnets: []string{subnet}}}.view(b)
	for i := range others + own {
		block := overspan.Block{Range: overspan.Range{First: overspan.Slot(i) * 64, Size: 64}, Node: "h1"}
		used := 64
		if i >= own {
			block.Node, used = overspan.NodeID(fmt.Sprintf("other-%d", i%500)), 32
		}
		v.Segment.Blocks.Put(block.First, block)
		for j := range used {
			v.Segment.Endpoints.Put(block.First+overspan.Slot(j), &overspan.Endpoint{Node: block.Node})
		}
	}
	return v
}

// BenchmarkDecide measures one decision: a take out of the node's last block, a
// claim beside all others, and an ask where everything is claimed.
func BenchmarkDecide(b *testing.B) {
	for _, size := range []struct {
		subnet      string
		full        string // a range that the blocks fill
		others, own int
	}{
		{"10.0.0.0/16", "10.0.0.0/23", 10, 1},
		{"10.0.0.0/16", "10.0.0.0/17", 1000, 16},
		{"10.0.0.0/8", "10.0.0.0/13", 10_000, 16},
	} {
		run := func(kind string, v View) {
			b.Run(fmt.Sprintf("%s/blocks=%d/own=%d", kind, size.others+size.own, size.own), func(b *testing.B) {
				v := newLedger().complete(v, time.Now())
				for b.Loop() {
					if _, err := Decide(v, Request{}); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		v := crowd(b, size.subnet, size.others, size.own)
		run("claim", v)
		v.Network.IPv4.Range = prefix(size.full)
		run("ask", v)
		v.Segment.Endpoints.Delete(overspan.Slot(size.own*64 - 1))
		run("take", v)
	}
}
