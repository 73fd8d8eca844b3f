package e2e

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/overspan/overspan/e2e/lab"
)

// Scenario 16: "Agent SIGTERM and kill -9, restart, under a 1 kHz ping in both
// directions and a TCP stream: 0 lost, no reset. An endpoint created elsewhere
// meanwhile is reachable at most 2 s after the restart."
func TestScenario16_RestartUnderTraffic(t *testing.T) {
	for name, end := range map[string]func(*lab.Node, context.Context) error{
		"SIGTERM": (*lab.Node).Stop,
		"SIGKILL": (*lab.Node).Kill,
	} {
		t.Run(name, func(t *testing.T) {
			c := three(t)
			h1, h2, h3 := c.Nodes[0], c.Nodes[1], c.Nodes[2]
			c.create(h2, "demo")
			a, b := c.attach(h1, "demo", "a"), c.attach(h2, "demo", "b")
			traffic := c.traffic(a, b)
			for round := range 3 {
				c.must(end(h1, t.Context()))
				// A node that was no member yet, and one that was.
				late := []*lab.Sandbox{
					c.attach(h2, "demo", fmt.Sprintf("late2-%d", round), "--wait", "local"),
					c.attach(h3, "demo", fmt.Sprintf("late3-%d", round), "--wait", "local"),
				}
				c.must(h1.Launch())
				for _, box := range late {
					addr := c.addr(box)
					c.eventually(2*time.Second, func(context.Context) error {
						lost, err := a.PingOnce(addr)
						if err == nil && len(lost) > 0 {
							err = fmt.Errorf("%s has no answer from %s", a.Name, addr)
						}
						return err
					})
				}
				ctx, cancel := context.WithTimeout(t.Context(), startWithin)
				c.must(h1.WaitReady(ctx))
				cancel()
			}
			traffic.flows(1000)
			traffic.stop()
		})
	}
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
