package scale_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/daemon"
	"github.com/overspan/overspan/e2e/scale"
)

// nodesVar lists how many nodes the benchmarks of whole clusters have: more
// than the default take minutes, and gigabytes of memory.
const nodesVar = "OVERSPAN_SCALE_NODES"

func clusterSizes(b *testing.B) []int {
	b.Helper()
	text := os.Getenv(nodesVar)
	if text == "" {
		return []int{50}
	}
	var sizes []int
	for word := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(word)
		if err != nil {
			b.Fatalf("%s: %v", nodesVar, err)
		}
		sizes = append(sizes, n)
	}
	return sizes
}

// times are how long something took, over and over.
type times []time.Duration

func (ts times) quantile(share float64) time.Duration {
	sorted := slices.Sorted(slices.Values(ts))
	return sorted[int(share*float64(len(sorted)-1))]
}

// report adds the median and the 99th percentile to a benchmark's line.
func (ts times) report(b *testing.B, name string) {
	b.ReportMetric(float64(ts.quantile(0.5).Microseconds()), name+"-p50-µs")
	b.ReportMetric(float64(ts.quantile(0.99).Microseconds()), name+"-p99-µs")
}

func (b *bed) counters() scale.Counters {
	b.Helper()
	c, err := b.server.Counters(b.ctx)
	b.must(err)
	return c
}

// BenchmarkColdStart starts all nodes at the same moment, on an empty etcd and
// then once more, when each has its journal and etcd knows all of them.
func BenchmarkColdStart(b *testing.B) {
	for _, nodes := range clusterSizes(b) {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			for b.Loop() {
				m := prepare(b, nodes)
				first := m.start(b)
				first.report(b, "first")
				m.must(m.Close())
				m.must(m.AllAway(m.ctx))
				again := m.start(b)
				again.report(b, "again")
			}
		})
	}
}

// A startCost is what a start of all nodes took.
type startCost struct {
	took     time.Duration
	requests float64
	peak     float64 // requests per second
	cpu      float64 // seconds of etcd's processor
}

func (s startCost) report(b *testing.B, name string) {
	b.ReportMetric(s.took.Seconds(), name+"-s")
	b.ReportMetric(s.requests, name+"-requests")
	b.ReportMetric(s.peak, name+"-peak-req/s")
	b.ReportMetric(s.cpu, name+"-etcd-cpu-s")
}

// start starts all nodes and watches etcd's counters meanwhile.
func (b *bed) start(tb testing.TB) startCost {
	tb.Helper()
	const sample = time.Second
	begin, before := time.Now(), b.counters()
	done := make(chan error, 1)
	go func() { done <- b.Start(b.ctx) }()
	var cost startCost
	last, lastAt := before, begin
	tick := time.NewTicker(sample)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			b.must(err)
			all := b.counters().Since(before)
			cost.took, cost.requests, cost.cpu = time.Since(begin), all.Requests(""), all.CPU()
			return cost
		case <-tick.C:
			if time.Since(lastAt) < sample {
				continue // a tick that waited
			}
			now := b.counters()
			at := time.Now()
			cost.peak = max(cost.peak, now.Since(last).Requests("")/at.Sub(lastAt).Seconds())
			last, lastAt = now, at
		}
	}
}

// Half of shared is for addresses that agents choose, so small that a thousand
// nodes in it do not fill the memory of one machine; the other half is for ghosts.
const (
	sharedSubnet = "10.128.0.0/19"
	sharedRange  = "10.128.0.0/20"
	ghostsFrom   = overspan.Slot(1 << 12)
)

// BenchmarkConverge measures how long it takes from the commit of a claim until
// the members of the network send to its holder: each of them, and the last.
func BenchmarkConverge(b *testing.B) {
	for _, nodes := range clusterSizes(b) {
		b.Run(fmt.Sprintf("members=%d", nodes), func(b *testing.B) {
			m := prepare(b, nodes)
			m.must(m.Start(m.ctx))
			n := m.createIn("shared", sharedSubnet, sharedRange)
			m.join("shared")
			ghost := m.ghost(n)
			var each, last times
			for i := 0; b.Loop(); i++ {
				r := overspan.Range{First: ghostsFrom + overspan.Slot(i%3800), Size: 1}
				took, err := m.Spot(m.ctx, n, r.First, nodes, func() (time.Time, error) { return scale.Claim(m.ctx, m.kv, scale.Name, n, r, ghost) })
				m.must(err)
				each = append(each, took...)
				last = append(last, slices.Max(took))
			}
			each.report(b, "member")
			last.report(b, "last")
		})
	}
}

// ghost makes one ghost, at the end of the network.
func (b *bed) ghost(n *overspan.Network) overspan.NodeID {
	b.Helper()
	last := n.Slots() - overspan.MaxBlockSize
	b.haunt(scale.Ghosts{Network: n, Blocks: overspan.Range{First: last, Size: overspan.MaxBlockSize}})
	holder, _ := b.Nodes[0].Snapshot().Segments[n.ID].Holder(last)
	return holder.Node
}

// haunt adds ghosts and waits until every member of their network knows them.
func (b *bed) haunt(g scale.Ghosts) {
	b.Helper()
	b.must(scale.Haunt(b.ctx, b.kv, scale.Name, g))
	last := g.Blocks.Last()
	for _, n := range b.Nodes {
		b.must(n.Until(b.ctx, "the ghosts are seen", func() bool {
			seg := n.Snapshot().Segments[g.Network.ID]
			if seg == nil {
				return true
			}
			_, held := seg.Holder(last)
			return held
		}))
		b.must(n.Clean(b.ctx))
	}
}

// join has every node attach one endpoint.
func (b *bed) join(network string) {
	b.Helper()
	var g errgroup.Group
	for _, n := range b.Nodes {
		g.Go(func() error {
			_, err := b.attach(n, network)
			return err
		})
	}
	b.must(g.Wait())
	for _, n := range b.Nodes {
		b.must(n.Clean(b.ctx))
	}
}

// BenchmarkAttachRate measures endpoints per second in a network of which all
// nodes are members, and what one costs etcd: one node alone, one caller after
// the other and many at once; then all nodes together.
func BenchmarkAttachRate(b *testing.B) {
	for _, nodes := range clusterSizes(b) {
		for name, callers := range map[string]int{"callers=1": 1, "callers=32": 32} {
			b.Run(fmt.Sprintf("nodes=%d/from=1/%s", nodes, name), func(b *testing.B) { attachRate(b, nodes, 1, callers) })
		}
		b.Run(fmt.Sprintf("nodes=%d/from=all/callers=1", nodes), func(b *testing.B) { attachRate(b, nodes, nodes, 1) })
	}
}

// attachRate attaches 2,000 endpoints in an iteration.
func attachRate(b *testing.B, nodes, from, callers int) {
	const endpoints = 2000
	m := prepare(b, nodes)
	m.must(m.Start(m.ctx))
	m.createIn("shared", "10.128.0.0/9", sharedRange)
	m.join("shared")
	var took time.Duration
	var used scale.Counters
	total := 0
	for b.Loop() {
		before, begin := m.counters(), time.Now()
		var g errgroup.Group
		for i, n := range m.Nodes[:from] {
			for j := range callers {
				g.Go(func() error {
					for k := range max(1, endpoints/from/callers) {
						if _, err := m.attachNamed(n, "shared", fmt.Sprintf("r%d-%d-%d-%d", total, i, j, k)); err != nil {
							return err
						}
					}
					return nil
				})
			}
		}
		m.must(g.Wait())
		took += time.Since(begin)
		used = m.counters().Since(before)
		total += max(1, endpoints/from/callers) * from * callers
	}
	per := float64(total) / float64(b.N)
	b.ReportMetric(float64(total)/took.Seconds(), "attaches/s")
	b.ReportMetric(used.Writes()/per, "etcd-writes/attach")
	b.ReportMetric(used.Requests("Txn")/per, "etcd-txns/attach")
	b.ReportMetric(used.Events()/per, "etcd-events/attach")
	b.ReportMetric(used.Responses()/per, "etcd-responses/attach")
	b.ReportMetric(used.CPU()*1e6/per, "etcd-cpu-µs/attach")
}

// BenchmarkAttachBeside measures one attach on a node that knows much else:
// ghosts' blocks and endpoints in the same network, or other networks. The
// neighbour nodes are ghosts, so that nothing but this node's own work grows.
func BenchmarkAttachBeside(b *testing.B) {
	for _, slots := range []int{0, 10_000, 50_000} {
		b.Run(fmt.Sprintf("entries=%d/networks=1", slots), func(b *testing.B) { attachBeside(b, slots, 1) })
	}
	for _, networks := range []int{10, 100} {
		b.Run(fmt.Sprintf("entries=0/networks=%d", networks), func(b *testing.B) { attachBeside(b, 0, networks) })
	}
}

func attachBeside(b *testing.B, slots, networks int) {
	m := prepare(b, 1)
	m.must(m.Start(m.ctx))
	n := m.createIn("demo", "10.128.0.0/12", "10.128.0.0/16")
	for i := range networks - 1 {
		name := fmt.Sprintf("other%d", i)
		m.createIn(name, fmt.Sprintf("10.200.%d.0/24", i), "")
		m.join(name)
	}
	m.join("demo")
	if blocks := slots / overspan.MaxBlockSize; blocks > 0 {
		m.haunt(scale.Ghosts{Network: n, Each: 50, Blocks: overspan.Range{First: 1 << 16, Size: uint64(blocks * overspan.MaxBlockSize)}})
	}
	var took times
	for i := 0; b.Loop(); i++ {
		begin := time.Now()
		_, err := m.attachNamed(m.Nodes[0], "demo", fmt.Sprintf("box%d", i))
		took = append(took, time.Since(begin))
		m.must(err)
	}
	took.report(b, "attach")
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
