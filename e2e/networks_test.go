package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overspan/overspan/e2e/lab"
)

// Scenario 1: "network create -d overlay demo on H1 prints one id, exit 0;
// within 1 s network ls on H2 and H3 shows demo / overlay / global."
func TestScenario01_CreateIsSeenEverywhere(t *testing.T) {
	t.Parallel()
	c := three(t)
	id := c.create(c.Nodes[0], "demo")
	want := []listed{{id[:12], "demo", "overlay", "global"}}
	for _, n := range c.Nodes {
		c.eventually(time.Second, func(ctx context.Context) error {
			got, err := networks(ctx, n)
			if err == nil && !slices.Equal(got, want) {
				err = fmt.Errorf("network ls on %s shows %v; want %v", n.Name, got, want)
			}
			return err
		})
	}
}

// Scenario 2: "The same name again, on H2: exit 1, network with name demo
// already exists; nothing changed in etcd."
func TestScenario02_NameIsTaken(t *testing.T) {
	t.Parallel()
	c := three(t)
	c.create(c.Nodes[0], "demo")
	before, err := c.keys(t.Context())
	c.must(err)
	c.refused(c.Nodes[1], []string{"network with name demo already exists"}, "network", "create", "-d", "overlay", "demo")
	after, err := c.keys(t.Context())
	c.must(err)
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("etcd (-before +after):\n%s", diff)
	}
}

// Scenario 3: "Fifty rounds: the same name created on H1, H2, H3 at the same
// moment: exactly one success a round."
func TestScenario03_OneOfThreeWins(t *testing.T) {
	t.Parallel()
	c := three(t)
	for round := range 50 {
		results := atOnce(c, func(n *lab.Node) (lab.Result, error) {
			return n.Ctl(t.Context(), "network", "create", "-d", "overlay", "demo")
		})
		won := 0
		for _, res := range results {
			switch res.Code {
			case 0:
				won++
			case 1:
			default:
				t.Errorf("round %d: %v", round, res.Err())
			}
		}
		if won != 1 {
			t.Fatalf("round %d: %d creates succeeded; want 1: %+v", round, won, results)
		}
		c.ctl(c.Nodes[round%len(c.Nodes)], "network", "rm", "demo")
	}
}

// atOnce runs f for every node at the same moment.
func atOnce[T any](c *cluster, f func(n *lab.Node) (T, error)) []T {
	c.t.Helper()
	out, errs := make([]T, len(c.Nodes)), make([]error, len(c.Nodes))
	var all sync.WaitGroup
	for i, n := range c.Nodes {
		all.Go(func() { out[i], errs[i] = f(n) })
	}
	all.Wait()
	for _, err := range errs {
		c.must(err)
	}
	return out
}

// Scenario 4: "--subnet 10.0.0.0/25 beside an existing 10.0.0.0/24: an overlap
// error, no key left. Three automatic creates at once from three nodes: three
// disjoint subnets; after removal they can be used again. No subnet that
// overlaps a host route of any node is ever chosen."
func TestScenario04_SubnetsNeverOverlap(t *testing.T) {
	t.Parallel()
	c := build(t, lab.Options{Nodes: 3})
	routed := netip.MustParsePrefix("10.0.4.0/22")
	_, err := c.Nodes[2].Exec(t.Context(), "ip", "route", "add", routed.String(), "dev", "eth0")
	c.must(err)
	c.start()
	c.create(c.Nodes[0], "--subnet", "10.0.0.0/24", "first")
	before, err := c.keys(t.Context())
	c.must(err)
	c.refused(c.Nodes[1], []string{"10.0.0.0/25", "overlap", "first"},
		"network", "create", "-d", "overlay", "--subnet", "10.0.0.0/25", "second")
	c.refused(c.Nodes[1], []string{"10.0.5.0/24", "overlap", "h3"},
		"network", "create", "-d", "overlay", "--subnet", "10.0.5.0/24", "second")
	after, err := c.keys(t.Context())
	c.must(err)
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("etcd (-before +after):\n%s", diff)
	}

	taken := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24"), routed, netip.MustParsePrefix("10.99.0.0/24")}
	var names []string
	for round := range 4 { // enough to come past the routed subnets
		names = append(names, atOnce(c, func(n *lab.Node) (string, error) {
			name := fmt.Sprintf("auto-%s-%d", n.Name, round)
			_, err := n.MustCtl(t.Context(), "network", "create", "-d", "overlay", name)
			return name, err
		})...)
	}
	chosen := map[string]netip.Prefix{}
	for _, name := range names {
		subnet := c.subnet(c.Nodes[0], name)
		for _, other := range taken {
			if subnet.Overlaps(other) {
				t.Errorf("network %s has %s, which overlaps %s", name, subnet, other)
			}
		}
		taken = append(taken, subnet)
		chosen[name] = subnet
	}
	for name, subnet := range chosen {
		c.ctl(c.Nodes[0], "network", "rm", name)
		c.create(c.Nodes[1], "--subnet", subnet.String(), name)
	}
}

// An agent that says that it is ready is: on an etcd that never saw one, the
// very first command on every node succeeds.
func TestReadyMeansReady(t *testing.T) {
	bin, err := fastBinaries() // what is late is later still beside fast ones
	if err != nil {
		t.Fatal(err)
	}
	for round := range 4 {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			c := build(t, lab.Options{Nodes: 2, Bin: bin})
			ctx, cancel := lab.WithTimeout(t.Context(), startWithin)
			defer cancel()
			c.must(c.Start(ctx))
			atOnce(c, func(n *lab.Node) (string, error) {
				return n.MustCtl(t.Context(), "network", "create", "-d", "overlay", "of-"+n.Name)
			})
		})
	}
}
