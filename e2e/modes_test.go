package e2e

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/overspan/overspan/e2e/lab"
)

// Scenario 36: "none: only lo. host: the node's own interfaces … container:web:
// identical addresses. Impossible combinations: errors." And the network that a
// command is in if it names none: there on every node from the start, made when
// it is first used.
func TestScenario36_NetworkModes(t *testing.T) {
	t.Parallel()
	c := start(t, lab.Options{Nodes: 2})
	h1, h2 := c.Nodes[0], c.Nodes[1]
	addrs := []string{"ip", "-o", "addr", "show"}
	run := func(n *lab.Node, flags ...string) string {
		t.Helper()
		return c.ctl(n, append(append([]string{"run"}, flags...), append([]string{"--"}, addrs...)...)...)
	}

	if keys, err := c.keys(t.Context(), "networks/", "subnets/"); err != nil || len(keys) > 0 {
		t.Errorf("before anybody used it there is %v, %v", keys, err)
	}
	before := c.inspect(h1, "bridge")
	if before.Name != "bridge" || before.Driver != "bridge" || before.Scope != "local" || len(before.IPAM.Config) > 0 {
		t.Errorf("the default network is shown as %+v", before)
	}

	// Sandboxes of the default network reach each other and their node.
	web := c.attach(h1, "bridge", "web")
	first := run(h1)
	gateway := c.gateway(h1, "bridge")
	if !strings.Contains(first, ": eth0 ") && !strings.Contains(first, "eth0@") {
		t.Errorf("in the default network a command sees\n%s", first)
	}
	c.ctl(h1, "run", "--", "ping", "-c", "1", "-W", "2", gateway.String())
	c.ctl(h1, "run", "--", "ping", "-c", "1", "-W", "2", c.addr(web).String())
	c.must(h1.Restart(t.Context()))
	if now := c.inspect(h1, "bridge"); now.ID != before.ID || len(now.IPAM.Config) != 1 {
		t.Errorf("the default network was %s, and is %+v", before.ID, now)
	}
	run(h2)
	if mine, other := c.subnet(h1, "bridge"), c.subnet(h2, "bridge"); mine.Overlaps(other) {
		t.Errorf("the default networks of two nodes are %s and %s", mine, other)
	}
	for _, n := range c.Nodes {
		if got := c.ctl(n, "network", "ls", "--filter", "type=builtin", "--format", "{{.Name}} {{.Driver}} {{.Scope}}"); got != "bridge bridge local\nhost host local\nnone null local" {
			t.Errorf("%s lists %q", n.Name, got)
		}
	}
	c.ctl(h2, "network", "prune", "-f")
	c.refused(h2, []string{"bridge is a pre-defined network and cannot be removed"}, "network", "rm", "bridge")
	c.subnet(h2, "bridge")

	if got := run(h1, "--network", "none"); strings.Contains(got, "eth0") || !strings.Contains(got, ": lo ") {
		t.Errorf("without a network a command sees\n%s", got)
	}
	onHost, err := h1.Exec(t.Context(), addrs[0], addrs[1:]...)
	c.must(err)
	if diff := cmp.Diff(lasting(onHost), lasting(run(h1, "--network", "host"))); diff != "" {
		t.Errorf("on the host (-want +got):\n%s", diff)
	}
	c.ctl(h1, "sandbox", "create", "mine")
	c.ctl(h1, "network", "connect", "bridge", "mine")
	own := c.ctl(h1, append([]string{"exec", "mine", "--"}, addrs...)...)
	if diff := cmp.Diff(lasting(own), lasting(run(h1, "--network", "container:mine"))); diff != "" {
		t.Errorf("in another's sandbox (-want +got):\n%s", diff)
	}
	c.ctl(h1, "sandbox", "rm", "mine")
	for _, flags := range []string{
		"--network none --network bridge", "--network host --network bridge", "--network container:web --network none",
		"--network host --ip 172.16.0.9", "--network container:web --hostname web", "--network bridge --ip 172.16.0.9",
	} {
		args := append([]string{"run"}, strings.Fields(flags)...)
		c.refusedWith(h1, 2, []string{"--network"}, append(args, "--", "true")...)
	}
	if out := c.ctl(h1, "sandbox", "ls", "--format", "{{.Name}}"); out != "web" {
		t.Errorf("sandboxes are left: %q", out)
	}
	c.eventually(settleWithin, func(ctx context.Context) error {
		inside, err := c.keys(ctx, "net/"+before.ID+"/endpoints/")
		if err == nil && len(inside) != 1 {
			err = fmt.Errorf("of the sandboxes etcd still holds %d endpoints", len(inside))
		}
		return err
	})
}

// lasting leaves out of ip's lines what changes by itself: a link-local address
// may still be on its way, and how long others are valid.
func lasting(out string) string {
	var kept []string
	for line := range strings.Lines(out) {
		if !strings.Contains(line, "fe80:") {
			kept = append(kept, strings.Join(strings.Fields(line), " "))
		}
	}
	return strings.Join(kept, "\n")
}

// defaultNetworks returns the ids of the nodes' default networks, which stay once
// they were used.
func (c *cluster) defaultNetworks(ctx context.Context) (ids []string, err error) {
	names, err := c.keys(ctx, "names/bridge/")
	for _, value := range names {
		ids = append(ids, idWithin.FindString(value))
	}
	return ids, err
}

var idWithin = regexp.MustCompile(`[0-9a-f]{64}`)

// emptyDefaults has the nodes give back the blocks of their default networks,
// which they otherwise keep for a while.
func (c *cluster) emptyDefaults(ctx context.Context) error {
	defaults, err := c.defaultNetworks(ctx)
	if err != nil || len(defaults) == 0 {
		return err
	}
	for _, word := range []string{"drain", "undrain"} {
		for _, n := range c.Nodes {
			if _, err := n.MustCtl(ctx, "node", word, n.Name); err != nil {
				return err
			}
		}
		err := lab.Eventually(ctx, settleWithin, func(ctx context.Context) error {
			inside, err := c.keys(ctx, "net/")
			if err == nil && len(inside) > 0 {
				err = fmt.Errorf("etcd holds %v", slices.Sorted(maps.Keys(inside)))
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
