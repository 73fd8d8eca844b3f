package e2e

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/e2e/lab"
	"github.com/overspan/overspan/internal/mutation"
)

// A spoiling is something that others do to a node's kernel, the one change that
// puts it right, and the labels by which the metric of repairs counts that.
type spoiling struct{ do, op, kind, change string }

var spoilings = []spoiling{
	{"bridge link set dev VETH learning on", "set link VETH learning off", "link", "set"},
	{"bridge fdb del REMOTEMAC dev VXLAN", "add fdb REMOTEMAC dev VXLAN dst REMOTEVTEP", "fdb", "added"},
	{"iptables -w -D FORWARD -j OVERSPAN-FORWARD", "add jump ipv4 filter OVERSPAN-FORWARD from FORWARD", "jump", "set"},
}

// spoil does all spoilings to a node.
func (c *cluster) spoil(n *lab.Node, objects mutation.Objects) {
	c.t.Helper()
	for _, s := range spoilings {
		_, err := n.Exec(c.t.Context(), "sh", "-ec", objects.Expand(s.do))
		c.must(err)
	}
}

// objects returns what there is to spoil on the node of a sandbox, which is alone
// in the network there; remote is on another.
func (c *cluster) objects(network string, box, remote *lab.Sandbox) mutation.Objects {
	c.t.Helper()
	id := overspan.NetworkID(c.inspect(box.Node, network).ID)
	veths, err := box.Node.Exec(c.t.Context(), "ip", "-o", "link", "show", "type", "veth")
	c.must(err)
	far, err := remote.Link(eth0)
	c.must(err)
	return mutation.Objects{
		VXLAN: overspan.VXLANName(id), Veth: firstMatch(veths, `(osv-[0-9a-f]+)`),
		RemoteMAC: far.HardwareAddr.String(), RemoteVTEP: remote.Node.Addrs[0].String(),
	}
}

// restartSpoilt kills the agent of a sandbox's node and has others spoil the kernel
// before the next one starts: that changes what was spoilt, and nothing else.
func (c *cluster) restartSpoilt(a, b *lab.Sandbox) {
	c.t.Helper()
	ctx, cancel := lab.WithTimeout(c.t.Context(), startWithin)
	defer cancel()
	objects := c.objects("demo", a, b)
	c.must(a.Node.Kill(ctx))
	c.spoil(a.Node, objects)
	before, err := os.ReadFile(a.Node.LogPath())
	c.must(err)
	c.must(a.Node.Start(ctx))
	c.eventually(settleWithin, c.verified)
	log, err := os.ReadFile(a.Node.LogPath())
	c.must(err)
	applied := appliedOps(string(log[len(before):]))
	if len(applied) != len(spoilings) {
		c.t.Errorf("the new agent has carried out %d ops; want %d:\n%s", len(applied), len(spoilings), strings.Join(applied, "\n"))
	}
	for _, s := range spoilings {
		if n := strings.Count(strings.Join(applied, "\n"), objects.Expand(s.op)); n != 1 {
			c.t.Errorf("the new agent has carried out %q %d times; want once:\n%s", objects.Expand(s.op), n, strings.Join(applied, "\n"))
		}
	}
	c.countsSpoilings(a.Node)
	c.mesh(a, b)
}

// countsSpoilings checks that a node's agent has changed the kernel as often as there
// are spoilings.
func (c *cluster) countsSpoilings(n *lab.Node) {
	c.t.Helper()
	if got := c.sum(n, "overspan_kernel_ops_total", ""); got != float64(len(spoilings)) {
		c.t.Errorf("the new agent counts %v ops; want %d", got, len(spoilings))
	}
}

// appliedOps returns the ops of which an agent's log says that they were carried out.
func appliedOps(log string) []string {
	var out []string
	for line := range strings.Lines(log) {
		if _, rest, is := strings.Cut(line, " msg=applied "); is {
			_, op, _ := strings.Cut(rest, "op=")
			op, _, _ = strings.Cut(op, " cause=")
			out = append(out, strings.Trim(op, `"`))
		}
	}
	return out
}

// sum adds up a metric of a node over all labels that contain the words.
func (c *cluster) sum(n *lab.Node, metric, words string) float64 {
	c.t.Helper()
	all, err := n.Metrics(c.t.Context())
	c.must(err)
	sum := 0.0
	for name, value := range all {
		if strings.HasPrefix(name, metric+"{") && strings.Contains(name, words) {
			sum += value
		}
	}
	return sum
}

// repairedUnheard spoils what the kernel announces: an agent that hears of it
// repairs it at once, and one that does not at its next look at everything. The
// metric of repairs says what, and why it was seen.
func (c *cluster) repairedUnheard(a, b *lab.Sandbox) {
	c.t.Helper()
	node, objects, flags := a.Node, c.objects("demo", a, b), a.Node.Flags
	defer func() { node.Flags = flags }()
	ctx, cancel := lab.WithTimeout(c.t.Context(), startWithin)
	defer cancel()
	for cause, every := range map[string]time.Duration{"hint": longResync, "resync": shortResync} {
		node.Flags = slices.Concat(flags, resync(every))
		c.must(node.Restart(ctx))
		c.must(c.verified(ctx))
		if cause == "resync" {
			c.must(node.Deafen())
		}
		c.spoil(node, objects)
		c.eventually(shortResync+repairWithin, func(context.Context) error {
			for _, s := range spoilings {
				labels := fmt.Sprintf(`{cause=%q,change=%q,kind=%q}`, cause, s.change, s.kind)
				if n := c.sum(node, "overspan_kernel_repairs_total", labels); n != 1 {
					return fmt.Errorf("%v repairs are counted with %s; want 1", n, labels)
				}
			}
			return nil
		})
		c.must(c.verified(ctx))
	}
	c.mesh(a, b)
}
