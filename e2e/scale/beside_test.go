package scale_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/daemon"
	"github.com/overspan/overspan/e2e/scale"
)

// BenchmarkAttachBeside measures one attach on a node that knows much else:
// ghosts' blocks and endpoints in the same network, or other networks; turn and
// turn about with one on a node that knows nothing else; and what a look at all of
// that costs. The others are ghosts, so that nothing but the node's own work can grow.
func BenchmarkAttachBeside(b *testing.B) {
	for _, slots := range whole([]int{10_000, 50_000}, []int{1000}) {
		b.Run(fmt.Sprintf("entries=%d", slots), func(b *testing.B) { attachBeside(b, slots, 1) })
	}
	for _, networks := range whole([]int{10, 100, 400, 1000}, []int{3}) {
		b.Run(fmt.Sprintf("networks=%d", networks), func(b *testing.B) { attachBeside(b, 0, networks) })
	}
}

func attachBeside(b *testing.B, slots, networks int) {
	attaches := whole(300, 10)
	for b.Loop() {
		alone, beside := lone(b, 0, 1), lone(b, slots, networks)
		var floor, took times
		for i := range attaches {
			floor = append(floor, alone.timeAttach(i))
			took = append(took, beside.timeAttach(i))
		}
		floor.report(b, "alone")
		took.report(b, "attach")
		b.ReportMetric(float64(took.quantile(0.5))/float64(floor.quantile(0.5)), "attach-p50-µs:alone-p50-µs≤1.5")
		metric(b, float64(beside.timePass().quantile(0.5).Microseconds()), "full-pass-µs")
	}
}

// timePass measures what a resync does where nothing differs: everything is read,
// planned and compared.
func (b *bed) timePass() times {
	b.Helper()
	var out times
	for range whole(20, 2) {
		begin := time.Now()
		_, drift, err := b.Nodes[0].Verify(b.ctx)
		out = append(out, time.Since(begin))
		b.must(err)
		if len(drift) > 0 {
			b.Fatalf("the kernel is not in line: %v", drift)
		}
	}
	return out
}

// lone starts one node, with a network "demo" in which it has an endpoint.
func lone(b *testing.B, slots, networks int) *bed {
	b.Helper()
	m := prepare(b, 1)
	m.must(m.Start(m.ctx))
	n := m.createIn("demo", "10.128.0.0/12", "10.128.0.0/16")
	for i := range networks - 1 {
		name := fmt.Sprintf("other%d", i)
		m.createIn(name, fmt.Sprintf("10.%d.%d.0/24", 200+i/256, i%256), "")
		_, err := m.attach(m.Nodes[0], name)
		m.must(err)
	}
	m.join("demo")
	if blocks := slots / overspan.MaxBlockSize; blocks > 0 {
		m.haunt(scale.Ghosts{Network: n, Each: 50, Blocks: overspan.Range{First: 1 << 16, Size: uint64(blocks * overspan.MaxBlockSize)}})
	}
	return m
}

func (b *bed) timeAttach(i int) time.Duration {
	b.Helper()
	begin := time.Now()
	_, err := b.attachNamed(b.Nodes[0], "demo", fmt.Sprintf("box%d", i))
	took := time.Since(begin)
	b.must(err)
	return took
}

// attachNamed is attach for several callers at once. What a try that failed has
// left is undone in its own time, hence a name for each.
func (b *bed) attachNamed(n *scale.Node, network, name string) (overspan.Endpoint, error) {
	for try := 0; ; try++ {
		e, err := n.AttachNamed(b.ctx, network, fmt.Sprintf("%s-%d", name, try), daemon.WaitLocal)
		if !errors.Is(err, overspan.ErrUnavailable) || b.ctx.Err() != nil {
			return e, err
		}
	}
}
