package scale_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/daemon"
	"github.com/overspan/overspan/e2e/scale"
	"github.com/overspan/overspan/ipam"
	"github.com/overspan/overspan/kernel"
	"github.com/overspan/overspan/store"
)

// bound is how long anything here may take, and boundEach what every node adds;
// liveness only.
const (
	bound     = 5 * time.Minute
	boundEach = 2 * time.Second
)

// patience is the TTL of presences. It is longer than the default, and the longer
// the more nodes there are: agents that start at once share the processors of one
// machine, where in a cluster each has its own. A presence that is lost meanwhile is
// news for all of them.
func patience(nodes int) time.Duration {
	return max(time.Minute, time.Duration(nodes)*300*time.Millisecond)
}

// tempDir is in memory where the system has such a place.
func tempDir(tb testing.TB) string {
	tb.Helper()
	const inMemory = "/dev/shm"
	if _, err := os.Stat(inMemory); err != nil {
		return tb.TempDir()
	}
	dir, err := os.MkdirTemp(inMemory, "overspan-scale-")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// bed is a cluster and its etcd in a test or benchmark.
type bed struct {
	*scale.Cluster
	testing.TB
	ctx    context.Context
	server *scale.Server
	kv     *store.Etcd
}

// prepare starts an etcd and makes a cluster whose agents do not run yet.
func prepare(tb testing.TB, nodes int) *bed {
	tb.Helper()
	dir := tempDir(tb)
	server, err := scale.StartServer(dir + "/etcd")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := server.Close(); err != nil {
			tb.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(tb.Context(), bound+time.Duration(nodes)*boundEach)
	tb.Cleanup(cancel)
	c, err := scale.New(scale.Options{Nodes: nodes, Server: server, Dir: dir, TTL: patience(nodes)})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := c.Close(); err != nil {
			tb.Error(err)
		}
	})
	kv, err := server.Dial()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { kv.Close() })
	return &bed{Cluster: c, TB: tb, ctx: ctx, server: server, kv: kv}
}

func (b *bed) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// createIn makes a network with a subnet of its own. Addresses are chosen from
// a range of it, unless that is "".
func (b *bed) createIn(name, subnet, within string) *overspan.Network {
	b.Helper()
	spec := ipam.Spec{Name: name, Driver: "overlay", Subnets: []string{subnet}}
	if within != "" {
		spec.Ranges = []string{within}
	}
	n, err := b.Nodes[0].CreateNetwork(b.ctx, daemon.CreateRequest{Spec: spec})
	b.must(err)
	return n
}

// attach tries until a busy machine has done it in the time that an attach has.
func (b *bed) attach(n *scale.Node, network string) (overspan.Endpoint, error) {
	for {
		e, err := n.Attach(b.ctx, network, daemon.WaitLocal)
		if !errors.Is(err, overspan.ErrUnavailable) || b.ctx.Err() != nil {
			return e, err
		}
	}
}

// TestManyNodesAgree starts two dozen agents at the same moment and has all of them
// attach 20 endpoints each. Then no address is lent twice, and every kernel
// sends the frames for each endpoint to the node that has it.
func TestManyNodesAgree(t *testing.T) {
	const nodes, each = 24, 20
	b := prepare(t, nodes)
	b.must(b.Start(b.ctx))
	net := b.createIn("demo", "10.20.0.0/20", "")

	var mu sync.Mutex // guards home
	home := map[netip.Addr]int{}
	var g errgroup.Group
	took := func(i int, e overspan.Endpoint) error {
		mu.Lock()
		defer mu.Unlock()
		if other, twice := home[e.IPv4]; twice {
			return fmt.Errorf("%s is lent to nodes %d and %d", e.IPv4, other, i)
		}
		home[e.IPv4] = i
		return nil
	}
	for i, n := range b.Nodes {
		g.Go(func() error {
			for range each {
				e, err := b.attach(n, "demo")
				if err != nil {
					return err
				}
				if err := took(i, e); err != nil {
					return err
				}
			}
			return nil
		})
	}
	b.must(g.Wait())

	dev := overspan.VXLANName(net.ID)
	for i, n := range b.Nodes {
		b.must(n.Clean(b.ctx))
		state := n.Kernel.State()
		if got := len(maps.Collect(n.Snapshot().Segments.Get(net.ID).Endpoints.All())); got != nodes*each {
			t.Errorf("node %d knows %d endpoints, want %d", i, got, nodes*each)
		}
		for addr, at := range home {
			slot, _ := net.IPv4.Slot(addr)
			to, remote := state.FDB[kernel.FDBKey{Dev: dev, MAC: net.MAC(slot)}]
			if remote != (at != i) || remote && to.VTEP != scale.VTEP(at) {
				t.Fatalf("node %d sends frames for %s to %v; it is on node %d", i, addr, to, at)
			}
		}
	}
}
