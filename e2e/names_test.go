package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/e2e/lab"
)

// askBound is how long a program in a container waits for an answer.
const askBound = 5 * time.Second

// ask asks a sandbox's gateway as a program within would.
func ask(box *lab.Sandbox, gateway netip.Addr, transport, name string, kind uint16) (*dns.Msg, error) {
	query := new(dns.Msg).SetQuestion(dns.Fqdn(name), kind)
	var reply *dns.Msg
	err := box.Do(func() (err error) {
		client := dns.Client{Net: transport, Timeout: askBound}
		reply, _, err = client.Exchange(query, netip.AddrPortFrom(gateway, 53).String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s on %s asks %s for %s %s: %w", box.Name, box.Node.Name, gateway, dns.TypeToString[kind], name, err)
	}
	return reply, nil
}

// shownAnswers returns what a reply says, sorted: its code if it is no success,
// and the data of its records.
func shownAnswers(reply *dns.Msg) []string {
	var out []string
	if reply.Rcode != dns.RcodeSuccess {
		out = append(out, dns.RcodeToString[reply.Rcode])
	}
	for _, rr := range reply.Answer {
		out = append(out, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	slices.Sort(out)
	return out
}

// told checks what a sandbox is answered by its gateway.
func (c *cluster) told(box *lab.Sandbox, gateway netip.Addr, transport, name string, kind uint16, want ...string) *dns.Msg {
	c.t.Helper()
	reply, err := ask(box, gateway, transport, name, kind)
	c.must(err)
	slices.Sort(want)
	if got := shownAnswers(reply); !slices.Equal(got, want) {
		c.t.Errorf("%s on %s asks for %s %s by %s and is told %q; want %q", box.Name, box.Node.Name, dns.TypeToString[kind], name, transport, got, want)
	}
	return reply
}

// dualAddrs returns a sandbox's IPv4 and IPv6 address.
func (c *cluster) dualAddrs(box *lab.Sandbox) (v4, v6 string) {
	c.t.Helper()
	addrs, err := box.Addrs(eth0)
	c.must(err)
	if len(addrs) != 2 {
		c.t.Fatalf("%s has the addresses %v; want two", box.Name, addrs)
	}
	return addrs[0].String(), addrs[1].String()
}

// A world answers each question for an address with the same one, on a node's
// own address, and remembers them.
type world struct {
	server *dns.Server

	mu    sync.Mutex // guards asked
	asked []string
}

// heard returns what was asked since it was called last.
func (w *world) heard() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.asked
	w.asked = nil
	return out
}

func (w *world) answer(out dns.ResponseWriter, query *dns.Msg) {
	q := query.Question[0]
	w.mu.Lock()
	w.asked = append(w.asked, q.Name)
	w.mu.Unlock()
	reply := new(dns.Msg).SetReply(query)
	reply.Answer = []dns.RR{&dns.A{
		Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60},
		A:   netip.MustParseAddr(worldAddr).AsSlice(),
	}}
	out.WriteMsg(reply)
}

const worldAddr = "203.0.113.80"

// outside starts a world on a node and has the node ask it.
func (c *cluster) outside(n *lab.Node) *world {
	c.t.Helper()
	var conn net.PacketConn
	c.must(n.Do(func() (err error) {
		conn, err = net.ListenPacket("udp", netip.AddrPortFrom(n.Addrs[0], 53).String())
		return err
	}))
	w := &world{}
	w.server = &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(w.answer)}
	started := make(chan struct{})
	w.server.NotifyStartedFunc = func() { close(started) }
	go w.server.ActivateAndServe()
	<-started
	c.t.Cleanup(func() { w.server.Shutdown() })
	c.must(os.WriteFile(n.Path("/etc/resolv.conf"), []byte("nameserver "+n.Addrs[0].String()+"\n"), 0o644))
	return w
}

// Scenario 32: "DNS: any case, name.network, shared alias on two nodes (both
// answers, order varies), PTR, AAAA and MX of a known name NODATA, SRV, TCP,
// 12-digit id; unknown names forwarded, upstream dead: SERVFAIL within 5 s;
// --internal: nothing forwarded."
func TestScenario32_NamesAreAnswered(t *testing.T) {
	t.Parallel()
	c := three(t)
	h1, h2 := c.Nodes[0], c.Nodes[1]
	c.create(h1, "demo")
	c.create(h1, "--ipv6", "--internal", "secret")
	w := c.outside(h1)
	client := c.attach(h1, "demo", "client", "--link", "db:friend")
	web := c.attach(h2, "demo", "Web-1", "--alias", "www", "--alias", "web", "-p", "8080:80")
	db := c.attach(c.Nodes[2], "demo", "db", "--alias", "www", "--alias", "store", "-p", "80", "-p", "5353/udp")
	demo, webAddr, dbAddr := c.gateway(c.Nodes[0], "demo"), c.addr(web).String(), c.addr(db).String()
	c.eventually(settleWithin, func(context.Context) error { return allTold([]*lab.Sandbox{client}, demo, "db", 1) })
	w.heard()
	reversed := func(a string) string {
		name, err := dns.ReverseAddr(a)
		c.must(err)
		return name
	}
	var endpoints []struct{ ID string }
	c.must(h1.CtlJSON(t.Context(), &endpoints, "endpoint", "inspect", "db"))
	for _, transport := range []string{"udp", "tcp"} {
		for _, q := range []struct {
			name string
			kind uint16
			want []string
		}{
			{"web-1", dns.TypeA, []string{webAddr}},
			{"WEB-1.Demo", dns.TypeA, []string{webAddr}},
			{"store", dns.TypeA, []string{dbAddr}},
			{"friend", dns.TypeA, []string{dbAddr}},
			{"www", dns.TypeA, []string{webAddr, dbAddr}},
			{overspan.ShortID(endpoints[0].ID), dns.TypeA, []string{dbAddr}},
			{"db", dns.TypeAAAA, nil},
			{"db", dns.TypeMX, nil},
			{reversed(webAddr), dns.TypePTR, []string{"Web-1.demo."}},
			{reversed(demo.String()), dns.TypePTR, []string{"NXDOMAIN"}},
		} {
			reply := c.told(client, demo, transport, q.name, q.kind, q.want...)
			for _, rr := range reply.Answer {
				if rr.Header().Ttl != 5 {
					t.Errorf("%s may be kept for %d s; want 5", q.name, rr.Header().Ttl)
				}
			}
		}
	}
	c.ordersVary(client, demo, "www")
	c.servicesAreFound(client, "demo", web, db)
	if asked := w.heard(); len(asked) > 0 {
		t.Errorf("the world was asked for %q", asked)
	}
	c.told(c.attach(h1, "demo", "stranger"), demo, "udp", "friend", dns.TypeA, worldAddr) // another's link
	c.seenWithin(h1, client, dbAddr)

	c.told(client, demo, "udp", "example.org", dns.TypeA, worldAddr)
	c.must(w.server.Shutdown())
	for _, upstream := range []string{h1.Addrs[0].String(), "192.0.2.250"} { // refuses at once; is silent
		c.must(os.WriteFile(h1.Path("/etc/resolv.conf"), []byte("nameserver "+upstream+"\n"), 0o644))
		c.told(client, demo, "udp", "example.org", dns.TypeA, "SERVFAIL")
	}
	c.internalIsSilent(h1, web)
	c.localNames(h1)
}

// seenWithin checks what programs are told that use the C library, in ctl run and
// in a namespace of ip-netns(8). On the node, others' rules let nothing in from
// our bridges.
func (c *cluster) seenWithin(n *lab.Node, box *lab.Sandbox, want string) {
	c.t.Helper()
	rule := []string{"INPUT", "-i", "osb-+", "-j", "DROP"}
	exec := func(words ...string) string {
		c.t.Helper()
		out, err := n.Exec(c.t.Context(), words[0], words[1:]...)
		c.must(err)
		return out
	}
	exec(append([]string{"iptables", "-A"}, rule...)...)
	defer exec(append([]string{"iptables", "-D"}, rule...)...)
	got := c.ctl(n, "run", "--network", "demo", "--name", "runner", "--hostname", "me", "--alias", "www", "--link", "db:store2",
		"--dns-search", "example.org", "--add-host", "extra:192.0.2.9", "--",
		"sh", "-c", "hostname; getent ahostsv4 store2; getent hosts extra; getent ahostsv4 me; cat /etc/resolv.conf")
	for _, word := range []string{"me\n", want, "192.0.2.9", "search example.org", "options ndots:0", "nameserver " + c.gateway(n, "demo").String()} {
		if !strings.Contains(got, word) {
			c.t.Errorf("within ctl run there is no %q:\n%s", word, got)
		}
	}
	if got := exec("ip", "netns", "exec", box.Name, "getent", "ahostsv4", "db"); !strings.Contains(got, want) {
		c.t.Errorf("in %s db is %q; want %s", box.Name, got, want)
	}
	c.refused(n, []string{`invalid search domain "a b"`}, "run", "--dns-search", "a b", "--", "true")
	c.refused(n, []string{`invalid alias name "-x"`}, "network", "connect", "--alias", "-x", "demo", "runner")
}

// localNames checks a network of one node, and that the files for ip-netns(8) go
// with the last network.
func (c *cluster) localNames(n *lab.Node) {
	c.t.Helper()
	c.ctl(n, "network", "create", "-d", "bridge", "local")
	first, second := c.attach(n, "local", "first"), c.attach(n, "local", "second")
	c.told(first, c.gateway(n, "local"), "udp", "second.local", dns.TypeA, c.addr(second).String())
	file := n.Path("/etc/netns/second/resolv.conf")
	if _, err := os.Stat(file); err != nil {
		c.t.Error(err)
	}
	c.disconnect("local", second)
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		c.t.Errorf("%s is still there: %v", file, err)
	}
}

// ordersVary checks that a shared name's answers do not always come in the same
// order.
func (c *cluster) ordersVary(box *lab.Sandbox, gateway netip.Addr, name string) {
	c.t.Helper()
	firsts := map[string]struct{}{}
	for range 64 {
		reply, err := ask(box, gateway, "udp", name, dns.TypeA)
		c.must(err)
		firsts[reply.Answer[0].String()] = struct{}{}
	}
	if len(firsts) < 2 {
		c.t.Errorf("of 64 answers for %s all begin with %v", name, firsts)
	}
}

// internalIsSilent checks the network secret: names within are answered, by both
// families; nothing leaves it, and of other networks nothing is known.
func (c *cluster) internalIsSilent(n *lab.Node, other *lab.Sandbox) {
	c.t.Helper()
	w := c.outside(n)
	one, two := c.attach(n, "secret", "one"), c.attach(n, "secret", "two")
	v4, v6 := c.dualAddrs(two)
	for _, config := range c.inspect(n, "secret").IPAM.Config {
		gateway, err := netip.ParseAddr(config.Gateway)
		c.must(err)
		c.told(one, gateway, "udp", "two", dns.TypeA, v4)
		c.told(one, gateway, "udp", "two.secret", dns.TypeAAAA, v6)
		c.told(one, gateway, "udp", other.Name, dns.TypeA, "NXDOMAIN")
		c.told(one, gateway, "udp", "example.org", dns.TypeA, "NXDOMAIN")
	}
	if asked := w.heard(); len(asked) > 0 {
		c.t.Errorf("%q were asked from an internal network", asked)
	}
}

// Scenario 33: "A name resolves when connect returns and, within 1 s of its
// disconnect or its node's removal, on no node; never to an address in another's
// use."
func TestScenario33_NamesComeAndGoWithTheirEndpoints(t *testing.T) {
	c := three(t)
	c.create(c.Nodes[0], "demo")
	gateway := c.gateway(c.Nodes[0], "demo")
	var clients []*lab.Sandbox
	for _, n := range c.Nodes[:2] {
		clients = append(clients, c.attach(n, "demo", "client-"+n.Name))
	}
	gone := func(name string) func(context.Context) error {
		return func(context.Context) error { return allTold(clients, gateway, name, 0) }
	}
	// The same address under one name after the other.
	box := c.netns(c.Nodes[0], "box")
	var addr string
	for i := range 4 {
		name := fmt.Sprintf("name%d", i)
		flags := []string{"--name", name}
		if addr != "" {
			flags = append(flags, "--ip", addr)
		}
		c.connect("demo", box, flags...)
		addr = c.addr(box).String()
		c.told(clients[0], gateway, "udp", name, dns.TypeA, addr)
		if i > 0 {
			c.must(gone(fmt.Sprintf("name%d", i-1))(t.Context()))
		}
		c.disconnect("demo", box)
		c.eventually(time.Second, gone(name))
	}
	h3 := c.Nodes[2]
	c.attach(h3, "demo", "far", "--alias", "both")
	c.attach(c.Nodes[0], "demo", "near", "--alias", "both")
	c.eventually(settleWithin, func(context.Context) error { return allTold(clients, gateway, "both", 2) })
	c.removeUnderQuestions(h3, clients, gateway, gone)
}

// removeUnderQuestions takes a node with the endpoint far away: while it is only
// down, the shared name both leads to the other one alone; once it is removed, far
// leads nowhere.
func (c *cluster) removeUnderQuestions(n *lab.Node, clients []*lab.Sandbox, gateway netip.Addr, gone func(string) func(context.Context) error) {
	c.t.Helper()
	c.must(n.Stop(c.t.Context()))
	c.eventually(settleWithin, func(context.Context) error {
		return errors.Join(allTold(clients, gateway, "both", 1), allTold(clients, gateway, "far", 1))
	})
	c.ctl(c.Nodes[0], "node", "rm", n.Name)
	c.eventually(time.Second, gone("far"))
	// What it served was published again before this ends.
	c.must(n.Start(c.t.Context()))
	c.eventually(settleWithin, func(ctx context.Context) error {
		return errors.Join(allTold(clients, gateway, "far", 1), c.verified(ctx))
	})
}

// allTold checks how many addresses each of some sandboxes is told of a name.
func allTold(clients []*lab.Sandbox, gateway netip.Addr, name string, addrs int) error {
	for _, client := range clients {
		reply, err := ask(client, gateway, "udp", name, dns.TypeA)
		if err != nil {
			return err
		}
		if len(reply.Answer) != addrs {
			return fmt.Errorf("%s is told %q of %s; want %d addresses", client.Name, shownAnswers(reply), name, addrs)
		}
	}
	return nil
}
