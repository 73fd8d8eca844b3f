package e2e

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/overspan/overspan/e2e/lab"
)

// Scenario 34, of names: "DNS and published ports keep answering while the agent
// is restarted (gap at most 1 s for DNS, none for ports)." It does also while etcd
// is away, for names of this node and of others.
func TestScenario34_NamesOutliveARestart(t *testing.T) {
	bin, err := fastBinaries() // as they are shipped: the race detector takes its time
	if err != nil {
		t.Fatal(err)
	}
	c := start(t, lab.Options{Nodes: 2, Bin: bin})
	h1 := c.Nodes[0]
	c.besideAnother(h1)
	c.create(h1, "demo")
	client, near := c.attach(h1, "demo", "client"), c.attach(h1, "demo", "near")
	far := c.attach(c.Nodes[1], "demo", "far", "--alias", "store")
	want := map[string]string{"near": c.addr(near).String(), "far": c.addr(far).String(), "store": c.addr(far).String()}
	gateway := c.gateway(h1, "demo")
	told := func(context.Context) error {
		for name, addr := range want {
			reply, err := askQuickly(client, gateway, name)
			if err == nil && !slices.Equal(shownAnswers(reply), []string{addr}) {
				err = fmt.Errorf("told %v of %s", shownAnswers(reply), name)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	c.eventually(settleWithin, told)
	c.silentFor("a restart", told, h1.Restart)
	c.must(c.Etcd.Kill(t.Context()))
	c.silentFor("a restart without etcd", told, h1.Restart)
	c.silentFor("a crash without etcd", told, func(ctx context.Context) error {
		if err := h1.Kill(ctx); err != nil {
			return err
		}
		return h1.Start(ctx)
	})
	c.must(c.Etcd.Start(t.Context()))
	c.eventually(settleWithin, func(ctx context.Context) error {
		_, err := h1.MustCtl(ctx, "network", "create", "after") // registered again
		return err
	})
	c.must(told(t.Context()))
	for _, n := range c.Nodes { // the other has missed etcd, too
		c.eventually(settleWithin, n.SeesAll)
	}
}

// silentFor checks for how long at most names are not answered while something
// is done.
func (c *cluster) silentFor(what string, told, do func(context.Context) error) {
	c.t.Helper()
	done := make(chan error, 1)
	go func() { done <- do(c.t.Context()) }()
	last, gap := time.Now(), time.Duration(0)
	for over := false; !over; {
		if told(c.t.Context()) == nil {
			gap = max(gap, time.Since(last))
			last = time.Now()
		}
		select {
		case err := <-done:
			c.must(err)
			over = true
		default:
		}
	}
	c.eventually(settleWithin, told)
	gap = max(gap, time.Since(last))
	c.t.Logf("%s: nobody answered for %s", what, gap)
	if gap > time.Second*lab.Patience {
		c.t.Errorf("%s: nobody answered for %s; want at most %s", what, gap, time.Second*lab.Patience)
	}
}

// besideAnother has another program listen on a node's port 53 before a network's
// gateway is there: that is told, and put right once it has gone.
func (c *cluster) besideAnother(n *lab.Node) {
	c.t.Helper()
	var other net.PacketConn
	c.must(n.Do(func() (err error) {
		other, err = net.ListenPacket("udp", "0.0.0.0:53")
		return err
	}))
	c.create(n, "late")
	one := c.attach(n, "late", "one")
	if status := c.ctl(n, "status"); !strings.Contains(status, "names are not served in network late") {
		c.t.Errorf("status does not say that somebody else listens:\n%s", status)
	}
	c.must(other.Close())
	c.eventually(settleWithin, func(context.Context) error {
		_, err := askQuickly(one, c.gateway(n, "late"), "one")
		return err
	})
	if status := c.ctl(n, "status"); strings.Contains(status, "names are not served") {
		c.t.Errorf("status still says that somebody else listens:\n%s", status)
	}
}

// askQuickly asks once and gives up soon.
func askQuickly(box *lab.Sandbox, gateway netip.Addr, name string) (*dns.Msg, error) {
	var reply *dns.Msg
	err := box.Do(func() (err error) {
		client := dns.Client{Timeout: 50 * time.Millisecond}
		reply, _, err = client.Exchange(new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA), netip.AddrPortFrom(gateway, 53).String())
		return err
	})
	return reply, err
}
