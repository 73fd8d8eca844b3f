package scale_test

import (
	"context"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/e2e/lab"
	"github.com/overspan/overspan/e2e/scale"
	"github.com/overspan/overspan/store"
)

// BenchmarkAgentMemory runs one real agent over a real kernel in a network of
// a thousand nodes and 50,000 endpoints, all of which it knows and has
// programmed, and watches its memory over some full passes.
func BenchmarkAgentMemory(b *testing.B) {
	const each = 50
	nodes := whole(1000, 20)
	b.Run(fmt.Sprintf("nodes=%d/endpoints=%d", nodes, nodes*each), func(b *testing.B) {
		for b.Loop() {
			m := follower(b, overspan.Range{First: 1 << 16, Size: uint64(nodes * overspan.MaxBlockSize)}, each)
			m.report(b)
		}
	})
}

// resyncEvery is how often the measured agent looks at everything: a third of
// the default.
func resyncEvery() time.Duration { return whole(10*time.Second, time.Second) }

// A usage is the memory of an agent, in MiB: what it has most of the time, and
// at most; and the least that its heap was.
type usage struct{ resident, peak, heap float64 }

func (u usage) report(b *testing.B) {
	b.ReportMetric(u.resident, "resident-MiB≤100")
	b.ReportMetric(u.peak, "resident-peak-MiB")
	b.ReportMetric(u.heap, "heap-MiB")
}

// follower measures an agent that knows ghosts in some slots.
func follower(b *testing.B, slots overspan.Range, each int) usage {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), bound)
	defer cancel()
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	bin, err := lab.Build(ctx, b.TempDir())
	must(err)
	l, err := lab.New(ctx, lab.Options{Nodes: 1, Bin: bin, Flags: []string{"--log-level", "warn", "--resync", resyncEvery().String()}})
	must(err)
	b.Cleanup(func() {
		if err := l.Close(context.Background()); err != nil {
			b.Error(err)
		}
	})
	h1 := l.Nodes[0]
	must(h1.Start(ctx))
	const subnet = "10.128.0.0/9"
	id, err := h1.MustCtl(ctx, "network", "create", "-d", "overlay", "--subnet", subnet, "demo")
	must(err)
	box, err := h1.AddNetns(ctx, "box")
	must(err)
	_, err = h1.MustCtl(ctx, "network", "connect", "demo", box.Name)
	must(err)
	client, err := l.Etcd.Client()
	must(err)
	n := &overspan.Network{
		ID:   overspan.NetworkID(strings.TrimSpace(id)),
		IPv4: overspan.Subnet{Prefix: netip.MustParsePrefix(subnet), Gateway: netip.MustParseAddr("10.128.0.1")},
	}
	// The lab closes its client.
	must(scale.Haunt(ctx, store.NewEtcd(client, nil), lab.Cluster, scale.Ghosts{Network: n, Blocks: slots, Each: each}))
	must(programmed(ctx, h1, overspan.VXLANName(n.ID), int(slots.Size)))
	return watch(ctx, b, h1)
}

// programmed waits until a device has as many forwarding entries.
func programmed(ctx context.Context, n *lab.Node, dev string, want int) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		out, err := n.Exec(ctx, "bridge", "fdb", "show", "dev", dev)
		if err != nil || strings.Count(out, " dst ") >= want {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s has %d entries, want %d: %w", dev, strings.Count(out, " dst "), want, ctx.Err())
		}
	}
}

// watch reads an agent's memory over three full passes.
func watch(ctx context.Context, b *testing.B, n *lab.Node) usage {
	b.Helper()
	const mib = 1 << 20
	u := usage{heap: math.Inf(1)}
	var samples []float64
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(3 * resyncEvery()); time.Now().Before(end); <-tick.C {
		metrics, err := n.Metrics(ctx)
		if err != nil {
			b.Fatal(err)
		}
		samples = append(samples, metrics["process_resident_memory_bytes"]/mib)
		u.heap = min(u.heap, metrics["go_memstats_heap_alloc_bytes"]/mib)
	}
	slices.Sort(samples)
	u.resident, u.peak = samples[len(samples)/2], samples[len(samples)-1]
	return u
}
