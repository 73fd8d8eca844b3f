package scale_test

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/e2e/scale"
)

// nodesVar lists how many nodes the benchmark of whole clusters has: more than
// the default take minutes, and gigabytes of memory.
const nodesVar = "OVERSPAN_SCALE_NODES"

func clusterSizes(b *testing.B) []int {
	b.Helper()
	text := os.Getenv(nodesVar)
	if text == "" {
		return whole([]int{50}, []int{8})
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

// whole is a benchmark's size: where it only has to run, with -short, less does.
func whole[T any](size, short T) T {
	if testing.Short() {
		return short
	}
	return size
}

// metric adds a figure to a benchmark's line. With -v it is shown at once too: a
// whole cluster's day is long, and what comes last may not come.
func metric(b *testing.B, value float64, unit string) {
	b.Logf("%.4g %s", value, unit)
	b.ReportMetric(value, unit)
}

// times are how long something took, over and over.
type times []time.Duration

func (ts times) quantile(share float64) time.Duration {
	sorted := slices.Sorted(slices.Values(ts))
	return sorted[int(share*float64(len(sorted)-1))]
}

// report adds the median and the 99th percentile to a benchmark's line.
func (ts times) report(b *testing.B, name string) {
	metric(b, float64(ts.quantile(0.5).Microseconds()), name+"-p50-µs")
	metric(b, float64(ts.quantile(0.99).Microseconds()), name+"-p99-µs")
}

// Half of the network that all share is for addresses that agents choose, so
// small that a thousand nodes in it do not fill the memory of one machine: each
// has a block of four from the start, as it would have one of 64 in a network for
// so many. The other half is for ghosts. In the larger one each attaches what it
// is told to.
const (
	sharedSubnet = "10.128.0.0/19"
	sharedRange  = "10.128.0.0/20"
	lentFrom     = overspan.Slot(overspan.MaxBlockSize)
	lentSize     = 4
	ghostsFrom   = overspan.Slot(1 << 12)
	largeSubnet  = "10.64.0.0/12"
)

// manyBlocks of the larger network are a ghost's, with 50 endpoints in each: 50,000.
func manyBlocks() overspan.Range {
	return overspan.Range{First: 1 << 19, Size: whole[uint64](1000, 20) * overspan.MaxBlockSize}
}

// atOnce is how many of so many agents attach at the same moment where all of them
// do: more would only wait for each other's turn on the processors, for longer than
// an attach may take.
func atOnce(nodes int) int { return min(32, max(1, 4000/nodes)) }

// BenchmarkCluster follows a cluster through a day: all nodes start at the same
// moment, on an empty etcd; then nothing happens; blocks are claimed; endpoints
// are attached, from one node and from all; and all nodes start once more, when
// each has its journal and etcd knows all of them.
func BenchmarkCluster(b *testing.B) {
	for _, nodes := range clusterSizes(b) {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			for b.Loop() {
				m := prepare(b, nodes)
				m.start().report(b, "first")
				m.idle(b)
				n := m.createIn("shared", sharedSubnet, sharedRange)
				m.must(scale.Lend(m.ctx, m.kv, scale.Name, n, m.Nodes, lentFrom, lentSize))
				m.join("shared")
				m.converge(b, n)
				large := m.createIn("large", largeSubnet, "")
				m.haunt(scale.Ghosts{Network: large, Each: 50, Blocks: manyBlocks(), One: true})
				m.attachRates(b)
				m.must(m.Close())
				m.must(m.Expire(m.ctx))
				m.start().report(b, "again")
				m.must(m.Close())
			}
		})
	}
}

func (b *bed) counters() scale.Counters {
	b.Helper()
	c, err := b.server.Counters(b.ctx)
	b.must(err)
	return c
}

// A startCost is what a start of all nodes took.
type startCost struct {
	took     time.Duration
	requests float64
	peak     float64 // requests per second
	cpu      float64 // seconds of etcd's processor
}

func (s startCost) report(b *testing.B, name string) {
	metric(b, s.took.Seconds(), name+"-start-s")
	metric(b, s.requests, name+"-start-requests")
	metric(b, s.peak, name+"-start-peak-req/s")
	metric(b, s.cpu, name+"-start-etcd-cpu-s")
}

// start starts all nodes and watches etcd's counters meanwhile.
func (b *bed) start() startCost {
	b.Helper()
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
			now, at := b.counters(), time.Now()
			cost.peak = max(cost.peak, now.Since(last).Requests("")/at.Sub(lastAt).Seconds())
			last, lastAt = now, at
		}
	}
}

// idle measures what agents that have nothing to do ask of etcd.
func (b *bed) idle(report *testing.B) {
	b.Helper()
	span := whole(10*time.Second, time.Second)
	before, begin := b.counters(), time.Now()
	select {
	case <-time.After(span):
	case <-b.ctx.Done():
	}
	used, took := b.counters().Since(before), time.Since(begin).Seconds()
	metric(report, used.Requests("")/took, "idle-req/s")
	metric(report, 100*used.CPU()/took, "idle-etcd-cpu-%")
}

// converge measures how long it takes from the sending of a claim until the
// members of the network send to its holder: each of them, and the last.
func (b *bed) converge(report *testing.B, n *overspan.Network) {
	b.Helper()
	const claims = 40
	ghost := b.ghost(n)
	var each, last times
	for i := range claims {
		r := overspan.Range{First: ghostsFrom + overspan.Slot(i), Size: 1}
		took, err := b.Spot(b.ctx, n, r.First, len(b.Nodes), func() (time.Time, error) {
			return scale.Claim(b.ctx, b.kv, scale.Name, n, r, ghost)
		})
		b.must(err)
		each = append(each, took...)
		last = append(last, slices.Max(took))
	}
	each.report(report, "claim-at-each")
	last.report(report, "claim-at-last")
}

// ghost makes one ghost, at the end of the network.
func (b *bed) ghost(n *overspan.Network) overspan.NodeID {
	b.Helper()
	last := n.Slots() - overspan.MaxBlockSize
	b.haunt(scale.Ghosts{Network: n, Blocks: overspan.Range{First: last, Size: overspan.MaxBlockSize}})
	holder, _ := b.Nodes[0].Snapshot().Segments.Get(n.ID).Holder(last)
	return holder.Node
}

// haunt adds ghosts and waits until every member of their network knows them.
func (b *bed) haunt(g scale.Ghosts) {
	b.Helper()
	b.must(scale.Haunt(b.ctx, b.kv, scale.Name, g))
	last := g.Blocks.Last()
	for _, n := range b.Nodes {
		b.must(n.Until(b.ctx, "the ghosts are seen", func() bool {
			seg := n.Snapshot().Segments.Get(g.Network.ID)
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
	g.SetLimit(atOnce(len(b.Nodes)))
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

// attachRates measures endpoints per second, and what one costs etcd. One node
// attaches them in a network that is its own, so that it shows what a node can;
// all nodes in one that they share, so that each is told of all.
func (b *bed) attachRates(report *testing.B) {
	b.Helper()
	together := whole(1000, 100)
	callers := func(node, count, each int) (out []attacher) {
		for range count {
			out = append(out, attacher{node: node, count: each})
		}
		return out
	}
	b.attachAll("large", 1, callers(0, 1, whole(200, 20))).report(report, "one-by-one")
	b.attachAll("large", 32, callers(0, 32, whole(30, 3))).report(report, "one-node")
	var all []attacher
	for i := range b.Nodes {
		all = append(all, callers(i, 1, max(1, together/len(b.Nodes)))...)
	}
	cost := b.attachAll("shared", atOnce(len(b.Nodes)), all)
	cost.report(report, "all-nodes")
	cost.reportEtcd(report)
}

// An attacher attaches so many endpoints on a node, one after the other.
type attacher struct{ node, count int }

// An attachCost is what attaches took.
type attachCost struct {
	count int
	took  time.Duration
	etcd  scale.Counters
}

func (c attachCost) report(b *testing.B, name string) {
	metric(b, float64(c.count)/c.took.Seconds(), name+"-attaches/s")
}

// reportEtcd tells what one attach costs etcd.
func (c attachCost) reportEtcd(b *testing.B) {
	n := float64(c.count)
	metric(b, c.etcd.Requests("Txn")/n, "etcd-txns/attach")
	metric(b, c.etcd.Writes()/n, "etcd-writes/attach")
	metric(b, c.etcd.Events()/n, "etcd-events/attach")
	metric(b, c.etcd.Responses()/n, "etcd-responses/attach")
	metric(b, c.etcd.CPU()*1e6/n, "etcd-cpu-µs/attach")
}

// attachAll lets so many of the attachers work at the same time.
func (b *bed) attachAll(network string, atOnce int, who []attacher) attachCost {
	b.Helper()
	cost := attachCost{}
	before, begin := b.counters(), time.Now()
	var g errgroup.Group
	g.SetLimit(atOnce)
	for i, a := range who {
		cost.count += a.count
		g.Go(func() error {
			for j := range a.count {
				name := fmt.Sprintf("%s-%d-%d-%d", network, len(who), i, j)
				if _, err := b.attachNamed(b.Nodes[a.node], network, name); err != nil {
					return err
				}
			}
			return nil
		})
	}
	b.must(g.Wait())
	cost.took = time.Since(begin)
	cost.etcd = b.counters().Since(before)
	return cost
}
