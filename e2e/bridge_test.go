package e2e

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/overspan/overspan/e2e/lab"
)

// bridgePool is where automatic subnets of bridge networks come from.
var bridgePool = netip.MustParsePrefix("172.16.0.0/12")

// Scenario 23: "Bridge network: mesh by name; --internal bridge: host and peers
// reachable, outside not; ICC off: no peers, published ports through the host
// work."
func TestScenario23_BridgeNetworks(t *testing.T) {
	t.Parallel()
	c := start(t, lab.Options{Nodes: 2, MTU: []int{1400, 1500}, Forwarding: true})
	h1, h2 := c.Nodes[0], c.Nodes[1]
	c.createOf(h1, "bridge", "--ipv6", "app")
	c.createOf(h2, "bridge", "app")
	c.createOf(h1, "bridge", "--internal", "-o", "com.docker.network.bridge.name=br-inside", "inside")
	c.createOf(h1, "bridge", "-o", "com.docker.network.bridge.enable_icc=false", "-o", "mtu=1300", "apart")

	t.Run("one node's alone", func(t *testing.T) { c.in(t).localNetworks(h1, h2) })
	t.Run("mesh", func(t *testing.T) {
		c := c.in(t)
		a, b := c.attach(h1, "app", "a"), c.attach(h1, "app", "b", "--mac-address", "0a:00:00:00:00:0b")
		far := c.attach(h2, "app", "a")
		c.mesh(a, b)
		c.meshByName("app", a, b)
		c.reaches(a, c.gateway(h1, "app"))
		c.misses(a, c.addr(far))
		c.carries(a, 1400)
		c.carries(far, 1500)
	})
	t.Run("internal", func(t *testing.T) {
		c := c.in(t)
		a, b := c.attach(h1, "inside", "in-a"), c.attach(h1, "inside", "in-b")
		c.mesh(a, b)
		c.meshByName("inside", a, b)
		gateway := c.gateway(h1, "inside")
		c.reaches(a, gateway)
		c.namedBridge(h1, "br-inside", gateway)
		_, err := a.Exec(t.Context(), "ip", "route", "add", "default", "via", gateway.String())
		c.must(err)
		c.misses(a, h2.Addrs[0], c.gateway(h1, "app"))
		_, err = a.Exec(t.Context(), "ip", "route", "del", "default")
		c.must(err)
	})
	t.Run("icc off", func(t *testing.T) {
		c := c.in(t)
		a, b := c.attach(h1, "apart", "apart-a", twice("8080:80")...), c.attach(h1, "apart", "apart-b")
		c.serve(a, 80)
		c.carries(a, 1300)
		c.misses(a, c.addr(b))
		c.misses(b, c.addr(a))
		c.reaches(a, c.gateway(h1, "apart"))
		c.reaches(b, c.gateway(h1, "apart"))
		for _, from := range []lab.Place{h1, h2, c.attach(h1, "app", "client")} {
			c.asks(from, at(h1.Addrs[0], 8080), "apart-a")
		}
		c.asksInVain(b, at(c.addr(a), 80))
	})
	t.Run("configuration", func(t *testing.T) {
		c := c.in(t)
		c.ctl(h1, "network", "create", "--config-only", "--subnet", "10.50.0.0/24", "--ip-range", "10.50.0.64/26", "-o", "mtu=1380", "defaults")
		c.eventually(settleWithin, h2.SeesAll)
		c.createOf(h2, "bridge", "--config-from", "defaults", "made")
		a, b := c.attach(h2, "made", "made-a"), c.attach(h2, "made", "made-b")
		c.mesh(a, b)
		c.carries(a, 1380)
		if got := c.addr(a).String(); got != "10.50.0.64" {
			t.Errorf("the first address is %s", got)
		}
		c.refused(h1, []string{`configuration network "defaults" is in use`, "made"}, "network", "rm", "defaults")
		c.disconnect("made", a)
		c.disconnect("made", b)
		c.ctl(h2, "network", "rm", "made")
		c.ctl(h1, "network", "rm", "defaults")
	})
	t.Run("in use", func(t *testing.T) {
		c.in(t).refused(h1, []string{"network app has active endpoints", "a on h1", "b on h1"}, "network", "rm", "app")
	})
	t.Run("restart", func(t *testing.T) { c.in(t).bridgesOutlastAgents(h1) })
	t.Run("removal of the node", func(t *testing.T) { c.in(t).localNetworksGoWithTheirNode(h1, h2) })
}

// localNetworks checks what two nodes tell of networks app that each has one of.
func (c *cluster) localNetworks(h1, h2 *lab.Node) {
	c.t.Helper()
	ours, theirs := c.inspect(h1, "app"), c.inspect(h2, "app")
	for _, n := range []inspected{ours, theirs} {
		if n.Driver != "bridge" || n.Scope != "local" {
			c.t.Errorf("network app is of driver %s and scope %s", n.Driver, n.Scope)
		}
	}
	if !ours.EnableIPv6 || theirs.EnableIPv6 || ours.ID == theirs.ID {
		c.t.Errorf("%s shows network app as %+v, %s as %+v", h1.Name, ours, h2.Name, theirs)
	}
	mine, other := c.subnet(h1, "app"), c.subnet(h2, "app")
	if !bridgePool.Contains(mine.Addr()) || !bridgePool.Contains(other.Addr()) || mine.Overlaps(other) {
		c.t.Errorf("the subnets are %s and %s", mine, other)
	}
	names := func(n *lab.Node) (out []string) {
		all, err := networks(c.t.Context(), n)
		c.must(err)
		for _, net := range all {
			out = append(out, net.name)
		}
		return out
	}
	if got := names(h1); !slices.Equal(got, []string{"apart", "app", "inside"}) {
		c.t.Errorf("%s lists %v", h1.Name, got)
	}
	if got := names(h2); !slices.Equal(got, []string{"app"}) {
		c.t.Errorf("%s lists %v", h2.Name, got)
	}
	c.refused(h2, []string{"network " + ours.ID + " not found"}, "network", "rm", ours.ID)
	c.refused(h2, []string{"network apart not found"}, "network", "rm", "apart")
	c.refused(h2, []string{mine.String(), "overlaps", "network app of node h1"}, "network", "create", "-d", "bridge", "--subnet", mine.String(), "second")
	c.refused(h2, []string{mine.String(), "overlaps", "network app of node h1"}, "network", "create", "-d", "overlay", "--subnet", mine.String(), "second")
	c.refused(h1, []string{"network with name app already exists"}, "network", "create", "-d", "bridge", "app")
	c.refused(h2, []string{"network with name apart already exists"}, "network", "create", "-d", "overlay", "apart")
	c.create(h2, "everywhere")
	c.refused(h1, []string{"network with name everywhere already exists"}, "network", "create", "-d", "bridge", "everywhere")
	c.ctl(h1, "network", "rm", "everywhere")
}

// meshByName sends a packet for every pair of sandboxes of a network on one node
// and each of their names, as programs within do.
func (c *cluster) meshByName(network string, boxes ...*lab.Sandbox) {
	c.t.Helper()
	for _, from := range boxes {
		for _, to := range boxes {
			for _, name := range []string{to.Name, strings.ToUpper(to.Name) + "." + network} {
				_, err := from.Node.Exec(c.t.Context(), "ip", "netns", "exec", from.Name, "ping", "-c", "1", "-W", "5", name)
				c.must(err)
			}
		}
	}
}

// namedBridge checks that a bridge is found by the name that its users gave it,
// and is again after somebody took the name away.
func (c *cluster) namedBridge(n *lab.Node, name string, gateway netip.Addr) {
	c.t.Helper()
	c.refused(n, []string{"network inside", name}, "network", "create", "-o", "name="+name, "second")
	shown := func(ctx context.Context) error {
		out, err := n.Exec(ctx, "ip", "-o", "addr", "show", "dev", name)
		if err == nil && !strings.Contains(out, gateway.String()+"/") {
			err = errors.New(out)
		}
		return err
	}
	c.must(shown(c.t.Context()))
	_, err := n.Exec(c.t.Context(), "ip", "link", "property", "del", "dev", name, "altname", name)
	c.must(err)
	c.eventually(settleWithin, shown)
}

// gateway returns the first subnet's gateway of a network.
func (c *cluster) gateway(n *lab.Node, network string) netip.Addr {
	c.t.Helper()
	a, err := netip.ParseAddr(c.inspect(n, network).IPAM.Config[0].Gateway)
	c.must(err)
	return a
}

// carries checks the MTU of a sandbox's interface.
func (c *cluster) carries(box *lab.Sandbox, mtu int) {
	c.t.Helper()
	link, err := box.Link(eth0)
	c.must(err)
	if link.MTU != mtu {
		c.t.Errorf("%s has the MTU %d; want %d", box.Name, link.MTU, mtu)
	}
}

// bridgesOutlastAgents restarts a node's agent, with etcd and without, and
// checks that it changes nothing of its bridges.
func (c *cluster) bridgesOutlastAgents(n *lab.Node) {
	c.t.Helper()
	// What others have changed has reached the node before.
	c.eventually(settleWithin, n.SeesAll)
	ctx, cancel := lab.WithTimeout(c.t.Context(), startWithin)
	defer cancel()
	c.eventually(settleWithin, c.verified)
	// An agent that is killed may leave a journal of two seconds ago, and one that
	// is stopped does not.
	c.must(n.Restart(ctx))
	c.must(n.Kill(ctx))
	c.must(n.Start(ctx))
	c.changedNothing(n)
	c.must(c.Etcd.Kill(ctx))
	c.must(n.Kill(ctx))
	c.must(n.Start(ctx))
	c.changedNothing(n)
	if out := c.ctl(n, "network", "ls", "--format", "{{.Name}}"); !strings.Contains(out, "apart\napp\n") {
		c.t.Errorf("without etcd network ls prints %q", out)
	}
	c.must(c.Etcd.Start(ctx))
	c.eventually(settleWithin, n.SeesAll)
	c.eventually(settleWithin, func(ctx context.Context) error {
		// It is registered again. A network with a subnet would change a set.
		_, err := n.MustCtl(ctx, "network", "create", "--config-only", "late")
		return err
	})
	c.changedNothing(n)
	c.ctl(n, "network", "rm", "late")
}

// localNetworksGoWithTheirNode removes a node, whose subnets then are free, and
// which has no such network any more when it is back.
func (c *cluster) localNetworksGoWithTheirNode(asked, n *lab.Node) {
	c.t.Helper()
	subnet, id := c.subnet(n, "app"), c.id(asked, n)
	c.die(n)
	c.ctl(asked, "node", "rm", "--force", n.Name)
	c.forgotten(movedWithin, n, id)
	c.createOf(asked, "bridge", "--subnet", subnet.String(), "heir")
	c.must(n.Start(c.t.Context()))
	c.eventually(settleWithin, func(ctx context.Context) error {
		all, err := networks(ctx, n)
		if err == nil && len(all) > 0 {
			err = errors.New(cmp.Diff([]listed(nil), all, cmp.AllowUnexported(listed{})))
		}
		return err
	})
	c.createOf(n, "bridge", "app")
	c.attach(n, "app", "again")
	c.eventually(settleWithin, c.verified)
}
