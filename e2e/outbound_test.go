package e2e

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/overspan/overspan/e2e/lab"
)

// whoPort is where senders are told whom they seem to be.
const whoPort = 7077

// Addresses that a node has beside those of its devices.
var (
	snat4 = netip.MustParseAddr("10.99.0.77")
	snat6 = netip.MustParseAddr("fd99::77")
)

// A place is where sockets can be opened: a host or a sandbox.
type place interface{ Do(f func() error) error }

// seenAs has one place send a datagram to an address at another one, and
// returns whom that is seen to come from. The answer must get back.
func (c *cluster) seenAs(from place, to netip.Addr, at place) netip.Addr {
	c.t.Helper()
	addr := netip.AddrPortFrom(to, whoPort)
	var server, client net.Conn
	c.must(at.Do(func() (err error) {
		conn, err := new(net.ListenConfig).ListenPacket(c.t.Context(), "udp", addr.String())
		if err == nil {
			server = conn.(*net.UDPConn)
		}
		return err
	}))
	defer server.Close()
	c.must(from.Do(func() (err error) {
		client, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(addr))
		return err
	}))
	defer client.Close()
	deadline := time.Now().Add(settleWithin)
	c.must(server.SetDeadline(deadline))
	c.must(client.SetDeadline(deadline))
	_, err := client.Write([]byte("who?"))
	c.must(err)
	buf := make([]byte, 16)
	_, peer, err := server.(*net.UDPConn).ReadFromUDPAddrPort(buf)
	if err != nil {
		c.t.Fatalf("nothing arrives at %s: %v", to, err)
	}
	_, err = server.(*net.UDPConn).WriteToUDPAddrPort([]byte("you"), peer)
	c.must(err)
	if _, err := client.Read(buf); err != nil {
		c.t.Fatalf("no answer from %s: %v", to, err)
	}
	return peer.Addr().Unmap()
}

// Scenario 28: "Outbound: masqueraded to the node's address; not masqueraded
// inside the network; with FORWARD policy DROP, br_netfilter on, a foreign DROP
// appended."
func TestScenario28_OutboundIsMasqueraded(t *testing.T) {
	t.Parallel()
	c := build(t, lab.Options{Nodes: 2, Underlay: lab.UnderlayDual, ForwardDrop: true})
	h1, h2 := c.Nodes[0], c.Nodes[1]
	for _, n := range c.Nodes {
		for _, iptables := range []string{"iptables", "ip6tables"} {
			_, err := n.Exec(t.Context(), iptables, "-w", "-A", "FORWARD", "-j", "DROP")
			c.must(err)
		}
	}
	for _, as := range []netip.Addr{snat4, snat6} { // what the node would not choose by itself
		_, err := h1.Exec(t.Context(), "ip", "addr", "add", as.String(), "dev", eth0, "nodad", "preferred_lft", "0")
		c.must(err)
	}
	c.start()
	c.create(h1, "--ipv6", "demo")
	c.create(h1, "--ipv6", "-o", "masquerade=false", "plain")
	for _, flags := range [][]string{{"local"}, {"-o", "snat4=10.99.0.77", "-o", "snat6=fd99::77", "snat"}} {
		c.ctl(h1, append([]string{"network", "create", "-d", "bridge", "--ipv6"}, flags...)...)
	}
	a, a2, b := c.attach(h1, "demo", "a"), c.attach(h1, "demo", "a2"), c.attach(h2, "demo", "b")
	plain, local, snat := c.attach(h1, "plain", "plain"), c.attach(h1, "local", "local"), c.attach(h1, "snat", "snat")
	world := c.Etcd.Members[0].Host // no node, and without any route to containers
	for family := range 2 {
		addr := func(s *lab.Sandbox) netip.Addr {
			addrs, err := s.Addrs(eth0)
			c.must(err)
			return addrs[family]
		}
		gateway := nth(addr(a), 1)
		for _, test := range []struct {
			name string
			from place
			to   netip.Addr
			at   place
			want netip.Addr
		}{
			{"to the world", a, world.Addrs[family], world, h1.Addrs[family]},
			{"to another node", a, h2.Addrs[family], h2, h1.Addrs[family]},
			{"from another node to the world", b, world.Addrs[family], world, h2.Addrs[family]},
			{"from a bridge network", local, world.Addrs[family], world, h1.Addrs[family]},
			{"from a bridge network with SNAT", snat, world.Addrs[family], world, []netip.Addr{snat4, snat6}[family]},
			{"within the network on one node", a, addr(a2), a2, addr(a)},
			{"within the network between nodes", a, addr(b), b, addr(a)},
			{"to the own node", a, h1.Addrs[family], h1, addr(a)},
			{"to the gateway", a, gateway, h1, addr(a)},
			{"from the own node", h1, addr(a), a, gateway},
		} {
			if got := c.seenAs(test.from, test.to, test.at); got != test.want {
				t.Errorf("%s: seen as %s; want %s", test.name, got, test.want)
			}
		}
		// Who knows a way to the containers meets what leaves as it is, and gets
		// no further than answers do.
		for _, to := range []netip.Addr{addr(plain), addr(a), gateway, addr(local)} {
			_, err := world.Exec(t.Context(), "ip", "route", "add", to.String(), "via", h1.Addrs[family].String())
			c.must(err)
			direct, err := world.Run(t.Context(), "ping", "-c", "1", "-W", "1", to.String())
			c.must(err)
			if direct.Code == 0 {
				t.Errorf("the world reaches %s directly", to)
			}
		}
		if got := c.seenAs(plain, world.Addrs[family], world); got != addr(plain) {
			t.Errorf("without masquerading: seen as %s; want %s", got, addr(plain))
		}
	}
}

// Scenario 29: "iptables -F, -t nat -F, nft flush ruleset: all back in under
// 2 s."
func TestScenario29_RulesHeal(t *testing.T) {
	c := build(t, lab.Options{Nodes: 1, ForwardDrop: true})
	h1 := c.Nodes[0]
	h1.Flags = resync(longResync)
	c.start()
	c.create(h1, "demo")
	box := c.attach(h1, "demo", "web")
	world := c.Etcd.Members[0].Host
	events, err := h1.Events(t.Context())
	c.must(err)
	s := &site{c: c, node: h1, box: box, events: events}
	for _, spoil := range []struct{ name, commands string }{
		{"iptables -F", "iptables -w -F"},
		{"iptables -F in every table", "for t in filter nat raw mangle; do iptables -w -t $t -F; iptables -w -t $t -X || true; done"},
		{"iptables -t nat -F", "iptables -w -t nat -F"},
		{"nft flush ruleset", "nft flush ruleset"},
		{"tables deleted", "nft delete table ip nat; nft delete table ip filter; nft delete table ip raw"},
		{"a firewall's reload", reload},
	} {
		seen, begin := len(events.Seen()), time.Now()
		_, err := h1.Exec(t.Context(), "sh", "-ec", spoil.commands)
		c.must(err)
		var at time.Time
		c.eventually(repairWithin, func(context.Context) (err error) {
			at, err = s.told(seen, "repair", "→ loaded")
			return err
		})
		c.eventually(repairWithin-time.Since(begin)/lab.Patience, c.verified)
		t.Logf("%-30s repaired in %4d ms", spoil.name, at.Sub(begin).Milliseconds())
		if got := c.seenAs(box, world.Addrs[0], world); got != h1.Addrs[0] {
			t.Errorf("after %s: seen as %s; want %s", spoil.name, got, h1.Addrs[0])
		}
	}
	// What the firewall has set is as it left it.
	rules, err := h1.Exec(t.Context(), "iptables-save", "-t", "filter")
	c.must(err)
	for _, want := range []string{":INPUT DROP", ":FORWARD DROP", "-A INPUT -i lo -j ACCEPT", "-A FORWARD -j REJECT"} {
		if firstMatch(rules, "(?m)^("+want+")") == "" {
			t.Errorf("the firewall's %q is gone:\n%s", want, rules)
		}
	}
	_, err = h1.Exec(t.Context(), "sh", "-ec", "iptables -w -F INPUT; iptables -w -P INPUT ACCEPT; iptables -w -D FORWARD -j REJECT; ip6tables -w -P FORWARD DROP")
	c.must(err)
	c.eventually(repairWithin, c.verified)
	c.must(events.Stop(t.Context()))
}

// reload is what a firewall does that takes the host for its own: all tables
// flushed, policies and rules of its own loaded.
const reload = `
nft flush ruleset
iptables-restore -w <<EOF
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -i eth0 -j ACCEPT
-A FORWARD -j REJECT
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
COMMIT
EOF
`
