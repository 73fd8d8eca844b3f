package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/overspan/overspan/e2e/lab"
)

// aloneWithoutEtcd keeps etcd from one node until its presence has run out, while all
// others go on: none of its packets is lost, what it detaches is released later, and
// it learns what was attached meanwhile.
func (c *cluster) aloneWithoutEtcd(boxes []*lab.Sandbox, free *lab.Sandbox) {
	c.t.Helper()
	ctx := c.t.Context()
	h1, h2, h3 := c.Nodes[0], c.Nodes[1], c.Nodes[2]
	before := c.settledState()
	leaves := c.attach(h3, "demo", "leaves")
	events, err := h1.Events(ctx)
	c.must(err)
	around := c.startRing(boxes)
	c.must(h3.Hides(ctx, c.Etcd, true))
	c.lists(downWithin(presenceTTL), h3, "down active", h1, h2)
	c.connect("demo", free)
	c.reaches(free, c.addr(boxes[1]))
	begin := time.Now()
	c.disconnect("demo", leaves)
	if took := time.Since(begin); took > 2*time.Second*lab.Patience {
		c.t.Errorf("disconnect took %s; want it at once", took)
	}
	c.must(leaves.DelNetns(ctx))
	c.boxes = slices.DeleteFunc(c.boxes, func(box *lab.Sandbox) bool { return box == leaves })
	if list := c.ctl(h1, "endpoint", "ls", "demo", "--format", "{{.Name}}"); !slices.Contains(strings.Fields(list), "leaves") {
		c.t.Errorf("h3 told etcd of what it detached though it does not reach it: h1 lists\n%s", list)
	}

	c.must(h3.Hides(ctx, c.Etcd, false))
	c.lists(returnsWithin, h3, "up active", h1, h2, h3)
	c.answers(settleWithin, c.addr(free), boxes[2])
	c.eventually(settleWithin, func(context.Context) error {
		told := nodeEvents(events.Seen())
		for _, want := range []string{"node down h3", "node up h3", "endpoint disconnect leaves"} {
			if !slices.Contains(told, want) {
				return fmt.Errorf("told on h1 is %q, want %q", told, want)
			}
		}
		return nil
	})
	c.must(events.Stop(ctx))
	c.disconnect("demo", free)
	c.unchanged(c.t, before)
	c.stopPings(around)
	c.must(c.verified(ctx))
}
