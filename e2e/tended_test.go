package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/overspan/overspan/e2e/lab"
)

// A tending is what operators, or accidents, do to an etcd of three members
// that goes on serving.
type tending struct {
	name  string
	do    func(ctx context.Context, e *lab.Etcd, turn int) error
	pause time.Duration // between two turns
	bears bool          // no command may be refused
}

var tendings = []tending{
	{"compacted", func(ctx context.Context, e *lab.Etcd, _ int) error { return e.Compact(ctx) }, 100 * time.Millisecond, true},
	{"defragmented", func(ctx context.Context, e *lab.Etcd, _ int) error { return e.Defragment(ctx) }, 300 * time.Millisecond, true},
	{"leader moved", moveLeader, time.Second, false},
	{"members restarted", restartMember, time.Second, false},
	{"member killed", killMember, 2 * time.Second, false},
}

func moveLeader(ctx context.Context, e *lab.Etcd, turn int) error {
	return e.MoveLeader(ctx, e.Members[turn%len(e.Members)])
}

func restartMember(ctx context.Context, e *lab.Etcd, turn int) error {
	m := e.Members[turn%len(e.Members)]
	return errors.Join(m.Stop(ctx), m.Start(ctx))
}

// killMember kills the leader now and then: it may be any.
func killMember(ctx context.Context, e *lab.Etcd, turn int) error {
	m := e.Members[turn%len(e.Members)]
	return errors.Join(m.Kill(ctx), m.Start(ctx))
}

// churnVar is how many networks each node creates and removes while etcd is
// tended in one way, and how often it plugs a sandbox in and out.
const churnVar = "OVERSPAN_E2E_CHURN"

// shortChurn makes a hundred commands of all nodes.
const shortChurn = 9

func churns(t *testing.T) int {
	t.Helper()
	n, err := strconv.Atoi(cmp.Or(os.Getenv(churnVar), strconv.Itoa(shortChurn)))
	if err != nil {
		t.Fatalf("%s: %v", churnVar, err)
	}
	return n
}

// Scenario 20, last sentence: "etcd compacted, restarted, leader moved during
// 100 create/rm: nothing leaks, watches resume."
func TestScenario20_EtcdTended(t *testing.T) {
	t.Parallel()
	c := start(t, lab.Options{Nodes: 3, EtcdMembers: 3})
	c.create(c.Nodes[0], "demo")
	var boxes, movers []*lab.Sandbox
	for _, n := range c.Nodes {
		boxes = append(boxes, c.attach(n, "demo", "box-"+n.Name))
		movers = append(movers, c.netns(n, "mover-"+n.Name))
	}
	around := c.startRing(boxes)
	for _, tend := range tendings {
		t.Run(tend.name, func(t *testing.T) {
			c.in(t).tended(tend, boxes, movers)
		})
	}
	c.stopPings(around)
}

// tended has all nodes busy while something is done to etcd.
func (c *cluster) tended(tend tending, boxes, movers []*lab.Sandbox) {
	c.t.Helper()
	before := c.settledState()
	c.create(c.Nodes[0], "moves")
	ctx, done := context.WithCancel(c.t.Context())
	defer done()
	var tender errgroup.Group
	turns := 0
	tender.Go(func() error {
		for ; ctx.Err() == nil; turns++ {
			if err := tend.do(c.t.Context(), c.Etcd, turns); err != nil {
				return err
			}
			select {
			case <-time.After(tend.pause):
			case <-ctx.Done():
			}
		}
		return nil
	})
	var refusals atomic.Int64
	var busy errgroup.Group
	for i, n := range c.Nodes {
		u := &user{node: n, box: movers[i], times: churns(c.t), refusals: &refusals, log: c.t.Logf}
		busy.Go(func() error { return u.churn(c.t.Context()) })
	}
	err := busy.Wait()
	done()
	c.must(errors.Join(err, tender.Wait()))
	c.t.Logf("%s %d times; %d of %d commands were refused", tend.name, turns, refusals.Load(), 4*churns(c.t)*len(c.Nodes))
	if tend.bears && refusals.Load() > 0 {
		c.t.Error("commands were refused although etcd was there all the time")
	}
	c.ctl(c.Nodes[1], "network", "rm", "moves")
	c.unchanged(c.t, before)
	c.heard()
	c.mesh(boxes...)
	c.must(c.verified(c.t.Context()))
}

// heard checks that all nodes follow etcd: what one creates, the others show.
func (c *cluster) heard() {
	c.t.Helper()
	for i, n := range c.Nodes {
		name := fmt.Sprintf("heard-%d", i)
		c.create(n, name)
		for _, other := range c.Nodes {
			c.eventually(settleWithin, func(ctx context.Context) error {
				all, err := networks(ctx, other)
				for _, net := range all {
					if net.name == name {
						return nil
					}
				}
				return errors.Join(err, fmt.Errorf("%s does not show %s", other.Name, name))
			})
		}
		c.ctl(n, "network", "rm", name)
	}
}

// A user is busy on one node, and tries again what was refused because etcd
// could not be asked.
type user struct {
	node     *lab.Node
	box      *lab.Sandbox
	times    int
	refusals *atomic.Int64
	log      func(string, ...any)
}

// churn creates and removes networks, and plugs the sandbox in and out.
func (u *user) churn(ctx context.Context) error {
	for i := range u.times {
		name := fmt.Sprintf("%s-%d", u.node.Name, i)
		for _, args := range [][]string{
			{"network", "create", "-d", "overlay", name},
			{"network", "connect", "--wait", "local", "moves", u.box.Name},
			{"network", "disconnect", "moves", u.box.Name},
			{"network", "rm", name},
		} {
			if err := u.insist(ctx, args...); err != nil {
				return err
			}
		}
	}
	return nil
}

// insistWithin bounds for how long a command is tried again.
const insistWithin = time.Minute

// insist runs a command until it succeeds. The only reason to fail is that etcd
// could not be asked, which must be said in time. What was refused has left
// nothing that is in the way of the next try, at once or soon.
func (u *user) insist(ctx context.Context, args ...string) error {
	refused := false
	return lab.Eventually(ctx, insistWithin, func(ctx context.Context) error {
		begin := time.Now()
		res, err := u.node.Ctl(ctx, args...)
		if err != nil || res.Code == 0 {
			return err
		}
		if refused && args[1] == "rm" && strings.Contains(res.Stderr, "not found") {
			return nil // the one that was refused has gone through after all
		}
		u.log("%s: %s after %s: %s", u.node.Name, res.Command, time.Since(begin).Round(10*time.Millisecond), res.Stderr)
		u.refusals.Add(1)
		refused = true
		return res.Err()
	})
}
