package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
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
	least int           // turns: the nodes are busy for as long
	pairs int           // networks that each node creates and removes at the least
	bears bool          // no command may be refused

	end func(ctx context.Context, e *lab.Etcd) error // afterwards; nil: nothing
}

var tendings = []tending{
	{name: "compacted", do: func(ctx context.Context, e *lab.Etcd, _ int) error { return e.Compact(ctx) }, pause: 100 * time.Millisecond, least: 20, pairs: aHundred, bears: true},
	{name: "defragmented", do: func(ctx context.Context, e *lab.Etcd, _ int) error { return e.Defragment(ctx) }, pause: 300 * time.Millisecond, least: 10, bears: true},
	{name: "leader moved", do: moveLeader, pause: time.Second, least: 5, pairs: aHundred},
	{name: "members restarted", do: restartMember, pause: time.Second, least: 3, pairs: aHundred},
	{name: "member killed", do: killMember, pause: time.Second, least: 4},
	{name: "member dead", do: loseMember, pause: time.Second, least: 1, end: startEtcd},
}

// refusable returns how many of some commands may be refused: none while etcd is
// there all the time, else a few that stand in line when a member goes.
func (tend tending) refusable(commands int64) int64 {
	if tend.bears {
		return 0
	}
	return commands / 20
}

// leaderOf returns the member that leads, once one does.
func leaderOf(ctx context.Context, e *lab.Etcd) (leader *lab.Member, err error) {
	err = lab.Eventually(ctx, settleWithin, func(ctx context.Context) (err error) {
		leader, err = e.Leader(ctx)
		return err
	})
	return leader, err
}

// moveLeader makes one lead that does not.
func moveLeader(ctx context.Context, e *lab.Etcd, turn int) error {
	leader, err := leaderOf(ctx, e)
	if err != nil {
		return err
	}
	to := e.Members[turn%len(e.Members)]
	if to == leader {
		to = e.Members[(turn+1)%len(e.Members)]
	}
	return e.MoveLeader(ctx, to)
}

func restartMember(ctx context.Context, e *lab.Etcd, turn int) error {
	m := e.Members[turn%len(e.Members)]
	return errors.Join(m.Stop(ctx), m.Start(ctx))
}

// killMember kills the leader and one that follows, in turn.
func killMember(ctx context.Context, e *lab.Etcd, turn int) error {
	m, err := leaderOf(ctx, e)
	if err != nil {
		return err
	}
	if turn%2 == 1 {
		m = e.Members[(slices.Index(e.Members, m)+1)%len(e.Members)]
	}
	return errors.Join(m.Kill(ctx), m.Start(ctx))
}

// loseMember kills the leader, which stays away.
func loseMember(ctx context.Context, e *lab.Etcd, turn int) error {
	if turn > 0 {
		return nil
	}
	m, err := leaderOf(ctx, e)
	if err != nil {
		return err
	}
	return m.Kill(ctx)
}

// aHundred networks are created and removed by three nodes if each does so many.
const aHundred = 34

// churnVar is how often each node plugs a sandbox in and out while etcd is tended in
// one way, and how many networks it creates and removes at the least.
const churnVar = "OVERSPAN_E2E_CHURN"

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
	t.Run("compacted past a node", func(t *testing.T) {
		c.in(t).lags(c.Nodes[2])
	})
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
	var turns atomic.Int64
	tender.Go(func() error {
		defer done()
		for ; ctx.Err() == nil; turns.Add(1) {
			if err := tend.do(c.t.Context(), c.Etcd, int(turns.Load())); err != nil {
				return err
			}
			select {
			case <-time.After(tend.pause):
			case <-ctx.Done():
			}
		}
		return nil
	})
	var refusals, commands atomic.Int64
	var busy errgroup.Group
	for i, n := range c.Nodes {
		u := &user{node: n, box: movers[i], etcd: c.Etcd.URL, plugs: churns(c.t), refusals: &refusals, commands: &commands, log: c.t.Logf}
		busy.Go(func() error {
			for ctx.Err() == nil && (u.rounds < max(u.plugs, tend.pairs) || turns.Load() < int64(tend.least)) {
				if err := u.churn(c.t.Context()); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := busy.Wait()
	done()
	c.must(errors.Join(err, tender.Wait()))
	c.t.Logf("%s %d times; %d of %d commands were refused", tend.name, turns.Load(), refusals.Load(), commands.Load())
	if tend.end != nil {
		c.must(tend.end(c.t.Context(), c.Etcd))
	}
	if most := tend.refusable(commands.Load()); refusals.Load() > most {
		c.t.Errorf("%d commands were refused; want at most %d", refusals.Load(), most)
	}
	c.ctl(c.Nodes[1], "network", "rm", "moves")
	c.unchanged(c.t, before)
	c.heard()
	c.mesh(boxes...)
	c.must(c.verified(c.t.Context()))
}

// lags has a node hear nothing of etcd while history is made and forgotten, so that
// its watches cannot go on where they were: it lists again, whether a watch is told so
// or somebody who waits finds out first, and follows.
func (c *cluster) lags(n *lab.Node) {
	c.t.Helper()
	ctx := c.t.Context()
	before := c.settledState()
	log, err := os.ReadFile(n.LogPath())
	c.must(err)
	c.must(n.Hides(ctx, c.Etcd, true))
	for i := range 3 {
		c.create(c.Nodes[0], fmt.Sprintf("missed-%d", i))
	}
	c.ctl(c.Nodes[0], "network", "rm", "missed-0")
	c.must(c.Etcd.Compact(ctx))
	// What the servers have on the way to it ends with its connections.
	c.must(c.Etcd.Kill(ctx))
	c.must(c.Etcd.Start(ctx))
	c.must(n.Hides(ctx, c.Etcd, false))
	c.eventually(settleWithin, func(ctx context.Context) error {
		all, err := networks(ctx, n)
		var names []string
		for _, net := range all {
			names = append(names, net.name)
		}
		if slices.Sort(names); !slices.Equal(names, []string{"demo", "missed-1", "missed-2"}) {
			err = errors.Join(err, fmt.Errorf("%s shows %v", n.Name, names))
		}
		return err
	})
	now, err := os.ReadFile(n.LogPath())
	c.must(err)
	if !strings.Contains(string(now[len(log):]), `msg="list again"`) {
		c.t.Errorf("%s has listed nothing again", n.Name)
	}
	c.ctl(n, "network", "rm", "missed-1")
	c.ctl(n, "network", "rm", "missed-2")
	c.unchanged(c.t, before)
	c.heard()
	c.must(c.verified(ctx))
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
	etcd     string // its URL
	plugs    int    // with so many of the networks the sandbox is plugged in and out
	rounds   int    // so far
	refusals *atomic.Int64
	commands *atomic.Int64
	log      func(string, ...any)
}

// churn creates and removes a network, and plugs the sandbox in and out.
func (u *user) churn(ctx context.Context) error {
	name := fmt.Sprintf("%s-%d", u.node.Name, u.rounds)
	todo := [][]string{{"network", "create", "-d", "overlay", name}}
	if u.rounds < u.plugs {
		todo = append(todo,
			[]string{"network", "connect", "--wait", "local", "moves", u.box.Name},
			[]string{"network", "disconnect", "moves", u.box.Name})
	}
	u.rounds++
	for _, args := range append(todo, []string{"network", "rm", name}) {
		if err := u.insist(ctx, args...); err != nil {
			return err
		}
		u.commands.Add(1)
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
	var wrong error // which ends the trying
	err := lab.Eventually(ctx, insistWithin, func(ctx context.Context) error {
		begin := time.Now()
		res, err := u.node.Ctl(ctx, args...)
		if err != nil || res.Code == 0 {
			return err
		}
		if refused && args[1] == "rm" && strings.Contains(res.Stderr, "not found") {
			return nil // the one that was refused has gone through after all
		}
		took := time.Since(begin)
		u.log("%s: %s after %s: %s", u.node.Name, res.Command, took.Round(10*time.Millisecond), res.Stderr)
		if !strings.Contains(res.Stderr, u.etcd) || took > answerWithin*lab.Patience {
			wrong = fmt.Errorf("on %s after %s: %w; want that etcd is named within %s", u.node.Name, took, res.Err(), answerWithin*lab.Patience)
			return nil
		}
		u.refusals.Add(1)
		refused = true
		return res.Err()
	})
	return cmp.Or(wrong, err)
}
