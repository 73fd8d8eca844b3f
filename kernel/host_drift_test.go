package kernel

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/overspan/overspan"
	"github.com/overspan/overspan/internal/mutation"
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
	s.net.addShortcut(&s.want, netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"))
	acceptBridged(&s.want)
	guardVXLAN(&s.want)
	masquerade(&s.want)
	sysctl := "net/ipv4/conf/" + s.net.bridge() + "/arp_ignore"
	put(&s.want.Sysctls, sysctl, "1")
	s.scope = Scope{All: true, Endpoints: []EndpointKey{s.key}, Sysctls: []string{sysctl}}
	return s
}

// masquerade plans a chain in the table nat of both families.
func masquerade(s *State) {
	for _, f := range []overspan.Family{overspan.IPv4, overspan.IPv6} {
		put(&s.Chains, ChainKey{f, "nat", "OVERSPAN-NAT"}, Chain{
			Hook:  "POSTROUTING",
			Rules: hashed("OVERSPAN-NAT", "-o osb-+ -j RETURN", "-j MASQUERADE"),
		})
	}
}

// guardVXLAN plans a set and a chain that refers to it.
func guardVXLAN(s *State) {
	put(&s.Sets, "overspan-vtep4", AddrSet{Family: overspan.IPv4, Members: map[netip.Prefix]struct{}{Single(netip.MustParseAddr("192.0.2.2")): {}}})
	put(&s.Sets, "overspan-subnet4", AddrSet{Family: overspan.IPv4, Subnets: true, Members: map[netip.Prefix]struct{}{netip.MustParsePrefix("10.0.0.0/24"): {}}})
	put(&s.Sets, "overspan-vtep6", AddrSet{Family: overspan.IPv6, Members: map[netip.Prefix]struct{}{Single(netip.MustParseAddr("2001:db8::2")): {}}})
	put(&s.Sets, "overspan-subnet6", AddrSet{Family: overspan.IPv6, Subnets: true, Members: map[netip.Prefix]struct{}{netip.MustParsePrefix("fd00::/64"): {}}})
	put(&s.Chains, ChainKey{overspan.IPv4, "raw", "OVERSPAN-RAW"}, Chain{
		Hook: "PREROUTING",
		Rules: hashed("OVERSPAN-RAW",
			"-p udp -m udp --dport 4789 -m set ! --match-set overspan-vtep4 src -j DROP",
			"-p udp -m udp --dport 4789 -j CT --notrack"),
	})
}

// TestRepair breaks a network in every way that an administrator may think of,
// one by one: one pass puts each right, and says so.
func TestRepair(t *testing.T) {
	s := newTestSite(t)
	for _, path := range []string{ForwardIPv4, ForwardIPv6} {
		put(&s.want.Sysctls, path, "1")
		s.scope.Sysctls = append(s.scope.Sysctls, path)
	}
	converge(t, s.host, s.scope, s.want)
	objects := mutation.Objects{
		Bridge: s.net.bridge(), VXLAN: s.net.vxlan(), Veth: overspan.VethName(s.key.Endpoint), Underlay: "ul",
		LocalMAC: s.net.mac(2).String(), RemoteMAC: s.net.mac(65).String(),
		RemoteIPv4: s.net.v4.Addr(65).String(), RemoteIPv6: s.net.v6.Addr(65).String(), RemoteVTEP: "192.0.2.2",
	}
	for _, m := range mutation.All() {
		t.Run(m.Name, func(t *testing.T) {
			enter(t, s.host)
			sh(t, objects.Expand(m.Host))
			shIn(t, s.netns, objects.Expand(m.Inside))
			ops := Diff(read(t, s.host, s.scope), s.want)
			if got := strings.Join(told(ops...), "\n"); !strings.Contains(got, objects.Expand(m.Told)) {
				t.Errorf("told:\n%s\nwant it to say %s", got, objects.Expand(m.Told))
			}
			converge(t, s.host, s.scope, s.want)
			if err := s.host.Retire(t.Context()); err != nil {
				t.Error(err)
			}
			sh(t, m.Left)
		})
	}
}

// TestNothingLearnedStays has a port learn, as it does between the command that
// switches it on and the repair: what it has learned goes with the repair.
func TestNothingLearnedStays(t *testing.T) {
	s := newTestSite(t)
	converge(t, s.host, s.scope, s.want)
	enter(t, s.host)
	for _, dev := range []string{overspan.VethName(s.key.Endpoint), s.net.vxlan()} {
		sh(t, "bridge link set dev "+dev+" learning on; bridge fdb add 02:00:00:00:00:99 dev "+dev+" master dynamic")
		converge(t, s.host, s.scope, s.want)
		if left := sh(t, "bridge fdb show br "+s.net.bridge()); strings.Contains(left, "02:00:00:00:00:99") {
			t.Errorf("%s still has what it learned:\n%s", dev, left)
		}
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
	if err := s.host.Retire(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := look()
	converge(t, s.host, s.scope, s.want)
	if diff := cmp.Diff(strings.Split(before, "\n"), strings.Split(look(), "\n")); diff != "" {
		t.Errorf("foreign state (-before +beside ours):\n%s", diff)
	}
	converge(t, s.host, s.scope, State{Netns: s.want.Netns})
	if err := s.host.Retire(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(before, "\n"), strings.Split(look(), "\n")); diff != "" {
		t.Errorf("foreign state (-before +after):\n%s", diff)
	}
}

// TestStrayAddressTakesNoGroupAlong adds an address beside the gateway's that has
// the same solicited-node group, and deletes it before the kernel is done with it.
func TestStrayAddressTakesNoGroupAlong(t *testing.T) {
	s := newTestSite(t)
	converge(t, s.host, s.scope, s.want)
	for range 10 {
		sh(t, "ip addr add fd99::1/64 dev "+s.net.bridge())
		apply(t, s.host, DelAddr{Addr{s.net.bridge(), netip.MustParsePrefix("fd99::1/64")}})
	}
	deadline := time.Now().Add(5 * time.Second)
	for !strings.Contains(sh(t, "ip -6 maddr show dev "+s.net.bridge()), "ff02::1:ff00:1\n") {
		if time.Now().After(deadline) {
			t.Fatal("the gateway hears no neighbour solicitation any more")
		}
	}
	converge(t, s.host, s.scope, s.want)
}
