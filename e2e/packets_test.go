package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overspan/overspan/e2e/lab"
)

// vxlanPort is the agents' default.
const vxlanPort = 4789

// Scenario 9: "Full mesh by address among endpoints on three nodes: first
// packet of every pair answered. A new endpoint is reachable from every other
// node the moment connect returns."
func TestScenario09_FirstPacketIsAnswered(t *testing.T) {
	c := three(t)
	c.create(c.Nodes[0], "demo")
	var boxes []*lab.Sandbox
	for _, n := range c.Nodes {
		for i := range 2 {
			boxes = append(boxes, c.attach(n, "demo", fmt.Sprintf("%s-%d", n.Name, i)))
		}
	}
	c.mesh(boxes...)
	for i := range 12 {
		late := c.attach(c.Nodes[i%3], "demo", fmt.Sprintf("late%d", i))
		for _, from := range boxes {
			c.reaches(from, c.addr(late))
		}
	}
}

// Scenario 10: "Kernel on H1: same VNI everywhere, MTU = underlay - 50, every
// remote endpoint's address resolves to its MAC and that MAC to its node's
// VTEP, nothing learned, nothing flooded (tcpdump on the underlay during ARP,
// ND, and unknown-unicast storms shows no copy)."
func TestScenario10_KernelKnowsAllAndFloodsNothing(t *testing.T) {
	t.Parallel()
	c := three(t)
	c.create(c.Nodes[0], "--ipv6", "demo")
	boxes := map[*lab.Node][]*lab.Sandbox{}
	for _, n := range c.Nodes {
		for i := range 2 {
			boxes[n] = append(boxes[n], c.attach(n, "demo", fmt.Sprintf("%s-%d", n.Name, i)))
		}
	}
	vnis := map[string]struct{}{}
	for _, n := range c.Nodes {
		dev := c.deviceOf(n)
		details, err := n.Exec(t.Context(), "ip", "-d", "link", "show", dev)
		c.must(err)
		vnis[firstMatch(details, `vxlan id (\d+)`)] = struct{}{}
		if mtu := firstMatch(details, `mtu (\d+)`); mtu != "1450" {
			t.Errorf("%s on %s has the MTU %s; want 1450", dev, n.Name, mtu)
		}
		if !strings.Contains(details, "nolearning") {
			t.Errorf("%s on %s learns:\n%s", dev, n.Name, details)
		}
		for _, other := range c.Nodes {
			if other != n {
				c.knows(n, dev, other, boxes[other])
			}
		}
	}
	if len(vnis) != 1 {
		t.Errorf("the nodes have the VNIs %v; want one", vnis)
	}
	h1, h2 := boxes[c.Nodes[0]][0], boxes[c.Nodes[1]][0]
	c.floodsNothing(h1, h2)
	c.learnedNothing()
}

// deviceOf returns the VXLAN device of a node with one network.
func (c *cluster) deviceOf(n *lab.Node) string {
	c.t.Helper()
	out, err := n.Exec(c.t.Context(), "ip", "-o", "link", "show", "type", "vxlan")
	c.must(err)
	dev := firstMatch(out, `^\d+: (osx-[0-9a-f]+)`)
	if dev == "" || strings.Count(out, "\n") != 1 {
		c.t.Fatalf("%s has the VXLAN devices %q; want one", n.Name, out)
	}
	return dev
}

// firstMatch returns the first group of the first match, "" if there is none.
func firstMatch(text, pattern string) string {
	if m := regexp.MustCompile(pattern).FindStringSubmatch(text); m != nil {
		return m[1]
	}
	return ""
}

// knows checks that a node's device leads to all sandboxes of another node.
func (c *cluster) knows(n *lab.Node, dev string, other *lab.Node, boxes []*lab.Sandbox) {
	c.t.Helper()
	neighs, err := n.Exec(c.t.Context(), "ip", "neigh", "show", "dev", dev)
	c.must(err)
	fdb, err := n.Exec(c.t.Context(), "bridge", "fdb", "show", "dev", dev)
	c.must(err)
	for _, box := range boxes {
		link, err := box.Link(eth0)
		c.must(err)
		addrs, err := box.Addrs(eth0)
		c.must(err)
		if len(addrs) != 2 {
			c.t.Errorf("%s has the addresses %v; want one of each family", box.Name, addrs)
		}
		for _, a := range addrs {
			want := fmt.Sprintf("%s lladdr %s PERMANENT", a, link.HardwareAddr)
			if !strings.Contains(neighs, want) {
				c.t.Errorf("%s on %s has no neighbour %q:\n%s", dev, n.Name, want, neighs)
			}
		}
		want := fmt.Sprintf("%s dst %s self permanent", link.HardwareAddr, other.Addrs[0])
		if !strings.Contains(fdb, want) {
			c.t.Errorf("%s on %s has no entry %q:\n%s", dev, n.Name, want, fdb)
		}
	}
}

// stormSize is how many frames of a kind a storm has.
const stormSize = 200

// floodsNothing sends storms out of a sandbox and checks on every node's
// underlay that none of their frames passes there.
func (c *cluster) floodsNothing(from, peer *lab.Sandbox) {
	c.t.Helper()
	link, err := from.Link(eth0)
	c.must(err)
	mac := [6]byte(link.HardwareAddr)
	addrs, err := from.Addrs(eth0)
	c.must(err)
	remote, err := peer.Addrs(eth0)
	c.must(err)
	captures := c.capture()
	var storm [][]byte
	for i := range stormSize {
		strange := [6]byte{0x0a, 0xee, 0, 0, byte(i >> 8), byte(i)}
		storm = append(storm,
			arpRequest(mac, addrs[0], nth(addrs[0], i)),
			unicast(mac, strange))
	}
	c.must(from.Send(eth0, storm...))
	// The kernel asks for each of these by ARP or ND, three times in a second.
	var silent []netip.Addr
	for i := range 100 {
		silent = append(silent, nth(addrs[0], 100+i), nth(addrs[1], 100+i))
	}
	if _, err := from.PingOnce(silent...); err != nil {
		c.t.Error(err)
	}
	// A frame that does pass, behind the storms.
	c.reaches(from, remote...)
	for n, capture := range captures {
		capture.Stop()
		passed := capture.Frames(func(frame []byte) bool {
			inner, _, ok := lab.InVXLAN(frame, vxlanPort)
			return ok && isStorm(inner)
		})
		if len(passed) > 0 {
			c.t.Errorf("on the underlay of %s passed %d frames of the storms, such as %x", n.Name, len(passed), passed[0])
		}
	}
}

// capture records the underlay of every node.
func (c *cluster) capture() map[*lab.Node]*lab.Capture {
	c.t.Helper()
	out := map[*lab.Node]*lab.Capture{}
	for _, n := range c.Nodes {
		capture, err := n.Capture("eth0")
		c.must(err)
		out[n] = capture
	}
	return out
}

// isStorm reports whether a frame may not leave its node: it asks by ARP or
// ND, or goes to a MAC that is nobody's, or to many.
func isStorm(frame []byte) bool {
	const nextHeader, icmpType = 14 + 6, 14 + 40
	switch lab.EtherType(frame) {
	case unix.ETH_P_ARP, strangeType:
		return true
	case unix.ETH_P_IPV6:
		if len(frame) > icmpType && frame[nextHeader] == unix.IPPROTO_ICMPV6 && frame[icmpType] >= 133 && frame[icmpType] <= 137 {
			return true
		}
	}
	return frame[0]&1 != 0
}

// strangeType is an EtherType for experiments, IEEE 802 section 9.2.
const strangeType = 0x88b5

func arpRequest(mac [6]byte, sender, target netip.Addr) []byte {
	from, to := sender.As4(), target.As4()
	return slices.Concat(
		[]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac[:], []byte{0x08, 0x06},
		[]byte{0, 1, 8, 0, 6, 4, 0, 1}, mac[:], from[:], make([]byte, 6), to[:])
}

// arpReply claims to a target that an address is at the sender's MAC.
func arpReply(mac [6]byte, claimed netip.Addr, to [6]byte, target netip.Addr) []byte {
	from, at := claimed.As4(), target.As4()
	return slices.Concat(
		to[:], mac[:], []byte{0x08, 0x06},
		[]byte{0, 1, 8, 0, 6, 4, 0, 2}, mac[:], from[:], to[:], at[:])
}

func unicast(mac, to [6]byte) []byte {
	return slices.Concat(to[:], mac[:], []byte{strangeType >> 8, strangeType & 0xff}, make([]byte, 46))
}

// nth returns another address of the same /24 or /120, the n-th from its base.
func nth(a netip.Addr, n int) netip.Addr {
	raw := a.AsSlice()
	raw[len(raw)-1] = byte(n)
	out, _ := netip.AddrFromSlice(raw)
	return out
}

// learnedNothing checks that no node has a forwarding entry that came from a
// packet: on our links, all are permanent or static.
func (c *cluster) learnedNothing() {
	c.t.Helper()
	for _, n := range c.Nodes {
		fdb, err := n.Exec(c.t.Context(), "bridge", "fdb", "show")
		c.must(err)
		for line := range strings.Lines(fdb) {
			if strings.Contains(line, " os") && !strings.Contains(line, "permanent") && !strings.Contains(line, "static") {
				c.t.Errorf("%s has learned %q", n.Name, line)
			}
		}
	}
}

// Scenario 12: "Two overlays on the same nodes: no packet passes between them,
// ARP forged or not."
func TestScenario12_NetworksAreApart(t *testing.T) {
	t.Parallel()
	c := start(t, lab.Options{Nodes: 3, Forwarding: true})
	c.create(c.Nodes[0], "--subnet", "10.61.0.0/24", "red")
	c.create(c.Nodes[1], "--subnet", "10.62.0.0/24", "blue")
	red := []*lab.Sandbox{c.attach(c.Nodes[0], "red", "r1"), c.attach(c.Nodes[1], "red", "r2")}
	blue := []*lab.Sandbox{c.attach(c.Nodes[0], "blue", "b1"), c.attach(c.Nodes[1], "blue", "b2"), c.attach(c.Nodes[2], "blue", "b3")}
	c.mesh(red...)
	c.mesh(blue...)

	from := red[0]
	link, err := from.Link(eth0)
	c.must(err)
	for _, to := range blue {
		there, err := to.Link(eth0)
		c.must(err)
		heard, err := to.Capture(eth0)
		c.must(err)
		// By way of the gateway.
		c.misses(from, c.addr(to))
		// As if it were a neighbour: by ARP, then with the neighbour entry forged.
		_, err = from.Exec(t.Context(), "ip", "route", "add", c.addr(to).String(), "dev", eth0)
		c.must(err)
		c.misses(from, c.addr(to))
		_, err = from.Exec(t.Context(), "ip", "neigh", "replace", c.addr(to).String(), "lladdr", there.HardwareAddr.String(), "dev", eth0)
		c.must(err)
		c.misses(from, c.addr(to))
		// With forged ARP, asked and answered.
		mac, target := [6]byte(link.HardwareAddr), [6]byte(there.HardwareAddr)
		c.must(from.Send(eth0,
			arpRequest(mac, nth(c.addr(to), 77), c.addr(to)),
			arpReply(mac, nth(c.addr(to), 77), target, c.addr(to)),
			unicast(mac, target)))
		c.mesh(blue...) // frames that do pass, behind the others
		heard.Stop()
		crossed := heard.Frames(func(frame []byte) bool { return slices.Equal(frame[6:12], mac[:]) })
		if len(crossed) > 0 {
			t.Errorf("%s on %s heard %d frames of %s, such as %x", to.Name, to.Node.Name, len(crossed), from.Name, crossed[0])
		}
	}
}

// Scenario 13: "--internal: no default route, peers reachable, everything else
// not."
func TestScenario13_InternalReachesPeersOnly(t *testing.T) {
	t.Parallel()
	c := start(t, lab.Options{Nodes: 3, Forwarding: true})
	c.create(c.Nodes[0], "--internal", "inside")
	c.create(c.Nodes[0], "outside")
	var boxes []*lab.Sandbox
	for _, n := range c.Nodes {
		boxes = append(boxes, c.attach(n, "inside", "in-"+n.Name))
	}
	normal := c.attach(c.Nodes[0], "outside", "out")
	defaults := func(box *lab.Sandbox) string {
		routes, err := box.Exec(t.Context(), "ip", "route", "show", "default")
		c.must(err)
		return strings.TrimSpace(routes)
	}
	if got := defaults(normal); !strings.HasPrefix(got, "default via ") {
		t.Errorf("in a network that is not internal the default route is %q", got)
	}
	c.mesh(boxes...)
	for _, box := range boxes {
		if got := defaults(box); got != "" {
			t.Errorf("%s has the default route %q", box.Name, got)
		}
		_, err := box.Exec(t.Context(), "ip", "route", "add", "default", "dev", eth0)
		c.must(err)
		gateway := c.subnet(box.Node, "inside").Addr().Next()
		_, err = box.Exec(t.Context(), "ip", "route", "replace", "default", "via", gateway.String(), "dev", eth0, "onlink")
		c.must(err)
		outside := []netip.Addr{c.addr(normal)}
		for _, n := range c.Nodes {
			if n != box.Node {
				outside = append(outside, n.Addrs[0])
			}
		}
		c.misses(box, outside...)
	}
	if !c.inspect(c.Nodes[1], "inside").Internal {
		t.Error("network inspect does not show that the network is internal")
	}
}

// A cable that is pulled stops the packets to its node and no others; back in,
// they go on with nothing done by anyone.
func TestCableIsPulled(t *testing.T) {
	t.Parallel()
	c := three(t)
	c.create(c.Nodes[0], "demo")
	var boxes []*lab.Sandbox
	for _, n := range c.Nodes {
		boxes = append(boxes, c.attach(n, "demo", n.Name+"-box"))
	}
	c.mesh(boxes...)
	c.must(c.Nodes[2].Cut())
	c.reaches(boxes[0], c.addr(boxes[1]))
	c.misses(boxes[0], c.addr(boxes[2]))
	c.must(c.Nodes[2].Heal())
	c.eventually(30*time.Second, func(context.Context) error {
		lost, err := boxes[0].PingOnce(c.addr(boxes[2]))
		if err == nil && len(lost) > 0 {
			err = errors.New("no answer yet")
		}
		return err
	})
	c.mesh(boxes...)
}
