package bridge_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/bridge"
	"github.com/overspan/overspan/internal/golden"
	"github.com/overspan/overspan/internal/nstest"
	"github.com/overspan/overspan/kernel"
)

// published returns the endpoint at a slot with ports that are published.
func published(n *overspan.Network, id string, slot overspan.Slot, ports ...overspan.Port) overspan.Endpoint {
	e := endpoint(n, id, slot)
	e.Ports = ports
	return e
}

func port(protocol overspan.Protocol, hostIP string, hostPort, port uint16) overspan.Port {
	return overspan.Port{Protocol: protocol, HostIP: netip.MustParseAddr(hostIP), HostPort: hostPort, Port: port}
}

func TestPorts(t *testing.T) {
	n := network("a", 1)
	networks := []*overspan.Network{n}
	web := published(n, "1", 16, port(overspan.TCP, "0.0.0.0", 8080, 80), port(overspan.TCP, "::", 8080, 80))
	log := published(n, "2", 17, port(overspan.UDP, "127.0.0.1", 9000, 90), port(overspan.TCP, "192.0.2.1", 8081, 80), port(overspan.TCP, "0.0.0.0", 65535, 1))
	golden.Check(t, "published", text(bridge.Ports(networks, []overspan.Endpoint{web, log, endpoint(n, "3", 18)})))
	if s := bridge.Ports(nil, nil); len(s.Chains) > 0 {
		t.Errorf("without networks: %v", s.Lines())
	}
	for _, p := range slices.Concat(web.Ports, log.Ports) {
		for _, key := range bridge.PortChains([]overspan.Port{p}) {
			if len(key.Name) > 28 || !bridge.IsPortChain(key) {
				t.Errorf("%s is no chain of a published port", key)
			}
		}
	}
	for _, name := range []string{"OVERSPAN-NAT", "OVERSPAN-PORTS", "OVERSPAN-TCP-1-2", "OVERSPAN-TCP-64-128", "DOCKER"} {
		if bridge.IsPortChain(kernel.ChainKey{Family: overspan.IPv4, Table: "nat", Name: name}) {
			t.Errorf("%s is taken for a chain of a published port", name)
		}
	}
}

// TestPortsWithin: what a pass over one endpoint sees of the rules is a part of
// what a pass over everything does, and no chain outside of it differs when the
// endpoint comes or goes.
func TestPortsWithin(t *testing.T) {
	n := network("a", 1)
	networks := []*overspan.Network{n}
	rapid.Check(t, func(t *rapid.T) {
		var all []overspan.Endpoint
		for i := range rapid.IntRange(1, 6).Draw(t, "endpoints") {
			var ports []overspan.Port
			for range rapid.IntRange(0, 3).Draw(t, "ports") {
				protocol := rapid.SampledFrom(overspan.Protocols()).Draw(t, "protocol")
				ip := rapid.SampledFrom([]string{"0.0.0.0", "::", "127.0.0.1"}).Draw(t, "ip")
				host := rapid.SampledFrom([]uint16{1, 63, 64, 4095, 4096, 8080, 8081, 65535}).Draw(t, "host port")
				ports = append(ports, port(protocol, ip, host, 80))
			}
			all = append(all, published(n, fmt.Sprint(i), overspan.Slot(16+i), ports...))
		}
		last := all[len(all)-1]
		keys := bridge.PortChains(last.Ports)
		for _, now := range [][]overspan.Endpoint{all, all[:len(all)-1]} {
			whole := bridge.Ports(networks, now)
			if diff := cmp.Diff(whole.Within(kernel.Scope{Chains: keys}).Lines(), bridge.PortsWithin(now, keys).Lines()); diff != "" {
				t.Errorf("within the chains of one endpoint (-of all +alone):\n%s", diff)
			}
		}
		before, after := bridge.Ports(networks, all[:len(all)-1]), bridge.Ports(networks, all)
		for key, chain := range after.Chains {
			if old, there := before.Chains[key]; !slices.Contains(keys, key) && (!there || !slices.Equal(old.Rules, chain.Rules)) {
				t.Errorf("%s differs", key)
			}
		}
	})
}

// TestPortsCostLittle: however many ports are published, a packet meets few
// rules on its way through the chains.
func TestPortsCostLittle(t *testing.T) {
	n := network("a", 1)
	var ports []overspan.Port
	for i := range 1000 {
		ports = append(ports, port(overspan.TCP, "0.0.0.0", uint16(8000+i), uint16(1+i)))
	}
	most := 0
	s := bridge.Ports([]*overspan.Network{n}, []overspan.Endpoint{published(n, "1", 16, ports...)})
	for _, p := range ports {
		met := 0
		for _, key := range bridge.PortChains([]overspan.Port{p}) {
			met += len(s.Chains[key].Rules)
		}
		most = max(most, met)
	}
	if most > 16+64+64 {
		t.Errorf("a packet meets up to %d rules", most)
	}
}

// TestPortsLeadToContainers sends packets through the rules: from the world, the
// node, the container itself, and another network.
func TestPortsLeadToContainers(t *testing.T) {
	l := newLab(t)
	for _, program := range []string{"iptables", "ip6tables"} {
		l.node.Run(program, "-w", "-P", "FORWARD", "DROP")
	}
	// Where br_netfilter is on, what a container sends to itself by the node is
	// turned around by the bridge already.
	l.node.Script("link set osv-a2 type bridge_slave hairpin on")
	web := published(l.networks[0], "1", 2,
		port(overspan.UDP, "0.0.0.0", 8080, 8080), port(overspan.UDP, "::", 8080, 8080),
		port(overspan.UDP, "127.0.0.1", 9000, 9000))
	web.IPv4, web.IPv6 = netip.MustParseAddr("10.0.1.2"), netip.MustParseAddr("fd00:1::2")
	s := bridge.Rules(l.networks, l.cluster())
	s.Take(bridge.NAT(l.networks))
	s.Take(bridge.Ports(l.networks, []overspan.Endpoint{web}))
	s.Sysctls = map[string]string{"net/ipv4/conf/" + overspan.BridgeName(l.networks[0].ID) + "/route_localnet": "1"}
	l.node.Apply(kernel.Scope{Global: true, Sysctls: slices.Collect(maps.Keys(s.Sysctls))}, s)

	var probes []nstest.Probe
	add := func(name string, from *nstest.Namespace, to string, arrives bool) {
		probes = append(probes, nstest.Probe{Name: name, From: from, To: netip.MustParseAddrPort(to), At: l.boxes["a2"], Arrives: arrives})
	}
	for _, host := range []string{"192.0.2.1", "[2001:db8::1]"} {
		add("from the world to "+host, l.world, host+":8080", true)
		add("from the node to "+host, l.node, host+":8080", true)
		add("from itself to "+host, l.boxes["a2"], host+":8080", true)
		add("from its network to "+host, l.boxes["a3"], host+":8080", true)
		add("from another network to "+host, l.boxes["b2"], host+":8080", true)
		add("from an internal network to "+host, l.boxes["c2"], host+":8080", false)
		add("from the world to another port of "+host, l.world, host+":8081", false)
		add("from the world to 127.0.0.1's port of "+host, l.world, host+":9000", false)
	}
	// The way of an attacker on the link, for whom the address is like any other.
	l.world.Run("sysctl", "-qw", "net.ipv4.conf.eth0.route_localnet=1")
	l.world.Script("route add 127.0.0.1 via 192.0.2.1 src 192.0.2.2")
	add("from the world to 127.0.0.1", l.world, "127.0.0.1:9000", false)
	add("from the world to 127.0.0.1, where all addresses are served", l.world, "127.0.0.1:8080", false)
	add("from the node to 127.0.0.1", l.node, "127.0.0.1:8080", true)
	add("from the node to 127.0.0.1's own port", l.node, "127.0.0.1:9000", true)
	add("from a container to its gateway", l.boxes["b2"], "10.0.2.1:8080", true)
	nstest.Deliver(t, probes)
}
