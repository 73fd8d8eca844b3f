package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/overspan/overspan/e2e/lab"
)

// awayVar says for how long etcd is away at the least, as a Go duration. The
// scenario says ten minutes, but nothing happens after the nodes' presence has
// run out, which the lab lets happen early.
const awayVar = "OVERSPAN_E2E_AWAY"

const (
	shortAway   = 10 * time.Second
	presenceTTL = 5 * time.Second
)

// answerWithin is how long a user may wait for an answer while etcd is away.
const answerWithin = 5 * time.Second

// A mishap is a way in which etcd can be away.
type mishap struct {
	name        string
	leave, back func(context.Context, *lab.Etcd) error
	reason      string // what users are told
	readable    bool   // what is shown is not stale
}

var mishaps = []mishap{
	{
		name:   "stopped",
		leave:  func(ctx context.Context, e *lab.Etcd) error { return e.Kill(ctx) },
		back:   startEtcd,
		reason: "connection refused",
	},
	{
		name:   "cut off",
		leave:  func(ctx context.Context, e *lab.Etcd) error { return e.Cut(ctx) },
		back:   func(ctx context.Context, e *lab.Etcd) error { return e.Heal(ctx) },
		reason: "unreachable",
	},
	{
		name:   "hung",
		leave:  func(_ context.Context, e *lab.Etcd) error { return e.Pause() },
		back:   func(_ context.Context, e *lab.Etcd) error { return e.Resume() },
		reason: "does not answer",
	},
	{name: "out of quorum", leave: loseQuorum, back: startEtcd, reason: "no leader"},
	{
		name:     "out of space",
		leave:    func(ctx context.Context, e *lab.Etcd) error { return e.Fill(ctx) },
		back:     func(ctx context.Context, e *lab.Etcd) error { return e.Free(ctx) },
		reason:   "out of space",
		readable: true,
	},
}

func startEtcd(ctx context.Context, e *lab.Etcd) error { return e.Start(ctx) }

// loseQuorum kills two members of three, the leader among them.
func loseQuorum(ctx context.Context, e *lab.Etcd) error {
	leader, err := e.Leader(ctx)
	if err != nil {
		return err
	}
	errs := []error{leader.Kill(ctx)}
	for _, m := range e.Members {
		if m != leader {
			return errors.Join(append(errs, m.Kill(ctx))...)
		}
	}
	return errors.Join(errs...)
}

// Scenario 20: "etcd stopped: pings go on for 10 minutes; network ls answers and
// says stale; attach and create fail in at most 5 s saying etcd is unreachable,
// with nothing left behind; detach works and is released when etcd is back; an
// agent restarted meanwhile keeps everything as it was." The same holds however
// etcd is away.
func TestScenario20_EtcdAway(t *testing.T) {
	t.Parallel()
	c := start(t, lab.Options{
		Nodes:       3,
		EtcdMembers: 3,
		EtcdQuota:   16 << 20,
		ForwardDrop: true, // else there is a warning: nodes become routers
		Flags:       []string{"--presence-ttl", presenceTTL.String()},
	})
	c.create(c.Nodes[0], "demo")
	c.create(c.Nodes[0], "spare")
	var boxes []*lab.Sandbox
	for _, n := range c.Nodes {
		boxes = append(boxes, c.attach(n, "demo", "box-"+n.Name))
	}
	free := c.netns(c.Nodes[0], "free")
	gone := c.netns(c.Nodes[1], "gone")
	var followed []time.Duration
	for _, m := range mishaps {
		t.Run(m.name, func(t *testing.T) {
			a := &absence{cluster: c.in(t), mishap: m, free: free, gone: gone}
			followed = append(followed, a.play(boxes)...)
		})
	}
	checkFollowed(t, followed)
	t.Run("for one node", func(t *testing.T) {
		c.in(t).aloneWithoutEtcd(boxes, free)
	})
}

// An absence is a time without etcd.
type absence struct {
	*cluster
	mishap
	free, gone *lab.Sandbox  // one is to be connected, one to be disconnected
	before     lab.Footprint // everything, but for the one to be disconnected
	kernels    lab.Footprint // what of it is on the nodes
}

// play returns how long each agent took to follow etcd again.
func (a *absence) play(boxes []*lab.Sandbox) []time.Duration {
	a.t.Helper()
	ctx := a.t.Context()
	a.before = a.settledState()
	kernels, err := a.onNodes(ctx)
	a.must(err)
	a.kernels = kernels
	a.connect("demo", a.gone)
	around := a.startRing(boxes)
	requests, err := a.Etcd.Requests(ctx)
	a.must(err)

	left := time.Now()
	a.must(a.leave(ctx, a.Etcd))
	a.withoutEtcd()
	a.restarted()
	a.still()
	select {
	case <-time.After(awayFor(a.t) - time.Since(left)):
	case <-ctx.Done():
	}
	took := a.returns(requests)
	a.connect("demo", a.free)
	a.mesh(append(boxes, a.free)...)
	a.disconnect("demo", a.free)
	a.stopPings(around)
	a.must(a.verified(ctx))
	return took
}

// awayFor returns how long etcd is away at the least.
func awayFor(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv(awayVar)
	if text == "" {
		return shortAway
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("%s: %v", awayVar, err)
	}
	return d
}

// withoutEtcd tries all that users may want on agents that have known etcd.
func (a *absence) withoutEtcd() {
	a.t.Helper()
	h1, h2, h3 := a.Nodes[0], a.Nodes[1], a.Nodes[2]
	var all errgroup.Group
	all.Go(func() error { return a.refuses(h1, "network", "connect", "demo", a.free.Name) })
	all.Go(func() error { return a.refuses(h2, "network", "create", "-d", "overlay", "new") })
	all.Go(func() error { return a.refuses(h3, "network", "rm", "spare") })
	all.Go(func() error { return a.refuses(h1, "node", "rm", "--force", "h3") })
	all.Go(func() error { return a.refuses(h2, "node", "drain", "h1") })
	if !a.readable {
		// Else etcd says that there is nothing to be done.
		all.Go(func() error { return a.refuses(h3, "node", "undrain", "h2") })
		all.Go(func() error { return a.refuses(h2, "network", "disconnect", "--force", "demo", "box-h1") })
		all.Go(func() error { return a.refuses(h1, "cluster", "accept") })
	}
	all.Go(func() error {
		begin := time.Now()
		_, err := h2.MustCtl(a.t.Context(), "network", "disconnect", "demo", a.gone.Name)
		if took := time.Since(begin); err == nil && took > 2*time.Second*lab.Patience {
			err = fmt.Errorf("disconnect took %s; want it at once", took)
		}
		return err
	})
	for _, n := range a.Nodes {
		all.Go(func() error { return a.lists(n, "box-h3") })
	}
	a.must(all.Wait())
	a.plugs = a.plugs[:len(a.plugs)-1]
}

// restarted restarts two agents, which have only their journals then.
func (a *absence) restarted() {
	a.t.Helper()
	ctx, cancel := lab.WithTimeout(a.t.Context(), startWithin)
	defer cancel()
	h1, h3 := a.Nodes[0], a.Nodes[2]
	var all errgroup.Group
	all.Go(func() error { return h1.Restart(ctx) })
	all.Go(func() error {
		if err := h3.Kill(ctx); err != nil {
			return err
		}
		return h3.Start(ctx)
	})
	a.must(all.Wait())
	all.Go(func() error { return a.refuses(h1, "network", "connect", "demo", a.free.Name) })
	all.Go(func() error { return a.refuses(h3, "network", "create", "-d", "overlay", "new") })
	for _, n := range a.Nodes {
		all.Go(func() error { return a.lists(n, "box-"+n.Name) })
		all.Go(func() error { return a.tells(n) })
	}
	a.must(all.Wait())
}

// refuses runs a command that must fail in time, with words for users.
func (a *absence) refuses(n *lab.Node, args ...string) error {
	begin := time.Now()
	res, err := n.Ctl(a.t.Context(), args...)
	if err != nil {
		return err
	}
	took := time.Since(begin)
	a.t.Logf("%s after %.1f s: %s", n.Name, took.Seconds(), res.Stderr)
	if res.Code != 1 || res.Stdout != "" || took > answerWithin {
		return fmt.Errorf("on %s: %s: exit status %d after %s\n%s%s", n.Name, res.Command, res.Code, took, res.Stdout, res.Stderr)
	}
	for _, word := range []string{"Error: ", a.Etcd.URL} {
		if strings.Count(res.Stderr, word) != 1 {
			return fmt.Errorf("on %s: %s: %q does not say %q, once", n.Name, res.Command, res.Stderr, word)
		}
	}
	for _, word := range []string{"etcd", a.reason} {
		if !strings.Contains(res.Stderr, word) {
			return fmt.Errorf("on %s: %s: %q does not say %q", n.Name, res.Command, res.Stderr, word)
		}
	}
	return nil
}

// lists runs what only reads: it must answer in time, and say how old it is. An
// agent that has only its journal knows of the endpoints of its node alone.
func (a *absence) lists(n *lab.Node, endpoint string) error {
	for kind, want := range map[string]string{"network": "spare", "node": "h2", "endpoint": endpoint} {
		begin := time.Now()
		res, err := n.Ctl(a.t.Context(), kind, "ls")
		if err != nil {
			return err
		}
		took := time.Since(begin)
		stale := strings.Contains(res.Stderr, "stale since")
		if res.Code != 0 || took > answerWithin || stale == a.readable || !strings.Contains(res.Stdout, want) {
			return fmt.Errorf("on %s: %s: exit status %d after %s, stale: %v\n%s%s", n.Name, res.Command, res.Code, took, stale, res.Stdout, res.Stderr)
		}
	}
	return nil
}

// tells asks for the status, which must say what is wrong.
func (a *absence) tells(n *lab.Node) error {
	begin := time.Now()
	status, err := n.MustCtl(a.t.Context(), "status")
	if err != nil {
		return err
	}
	if took := time.Since(begin); took > answerWithin*lab.Patience || !strings.Contains(status, a.reason) {
		return fmt.Errorf("status of %s does not say %q, after %s:\n%s", n.Name, a.reason, took, status)
	}
	return nil
}

// still checks that the kernels hold what they held before etcd went, and that
// the agents want them so.
func (a *absence) still() {
	a.t.Helper()
	a.eventually(retireWithin, func(ctx context.Context) error {
		now, err := a.onNodes(ctx)
		if diff := a.kernels.Diff(now); err == nil && len(diff) > 0 {
			err = fmt.Errorf("without etcd the kernels have changed (-before +now):\n%s", strings.Join(diff, "\n"))
		}
		return errors.Join(err, a.verified(ctx))
	})
}
