package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/overspan/overspan/e2e/lab"
)

// Scenario 27: "Containers of two networks cannot reach each other in any
// direction, IPv4 and IPv6, whatever the FORWARD policy; a rule in OVERSPAN-USER
// holds through restarts and 100 create/rm."
func TestScenario27_NetworksAreIsolated(t *testing.T) {
	t.Parallel()
	c := start(t, lab.Options{Nodes: 2, Underlay: lab.UnderlayDual, Forwarding: true})
	h1, h2 := c.Nodes[0], c.Nodes[1]
	c.create(h1, "--ipv6", "red")
	c.create(h1, "--ipv6", "blue")
	c.ctl(h1, "network", "create", "-d", "bridge", "--ipv6", "local")
	c.ctl(h2, "network", "create", "-d", "bridge", "--ipv6", "far")
	groups := [][]*lab.Sandbox{
		{c.attach(h1, "red", "red1"), c.attach(h2, "red", "red2")},
		{c.attach(h1, "blue", "blue1"), c.attach(h2, "blue", "blue2")},
		{c.attach(h1, "local", "local1"), c.attach(h1, "local", "local2")},
		{c.attach(h2, "far", "far1")},
	}
	for _, policy := range []string{"ACCEPT", "DROP"} {
		for _, n := range c.Nodes {
			_, err := n.Exec(t.Context(), "sh", "-ec", fmt.Sprintf("iptables -w -P FORWARD %[1]s; ip6tables -w -P FORWARD %[1]s", policy))
			c.must(err)
		}
		for _, group := range groups {
			c.mesh(group...)
		}
		c.apart(groups)
	}
	for _, n := range c.Nodes {
		_, err := n.Exec(t.Context(), "sh", "-ec", "iptables -w -P FORWARD ACCEPT; ip6tables -w -P FORWARD ACCEPT")
		c.must(err)
	}
	c.goesNotAstray(h1, h2, groups[0][0], groups[3][0])
	c.userRuleHolds(h1, groups[0][0], groups[2][0])
}

// apart sends a packet from each sandbox to the addresses and the gateways of
// all other groups; none may be answered.
func (c *cluster) apart(groups [][]*lab.Sandbox) {
	c.t.Helper()
	var all sync.WaitGroup
	for i, group := range groups {
		var others []netip.Addr
		for _, box := range slices.Concat(slices.Delete(slices.Clone(groups), i, i+1)...) {
			addrs, err := box.Addrs(eth0)
			c.must(err)
			for _, a := range addrs {
				others = append(others, a, nth(a, 1))
			}
		}
		for _, box := range group {
			all.Go(func() {
				lost, err := box.PingOnce(others...)
				if err != nil || len(lost) != len(others) {
					c.t.Errorf("%s on %s: of %v only %v did not answer: %v", box.Name, box.Node.Name, others, lost, err)
				}
			})
		}
	}
	all.Wait()
}

// goesNotAstray has a container send to a network that its node has no part in: the
// node has a way to the world, which would answer.
func (c *cluster) goesNotAstray(n, other *lab.Node, from, to *lab.Sandbox) {
	c.t.Helper()
	world := c.Etcd.Members[0].Host
	addrs, err := to.Addrs(eth0)
	c.must(err)
	for i, a := range addrs {
		_, err := world.Exec(c.t.Context(), "ip", "addr", "add", a.String(), "dev", "lo")
		c.must(err)
		_, err = n.Exec(c.t.Context(), "ip", "route", "add", a.String(), "via", world.Addrs[i].String())
		c.must(err)
		_, err = n.Exec(c.t.Context(), "ping", "-c", "1", "-W", "5", a.String())
		c.must(err)
		c.misses(from, a)
		_, err = n.Exec(c.t.Context(), "ip", "route", "del", a.String())
		c.must(err)
		_, err = world.Exec(c.t.Context(), "ip", "addr", "del", a.String(), "dev", "lo")
		c.must(err)
	}
	known := func(want bool) {
		c.t.Helper()
		c.eventually(settleWithin, func(ctx context.Context) error {
			set, err := n.Exec(ctx, "ipset", "list", "overspan-subnet4")
			if err == nil && strings.Contains(set, "10.66.0.0/24") != want {
				err = fmt.Errorf("known to %s: %v; want %v", n.Name, !want, want)
			}
			return err
		})
	}
	c.ctl(other, "network", "create", "-d", "bridge", "--subnet", "10.66.0.0/24", "late")
	known(true)
	c.ctl(other, "network", "rm", "late")
	known(false)
}

// userRuleHolds gives a node a rule of its administrator's, which bars one
// sandbox from the world and lets the world come to another, and looks at it
// through restarts and many networks that come and go.
func (c *cluster) userRuleHolds(n *lab.Node, barred, open *lab.Sandbox) {
	c.t.Helper()
	world := c.Etcd.Members[0].Host
	in, err := open.Addrs(eth0)
	c.must(err)
	out, err := barred.Addrs(eth0)
	c.must(err)
	_, err = world.Exec(c.t.Context(), "ip", "route", "add", in[0].String(), "via", n.Addrs[0].String())
	c.must(err)
	rules := []string{
		fmt.Sprintf("-A OVERSPAN-USER -s %s/32 -j DROP", out[0]),
		fmt.Sprintf("-A OVERSPAN-USER -d %s/32 -j ACCEPT", in[0]),
	}
	for _, rule := range rules {
		_, err := n.Exec(c.t.Context(), "iptables", append([]string{"-w"}, strings.Fields(rule)...)...)
		c.must(err)
	}
	look := func(when string) {
		c.t.Helper()
		text, err := n.Exec(c.t.Context(), "iptables-save", "-t", "filter")
		c.must(err)
		var have []string
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "-A OVERSPAN-USER ") {
				have = append(have, strings.TrimSpace(line))
			}
		}
		if !slices.Equal(have, rules) {
			c.t.Errorf("%s OVERSPAN-USER holds %q; want %q", when, have, rules)
		}
		c.misses(barred, world.Addrs[0])
		if got := c.seenAs(world, in[0], open); got != world.Addrs[0] {
			c.t.Errorf("%s the world reaches %s as %s", when, open.Name, got)
		}
	}
	look("at first")
	c.must(n.Restart(c.t.Context()))
	look("after a restart")
	c.must(n.Kill(c.t.Context()))
	c.must(n.Start(c.t.Context()))
	look("after a kill")
	c.comeAndGo(n, 100)
	look("after 100 networks")
	for _, rule := range rules {
		_, err := n.Exec(c.t.Context(), "iptables", append([]string{"-w"}, strings.Fields(strings.Replace(rule, "-A", "-D", 1))...)...)
		c.must(err)
	}
}

// comeAndGo makes networks and removes them one by one; in every tenth a process
// runs, so that the node's rules change.
func (c *cluster) comeAndGo(n *lab.Node, networks int) {
	c.t.Helper()
	for i := range networks {
		name := fmt.Sprintf("brief%d", i)
		c.ctl(n, "network", "create", "-d", "bridge", name)
		if i%10 == 0 {
			c.ctl(n, "run", "--network", name, "--", "true")
		}
		c.ctl(n, "network", "rm", name)
	}
}
