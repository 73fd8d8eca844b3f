package kernel

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/overspan/overspan"
)

// testSite is a host with a whole network on it, and rules.
type testSite struct {
	host  *Host
	net   testNet
	netns string
	key   EndpointKey
	scope Scope
	want  State
}

func newTestSite(t testing.TB) testSite {
	t.Helper()
	h := newTestHost(t)
	// Other VXLAN devices may share the port, other rules the tables.
	sh(t, "ip link add ul type bridge; ip addr add 192.0.2.1/24 dev ul; ip link set ul up")
	s := testSite{host: h, net: newTestNet(7), netns: newTestNetns(t, h, "c1")}
	s.want = s.net.plan(netip.MustParseAddr("192.0.2.1"))
	s.net.addRemote(&s.want, netip.MustParseAddr("192.0.2.2"), 64, 16)
	s.key = s.net.addEndpoint(&s.want, 2, s.netns)
	put(&s.want.Netns, s.netns, struct{}{})
	acceptBridged(&s.want)
	guardVXLAN(&s.want)
	sysctl := "net/ipv4/conf/" + s.net.bridge() + "/arp_ignore"
	put(&s.want.Sysctls, sysctl, "1")
	s.scope = Scope{All: true, Endpoints: []EndpointKey{s.key}, Sysctls: []string{sysctl}}
	return s
}

// guardVXLAN plans a set and a chain that refers to it.
func guardVXLAN(s *State) {
	put(&s.Sets, "overspan-vtep4", AddrSet{Family: overspan.IPv4, Addrs: map[netip.Addr]struct{}{netip.MustParseAddr("192.0.2.2"): {}}})
	put(&s.Sets, "overspan-vtep6", AddrSet{Family: overspan.IPv6, Addrs: map[netip.Addr]struct{}{netip.MustParseAddr("2001:db8::2"): {}}})
	put(&s.Chains, ChainKey{overspan.IPv4, "raw", "OVERSPAN-RAW"}, Chain{
		Hook: "PREROUTING",
		Rules: hashed("OVERSPAN-RAW",
			"-p udp -m udp --dport 4789 -m set ! --match-set overspan-vtep4 src -j DROP",
			"-p udp -m udp --dport 4789 -j CT --notrack"),
	})
}

// TestRepair breaks a network in every way that an administrator may think of,
// one by one: one pass puts each right.
func TestRepair(t *testing.T) {
	s := newTestSite(t)
	converge(t, s.host, s.scope, s.want)
	expand := strings.NewReplacer(
		"BRIDGE", s.net.bridge(), "VXLAN", s.net.vxlan(), "VETH", overspan.VethName(s.key.Endpoint),
		"PIN", s.netns, "REMOTEMAC", s.net.mac(65).String(), "LOCALMAC", s.net.mac(2).String(),
	)
	for _, test := range []struct{ name, host, inside string }{
		{name: "nothing"},
		{name: "bridge deleted", host: "ip link del BRIDGE"},
		{name: "vxlan device deleted", host: "ip link del VXLAN"},
		{name: "veth deleted", host: "ip link del VETH"},
		{name: "veth deleted inside", inside: "ip link del eth0"},
		{name: "veth renamed", host: "ip link set VETH down; ip link set VETH name lost"},
		{name: "veth released", host: "ip link set VETH nomaster"},
		{name: "vxlan device released", host: "ip link set VXLAN nomaster"},
		{name: "bridge down", host: "ip link set BRIDGE down"},
		{name: "bridge down and up", host: "ip link set BRIDGE down; ip link set BRIDGE up"},
		{name: "vxlan device down", host: "ip link set VXLAN down"},
		{name: "vxlan device down and up", host: "ip link set VXLAN down; ip link set VXLAN up"},
		{name: "veth down", host: "ip link set VETH down"},
		{name: "mac of the bridge", host: "ip link set BRIDGE address 02:00:00:00:00:01"},
		{name: "mac of the vxlan device", host: "ip link set VXLAN address 02:00:00:00:00:01"},
		{name: "mtus", host: "ip link set BRIDGE mtu 1300; ip link set VXLAN mtu 1300; ip link set VETH mtu 1300"},
		{name: "port flags", host: "bridge link set dev VETH learning on flood on hairpin off isolated on"},
		{name: "snooping", host: "ip link set BRIDGE type bridge mcast_snooping 1"},
		{name: "addrgenmode", host: "ip link set VXLAN addrgenmode eui64"},
		{name: "vxlan device made anew", host: "ip link del VXLAN; ip link add VXLAN alias overspan:x type vxlan id 8 dstport 4789; ip link set VXLAN alias overspan:x"},
		{name: "gateway gone", host: "ip addr flush dev BRIDGE"},
		{name: "stray address", host: "ip addr add 10.1.2.3/24 dev BRIDGE; ip addr add fd99::1/64 dev BRIDGE"},
		{name: "arp_ignore", host: "echo 0 >/proc/sys/net/ipv4/conf/BRIDGE/arp_ignore"},
		{name: "fdb flushed", host: "bridge fdb show dev VXLAN | grep dst | while read mac rest; do bridge fdb del $mac dev VXLAN; done"},
		{name: "fdb entry elsewhere", host: "bridge fdb replace REMOTEMAC dev VXLAN dst 192.0.2.9"},
		{name: "fdb entry not lasting", host: "bridge fdb replace REMOTEMAC dev VXLAN dst 192.0.2.2 dynamic"},
		{name: "stray fdb entry", host: "bridge fdb append 00:00:00:00:00:00 dev VXLAN dst 192.0.2.9"},
		{name: "static entry gone", host: "bridge fdb del LOCALMAC dev VETH master"},
		{name: "static entry elsewhere", host: "bridge fdb replace LOCALMAC dev VXLAN master static"},
		{name: "stray static entry", host: "bridge fdb add 02:00:00:00:00:09 dev VETH master static"},
		{name: "neighbours flushed", host: "ip -4 neigh flush dev VXLAN nud all; ip -6 neigh flush dev VXLAN nud all"},
		{name: "wrong neighbour", host: "ip neigh replace 10.77.0.65 lladdr 02:00:00:00:00:09 dev VXLAN nud permanent"},
		{name: "stray neighbour", host: "ip neigh add fd77::99 lladdr 02:00:00:00:00:09 dev VXLAN nud permanent"},
		{name: "inside renamed", inside: "ip link set eth0 down; ip link set eth0 name lan0"},
		{name: "inside down", inside: "ip link set eth0 down"},
		{name: "inside without addresses", inside: "ip addr flush dev eth0"},
		{name: "inside with another mac", inside: "ip link set eth0 address 02:00:00:00:00:01"},
		{name: "inside with another mtu", inside: "ip link set eth0 mtu 1300"},
		{name: "inside without routes", inside: "ip route del default; ip -6 route del default"},
		{name: "inside with a stray address", inside: "ip addr add 10.9.9.9/24 dev eth0"},
		{name: "inside without IPv6", inside: "echo 1 >/proc/sys/net/ipv6/conf/eth0/disable_ipv6"},
		{name: "rules flushed", host: "iptables -F; iptables -t raw -F; ip6tables -F"},
		{name: "jump not first", host: "iptables -I FORWARD 1 -j ACCEPT"},
		{name: "jump twice", host: "iptables -A FORWARD -j OVERSPAN-FORWARD"},
		{name: "chain deleted", host: "ip6tables -F FORWARD; ip6tables -F OVERSPAN-FORWARD; ip6tables -X OVERSPAN-FORWARD"},
		{name: "stray rule", host: "iptables -t raw -I OVERSPAN-RAW 1 -j ACCEPT"},
		{name: "rule gone", host: "iptables -t raw -D OVERSPAN-RAW 1"},
		{name: "stray chain", host: "iptables -N OVERSPAN-OLD; iptables -A INPUT -p tcp -j OVERSPAN-OLD; iptables -A OVERSPAN-OLD -j OVERSPAN-FORWARD"},
		{name: "set entries", host: "ipset flush overspan-vtep4; ipset add overspan-vtep6 2001:db8::9"},
		{name: "stray set", host: "ipset create overspan-old hash:ip"},
		{name: "stray network", host: "ip link add osb-0000000099 type bridge; ip link set osb-0000000099 alias overspan:99"},
		{name: "stray endpoint", host: "ip link add osv-0000000099 type veth peer name stray; ip link set osv-0000000099 alias overspan:99/99"},
	} {
		t.Run(test.name, func(t *testing.T) {
			enter(t, s.host)
			sh(t, expand.Replace(test.host))
			shIn(t, s.netns, expand.Replace(test.inside))
			converge(t, s.host, s.scope, s.want)
			if err := s.host.Reap(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestForeign lets a network come and go beside what others have made: under
// names like ours, with our rules' neighbours, on our port.
func TestForeign(t *testing.T) {
	s := newTestSite(t)
	sh(t, `
		ip link add osb-ffffffffff type bridge; ip addr add 10.5.5.1/24 dev osb-ffffffffff
		ip link add osv-ffffffffff type veth peer name osx-ffffffffff
		ip link set osv-ffffffffff master osb-ffffffffff; ip link set osv-ffffffffff up
		bridge fdb add 02:00:00:00:00:01 dev osv-ffffffffff master static
		ip link add vx type vxlan id 99 dstport 4789 nolearning; ip link set vx up
		bridge fdb append 02:00:00:00:00:02 dev vx dst 192.0.2.7
		ip neigh add 10.5.5.9 lladdr 02:00:00:00:00:03 dev osb-ffffffffff nud permanent
		ipset create other hash:ip; ipset add other 192.0.2.8
		iptables -N OTHER; iptables -A FORWARD -j OTHER; iptables -A OTHER -m comment --comment "overspan:" -j ACCEPT
		iptables -t raw -A PREROUTING -p udp -j ACCEPT; ip6tables -A FORWARD -j ACCEPT
		iptables -t nat -A POSTROUTING -j ACCEPT
		ip route add 10.6.0.0/16 dev ul`)
	look := func() string {
		return sh(t, `
			ip -d -o link show | grep -v overspan: | sed -E -e 's/^[0-9]*: //' -e 's/[a-z_]+timer +[0-9.]+//g'
			ip addr show dev osb-ffffffffff; ip neigh show dev osb-ffffffffff; ip route show dev ul
			bridge fdb show dev osv-ffffffffff; bridge fdb show dev vx
			ipset save other
			for t in filter raw nat; do iptables-save -t $t; ip6tables-save -t $t; done | grep -v -e OVERSPAN -e '^#' -e '^:'`)
	}
	// The first commands of the nft flavour make the tables.
	converge(t, s.host, s.scope, s.want)
	converge(t, s.host, s.scope, State{Netns: s.want.Netns})
	if err := s.host.Reap(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := look()
	converge(t, s.host, s.scope, s.want)
	if diff := cmp.Diff(strings.Split(before, "\n"), strings.Split(look(), "\n")); diff != "" {
		t.Errorf("foreign state (-before +beside ours):\n%s", diff)
	}
	converge(t, s.host, s.scope, State{Netns: s.want.Netns})
	if err := s.host.Reap(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(before, "\n"), strings.Split(look(), "\n")); diff != "" {
		t.Errorf("foreign state (-before +after):\n%s", diff)
	}
}
