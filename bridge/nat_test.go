package bridge_test

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/bridge"
	"github.com/overspan/overspan/internal/golden"
	"github.com/overspan/overspan/internal/nstest"
	"github.com/overspan/overspan/kernel"
)

func TestNAT(t *testing.T) {
	a, b, c, d := network("a", 1), network("b", 2), network("c", 3), network("d", 4)
	b.Options = map[string]string{"snat4": "192.0.2.77"}
	b.IPv6 = overspan.Subnet{}
	c.Internal = true
	d.Options = map[string]string{"masquerade": "false"}
	golden.Check(t, "nat", text(bridge.NAT([]*overspan.Network{b, a, d, c})))
	golden.Check(t, "nat-no-network", text(bridge.NAT(nil)))
}

func TestForwarding(t *testing.T) {
	dual, only4, internal := network("a", 1), network("b", 2), network("c", 3)
	only4.IPv6 = overspan.Subnet{}
	internal.Internal = true
	both := map[string]string{kernel.ForwardIPv4: "1", kernel.ForwardIPv6: "1", "net/ipv6/conf/eth0/accept_ra": "2"}
	for name, test := range map[string]struct {
		networks []*overspan.Network
		want     map[string]string
	}{
		"no network":            {nil, map[string]string{}},
		"an internal one alone": {[]*overspan.Network{internal}, map[string]string{}},
		"IPv4":                  {[]*overspan.Network{only4, internal}, map[string]string{kernel.ForwardIPv4: "1"}},
		"both families":         {[]*overspan.Network{internal, only4, dual}, both},
	} {
		s := bridge.ForwardIPv4(test.networks)
		s.Add(bridge.ForwardIPv6(test.networks, []string{"eth0"}))
		if diff := cmp.Diff(kernel.State{Sysctls: test.want}.Lines(), s.Lines()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestSources sends from everywhere to everywhere and looks whom each packet
// seems to come from. br_netfilter is on, as in every new namespace, and would
// have frames within a network masqueraded too.
func TestSources(t *testing.T) {
	t.Run("nft", testSources)
	t.Run("legacy", func(t *testing.T) {
		nstest.Legacy(t)
		testSources(t)
	})
}

func testSources(t *testing.T) {
	l := newLab(t)
	l.node.Script("addr add 192.0.2.77/24 dev eth0\naddr add 2001:db8::77/64 dev eth0 nodad preferred_lft 0")
	// What answers need is in conntrack: the world knows no way to containers.
	l.world.Script("route del 10.0.0.0/8\nroute del fd00::/8")
	for _, program := range []string{"iptables", "ip6tables"} {
		l.node.Run(program, "-w", "-P", "FORWARD", "DROP")
		l.node.Run(program, "-w", "-A", "FORWARD", "-j", "DROP")
		l.node.Run(program, "-w", "-t", "nat", "-A", "POSTROUTING", "-o", "eth9", "-j", "MASQUERADE")
	}
	a, b := l.boxes["a2"], l.boxes["b2"]
	check := func(name string, from *nstest.Namespace, to string, at *nstest.Namespace, want string) {
		t.Helper()
		if got := source(t, from, to, at); got != netip.MustParseAddr(want) {
			t.Errorf("%s: a packet to %s seems to come from %s; want %s", name, to, got, want)
		}
	}
	apply := func(options map[string]string) {
		l.networks[1].Options = options
		want := bridge.Rules(l.networks, l.cluster())
		want.Take(bridge.NAT(l.networks))
		l.node.Apply(kernel.Scope{Global: true}, want)
	}

	apply(map[string]string{"snat4": "192.0.2.77", "snat6": "2001:db8::77"})
	check("masqueraded", a, "192.0.2.2", l.world, "192.0.2.1")
	check("masqueraded", a, "2001:db8::2", l.world, "2001:db8::1")
	check("SNAT", b, "192.0.2.2", l.world, "192.0.2.77")
	check("SNAT", b, "2001:db8::2", l.world, "2001:db8::77")
	check("within a network", a, "10.0.1.3", l.boxes["a3"], "10.0.1.2")
	check("within a network", a, "fd00:1::3", l.boxes["a3"], "fd00:1::2")
	check("within an internal network", l.boxes["c2"], "10.0.3.3", l.boxes["c3"], "10.0.3.2")
	check("to the node", a, "192.0.2.1", l.node, "10.0.1.2")
	check("to the gateway", a, "fd00:1::1", l.node, "fd00:1::2")
	check("from the node", l.node, "10.0.1.2", a, "10.0.1.1")
	check("from the node", l.node, "fd00:1::2", a, "fd00:1::1")
	check("within the node", l.node, "10.0.1.1", l.node, "10.0.1.1")

	apply(map[string]string{"masquerade": "false"})
	l.world.Script("route add 10.0.2.0/24 via 192.0.2.1")
	check("masqueraded as before", a, "192.0.2.2", l.world, "192.0.2.1")
	check("not masqueraded", b, "192.0.2.2", l.world, "10.0.2.2")
}

// source has one sender tell another something, and returns who that seems to
// be. An answer goes back the same way.
func source(t *testing.T, from *nstest.Namespace, to string, at *nstest.Namespace) netip.Addr {
	t.Helper()
	addr := netip.MustParseAddr(to)
	var server net.PacketConn
	at.Do(func() (err error) {
		server, err = new(net.ListenConfig).ListenPacket(context.Background(), "udp", netip.AddrPortFrom(addr, probePort).String())
		return err
	})
	defer server.Close()
	var client net.Conn
	from.Do(func() (err error) {
		client, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, probePort)))
		return err
	})
	defer client.Close()
	deadline := time.Now().Add(5 * time.Second)
	buf := make([]byte, 16)
	for _, conn := range []interface{ SetDeadline(time.Time) error }{server, client} {
		if err := conn.SetDeadline(deadline); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := client.Write([]byte("who?")); err != nil {
		t.Fatal(err)
	}
	_, peer, err := server.ReadFrom(buf)
	if err != nil {
		t.Fatalf("nothing arrives at %s: %v", to, err)
	}
	if _, err := server.WriteTo([]byte("you"), peer); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Read(buf); err != nil {
		t.Fatalf("no answer from %s: %v", to, err)
	}
	return peer.(*net.UDPAddr).AddrPort().Addr().Unmap()
}
