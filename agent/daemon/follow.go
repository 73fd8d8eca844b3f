package daemon

import (
	"context"
	"sync"
	"time"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/await"
	"github.com/overspan/overspan/agent/reconcile"
	"github.com/overspan/overspan/bridge"
	"github.com/overspan/overspan/kernel"
	"github.com/overspan/overspan/store"
)

// fallbackAfter is how long etcd has at the start to tell the cluster's state
// before the journal's is taken.
const fallbackAfter = 3 * time.Second

// callAfter is how long it has until names are answered from the journal: they
// change nothing that could not be taken back, and somebody waits for them.
const callAfter = 300 * time.Millisecond

// journalEvery is how often at most the snapshot goes into the journal.
const journalEvery = 2 * time.Second

// followers knows which networks are followed, and how many attaches are at
// work in each.
type followers struct {
	// follow and unfollow carry a change out. They are called under mu: of an
	// attach that comes as the network is left, neither may overtake the other.
	follow, unfollow func(overspan.NetworkID)

	mu   sync.Mutex // guards refs
	refs map[overspan.NetworkID]int
}

// keep follows a network for no attach in particular.
func (f *followers) keep(id overspan.NetworkID) { f.count(id, 0) }

// count adds to the attaches at work in a network.
func (f *followers) count(id overspan.NetworkID, by int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refs == nil {
		f.refs = map[overspan.NetworkID]int{}
	}
	if _, before := f.refs[id]; !before {
		f.follow(id)
	}
	f.refs[id] += by
}

// dropIdle stops following a network in which no attach is at work, unless one
// that was has left something in it.
func (f *followers) dropIdle(id overspan.NetworkID, inUse func() bool) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n, followed := f.refs[id]; !followed || n > 0 || inUse() {
		return false
	}
	f.unfollow(id)
	delete(f.refs, id)
	return true
}

func (f *followers) all() []overspan.NetworkID {
	f.mu.Lock()
	defer f.mu.Unlock()
	ids := make([]overspan.NetworkID, 0, len(f.refs))
	for id := range f.refs {
		ids = append(ids, id)
	}
	return ids
}

// follow returns once the snapshot shows the network's interior. The caller
// ends its interest with settle.
func (d *Daemon) follow(ctx context.Context, id overspan.NetworkID) error {
	d.follows.count(id, 1)
	for {
		changed := d.snapshots.Wait()
		s := d.knowledge().Etcd
		if s != nil && s.Segments.Get(id) != nil {
			return nil
		}
		if s != nil && s.Networks[id] == nil {
			d.settle(id)
			return overspan.Errorf(overspan.ErrNotFound, "network %s not found: it was removed", overspan.ShortID(id))
		}
		select {
		case <-changed:
		case <-ctx.Done():
			d.settle(id)
			return d.overdue(ctx, "read network "+overspan.ShortID(id))
		}
	}
}

// settle ends an attach's interest in a network.
func (d *Daemon) settle(id overspan.NetworkID) {
	d.follows.count(id, -1)
	d.reconsider(id)
}

// reconsider stops following a network that was removed, unless an attach is
// at work there.
func (d *Daemon) reconsider(id overspan.NetworkID) {
	s := d.knowledge().Shown
	if s == nil || s.Networks[id] != nil || len(s.Bad) > 0 {
		return // an unreadable record is not an absent one
	}
	d.leave(id)
}

// leaveIdle stops following networks that this node is no member of any more:
// it has no endpoint there, holds no block, and asks for none. A claim whose
// caller gave up may stand in etcd before the mirror shows it: the block would
// be lost if nobody followed it. Hence the look at etcd first.
func (d *Daemon) leaveIdle(ctx context.Context) {
	if len(d.idleNetworks()) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, requestBound)
	defer cancel()
	if err := d.Sync(ctx); err != nil {
		d.log.Debug("cannot tell which networks are idle", "error", err)
		return
	}
	for _, id := range d.idleNetworks() {
		d.leave(id)
	}
}

// idleNetworks returns the followed networks that the snapshot shows nothing of
// this node's in.
func (d *Daemon) idleNetworks() (idle []overspan.NetworkID) {
	s := d.knowledge().Shown
	if s == nil || s.Frozen != nil {
		return nil
	}
	for _, id := range d.follows.all() {
		if seg := s.Segments.Get(id); seg != nil && seg.Bad == 0 && !seg.HeldBy(d.Self()) && !asks(seg, d.Self()) {
			idle = append(idle, id)
		}
	}
	return idle
}

// leave stops following a network in which this node has no endpoint and
// attaches none.
func (d *Daemon) leave(id overspan.NetworkID) {
	if d.follows.dropIdle(id, func() bool { return len(d.local.InNetwork(id)) > 0 }) {
		d.rec.Mark(kernel.Scope{Global: true, Networks: []overspan.NetworkID{id}}, reconcile.CauseChange)
	}
}

// unfollow is what followers does about a network that is left.
func (d *Daemon) unfollow(id overspan.NetworkID) {
	d.mirror.Unfollow(id)
	d.realised.drop(id)
	d.alloc.Forget(id)
	if err := d.journal.DeleteFollowed(id); err != nil {
		d.log.Error("cannot forget a network", "network", overspan.ShortID(id), "error", err)
	}
}

// leaveRemoved waits until this node's kernel has lost a removed network.
func (d *Daemon) leaveRemoved(ctx context.Context, id overspan.NetworkID) error {
	d.reconsider(id)
	return d.rec.Do(ctx, kernel.Scope{Global: true, Networks: []overspan.NetworkID{id}})
}

// followSnapshots turns each new snapshot into what has to be looked at again.
func (d *Daemon) followSnapshots(ctx context.Context) error {
	fallback := time.NewTimer(fallbackAfter)
	defer fallback.Stop()
	call := time.NewTimer(callAfter)
	defer call.Stop()
	var last *overspan.Snapshot
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-call.C:
			if d.history.AllowCalling(); last == nil {
				d.snapshots.Fire()
			}
		case <-fallback.C:
			if last == nil && d.history.AllowSaved() {
				d.log.Warn("etcd has not answered: going on with the journal's snapshot")
				d.rec.Mark(kernel.Scope{All: true, Global: true}, reconcile.CauseChange)
				d.snapshots.Fire()
				d.awaken(ctx)
			}
		case <-d.mirror.Changed():
			last = d.followed(ctx, last)
		case <-d.history.Changed():
			last = d.followed(ctx, last)
		}
	}
}

// followed looks at what there is to go by now, and returns it; last is what it
// was before.
func (d *Daemon) followed(ctx context.Context, last *overspan.Snapshot) *overspan.Snapshot {
	s := d.knowledge().Told
	if s == nil || s == last {
		return last
	}
	d.snapshots.Fire()
	d.look(ctx, last, s)
	return s
}

// look marks what differs between two snapshots.
func (d *Daemon) look(ctx context.Context, old, new *overspan.Snapshot) {
	if old == nil {
		d.rec.Mark(kernel.Scope{All: true, Global: true}, reconcile.CauseChange)
		d.awaken(ctx)
	} else if old.Frozen != nil && new.Frozen == nil {
		// What was not deleted while the cluster was frozen is, now.
		d.rec.Mark(kernel.Scope{All: true, Global: true}, reconcile.CauseChange)
	} else {
		scope := kernel.Scope{}
		scope.Networks, scope.Global = reconcile.Changed(old, new, d.Self())
		if !reconcile.SameSubnets(old, new) {
			scope.Sets = bridge.SubnetSets()
		}
		if scope.Global || len(scope.Networks)+len(scope.Sets) > 0 {
			d.rec.Mark(scope, reconcile.CauseChange)
		}
	}
	d.registrar.heed(new)
	if old == nil || len(old.Bad) > 0 || !overspan.SameMap(old.Networks, new.Networks) {
		for _, id := range d.follows.all() {
			if new.Networks[id] == nil {
				d.reconsider(id)
			}
		}
	}
	if recordMissing(old, new, d.local.Attachments()) {
		await.Wake(d.evictionsDue)
	}
	if self := new.Nodes[d.Self()]; self != nil && self.Draining && (old == nil || self != old.Nodes[d.Self()]) {
		await.Wake(d.emptied)
	}
	for _, e := range news(old, new, d.Self()) {
		d.events.Publish(e)
	}
}

// awaken looks after this node's sandboxes once the cluster's state is known
// for the first time: some may be gone since the agent last ran.
func (d *Daemon) awaken(ctx context.Context) {
	if err := d.reviveSandboxes(ctx); err != nil {
		d.log.Error("cannot bring sandboxes back", "error", err)
	}
	await.Wake(d.deaths)
}

// keepJournal notes every now and then, and at the end, what this node goes by, and
// then which etcd told it: a disk may be slow, and nothing else waits for it.
func (d *Daemon) keepJournal(ctx context.Context) error {
	again := time.NewTicker(journalEvery)
	defer again.Stop()
	var saved *overspan.Snapshot
	var seen store.Identity
	for {
		select {
		case <-ctx.Done():
			d.saveSnapshot(saved)
			d.history.NoteSeen(seen)
			return nil
		case <-again.C:
			saved = d.saveSnapshot(saved)
			seen = d.history.NoteSeen(seen)
		}
	}
}

// saveSnapshot returns the snapshot that the journal has; saved is the one before.
func (d *Daemon) saveSnapshot(saved *overspan.Snapshot) *overspan.Snapshot {
	s := d.knowledge().Told
	if s == nil || s == saved {
		return saved
	}
	if err := d.journal.SaveSnapshot(s, d.Self()); err != nil {
		d.log.Error("cannot keep the snapshot in the journal; will try again", "error", err)
		return saved
	}
	return s
}
