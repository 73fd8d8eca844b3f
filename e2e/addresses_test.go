package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/overspan/overspan/e2e/lab"
)

// Scenario 5: "--subnet 10.20.0.0/24 --ip-range 10.20.0.128/25 --gateway
// 10.20.0.254 --aux-address rtr=10.20.0.129: first endpoint .128, the next
// .130; --ip 10.20.0.5 works; --ip .254, .0, .255, .129 or a taken one: address
// already in use or reserved; 10.21.0.5: not in this network's subnets."
func TestScenario05_RangeGatewayAndAuxiliary(t *testing.T) {
	t.Parallel()
	c := three(t)
	h1, h2 := c.Nodes[0], c.Nodes[1]
	c.create(h1, "--subnet", "10.20.0.0/24", "--ip-range", "10.20.0.128/25", "--gateway", "10.20.0.254",
		"--aux-address", "rtr=10.20.0.129", "demo")
	first, next := c.attach(h1, "demo", "a"), c.attach(h1, "demo", "b")
	chosen := c.attach(h2, "demo", "c", "--ip", "10.20.0.5")
	for box, want := range map[*lab.Sandbox]string{first: "10.20.0.128", next: "10.20.0.130", chosen: "10.20.0.5"} {
		if got := c.addr(box).String(); got != want {
			t.Errorf("%s has %s; want %s", box.Name, got, want)
		}
	}
	c.netns(h2, "d")
	for ip, say := range map[string]string{
		"10.20.0.254": "the gateway",
		"10.20.0.0":   "the network address",
		"10.20.0.255": "the broadcast address",
		"10.20.0.129": `the auxiliary address "rtr"`,
		"10.20.0.128": "address already in use",
		"10.20.0.5":   "address already in use",
		"10.21.0.5":   "not in this network's subnets",
	} {
		c.refused(h2, []string{ip, say}, "network", "connect", "--ip", ip, "demo", "d")
	}
	c.mesh(first, next, chosen)
}

// Scenario 6: "A /29 over three nodes lends all five addresses wherever they
// are asked for, the sixth asker is told who holds them; after one is freed the
// next asker gets it, on any node."
func TestScenario06_EveryAddressIsLent(t *testing.T) {
	t.Parallel()
	whole := three(t)
	for round, order := range [][]int{{0, 1, 2, 0, 1}, {0, 0, 0, 0, 0}, {2, 2, 1, 0, 0}, {1, 1, 1, 1, 2}} {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			c := whole.in(t)
			c.create(c.Nodes[0], "--subnet", "10.30.0.0/29", "demo")
			var boxes []*lab.Sandbox
			for i, at := range order {
				boxes = append(boxes, c.attach(c.Nodes[at], "demo", fmt.Sprintf("box%d-%d", round, i)))
			}
			c.distinct(boxes)
			late := fmt.Sprintf("late%d", round)
			for _, n := range c.Nodes {
				c.netns(n, late)
				holders := []string{"10.30.0.0/29", c.Nodes[order[0]].Name}
				c.refused(n, holders, "network", "connect", "demo", late)
			}
			freed := c.addr(boxes[0])
			c.disconnect("demo", boxes[0])
			next := c.attach(c.Nodes[(order[0]+1)%3], "demo", fmt.Sprintf("next%d", round))
			if got := c.addr(next); got != freed {
				t.Errorf("the next asker got %s; want %s, which is the only free one", got, freed)
			}
			c.mesh(append(boxes[1:], next)...)
			for _, box := range append(boxes[1:], next) {
				c.disconnect("demo", box)
			}
			c.ctl(c.Nodes[0], "network", "rm", "demo")
		})
	}
}

// distinct checks that no two sandboxes have the same address.
func (c *cluster) distinct(boxes []*lab.Sandbox) []netip.Addr {
	c.t.Helper()
	var addrs []netip.Addr
	for _, box := range boxes {
		addrs = append(addrs, c.addr(box))
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	if n := len(slices.Compact(slices.Clone(addrs))); n != len(boxes) {
		c.t.Errorf("%d sandboxes share %d addresses: %v", len(boxes), n, addrs)
	}
	return addrs
}

// Scenario 7: "A /24: 253 endpoints over 20 nodes, all distinct, none refused;
// the 254th refused."
func TestScenario07_WholeSubnetOverTwentyNodes(t *testing.T) {
	const nodes, lendable = 20, 253
	bin, err := fastBinaries()
	if err != nil {
		t.Fatal(err)
	}
	c := start(t, lab.Options{Nodes: nodes, Bin: bin})
	c.create(c.Nodes[0], "--subnet", "10.40.0.0/24", "demo")
	var boxes []*lab.Sandbox
	for i := range lendable {
		boxes = append(boxes, c.netns(c.Nodes[i%nodes], fmt.Sprintf("box%d", i)))
	}
	var all errgroup.Group
	for i := range c.Nodes {
		all.Go(func() error {
			for j := i; j < lendable; j += nodes {
				box := boxes[j]
				if _, err := box.Node.MustCtl(t.Context(), "network", "connect", "demo", box.Name); err != nil {
					return err
				}
			}
			return nil
		})
	}
	c.must(all.Wait())
	for _, box := range boxes {
		c.plugs = append(c.plugs, plug{box, "demo"})
	}
	c.distinct(boxes)
	c.netns(c.Nodes[7], "late")
	c.refused(c.Nodes[7], []string{"10.40.0.0/24", "h1"}, "network", "connect", "demo", "late")
	// One sandbox of each node, not to send 64,000 packets.
	c.mesh(boxes[:nodes]...)
}

// Scenario 8: "Eight connects at once on each of three nodes: 24 distinct
// addresses."
func TestScenario08_ConnectsAtOnce(t *testing.T) {
	t.Parallel()
	c := three(t)
	c.create(c.Nodes[0], "demo")
	var boxes []*lab.Sandbox
	for _, n := range c.Nodes {
		for i := range 8 {
			boxes = append(boxes, c.netns(n, fmt.Sprintf("box%d", i)))
		}
	}
	var all errgroup.Group
	for _, box := range boxes {
		all.Go(func() error {
			// The names differ in the network, not on the nodes.
			_, err := box.Node.MustCtl(t.Context(), "network", "connect", "--name", box.Node.Name+box.Name, "demo", box.Name)
			return err
		})
	}
	c.must(all.Wait())
	for _, box := range boxes {
		c.plugs = append(c.plugs, plug{box, "demo"})
	}
	c.distinct(boxes)
	c.mesh(boxes...)
}

// Scenario 11: "Disconnect: the address can be used again (after the cooldown
// if others are free), the name at once; connect with --ip of an address in
// another node's unused block works and is reachable everywhere; of a used one
// fails and names the holder."
func TestScenario11_AddressesMove(t *testing.T) {
	t.Parallel()
	c := three(t)
	h1, h2, h3 := c.Nodes[0], c.Nodes[1], c.Nodes[2]
	c.create(h1, "--subnet", "10.50.0.0/24", "demo")
	a, b := c.attach(h1, "demo", "a"), c.attach(h2, "demo", "b")

	before := c.addr(a)
	c.disconnect("demo", a)
	c.connect("demo", a)
	if after := c.addr(a); after == before {
		t.Errorf("the address %s was given again at once, while others were free", before)
	}
	other := c.attach(h3, "demo", "other", "--ip", before.String())
	if got := c.addr(other); got != before {
		t.Errorf("--ip %s got %s", before, got)
	}

	// The other address of b's pair lies in every block of two or more around b.
	raw := c.addr(b).As4()
	raw[3] ^= 1
	unused := netip.AddrFrom4(raw)
	moved := c.attach(h3, "demo", "moved", "--ip", unused.String())
	if got := c.addr(moved); got != unused {
		t.Errorf("--ip %s got %s", unused, got)
	}
	c.mesh(a, b, other, moved)

	c.netns(h3, "late")
	c.refused(h3, []string{c.addr(b).String(), "address already in use", "h2"},
		"network", "connect", "--ip", c.addr(b).String(), "demo", "late")
}

// The name of an endpoint that is gone is free at once, on any node.
func TestScenario11_NameIsFreeAtOnce(t *testing.T) {
	t.Parallel()
	c := three(t)
	c.create(c.Nodes[0], "demo")
	a := c.attach(c.Nodes[0], "demo", "a", "--name", "web")
	b := c.netns(c.Nodes[1], "b")
	c.refused(c.Nodes[1], []string{"web"}, "network", "connect", "--name", "web", "demo", "b")
	c.disconnect("demo", a)
	c.connect("demo", b, "--name", "web")
	c.eventually(settleWithin, func(ctx context.Context) error { return c.verified(ctx) })
}
