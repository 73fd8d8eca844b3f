package bridge_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/bridge"
	"github.com/overspan/overspan/internal/nstest"
	"github.com/overspan/overspan/kernel"
)

const probePort = 7000

// A lab is a node with three networks that forwards whatever its rules let
// through: a and b are ordinary, c is internal. Host 9 of each is a container
// that has lost its slot: its veth is on no bridge.
type lab struct {
	node, world *nstest.Namespace
	boxes       map[string]*nstest.Namespace // "a2" is host 2 of network a
	networks    []*overspan.Network
}

func newLab(t *testing.T) lab {
	l := lab{node: nstest.New(t, "node"), world: nstest.New(t, "world"), boxes: make(map[string]*nstest.Namespace)}
	nstest.Join(l.node, "eth0", l.world, "eth0")
	l.node.Script(`link set eth0 up
addr add 192.0.2.1/24 dev eth0
addr add 2001:db8::1/64 dev eth0 nodad
route add 10.0.4.0/24 via 192.0.2.2
route add fd00:4::/64 via 2001:db8::2`)
	l.world.Script(`link set eth0 up
addr add 192.0.2.2/24 dev eth0
addr add 2001:db8::2/64 dev eth0 nodad
addr add 10.0.4.2/32 dev lo
addr add fd00:4::2/128 dev lo nodad
route add 10.0.0.0/8 via 192.0.2.1
route add fd00::/8 via 2001:db8::1`)
	l.node.Run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	for i, name := range []string{"a", "b", "c"} {
		n := network(name, i+1)
		n.Internal = name == "c"
		l.networks = append(l.networks, n)
		dev := overspan.BridgeName(n.ID)
		l.node.Script(fmt.Sprintf(`link add %[1]s type bridge mcast_snooping 0
link set %[1]s up
addr add 10.0.%[2]d.1/24 dev %[1]s
addr add fd00:%[2]d::1/64 dev %[1]s nodad`, dev, i+1))
		for _, host := range []int{2, 3, 9} {
			l.box(t, n, i+1, host)
		}
	}
	// A datagram that waits for its neighbour to be found could arrive late,
	// and be taken for one that was dropped.
	for _, subnet := range []int{1, 2, 3} {
		for _, host := range []int{2, 3} {
			l.node.Meet(fmt.Sprintf("10.0.%d.%d", subnet, host), fmt.Sprintf("fd00:%d::%d", subnet, host))
		}
	}
	l.node.Meet("192.0.2.2", "2001:db8::2")
	return l
}

// cluster is the node's networks, and one that is on another node: host 2 of it is
// somewhere in the world.
func (l lab) cluster() map[overspan.NetworkID]*overspan.Network {
	out := make(map[overspan.NetworkID]*overspan.Network)
	for _, n := range append([]*overspan.Network{network("d", 4)}, l.networks...) {
		out[n.ID] = n
	}
	return out
}

func (l lab) box(t *testing.T, n *overspan.Network, subnet, host int) {
	name := fmt.Sprintf("%s%d", n.Name, host)
	ns := nstest.New(t, name)
	l.boxes[name] = ns
	nstest.Join(l.node, "osv-"+name, ns, "eth0")
	l.node.Script("link set osv-" + name + " up")
	if host != 9 {
		l.node.Script(fmt.Sprintf("link set osv-%s master %s", name, overspan.BridgeName(n.ID)))
	}
	ns.Script(fmt.Sprintf(`link set eth0 up
addr add 10.0.%[1]d.%[2]d/24 dev eth0
addr add fd00:%[1]d::%[2]d/64 dev eth0 nodad
route add default via 10.0.%[1]d.1
route add default via fd00:%[1]d::1`, subnet, host))
}

func TestRulesKeepNetworksApart(t *testing.T) {
	for _, policy := range []string{"ACCEPT", "DROP"} {
		t.Run("policy "+policy, func(t *testing.T) { testKeepApart(t, policy) })
	}
}

func testKeepApart(t *testing.T, policy string) {
	l := newLab(t)
	for _, program := range []string{"iptables", "ip6tables"} {
		l.node.Run(program, "-w", "-P", "FORWARD", policy)
	}
	l.node.Apply(kernel.Scope{Global: true}, bridge.Rules(l.networks, l.cluster()))
	// The veth of a9 is on no bridge, and neither end can find the other by
	// asking: its packets come to the node all the same.
	mac := strings.TrimSpace(l.node.Run("cat", "/sys/class/net/osv-a9/address"))
	l.boxes["a9"].Script(fmt.Sprintf("neigh add 10.0.1.1 lladdr %[1]s dev eth0\nneigh add fd00:1::1 lladdr %[1]s dev eth0", mac))

	var probes []nstest.Probe
	for _, family := range []string{"IPv4", "IPv6"} {
		of := func(v4, v6 string) netip.AddrPort {
			text := v4
			if family == "IPv6" {
				text = v6
			}
			return netip.AddrPortFrom(netip.MustParseAddr(text), probePort)
		}
		add := func(name string, from *nstest.Namespace, to netip.AddrPort, at *nstest.Namespace, arrives bool) {
			probes = append(probes, nstest.Probe{Name: family + " " + name, From: from, To: to, At: at, Arrives: arrives})
		}
		a2, a3, b2, c2 := of("10.0.1.2", "fd00:1::2"), of("10.0.1.3", "fd00:1::3"), of("10.0.2.2", "fd00:2::2"), of("10.0.3.2", "fd00:3::2")
		gatewayA, gatewayB := of("10.0.1.1", "fd00:1::1"), of("10.0.2.1", "fd00:2::1")
		world := of("192.0.2.2", "2001:db8::2")
		add("within a network", l.boxes["a2"], a3, l.boxes["a3"], true)
		add("within an internal network", l.boxes["c3"], c2, l.boxes["c2"], true)
		add("between networks", l.boxes["a2"], b2, l.boxes["b2"], false)
		add("to a network that is on another node", l.boxes["a2"], of("10.0.4.2", "fd00:4::2"), l.world, false)
		add("from the node to that network", l.node, of("10.0.4.2", "fd00:4::2"), l.world, true)
		add("to an internal network", l.boxes["a2"], c2, l.boxes["c2"], false)
		add("from an internal network", l.boxes["c2"], a2, l.boxes["a2"], false)
		add("to the world", l.boxes["a2"], world, l.world, true)
		add("from an internal network to the world", l.boxes["c2"], world, l.world, false)
		add("from the world", l.world, a2, l.boxes["a2"], false)
		add("from the world to an internal network", l.world, c2, l.boxes["c2"], false)
		add("to the own gateway", l.boxes["a2"], gatewayA, l.node, true)
		add("to the gateway of another network", l.boxes["a2"], gatewayB, l.node, false)
		add("from the world to a gateway", l.world, gatewayA, l.node, false)
		add("from the node to a gateway", l.node, gatewayA, l.node, true)
		add("to the node", l.boxes["a2"], of("192.0.2.1", "2001:db8::1"), l.node, true)
		add("to the node from a veth on no bridge", l.boxes["a9"], gatewayA, l.node, false)
	}
	nstest.Deliver(t, probes)
}

// TestRulesLetAnswersIn: what a container began may come back, whatever the
// policy says.
func TestRulesLetAnswersIn(t *testing.T) {
	l := newLab(t)
	l.node.Run("iptables", "-w", "-P", "FORWARD", "DROP")
	l.node.Run("ip6tables", "-w", "-P", "FORWARD", "DROP")
	l.node.Apply(kernel.Scope{Global: true}, bridge.Rules(l.networks, l.cluster()))
	for _, world := range []string{"192.0.2.2", "2001:db8::2"} {
		l.boxes["b3"].Run("ping", "-c", "1", "-W", "5", world)
	}
}

// TestUserRulesComeFirst: a rule of the user's holds even within a network.
func TestUserRulesComeFirst(t *testing.T) {
	l := newLab(t)
	l.node.Apply(kernel.Scope{Global: true}, bridge.Rules(l.networks, l.cluster()))
	l.node.Run("iptables", "-w", "-A", "OVERSPAN-USER", "-s", "10.0.1.2", "-j", "DROP")
	to := netip.AddrPortFrom(netip.MustParseAddr("10.0.1.3"), probePort)
	nstest.Deliver(t, []nstest.Probe{
		{Name: "from the one that the user drops", From: l.boxes["a2"], To: to, At: l.boxes["a3"]},
		{Name: "from the node", From: l.node, To: to, At: l.boxes["a3"], Arrives: true},
	})
}

// network makes a dual-stack network whose bridge's name ends in its own.
func network(name string, subnet int) *overspan.Network {
	return &overspan.Network{
		ID: overspan.NetworkID(strings.Repeat(name, 64)), Name: name, Driver: overspan.DriverBridge, MTU: 1500,
		IPv4: overspan.Subnet{
			Prefix:  netip.MustParsePrefix(fmt.Sprintf("10.0.%d.0/24", subnet)),
			Gateway: netip.MustParseAddr(fmt.Sprintf("10.0.%d.1", subnet)),
		},
		IPv6: overspan.Subnet{
			Prefix:  netip.MustParsePrefix(fmt.Sprintf("fd00:%d::/64", subnet)),
			Gateway: netip.MustParseAddr(fmt.Sprintf("fd00:%d::1", subnet)),
		},
	}
}
