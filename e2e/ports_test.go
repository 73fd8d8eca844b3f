package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/overspan/overspan/e2e/lab"
)

// serve starts a server in a sandbox that says its own name.
func (c *cluster) serve(box *lab.Sandbox, port uint16) {
	c.t.Helper()
	srv, err := box.Serve(box.Name, port)
	c.must(err)
	c.t.Cleanup(func() {
		if err := srv.Close(); err != nil {
			c.t.Errorf("close the server in %s: %v", box.Name, err)
		}
	})
}

// asks asks over TCP and UDP; both times the named server must answer. It
// returns whom that takes for its client.
func (c *cluster) asks(from lab.Place, at, name string) netip.Addr {
	c.t.Helper()
	var client netip.Addr
	for _, network := range []string{"tcp", "udp"} {
		got, err := lab.Ask(c.t.Context(), from, network, at)
		if err != nil || got.Name != name {
			c.t.Errorf("%s over %s: answer of %q, %v; want one of %s", at, network, got.Name, err, name)
		}
		client = got.Client
	}
	return client
}

// asksInVain must get no answer, neither over TCP nor over UDP.
func (c *cluster) asksInVain(from lab.Place, at string) {
	c.t.Helper()
	for _, network := range []string{"tcp", "udp"} {
		if got, err := lab.Ask(c.t.Context(), from, network, at); err == nil {
			c.t.Errorf("%s over %s: answer of %q; want none", at, network, got.Name)
		}
	}
}

// at writes an address and a port.
func at(addr netip.Addr, port uint16) string { return netip.AddrPortFrom(addr, port).String() }

// twice publishes a port over TCP and UDP.
func twice(spec string) []string { return []string{"-p", spec, "-p", spec + "/udp"} }

// publishedPorts returns what endpoint inspect shows, as "HOST->TARGET".
func (c *cluster) publishedPorts(n *lab.Node, name string) []string {
	c.t.Helper()
	var got []struct {
		Ports map[string][]struct{ HostIp, HostPort string }
	}
	c.must(n.CtlJSON(c.t.Context(), &got, "endpoint", "inspect", name))
	var out []string
	for target, bindings := range got[0].Ports {
		for _, b := range bindings {
			out = append(out, net.JoinHostPort(b.HostIp, b.HostPort)+"->"+target)
		}
	}
	return out
}

// Scenarios 23 to 26: "-p 8080:80 on H1: reachable from H2, from H1 by its
// address and by 127.0.0.1, from the container itself through the host's
// address, from another network's container through the host's address; the
// server logs H2's real address. -p 127.0.0.1:9000:90/udp: only from H1. -p 80: a
// port of the ephemeral range; -p 8100-8105:22 six times, then an error; a port
// taken by us, or by a foreign listener: error first, nothing left."
func TestScenario24_PublishedPorts(t *testing.T) {
	c := start(t, lab.Options{Nodes: 2, Underlay: lab.UnderlayDual, Forwarding: true})
	h1, h2 := c.Nodes[0], c.Nodes[1]
	c.create(h1, "--ipv6", "demo")
	c.createOf(h1, "bridge", "app")
	web := c.attach(h1, "demo", "web", append(twice("8080:80"), twice("127.0.0.1:9000:90")...)...)
	other := c.attach(h1, "app", "other", twice("8081:80")...)
	for _, port := range []uint16{80, 90} {
		c.serve(web, port)
	}
	c.serve(other, 80)
	host := h1.Addrs[0]

	t.Run("from everywhere", func(t *testing.T) {
		c := c.in(t)
		if client := c.asks(h2, at(host, 8080), "web"); client != h2.Addrs[0] {
			t.Errorf("the server takes %s for its client; want %s", client, h2.Addrs[0])
		}
		if client := c.asks(h1, at(host, 8080), "web"); client != host {
			t.Errorf("the server takes %s for its client; want %s", client, host)
		}
		c.asks(h1, "127.0.0.1:8080", "web")
		c.asks(web, at(host, 8080), "web")
		c.asks(other, at(host, 8080), "web")
		c.asks(web, at(host, 8081), "other")
		c.asks(h2, at(host, 8081), "other")
		addrs, err := web.Addrs(eth0)
		c.must(err)
		c.asksInVain(other, at(addrs[0], 80))
	})
	t.Run("over IPv6", func(t *testing.T) { c.in(t).servesIPv6(h1, h2, web) })
	t.Run("with ICC off", func(t *testing.T) { c.in(t).servesApart(h1, h2, other) })
	t.Run("scenario 25, at 127.0.0.1", func(t *testing.T) {
		c := c.in(t)
		c.asks(h1, "127.0.0.1:9000", "web")
		c.asksInVain(h1, at(host, 9000))
		c.asksInVain(h2, at(host, 9000))
		c.asksInVain(other, at(host, 9000))
		c.asksAroundInVain(h2, h1, web)
	})
	t.Run("scenario 26, chosen and taken", func(t *testing.T) { c.in(t).choosesPorts(h1, h2) })
	t.Run("while the agent restarts", func(t *testing.T) {
		c := c.in(t)
		c.must(h1.Kill(t.Context()))
		c.asks(h2, at(host, 8080), "web")
		c.must(h1.Start(t.Context()))
		c.asks(h2, at(host, 8080), "web")
		c.refused(h1, []string{"0.0.0.0:8080/tcp", "already allocated to sandbox web"}, "network", "connect", "-p", "8080:1", "app", web.Name)
	})
	t.Run("no more", func(t *testing.T) {
		c := c.in(t)
		c.disconnect("demo", web)
		c.asksInVain(h2, at(host, 8080))
		c.connect("demo", web, twice("8080:80")...)
		c.asks(h2, at(host, 8080), "web")
	})
}

// asksAroundInVain has a host send packets for 127.0.0.1 and for a sandbox's own
// address to the sandbox's host, where port 9000 of 127.0.0.1 leads to port 90 of
// the sandbox.
func (c *cluster) asksAroundInVain(from, host *lab.Node, box *lab.Sandbox) {
	c.t.Helper()
	addrs, err := box.Addrs(eth0)
	c.must(err)
	run := func(n *lab.Node, args ...string) {
		c.t.Helper()
		_, err := n.Exec(c.t.Context(), args[0], args[1:]...)
		c.must(err)
	}
	via := host.Addrs[0].String()
	// Else the kernel takes no such packet from a device, whatever the rules say.
	const localnet = "net.ipv4.conf.all.route_localnet"
	run(host, "sysctl", "-qw", localnet+"=1")
	defer run(host, "sysctl", "-qw", localnet+"=0")
	// The table of local addresses is looked at first unless its rule moves.
	run(from, "ip", "rule", "add", "pref", "100", "lookup", "local")
	run(from, "ip", "rule", "del", "pref", "0")
	run(from, "ip", "route", "add", "127.0.0.1", "via", via, "table", "77")
	run(from, "ip", "rule", "add", "pref", "10", "to", "127.0.0.1", "lookup", "77")
	run(from, "ip", "route", "add", addrs[0].String(), "via", via)
	c.asksInVain(from, "127.0.0.1:9000")
	c.asksInVain(from, at(addrs[0], 90))
	run(from, "ip", "route", "del", addrs[0].String())
	run(from, "ip", "rule", "del", "pref", "10")
	run(from, "ip", "route", "flush", "table", "77")
	run(from, "ip", "rule", "add", "pref", "0", "lookup", "local")
	run(from, "ip", "rule", "del", "pref", "100")
}

// servesIPv6 asks a sandbox by the IPv6 address of its host. The kernel routes ::1 to
// no container: who asks there is refused, and does not wait.
func (c *cluster) servesIPv6(h1, h2 *lab.Node, web *lab.Sandbox) {
	c.t.Helper()
	host, far := h1.Addrs[1], h2.Addrs[1]
	if client := c.asks(h2, at(host, 8080), web.Name); client != far {
		c.t.Errorf("the server takes %s for its client; want %s", client, far)
	}
	if client := c.asks(h1, at(host, 8080), web.Name); client != host {
		c.t.Errorf("the server takes %s for its client; want %s", client, host)
	}
	c.asks(web, at(host, 8080), web.Name)
	if _, err := lab.Ask(c.t.Context(), h1, "tcp", "[::1]:8080"); !errors.Is(err, unix.ECONNREFUSED) {
		c.t.Errorf("who asks at ::1 is told %v", err)
	}
}

// servesApart asks a sandbox whose network lets nobody reach his peers.
func (c *cluster) servesApart(h1, h2 *lab.Node, other *lab.Sandbox) {
	c.t.Helper()
	c.createOf(h1, "bridge", "-o", "icc=false", "apart")
	box, peer := c.attach(h1, "apart", "apart1", twice("8085:80")...), c.attach(h1, "apart", "apart2")
	c.serve(box, 80)
	host := h1.Addrs[0]
	if client := c.asks(h2, at(host, 8085), box.Name); client != h2.Addrs[0] {
		c.t.Errorf("the server takes %s for its client; want %s", client, h2.Addrs[0])
	}
	c.asks(h1, at(host, 8085), box.Name)
	c.asks(h1, "127.0.0.1:8085", box.Name)
	c.asks(other, at(host, 8085), box.Name)
	c.asksInVain(peer, at(c.addr(box), 80))
}

// choosesPorts has host ports chosen, and refused; of what is refused nothing
// stays.
func (c *cluster) choosesPorts(h1, h2 *lab.Node) {
	c.t.Helper()
	box := c.attach(h1, "app", "drawn", "-P", "-p", "80", "--expose", "80", "--expose", "81-82/udp")
	c.serve(box, 80)
	raw, err := h1.Exec(c.t.Context(), "cat", "/proc/sys/net/ipv4/ip_local_port_range")
	c.must(err)
	var first, last uint16
	if _, err := fmt.Sscan(raw, &first, &last); err != nil {
		c.t.Fatal(err)
	}
	ports := c.publishedPorts(h1, "drawn")
	if len(ports) != 3 {
		c.t.Errorf("published are %v; want three", ports)
	}
	for _, p := range ports {
		host, target, _ := strings.Cut(p, "->")
		bound, err := netip.ParseAddrPort(host)
		c.must(err)
		if bound.Port() < first || bound.Port() > last {
			c.t.Errorf("%s is not in the ephemeral range %s", host, raw)
		}
		if target == "80/tcp" {
			if got, err := lab.Ask(c.t.Context(), h2, "tcp", at(h1.Addrs[0], bound.Port())); err != nil || got.Name != "drawn" {
				c.t.Errorf("the drawn port answers %v, %v", got, err)
			}
		}
	}
	for i := range 6 {
		c.attach(h1, "app", fmt.Sprintf("ssh%d", i), "-p", "8100-8105:22")
	}
	before, err := c.keys(c.t.Context())
	c.must(err)
	late := c.netns(h1, "late")
	refused := func(words []string, publish string) {
		c.t.Helper()
		c.refused(h1, words, "network", "connect", "-p", "8200:1", "-p", publish, "app", late.Name)
	}
	refused([]string{"none of the host ports is free", "sandbox ssh5"}, "8100-8105:22")
	refused([]string{"already allocated to sandbox web"}, "8080:80")
	refused([]string{"192.0.2.77 is no address of this host"}, "192.0.2.77:80:80")
	refused([]string{"invalid protocol"}, "80/icmp")
	var foreign net.Listener
	c.must(h1.Do(func() (err error) {
		foreign, err = net.Listen("tcp4", "127.0.0.1:8300")
		return err
	}))
	refused([]string{"0.0.0.0:8300/tcp", "already allocated to"}, "8300:80")
	c.must(foreign.Close())
	c.must(h1.Do(func() error {
		l, err := net.Listen("tcp4", ":8080")
		if errors.Is(err, unix.EADDRINUSE) {
			return nil
		}
		if err == nil {
			err = errors.Join(errors.New("a foreign program takes a published port"), l.Close())
		}
		return err
	}))
	after, err := c.keys(c.t.Context())
	c.must(err)
	if diff := cmp.Diff(before, after); diff != "" {
		c.t.Errorf("a refused port has changed etcd (-before +after):\n%s", diff)
	}
	// What the refused requests had taken is free again.
	c.connect("app", late, "-p", "8200:1", "-p", "8300:80")
}

// Scenario 30: "A UDP client keeps its source port while the container behind the
// published port is replaced by one with another address: the next datagram
// arrives there; other flows are not disturbed." And what goes astray while the
// rules are missing comes back with them.
func TestScenario30_FlowsFollowTheirPort(t *testing.T) {
	c := start(t, lab.Options{Nodes: 2, Forwarding: true})
	h1, h2 := c.Nodes[0], c.Nodes[1]
	c.createOf(h1, "bridge", "app")
	first, second, other := c.netns(h1, "first"), c.netns(h1, "second"), c.netns(h1, "other")
	c.connect("app", other, "-p", "8081:80/udp")
	c.connect("app", first, "-p", "8080:80/udp")
	for _, box := range []*lab.Sandbox{first, second, other} {
		c.serve(box, 80)
	}
	client, err := lab.OpenUDP(t.Context(), h2, at(h1.Addrs[0], 8080))
	c.must(err)
	defer client.Close()
	steady, err := lab.OpenUDP(t.Context(), h2, at(h1.Addrs[0], 8081))
	c.must(err)
	defer steady.Close()
	answers := func(conn net.Conn, name string) {
		t.Helper()
		if got, err := lab.AskOn(conn); err != nil || got.Name != name {
			t.Errorf("answer of %q, %v; want one of %s", got.Name, err, name)
		}
	}
	answers(client, "first")
	answers(steady, "other")
	kept := c.flows(h1, "dport=8081")
	c.disconnect("app", first)
	if got, err := lab.AskOn(client); err == nil {
		t.Errorf("a port that is published no more is answered by %s", got.Name)
	}
	c.connect("app", second, "-p", "8080:80/udp")
	answers(client, "second")
	answers(steady, "other")
	if now := c.flows(h1, "dport=8081"); kept != now {
		t.Errorf("another flow was disturbed: before\n%snow\n%s", kept, now)
	}

	// What the client sends while there is no rule must not be remembered.
	_, err = h1.Exec(t.Context(), "sh", "-ec", "iptables -w -t nat -F; conntrack -D -p udp --dport 8080 || true")
	c.must(err)
	_, err = client.Write([]byte("?"))
	c.must(err)
	c.eventually(settleWithin, func(context.Context) error {
		got, err := lab.AskOn(client)
		if err == nil && got.Name != "second" {
			err = fmt.Errorf("answer of %s", got.Name)
		}
		return err
	})
}

// flows lists the addresses and ports of a host's conntrack entries with a word.
func (c *cluster) flows(n *lab.Node, word string) string {
	c.t.Helper()
	out, err := n.Exec(c.t.Context(), "sh", "-ec", "conntrack -L -p udp 2>/dev/null | grep "+word+" | tr ' ' '\\n' | grep -E '^(src|dst|sport|dport)='")
	c.must(err)
	return out
}
