// Package daemon is the agent without its sockets: it keeps this node's kernel
// in line with what etcd says, and carries out what users ask for.
//
// There is one loop. Handlers write desired state and wait until it is
// applied; snapshots, kernel events and a timer only say "look again"; the
// reconciler alone reads the kernel, compares it with the plan and changes it.
package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/await"
	"github.com/overspan/overspan/agent/history"
	"github.com/overspan/overspan/agent/local"
	"github.com/overspan/overspan/agent/ports"
	"github.com/overspan/overspan/agent/reconcile"
	"github.com/overspan/overspan/ipam"
	"github.com/overspan/overspan/kernel"
	"github.com/overspan/overspan/store"
)

// A Host answers what the daemon must know of the machine and changes nothing.
type Host interface {
	Netns(path string) (overspan.NetnsID, error)
	Interfaces(netns string) ([]string, error)
	HostRoutes() ([]netip.Prefix, error)
	Advertised() ([]string, error)
	Shortcut(vtep netip.Addr) (kernel.Shortcut, error)
	Underlay(spec string) (kernel.Underlay, error)
	Watch(ctx context.Context) <-chan kernel.Hint
	CheckSupport(ctx context.Context) []string
	OpenRouter(ctx context.Context) ([]overspan.Family, error)
	Guard() kernel.Guard
	PortDrops() (map[string]uint64, error)
}

// Config is what a daemon is told at its start.
type Config struct {
	NodeName     string        // of this node; need not be unique
	Underlay     []string      // VTEP addresses, at most one of each family, or one device
	Cluster      string        // key prefix in etcd
	Setup        overspan.Meta // what a new cluster is set up with; what is zero has a default
	StateDir     string        // survives a reboot: journal
	RunDir       string        // does not: pinned namespaces
	VXLANPort    uint16        // UDP
	TTL          time.Duration // of the presence
	Resync       time.Duration // between full passes
	BlockIdle    time.Duration // how long a block stays empty before it is given back
	ReapAfter    time.Duration // how long a node is away before it is removed; 0: for ever
	DockerSocket string        // the Docker engine's socket
}

// NetnsDir is where the namespaces of our own sandboxes are pinned.
func (c Config) NetnsDir() string { return filepath.Join(c.RunDir, "netns") }

// JournalPath is the file of the node's journal.
func (c Config) JournalPath() string { return filepath.Join(c.StateDir, "journal.db") }

// Parts are what a daemon works with. It closes none of them: who made them
// does.
type Parts struct {
	KV      store.KV
	Journal *store.Journal
	Kernel  reconcile.Kernel
	Host    Host
	Log     *slog.Logger
}

// Daemon is one node's agent.
type Daemon struct {
	cfg     Config
	log     *slog.Logger
	kv      store.KV
	keys    store.Keys
	journal *store.Journal
	host    Host
	docker  *docker
	mirror  *store.Mirror
	alloc   *ipam.Allocator
	rec     *reconcile.Reconciler
	local   *local.Inventory
	ports   *ports.Ledger
	events  *Events
	names   Names
	started time.Time

	registrar *registrar
	releaser  *releaser
	publisher *publisher
	history   *history.History

	snapshots *await.Beacon // fires when Snapshot changes
	gates     keyedLocks    // one change at a time in a sandbox
	admit     sync.Mutex    // guards the choice of new sandboxes' names and identities
	follows   followers     // why networks are followed

	realised idSet[overspan.NetworkID] // networks whose devices and rules an attach has seen in line
	doomed   idSet[overspan.SandboxID] // sandboxes with an interface on its way out

	shortcut  atomic.Pointer[shortcut] // as last seen; nil before
	health    *health                  // what status tells of the passes
	meter     *meter
	confirmed confirmedBlocks
	evicted   evictions
	reported  lastReport

	// Each of size 1: something wants a look.
	deaths       chan struct{} // a sandbox may be gone
	emptied      chan struct{} // a block may be empty that a draining node gives back
	evictionsDue chan struct{} // an endpoint may have been evicted
	halfRemoved  chan struct{} // a network's removal may not have ended
}

// New makes a daemon from what the journal holds. Neither etcd nor the kernel
// is asked anything before Run.
func New(cfg Config, parts Parts) (*Daemon, error) {
	sandboxes, err := parts.Journal.Sandboxes()
	if err != nil {
		return nil, err
	}
	attachments, err := parts.Journal.Attachments()
	if err != nil {
		return nil, err
	}
	keys, err := store.NewKeys(cfg.Cluster)
	if err != nil {
		return nil, err
	}
	saved, err := parts.Journal.Snapshot()
	if err != nil {
		parts.Log.Warn("cannot read the last snapshot from the journal; waiting for etcd", "error", err)
	}
	d := &Daemon{
		cfg:       cfg,
		log:       parts.Log,
		kv:        parts.KV,
		keys:      keys,
		journal:   parts.Journal,
		host:      parts.Host,
		docker:    newDocker(cfg.DockerSocket),
		mirror:    store.NewMirror(parts.KV, keys, mirrorConfig(parts, saved)),
		local:     local.New(sandboxes, attachments),
		ports:     ports.NewLedger(),
		events:    NewEvents(),
		names:     noNames{},
		started:   time.Now(),
		snapshots: await.NewBeacon(),
		health:    newHealth(),
		meter:     newMeter(),

		deaths:       make(chan struct{}, 1),
		emptied:      make(chan struct{}, 1),
		evictionsDue: make(chan struct{}, 1),
		halfRemoved:  make(chan struct{}, 1),
	}
	if d.registrar, err = newRegistrar(d); err != nil {
		return nil, err
	}
	d.follows = followers{follow: d.mirror.Follow, unfollow: d.unfollow}
	d.alloc = ipam.New(claims{d}, ipam.Config{IdleAfter: cfg.BlockIdle})
	d.rec = d.newReconciler(parts)
	d.releaser = newReleaser(d)
	d.publisher = newPublisher(d)
	d.history = d.newHistory(saved)
	d.publisher.told = d.report
	return d, nil
}

func (d *Daemon) newReconciler(parts Parts) *reconcile.Reconciler {
	return reconcile.New(parts.Kernel, parts.Log.With("part", "reconciler"), reconcile.Hooks{
		Input:    d.planInput,
		Passed:   d.passed,
		Changing: parts.Journal.NoteSysctls,
		Rehomed:  d.portsMoved,
		Retired:  d.doomed.clear,
	})
}

// newHistory returns the history of a daemon whose other parts are made. Saved is
// the journal's snapshot; nil if it has none.
func (d *Daemon) newHistory(saved *overspan.Snapshot) *history.History {
	return history.New(history.Config{
		Log:     d.log,
		KV:      d.kv,
		Keys:    d.keys,
		Journal: d.journal,
		Mirror:  d.mirror,
		Local:   d.local,
		Self:    d.Self(),
		Name:    d.cfg.NodeName,
		Saved:   saved,
		Alone:   d.registrar.alone,
		Restart: d.beginAnew,
		Due:     d.publisher.due,
	})
}

// mirrorConfig tells the mirror what the last run has seen.
func mirrorConfig(parts Parts, saved *overspan.Snapshot) store.MirrorConfig {
	seen := parts.Journal.Identity()
	cfg := store.MirrorConfig{
		ClusterID: seen.ClusterID,
		Revision:  seen.Revision,
		Accepted:  seen.Accepted,
		Claimed:   seen.Claimed,
		Log:       parts.Log.With("part", "mirror"),
	}
	if saved != nil && saved.Frozen == nil {
		cfg.Settings = saved.Meta.ClusterID
	}
	return cfg
}

// Run keeps the node in the cluster until ctx ends. What the kernel holds then
// stays as it is. An error means that this agent must not go on: another one
// uses its identity.
func (d *Daemon) Run(ctx context.Context) error {
	defer d.ports.Close()
	if err := d.restore(); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, task := range []func(context.Context) error{
		d.mirror.Run,
		d.history.Run,
		d.registrar.keep,
		d.followSnapshots,
		d.keepJournal,
		d.followKernel,
		d.watchSandboxes,
		d.answerWants,
		d.acknowledge,
		d.releaser.run,
		d.publisher.run,
		d.registrar.update,
		d.housekeep,
		d.holdPorts,
		d.finishRemovals,
		d.drain,
		d.heedEvictions,
		d.reap,
		func(ctx context.Context) error { return d.rec.Run(ctx, d.cfg.Resync) },
	} {
		g.Go(func() error { return task(ctx) })
	}
	return g.Wait()
}

// restore brings back what the journal knows: the networks to follow, the
// slots in use, and the last snapshot, for the case that etcd is away.
func (d *Daemon) restore() error {
	followed, err := d.journal.Followed()
	if err != nil {
		return err
	}
	for _, id := range followed {
		d.follows.keep(id)
	}
	for _, a := range d.local.AllAttachments() {
		d.releaser.adopt(a.Endpoint)
		d.follows.keep(a.Endpoint.Network)
	}
	pending, err := d.journal.Releases()
	if err != nil {
		return err
	}
	for _, e := range pending {
		// Its port may be there yet. Where its slot is another's already it was freed
		// before this agent died.
		if !d.local.Serves(e.Network, e.Slots) {
			d.releaser.adopt(e)
		}
	}
	for _, sb := range d.local.AllSandboxes() {
		d.ports.Restore(sb.ID, sb.Name, sb.Ports)
		d.forgetIfUnused(*sb) // the agent died before it had an endpoint
	}
	await.Wake(d.releaser.pending)
	return nil
}

// joined is what the registrar tells of a new session.
func (d *Daemon) joined() {
	d.history.Registered()
	d.health.changed.Fire()
	await.Wake(d.evictionsDue)
	await.Wake(d.releaser.pending)
	await.Wake(d.publisher.due)
}

// fenced is what the registrar tells of a registration that was lost.
func (d *Daemon) fenced() {
	d.events.Publish(Event{Type: "node", Action: "fence", ID: string(d.Self()), Name: d.cfg.NodeName})
}

// registeredAs returns this node as the newest snapshot shows it; nil if it does not.
func (d *Daemon) registeredAs() *overspan.Node {
	if s := d.knowledge().Shown; s != nil {
		return s.Nodes[d.Self()]
	}
	return nil
}

// Self returns this node's id.
func (d *Daemon) Self() overspan.NodeID { return d.journal.Identity().Node }

// Cluster returns the cluster's name.
func (d *Daemon) Cluster() string { return d.cfg.Cluster }

// knowledge returns what this node knows of the cluster now.
func (d *Daemon) knowledge() history.Knowledge { return d.history.Knowledge() }

// Snapshot returns what this node serves and lists; nil before anything is known.
func (d *Daemon) Snapshot() *overspan.Snapshot { return d.knowledge().Shown }

// Stale tells since when nothing was heard from etcd; zero if all is fresh.
func (d *Daemon) Stale() (time.Time, string) {
	since, err := d.mirror.Stale()
	switch {
	case err == nil:
		return time.Time{}, ""
	case d.mirror.Snapshot() == nil && d.knowledge().Shown != nil:
		return since, err.Error() + "; this agent has started since: of other nodes' endpoints it knows what its journal holds"
	}
	return since, err.Error()
}

// overdue is the error of a request that has waited for etcd in vain.
func (d *Daemon) overdue(ctx context.Context, what string) error {
	if _, err := d.mirror.Stale(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return overspan.Errorf(overspan.ErrUnavailable, "%s: etcd is slow; try again: %w", what, ctx.Err())
}

// Ready waits until the node can serve: its kernel is in line with etcd, or with
// the journal's snapshot if etcd is away; and it is registered, or etcd does not
// let it: one that is full can be read all the same. It returns false if ctx
// ended first.
func (d *Daemon) Ready(ctx context.Context) bool {
	for {
		changed := d.health.changed.Wait()
		_, err := d.registrar.session()
		if d.health.looked() && (err == nil || d.registrar.slot.hasFailed() || d.mirror.Snapshot() == nil) {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// latest returns what etcd alone tells, at least as new as the moment of the call.
func (d *Daemon) latest(ctx context.Context) (*overspan.Snapshot, error) {
	if err := d.Sync(ctx); err != nil {
		return nil, err
	}
	if s := d.knowledge().Etcd; s != nil {
		return s, nil
	}
	return nil, reconcile.ErrNoSnapshot
}

// Sync returns once Snapshot is at least as new as the moment of the call.
func (d *Daemon) Sync(ctx context.Context) error {
	if err := d.mirror.Sync(ctx); err != nil {
		return err
	}
	for {
		changed := d.snapshots.Wait()
		if !d.knowledge().Held {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return overspan.Errorf(overspan.ErrUnavailable, "etcd lacks what this node has written, and has not told why yet: %w", ctx.Err())
		}
	}
}

// awaitSeen waits until this node sees what it has changed in etcd, and reports
// whether it does. Where etcd does not answer any more the change stands all the
// same: its user is told that it was carried out.
func (d *Daemon) awaitSeen(ctx context.Context, change string) bool {
	ctx, cancel := context.WithTimeout(ctx, requestBound)
	defer cancel()
	err := d.Sync(ctx)
	if err != nil {
		d.log.Debug("this node has not seen yet what it has changed", "change", change, "error", err)
	}
	return err == nil
}

// Segment returns the interior of a network, also of one that is not followed.
func (d *Daemon) Segment(ctx context.Context, id overspan.NetworkID) (*overspan.Segment, error) {
	if seg := d.knowledge().Shown.Segment(id); seg != nil {
		return seg, nil
	}
	return d.mirror.Segment(ctx, id)
}

// InUse reports whether a network, also one that is not followed, has endpoints.
func (d *Daemon) InUse(ctx context.Context, id overspan.NetworkID) (bool, error) {
	if seg := d.knowledge().Shown.Segment(id); seg != nil {
		return seg.Endpoints.Len() > 0, nil
	}
	return d.mirror.InUse(ctx, id)
}

// Subscribe returns the events of a time span, those that are kept of the past
// first: see Events.Subscribe.
func (d *Daemon) Subscribe(ctx context.Context, span Span) <-chan Event {
	return d.events.Subscribe(ctx, span)
}

// Verify compares the whole kernel with the plan and changes nothing.
func (d *Daemon) Verify(ctx context.Context) (int64, []string, error) {
	res, err := d.rec.Verify(ctx)
	drift := make([]string, 0, len(res.Ops))
	for _, op := range res.Ops {
		drift = append(drift, op.String())
	}
	return res.Revision, drift, err
}

// housekeep does what has no event of its own: finishes removals that their
// remover left half done, gives back blocks that stay empty, and has another
// look at what may have been missed.
func (d *Daemon) housekeep(ctx context.Context) error {
	timer := time.NewTimer(spread(d.cfg.Resync))
	defer timer.Stop()
	sweeper := store.NewNodeSweeper(d.kv, d.keys)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		timer.Reset(spread(d.cfg.Resync))
		await.Wake(d.registrar.changed)
		await.Wake(d.releaser.pending)
		await.Wake(d.deaths)
		await.Wake(d.emptied)
		await.Wake(d.evictionsDue)
		await.Wake(d.halfRemoved)
		s := d.knowledge().Etcd
		if _, err := d.registrar.session(); err != nil || s == nil || s.Frozen != nil {
			continue
		}
		d.confirmed.keep(s)
		d.sweepNodes(ctx, sweeper, s)
		d.returnIdle(ctx)
	}
}
