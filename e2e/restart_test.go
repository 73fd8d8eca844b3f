package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/overspan/overspan/e2e/lab"
)

// A restart is a way in which an agent ends and another begins.
type restart struct {
	name  string
	end   func(*lab.Node, context.Context) error
	other bool // the new agent is of another version
}

var restarts = []restart{
	{name: "SIGTERM", end: (*lab.Node).Stop},
	{name: "SIGKILL", end: (*lab.Node).Kill},
	{name: "upgrade", end: (*lab.Node).Stop, other: true},
	{name: "downgrade", end: (*lab.Node).Stop},
	{name: "upgrade after SIGKILL", end: (*lab.Node).Kill, other: true},
	{name: "downgrade after SIGKILL", end: (*lab.Node).Kill},
}

// Scenario 16: "Agent SIGTERM and kill -9, restart, under a 1 kHz ping in both
// directions and a TCP stream: 0 lost, no reset. An endpoint created elsewhere
// meanwhile is reachable at most 2 s after the restart." Where nothing has
// happened meanwhile, the new agent changes nothing.
func TestScenario16_RestartUnderTraffic(t *testing.T) {
	c := three(t)
	c.create(c.Nodes[1], "demo")
	a, b := c.attach(c.Nodes[0], "demo", "a"), c.attach(c.Nodes[1], "demo", "b")
	traffic := c.traffic(a, b)
	for i, r := range restarts {
		t.Run(r.name, func(t *testing.T) {
			c.in(t).restart(r, a, i)
		})
	}
	t.Run("without etcd", func(t *testing.T) {
		c.in(t).restartWithoutEtcd(a)
	})
	traffic.flows(1000)
	traffic.stop()
	t.Run("spoilt meanwhile", func(t *testing.T) {
		c.in(t).restartSpoilt(a, b)
	})
	t.Run("spoilt without etcd", func(t *testing.T) {
		c.in(t)
		c.must(c.Etcd.Kill(t.Context()))
		c.restartSpoilt(a, b)
		c.must(c.Etcd.Start(t.Context()))
		c.eventually(settleWithin, func(ctx context.Context) error { return a.Node.SeesAll(ctx) })
		c.countsSpoilings(a.Node) // and nothing since
	})
	t.Run("spoilt unheard", func(t *testing.T) {
		c.in(t).repairedUnheard(a, b)
	})
}

// restart restarts the agent of a sandbox's node, once while others plug in new
// sandboxes, once while nothing happens.
func (c *cluster) restart(r restart, a *lab.Sandbox, round int) {
	c.t.Helper()
	node := a.Node
	node.Binary = ""
	if r.other {
		bin, err := otherBinaries() // built here, the first time
		c.must(err)
		node.Binary = bin.Agent
	}
	ctx, cancel := lab.WithTimeout(c.t.Context(), startWithin)
	defer cancel()
	c.must(r.end(node, ctx))
	// A node that was no member yet, and one that was.
	late := []*lab.Sandbox{
		c.attach(c.Nodes[1], "demo", fmt.Sprintf("late2-%d", round), "--wait", "local"),
		c.attach(c.Nodes[2], "demo", fmt.Sprintf("late3-%d", round), "--wait", "local"),
	}
	c.must(node.Launch())
	c.reachesSoon(a, late...)
	c.must(node.WaitReady(ctx))

	c.eventually(settleWithin, c.verified)
	c.must(r.end(node, ctx))
	c.must(node.Start(ctx))
	c.changedNothing(node)
	version := c.ctl(node, "version")
	if strings.Contains(version, otherVersion) != r.other {
		c.t.Errorf("%s runs another version than was asked for:\n%s", node.Name, version)
	}
}

// restartWithoutEtcd restarts the agent of a sandbox's node while etcd is away,
// which then comes back with news.
func (c *cluster) restartWithoutEtcd(a *lab.Sandbox) {
	c.t.Helper()
	ctx, cancel := lab.WithTimeout(c.t.Context(), startWithin)
	defer cancel()
	for _, end := range []func(*lab.Node, context.Context) error{(*lab.Node).Stop, (*lab.Node).Kill} {
		c.eventually(settleWithin, c.verified)
		c.must(c.Etcd.Kill(ctx))
		c.must(end(a.Node, ctx))
		c.must(a.Node.Start(ctx))
		c.changedNothing(a.Node)
		c.must(c.Etcd.Start(ctx))
		c.eventually(settleWithin, func(ctx context.Context) error { return a.Node.SeesAll(ctx) })
		c.changedNothing(a.Node)
	}
	c.must(a.Node.Stop(ctx))
	late := c.attach(c.Nodes[2], "demo", "late", "--wait", "local")
	c.must(c.Etcd.Kill(ctx))
	c.must(a.Node.Start(ctx))
	c.must(c.Etcd.Start(ctx))
	c.reachesSoon(a, late)
	c.eventually(settleWithin, c.verified)
}

// changedNothing checks that a node's agent has not changed the kernel since it
// started.
func (c *cluster) changedNothing(n *lab.Node) {
	c.t.Helper()
	c.must(c.verified(c.t.Context()))
	metrics, err := n.Metrics(c.t.Context())
	c.must(err)
	passes := 0.0
	for name, value := range metrics {
		switch {
		case strings.HasPrefix(name, "overspan_kernel_ops_total") && value > 0:
			c.t.Errorf("%s: %s is %v; want no change", n.Name, name, value)
		case strings.HasPrefix(name, "overspan_reconcile_passes_total"):
			passes += value
		}
	}
	if passes == 0 {
		c.t.Errorf("%s has not looked at its kernel", n.Name)
	}
}

// reachesSoon waits at most 2 s until a sandbox reaches all of some others.
func (c *cluster) reachesSoon(from *lab.Sandbox, others ...*lab.Sandbox) {
	c.t.Helper()
	var addrs []netip.Addr
	for _, box := range others {
		addrs = append(addrs, c.addr(box))
	}
	c.eventually(2*time.Second, func(context.Context) error {
		lost, err := from.PingOnce(addrs...)
		if err == nil && len(lost) > 0 {
			err = fmt.Errorf("%s has no answer from %v", from.Name, lost)
		}
		return err
	})
}

// traffic is a 1 kHz ping in both directions and a TCP stream between two
// sandboxes.
type traffic struct {
	c       *cluster
	pingers []*lab.Pinger
	stream  *lab.Stream
}

func (c *cluster) traffic(a, b *lab.Sandbox) *traffic {
	c.t.Helper()
	there, err := a.StartPing(c.addr(b))
	c.must(err)
	back, err := b.StartPing(c.addr(a))
	c.must(err)
	stream, err := a.StartStream(c.t.Context(), b, c.addr(b))
	c.must(err)
	tr := &traffic{c: c, pingers: []*lab.Pinger{there, back}, stream: stream}
	tr.flows(100)
	return tr
}

// flows waits until some more packets were sent in each direction.
func (tr *traffic) flows(packets uint64) {
	tr.c.t.Helper()
	for _, p := range tr.pingers {
		goal := p.Sent() + packets
		tr.c.eventually(30*time.Second, func(context.Context) error {
			if p.Sent() < goal {
				return errors.New("pings stand still")
			}
			return nil
		})
	}
}

// stop ends the traffic; none of it may have been lost.
func (tr *traffic) stop() {
	tr.c.t.Helper()
	tr.c.stopPings(tr.pingers)
	if turns, err := tr.stream.Stop(); err != nil || turns == 0 {
		tr.c.t.Errorf("TCP stream: %d turns, %v", turns, err)
	}
}

// startRing starts a 1 kHz ping from each sandbox to the next one: a request
// and its answer go both ways.
func (c *cluster) startRing(boxes []*lab.Sandbox) []*lab.Pinger {
	c.t.Helper()
	var pings []*lab.Pinger
	for i, from := range boxes {
		p, err := from.StartPing(c.addr(boxes[(i+1)%len(boxes)]))
		c.must(err)
		pings = append(pings, p)
	}
	return pings
}

// stopPings ends pings, of which none may have been lost.
func (c *cluster) stopPings(pings []*lab.Pinger) {
	c.t.Helper()
	for i, p := range pings {
		sent, lost, err := p.Stop(c.t.Context())
		if err != nil || lost > 0 {
			c.t.Errorf("ping %d: %d packets sent, %d lost, %v", i, sent, lost, err)
		}
	}
}
