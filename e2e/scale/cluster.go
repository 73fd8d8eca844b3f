package scale

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/daemon"
	"github.com/overspan/overspan/kernel"
	"github.com/overspan/overspan/store"
)

// Options say what a cluster is made of.
type Options struct {
	Nodes  int
	Server *Server
	Dir    string        // journals
	TTL    time.Duration // of presences; 0: store.DefaultTTL
	Resync time.Duration // of each agent; 0: so long that none happens
	Log    *slog.Logger  // nil: silent
}

// Name is the cluster's, in etcd.
const Name = "scale"

// A Cluster is many agents in this process.
type Cluster struct {
	Nodes []*Node

	server *Server
	spot   *spotter
}

// A Node is one agent and what it runs on. The kernel outlives the agent.
type Node struct {
	*daemon.Daemon // nil while stopped
	Kernel         *kernel.Fake

	cfg    daemon.Config
	server *Server
	tap    tapped
	log    *slog.Logger
	boxes  int // sandboxes made so far

	end   context.CancelFunc
	ended chan error // size 1: what became of the agent
}

// New makes a cluster whose agents do not run yet.
func New(opts Options) (*Cluster, error) {
	if opts.Resync == 0 {
		opts.Resync = 24 * time.Hour
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	c := &Cluster{server: opts.Server, spot: &spotter{}}
	for i := range opts.Nodes {
		n, err := c.node(i, opts)
		if err != nil {
			return nil, err
		}
		c.Nodes = append(c.Nodes, n)
	}
	return c, nil
}

// VTEP returns the underlay address of a node.
func VTEP(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 99, byte((i + 1) >> 8), byte(i + 1)}) }

func (c *Cluster) node(i int, opts Options) (*Node, error) {
	name := fmt.Sprintf("h%d", i+1)
	dir := filepath.Join(opts.Dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	addr := VTEP(i)
	fake := kernel.NewFake(kernel.Underlay{Device: "eth0", MTU: 1500, Addrs: []netip.Addr{addr}}, netip.MustParsePrefix("10.99.0.0/16"))
	fake.MakeNetns(kernel.OwnNetns, "eth0")
	return &Node{
		Kernel: fake,
		cfg: daemon.Config{
			NodeName: name, Underlay: []string{addr.String()}, Cluster: Name,
			StateDir: dir, RunDir: dir, VXLANPort: 4789,
			TTL: opts.TTL, Resync: opts.Resync, BlockIdle: 24 * time.Hour,
		},
		server: opts.Server,
		tap:    tapped{Fake: fake, node: i, spot: c.spot, reads: new(atomic.Int64)},
		log:    opts.Log.With("on", name),
	}, nil
}

// Start starts an agent and returns at once.
func (n *Node) Start() error {
	journal, err := store.OpenJournal(n.cfg.JournalPath())
	if err != nil {
		return err
	}
	kv, err := n.server.Dial()
	if err != nil {
		return errors.Join(err, journal.Close())
	}
	d, err := daemon.New(n.cfg, daemon.Parts{KV: kv, Journal: journal, Kernel: n.tap, Host: n.Kernel, Log: n.log})
	if err != nil {
		return errors.Join(err, kv.Close(), journal.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.Daemon, n.end, n.ended = d, cancel, make(chan error, 1)
	go func() { n.ended <- errors.Join(d.Run(ctx), kv.Close(), journal.Close()) }()
	return nil
}

// Stop ends an agent, as SIGTERM does, and waits for that.
func (n *Node) Stop() error {
	if n.Daemon == nil {
		return nil
	}
	n.end()
	err := <-n.ended
	n.Daemon = nil
	return err
}

// Start starts the agents that do not run, all at once, and returns when each
// is registered, sees all the others, and has its kernel in line.
func (c *Cluster) Start(ctx context.Context) error {
	for _, n := range c.Nodes {
		if n.Daemon == nil {
			if err := n.Start(); err != nil {
				return fmt.Errorf("start %s: %w", n.cfg.NodeName, err)
			}
		}
	}
	return c.each(func(n *Node) error {
		if !n.Ready(ctx) {
			return fmt.Errorf("%s is not ready: %w", n.cfg.NodeName, ctx.Err())
		}
		return n.Until(ctx, "every node is seen", n.sees(len(c.Nodes)))
	})
}

// Spot returns how long each member of a network took to send frames for an
// endpoint's address to its node, from when do has sent what they learn it from.
func (c *Cluster) Spot(ctx context.Context, n *overspan.Network, slot overspan.Slot, members int, do func() (sent time.Time, err error)) ([]time.Duration, error) {
	c.spot.await(kernel.FDBKey{Dev: overspan.VXLANName(n.ID), MAC: n.MAC(slot)})
	sent, err := do()
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for len(c.spot.times()) < members {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("slot %d: programmed by %d of %d members in time", slot, len(c.spot.times()), members)
		}
	}
	var out []time.Duration
	for _, at := range c.spot.times() {
		out = append(out, at.Sub(sent))
	}
	return out, nil
}

// Close stops all agents.
func (c *Cluster) Close() error {
	return c.each((*Node).Stop)
}

// Expire ends the presences of agents that could not take them back, because all
// were stopped at once, as time would. In one process nobody could tell them from
// those of agents that still run.
func (c *Cluster) Expire(ctx context.Context) error {
	keys, err := store.NewKeys(Name)
	if err != nil {
		return err
	}
	kv, err := c.server.Dial()
	if err != nil {
		return err
	}
	defer kv.Close()
	_, err = kv.Txn(ctx, store.Txn{Then: []store.Op{store.Delete(keys.Lives())}})
	return err
}

// each calls a function for all nodes at once and waits for them.
func (c *Cluster) each(do func(*Node) error) error {
	var g errgroup.Group
	for _, n := range c.Nodes {
		g.Go(func() error { return do(n) })
	}
	return g.Wait()
}

// sees returns a function that tells whether a node sees so many as present. It
// counts each snapshot once: many nodes that ask are work for each other.
func (n *Node) sees(nodes int) func() bool {
	var counted *overspan.Snapshot
	return func() bool {
		s := n.Snapshot()
		if s == counted || len(s.Nodes) < nodes {
			return false
		}
		counted = s
		up := 0
		for _, other := range s.Nodes {
			if other.Presence != nil {
				up++
			}
		}
		return up >= nodes
	}
}

// lookEvery is how often Until looks again.
const lookEvery = 20 * time.Millisecond

// Until waits until a condition holds; its error says what did not come true.
func (n *Node) Until(ctx context.Context, what string, cond func() bool) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s: not in time: %s", n.cfg.NodeName, what)
		}
	}
	return nil
}

// Attach plugs a new sandbox into a network.
func (n *Node) Attach(ctx context.Context, network string, wait daemon.Wait) (overspan.Endpoint, error) {
	n.boxes++
	return n.AttachNamed(ctx, network, fmt.Sprintf("%s-web%d", n.cfg.NodeName, n.boxes), wait)
}

// AttachNamed is Attach for callers at the same time: they choose the names.
func (n *Node) AttachNamed(ctx context.Context, network, name string, wait daemon.Wait) (overspan.Endpoint, error) {
	path := "/run/netns/" + name
	n.Kernel.MakeNetns(path)
	res, err := n.Connect(ctx, daemon.ConnectRequest{Network: network, Target: "netns:" + path, Name: name, Wait: wait})
	if err != nil {
		return overspan.Endpoint{}, fmt.Errorf("attach %s on %s: %w", name, n.cfg.NodeName, err)
	}
	if len(res.Unconfirmed) > 0 {
		return res.Endpoint, fmt.Errorf("attach %s on %s: not confirmed by %d nodes", name, n.cfg.NodeName, len(res.Unconfirmed))
	}
	return res.Endpoint, nil
}

// Clean waits until a node's kernel is what its plan says of the newest
// snapshot.
func (n *Node) Clean(ctx context.Context) error {
	if err := n.Sync(ctx); err != nil {
		return err
	}
	var failed error
	err := n.Until(ctx, "the kernel is in line", func() bool {
		_, drift, err := n.Verify(ctx)
		failed = err
		return err == nil && len(drift) == 0
	})
	return errors.Join(err, failed)
}
