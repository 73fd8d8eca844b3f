package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/overspan/overspan/e2e/lab"
)

// A forgery is a frame that no container may send.
type forgery struct {
	name  string
	frame []byte
	byMAC bool // it gives itself away by its sender's MAC
}

// Scenario 31: "A container sending with another's address or MAC, answering ARP
// or ND for the gateway, sending RAs or MLD queries: dropped at its port." On a
// host without programs another's MAC is, and status says what is not.
func TestScenario31_NobodySpeaksForAnother(t *testing.T) {
	t.Parallel()
	c := start(t, lab.Options{Nodes: 2, Forwarding: true})
	h1, h2 := c.Nodes[0], c.Nodes[1]
	c.create(h1, "--ipv6", "demo")
	from, near, far := c.attach(h1, "demo", "from"), c.attach(h1, "demo", "near"), c.attach(h2, "demo", "far")
	c.mesh(from, near, far)
	forgeries := c.forgeries(from, near, far)
	c.heardNone(forgeries, from, near, far)
	if out := c.ctl(h1, "status"); strings.Contains(out, "locked") {
		t.Errorf("status warns though there are programs:\n%s", out)
	}

	metrics, err := h1.Metrics(t.Context())
	c.must(err)
	for _, reason := range []string{"mac", "type", "arp", "ipv4", "ipv6", "nd"} {
		if metrics[`overspan_port_drops_total{reason="`+reason+`"}`] == 0 {
			t.Errorf("no frame is counted as dropped for its %s", reason)
		}
	}

	// What changes how it is checked loses nothing.
	there, err := near.StartPing(c.addrs(far)[0])
	c.must(err)
	back, err := far.StartPing(c.addrs(near)[1])
	c.must(err)
	ctx, cancel := lab.WithTimeout(t.Context(), startWithin)
	defer cancel()
	programs := h1.Flags
	h1.Flags = append(slices.Clone(programs), "--port-programs", "off")
	c.must(h1.Kill(ctx))
	c.must(h1.Start(ctx))
	c.eventually(settleWithin, c.verified)
	c.heardNone(slices.DeleteFunc(slices.Clone(forgeries), func(f forgery) bool { return !f.byMAC }), from, near, far)
	if out := c.ctl(h1, "status"); !strings.Contains(out, "switched off") || !strings.Contains(out, "locked") {
		t.Errorf("status does not say that only MACs are checked:\n%s", out)
	}
	h1.Flags = programs
	c.must(h1.Kill(ctx))
	c.must(h1.Start(ctx))
	c.eventually(settleWithin, c.verified)
	c.heardNone(forgeries, from, near, far)
	c.stopPings([]*lab.Pinger{there, back})
	c.keptApart(h1, h2)
}

// keptApart checks that endpoints of a network without communication among them
// reach each other on no node, though they need not ask who has an address.
func (c *cluster) keptApart(h1, h2 *lab.Node) {
	c.t.Helper()
	c.create(h1, "-o", "icc=false", "apart")
	boxes := []*lab.Sandbox{c.attach(h1, "apart", "one"), c.attach(h1, "apart", "two"), c.attach(h2, "apart", "three")}
	for _, box := range boxes {
		for _, other := range boxes {
			link, err := other.Link(eth0)
			c.must(err)
			if box != other {
				_, err = box.Exec(c.t.Context(), "ip", "neigh", "replace", c.addr(other).String(), "lladdr", link.HardwareAddr.String(), "dev", eth0)
				c.must(err)
			}
		}
	}
	c.misses(boxes[0], c.addr(boxes[1]), c.addr(boxes[2]))
	c.misses(boxes[2], c.addr(boxes[0]))
}

// addrs returns the sandbox's addresses on its first interface.
func (c *cluster) addrs(box *lab.Sandbox) []netip.Addr {
	c.t.Helper()
	addrs, err := box.Addrs(eth0)
	c.must(err)
	return addrs
}

// heardNone sends forgeries out of a sandbox, and behind them what does arrive.
// Neither other sandboxes nor the node itself may hear any.
func (c *cluster) heardNone(forgeries []forgery, from *lab.Sandbox, others ...*lab.Sandbox) {
	c.t.Helper()
	heard := map[string]*lab.Capture{}
	for _, box := range others {
		capture, err := box.Capture(eth0)
		c.must(err)
		heard[box.Name] = capture
	}
	bridge := firstMatch(c.onHost(from.Node, "ip", "-o", "link", "show", "type", "bridge"), `(osb-[0-9a-f]+)`)
	capture, err := from.Node.Capture(bridge)
	c.must(err)
	heard[bridge] = capture
	for _, f := range forgeries {
		c.must(from.Send(eth0, f.frame))
	}
	c.mesh(append([]*lab.Sandbox{from}, others...)...)
	for name, capture := range heard {
		capture.Stop()
		for _, f := range forgeries {
			if got := capture.Frames(func(frame []byte) bool { return bytes.Equal(frame, f.frame) }); len(got) > 0 {
				c.t.Errorf("%s heard: %s", name, f.name)
			}
		}
	}
}

// onHost returns what a command on a node prints.
func (c *cluster) onHost(n *lab.Node, words ...string) string {
	c.t.Helper()
	out, err := n.Exec(c.t.Context(), words[0], words[1:]...)
	c.must(err)
	return out
}

// forgeries are addressed to a neighbour on the same node, to one on another and
// to all.
func (c *cluster) forgeries(from, near, far *lab.Sandbox) []forgery {
	c.t.Helper()
	mac := func(box *lab.Sandbox) [6]byte {
		link, err := box.Link(eth0)
		c.must(err)
		return [6]byte(link.HardwareAddr)
	}
	own := c.addrs(from)
	self, all := mac(from), [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	gateway4, gateway6 := nth(own[0], 1), nth(own[1], 1)
	local := netip.MustParseAddr(fmt.Sprintf("fe80::%x:%xff:fe%02x:%02x%02x",
		binary.BigEndian.Uint16(self[:])^0x0200, self[2], self[3], self[4], self[5]))
	out := []forgery{
		{"an ARP answer for the gateway", arpReply(self, gateway4, all, c.addrs(near)[0]), false},
		{"an ARP answer under the gateway's MAC", arpReply([6]byte{2, 0x42, 10, 1, 2, 3}, gateway4, all, c.addrs(near)[0]), true},
		{"an ND answer for the gateway", ethernet(self, all, unix.ETH_P_IPV6, icmp6(gateway6, 136, gateway6, self)), false},
		{"an ND answer for the gateway from its own address", ethernet(self, all, unix.ETH_P_IPV6, icmp6(own[1], 136, gateway6, self)), false},
		{"a router advertisement", ethernet(self, all, unix.ETH_P_IPV6, icmp6(local, 134, own[1], self)), false},
		{"a redirect", ethernet(self, all, unix.ETH_P_IPV6, icmp6(local, 137, own[1], self)), false},
		{"an MLD query", ethernet(self, all, unix.ETH_P_IPV6, icmp6(local, 130, netip.IPv6Unspecified(), self)), false},
	}
	for _, to := range []*lab.Sandbox{near, far} {
		dst, addrs := mac(to), c.addrs(to)
		out = append(out,
			forgery{"another's MAC, to " + to.Name, ethernet(mac(near), dst, unix.ETH_P_IP, udp4(own[0], addrs[0])), true},
			forgery{"nobody's MAC, to " + to.Name, ethernet([6]byte{2, 0x42, 10, 9, 8, 7}, dst, unix.ETH_P_IP, udp4(own[0], addrs[0])), true},
			forgery{"another's IPv4, to " + to.Name, ethernet(self, dst, unix.ETH_P_IP, udp4(nth(own[0], 77), addrs[0])), false},
			forgery{"an IPv4 of elsewhere, to " + to.Name, ethernet(self, dst, unix.ETH_P_IP, udp4(netip.MustParseAddr("192.0.2.77"), addrs[0])), false},
			forgery{"another's IPv6, to " + to.Name, ethernet(self, dst, unix.ETH_P_IPV6, icmp6(nth(own[1], 77), 128, addrs[1], self)), false},
			forgery{"a VLAN, to " + to.Name, ethernet(self, dst, unix.ETH_P_8021Q, slices.Concat([]byte{0, 5, 8, 0}, udp4(own[0], addrs[0]))), false},
		)
	}
	return out
}

func ethernet(src, dst [6]byte, kind uint16, payload []byte) []byte {
	return slices.Concat(dst[:], src[:], []byte{byte(kind >> 8), byte(kind)}, payload)
}

// udp4 is an empty datagram with a valid header.
func udp4(src, dst netip.Addr) []byte {
	b := slices.Concat([]byte{0x45, 0, 0, 28, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}, src.AsSlice(), dst.AsSlice())
	binary.BigEndian.PutUint16(b[10:], checksum(b))
	return append(b, 0, 7, 0, 7, 0, 8, 0, 0)
}

// icmp6 is a message to all nodes with a target, and the sender's MAC as an
// option.
func icmp6(src netip.Addr, kind byte, target netip.Addr, mac [6]byte) []byte {
	dst := netip.MustParseAddr("ff02::1")
	body := slices.Concat([]byte{kind, 0, 0, 0, 0x20, 0, 0, 0}, target.AsSlice(), []byte{2, 1}, mac[:])
	sum := checksum(slices.Concat(src.AsSlice(), dst.AsSlice(), []byte{0, 0, 0, byte(len(body)), 0, 0, 0, unix.IPPROTO_ICMPV6}, body))
	binary.BigEndian.PutUint16(body[2:], sum)
	head := []byte{0x60, 0, 0, 0, 0, byte(len(body)), unix.IPPROTO_ICMPV6, 255}
	return slices.Concat(head, src.AsSlice(), dst.AsSlice(), body)
}

// checksum is the one of RFC 1071 over an even number of bytes.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
