package overlay_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/bridge"
	"github.com/overspan/overspan/internal/nstest"
	"github.com/overspan/overspan/kernel"
	"github.com/overspan/overspan/overlay"
)

const vxlanPort = 4789

var ours = overspan.VNIRange{First: 0x1000, Last: 0x1fff}

// A lab is a node with two containers of ours and one of another program's, all
// masqueraded, on an underlay with a registered peer and a stranger.
type lab struct {
	node, peer, stranger, box, box2, foreign *nstest.Namespace
}

func newLab(t *testing.T) lab {
	l := lab{
		node: nstest.New(t, "node"), peer: nstest.New(t, "peer"), stranger: nstest.New(t, "stranger"),
		box: nstest.New(t, "box"), box2: nstest.New(t, "box2"), foreign: nstest.New(t, "foreign"),
	}
	wire := nstest.New(t, "wire")
	wire.Script("link add wire type bridge\nlink set wire up")
	for ns, host := range map[*nstest.Namespace]int{l.node: 1, l.peer: 2, l.stranger: 9} {
		dev := fmt.Sprintf("to%d", host)
		nstest.Join(wire, dev, ns, "eth0")
		wire.Script(fmt.Sprintf("link set %s master wire up", dev))
		ns.Script(fmt.Sprintf(`link set eth0 up
addr add 10.99.0.%[1]d/24 dev eth0
addr add fd99::%[1]d/64 dev eth0 nodad`, host))
	}
	dev := overspan.BridgeName(demo.ID)
	l.node.Script(fmt.Sprintf(`link add %[1]s type bridge mcast_snooping 0
link set %[1]s up
addr add 10.0.0.1/24 dev %[1]s
addr add fd00::1/64 dev %[1]s nodad`, dev))
	for ns, host := range map[*nstest.Namespace]int{l.box: 2, l.box2: 3} {
		nstest.Join(l.node, fmt.Sprintf("osv-%d", host), ns, "eth0")
		l.node.Script(fmt.Sprintf("link set osv-%d master %s up", host, dev))
		ns.Script(fmt.Sprintf(`link set eth0 up
addr add 10.0.0.%[1]d/24 dev eth0
addr add fd00::%[1]d/64 dev eth0 nodad
route add default via 10.0.0.1
route add default via fd00::1`, host))
	}
	nstest.Join(l.node, "ext0", l.foreign, "eth0")
	l.node.Script("link set ext0 up\naddr add 10.1.0.1/24 dev ext0\naddr add fd01::1/64 dev ext0 nodad")
	l.foreign.Script(`link set eth0 up
addr add 10.1.0.2/24 dev eth0
addr add fd01::2/64 dev eth0 nodad
route add default via 10.1.0.1
route add default via fd01::1`)
	l.node.Run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	l.node.Run("iptables", "-w", "-t", "nat", "-A", "POSTROUTING", "-o", "eth0", "-j", "MASQUERADE")
	l.node.Run("ip6tables", "-w", "-t", "nat", "-A", "POSTROUTING", "-o", "eth0", "-j", "MASQUERADE")
	// A datagram that waits for its neighbour to be found could arrive late,
	// and be taken for one that was dropped.
	l.node.Meet("10.99.0.2", "fd99::2", "10.99.0.9", "fd99::9", "10.0.0.2", "fd00::2", "10.0.0.3", "fd00::3", "10.1.0.2", "fd01::2")
	return l
}

func TestRulesGuardTheTunnel(t *testing.T) {
	l := newLab(t)
	nodes := map[overspan.NodeID]*overspan.Node{
		"1": {ID: "1", VTEPs: addrs("10.99.0.1", "fd99::1")},
		"2": {ID: "2", VTEPs: addrs("10.99.0.2", "fd99::2")},
	}
	want := overlay.Rules(nodes, ours, vxlanPort)
	want.Add(bridge.Rules([]*overspan.Network{demo}, nil))
	l.node.Apply(kernel.Scope{Global: true}, want)

	var probes []nstest.Probe
	for _, f := range []struct {
		family                    string
		node, peer, gateway, box2 string
	}{
		{"IPv4", "10.99.0.1", "10.99.0.2", "10.0.0.1", "10.0.0.3"},
		{"IPv6", "fd99::1", "fd99::2", "fd00::1", "fd00::3"},
	} {
		add := func(name string, from *nstest.Namespace, to string, at *nstest.Namespace, vni uint32, arrives bool) {
			probes = append(probes, nstest.Probe{
				Name: f.family + " " + name, From: from, At: at,
				To: netip.AddrPortFrom(netip.MustParseAddr(to), vxlanPort), Header: vxlanHeader(vni), Arrives: arrives,
			})
		}
		add("peer to node", l.peer, f.node, l.node, ours.First, true)
		add("node to peer", l.node, f.peer, l.peer, ours.First, true)
		add("stranger with our first VNI", l.stranger, f.node, l.node, ours.First, false)
		add("stranger with our last VNI", l.stranger, f.node, l.node, ours.Last, false)
		add("stranger with a VNI below ours", l.stranger, f.node, l.node, ours.First-1, true)
		add("stranger with a VNI above ours", l.stranger, f.node, l.node, ours.Last+1, true)
		add("container to its node", l.box, f.node, l.node, ours.First, false)
		add("container to its gateway with another VNI", l.box, f.gateway, l.node, ours.Last+1, false)
		add("container to another node", l.box, f.peer, l.peer, ours.First, false)
		add("container to a container", l.box, f.box2, l.box2, ours.First, true)
		add("foreign container to another node", l.foreign, f.peer, l.peer, ours.First, false)
	}
	hidden := func(name, to string, send func(netip.AddrPort, []byte) error) {
		probes = append(probes, nstest.Probe{
			Name: name, From: l.stranger, At: l.node, Send: send,
			To: netip.AddrPortFrom(netip.MustParseAddr(to), vxlanPort), Header: vxlanHeader(ours.First),
		})
	}
	hidden("stranger behind IPv4 options", "10.99.0.1", sendWith(unix.IPPROTO_IP, unix.IP_OPTIONS, "\x01\x01\x01\x01"))
	hidden("stranger behind an IPv6 extension header", "fd99::1", sendWith(unix.IPPROTO_IPV6, unix.IPV6_DSTOPTS, "\x00\x00\x01\x04\x00\x00\x00\x00"))
	hidden("stranger in tiny fragments", "10.99.0.1", sendFragments)
	nstest.Deliver(t, probes)

	for _, family := range []string{"ipv4", "ipv6"} {
		if flows := l.node.Run("conntrack", "-L", "-f", family, "-p", "udp", "--dport", fmt.Sprint(vxlanPort)); strings.Contains(flows, "=10.99.") || strings.Contains(flows, "=fd99:") {
			t.Errorf("VXLAN is tracked by %s:\n%s", family, flows)
		}
	}
}

// TestRulesForEveryVNI loads the rules for ranges that leave one side, or no
// room at all, for others.
func TestRulesForEveryVNI(t *testing.T) {
	for _, vnis := range []overspan.VNIRange{{First: 0, Last: 1<<24 - 1}, {First: 0, Last: 9}, {First: 1, Last: 1<<24 - 1}} {
		t.Run(fmt.Sprintf("%d-%d", vnis.First, vnis.Last), func(t *testing.T) {
			ns := nstest.New(t, "node")
			ns.Apply(kernel.Scope{Global: true}, overlay.Rules(nil, vnis, vxlanPort))
		})
	}
}

func vxlanHeader(vni uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{0x08, 0, 0, 0}, vni<<8)
}

// sendWith sends by a socket that puts options in front of the UDP header.
func sendWith(level, option int, value string) func(netip.AddrPort, []byte) error {
	return func(to netip.AddrPort, datagram []byte) error {
		conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
		if err != nil {
			return err
		}
		defer conn.Close()
		raw, err := conn.SyscallConn()
		if err != nil {
			return err
		}
		var failed error
		if err := raw.Control(func(fd uintptr) { failed = unix.SetsockoptString(int(fd), level, option, value) }); err != nil {
			return err
		}
		if failed != nil {
			return fmt.Errorf("set option %d: %w", option, failed)
		}
		_, err = conn.Write(datagram)
		return err
	}
}

// sendFragments sends an IPv4 datagram in two fragments, of which the first
// ends with the UDP header: whoever sees it alone sees no VNI.
func sendFragments(to netip.AddrPort, datagram []byte) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	udp := binary.BigEndian.AppendUint16(nil, 9)
	udp = binary.BigEndian.AppendUint16(udp, to.Port())
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(datagram)))
	udp = append(udp, 0, 0) // no checksum
	const moreFragments = 0x2000
	for _, part := range []struct {
		offset  uint16
		payload []byte
	}{{moreFragments, udp}, {1, datagram}} {
		packet := []byte{0x45, 0, 0, 0, 0x12, 0x34, 0, 0, 64, unix.IPPROTO_UDP, 0, 0, 0, 0, 0, 0}
		binary.BigEndian.PutUint16(packet[6:], part.offset)
		packet = append(append(packet, to.Addr().AsSlice()...), part.payload...)
		if err := unix.Sendto(fd, packet, 0, &unix.SockaddrInet4{Addr: to.Addr().As4()}); err != nil {
			return err
		}
	}
	return nil
}

func addrs(texts ...string) []netip.Addr {
	var out []netip.Addr
	for _, text := range texts {
		out = append(out, netip.MustParseAddr(text))
	}
	return out
}

var demo = &overspan.Network{
	ID: overspan.NetworkID(strings.Repeat("d", 64)), Name: "demo", Driver: overspan.DriverOverlay,
	VNI: 0x1000, Underlay: overspan.IPv4, MTU: 1450,
	IPv4: overspan.Subnet{Prefix: netip.MustParsePrefix("10.0.0.0/24"), Gateway: netip.MustParseAddr("10.0.0.1")},
	IPv6: overspan.Subnet{Prefix: netip.MustParsePrefix("fd00::/64"), Gateway: netip.MustParseAddr("fd00::1")},
}
