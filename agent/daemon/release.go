package daemon

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/await"
	"github.com/overspan/overspan/agent/local"
	"github.com/overspan/overspan/bridge"
	"github.com/overspan/overspan/internal/steps"
	"github.com/overspan/overspan/ipam"
	"github.com/overspan/overspan/kernel"
	"github.com/overspan/overspan/store"
)

// releaseEvery is how often pending releases are tried again.
const releaseEvery = time.Second

// releaser takes endpoints out of etcd whose ports are off their networks, and
// gives their slots back: at once, or when etcd is there again.
type releaser struct {
	log     *slog.Logger
	journal *store.Journal
	mirror  *store.Mirror
	alloc   *ipam.Allocator
	local   *local.Inventory
	session func() (*store.Session, error)
	unplug  func(context.Context, kernel.Scope) error         // runs a pass and waits for it
	look    func(context.Context) (*overspan.Snapshot, error) // what etcd holds now

	lent     idSet[overspan.EndpointID] // endpoints whose slots the allocator holds; who drops one releases them
	pending  chan struct{}              // size 1: the journal has releases
	released *await.Beacon              // fires after each release
	swept    *store.Session             // the last one in which orphans were looked for; only run uses it
	freed    func()                     // told when slots were given back
}

// newReleaser returns the releaser of a daemon whose other parts are made.
func newReleaser(d *Daemon) *releaser {
	return &releaser{
		log:      d.log,
		journal:  d.journal,
		mirror:   d.mirror,
		alloc:    d.alloc,
		local:    d.local,
		session:  d.registrar.session,
		unplug:   d.rec.Do,
		look:     d.latest,
		pending:  make(chan struct{}, 1),
		freed:    func() { await.Wake(d.emptied) },
		released: await.NewBeacon(),
	}
}

// releaseSoon releases an endpoint while its user waits: not at all where etcd is
// known to be away, and not for long where that is found out now. False says
// that it will be done when etcd is back.
func (r *releaser) releaseSoon(ctx context.Context, e overspan.Endpoint) bool {
	ctx, cancel := context.WithTimeout(ctx, releaseBound)
	defer cancel()
	if session := r.writable(); session != nil && r.release(ctx, session, e) == nil {
		return true
	}
	r.postpone(e)
	return false
}

// writable returns the session if etcd answers and takes what is written, as far
// as this node knows; nil if not.
func (r *releaser) writable() *store.Session {
	session, err := r.session()
	if err != nil || session.Stuck() != nil {
		return nil
	}
	if _, stale := r.mirror.Stale(); stale != nil {
		return nil
	}
	return session
}

// release takes an endpoint's record out of etcd and frees its slots. Its port
// must be off the network by then. That it was released before is no error.
func (r *releaser) release(ctx context.Context, session *store.Session, e overspan.Endpoint) error {
	ctx, cancel := context.WithTimeout(ctx, requestBound)
	defer cancel()
	rev, err := session.Detach(ctx, e)
	if err != nil {
		r.log.Warn("release is pending", "endpoint", e.Name, "error", err)
		return err
	}
	if err := r.mirror.WaitSegment(ctx, e.Network, rev); err != nil {
		r.log.Debug("released, but the mirror lags", "endpoint", e.Name, "error", err)
	}
	steps.At(steps.ReleaseDone)
	r.free(e, true)
	steps.At(steps.ReleaseFreed)
	if err := r.journal.DeleteRelease(e.ID); err != nil {
		r.log.Error("cannot forget a pending release", "endpoint", e.Name, "error", err)
	}
	r.released.Fire()
	steps.At(steps.ReleaseForgotten)
	return nil
}

// awaitName returns once no release is pending that holds a name of a network:
// a sandbox that is plugged in again may find its own former endpoint there.
func (r *releaser) awaitName(ctx context.Context, network overspan.NetworkID, name string) error {
	for {
		released := r.released.Wait()
		pending, err := r.journal.Releases()
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(pending, func(e overspan.Endpoint) bool { return e.Network == network && e.Name == name }) {
			return nil
		}
		await.Wake(r.pending)
		select {
		case <-released:
		case <-ctx.Done():
			return overspan.Errorf(overspan.ErrUnavailable, "endpoint %s was disconnected, but etcd has not taken that yet; try again: %w", name, ctx.Err())
		}
	}
}

// adopt keeps an endpoint's slots from others until they are freed.
func (r *releaser) adopt(e overspan.Endpoint) {
	r.alloc.Adopt(e.Network, e.Slots)
	r.lent.add(e.ID)
}

// free gives an endpoint's slots back to the allocator, once: by the second
// time they may be another's.
func (r *releaser) free(e overspan.Endpoint, rest bool) {
	if r.lent.drop(e.ID) {
		r.alloc.Release(e.Network, e.Slots, rest)
		r.freed()
	}
}

// postpone leaves a release to run, of this run or the next.
func (r *releaser) postpone(e overspan.Endpoint) {
	if err := r.journal.Defer(e); err != nil {
		r.log.Error("cannot note a pending release", "endpoint", e.Name, "error", err)
	}
	await.Wake(r.pending)
}

// run takes endpoints out of etcd whose release could not be carried
// out at once, or that nobody here knows.
func (r *releaser) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.pending:
		}
		if session := r.writable(); session == nil || !r.releaseAll(ctx, session) {
			await.Wake(r.pending)
		}
		if await.Sleep(ctx, releaseEvery) != nil {
			return nil
		}
	}
}

// releaseAll carries out the pending releases and reports whether none is left.
// The agent may have died between noting a release and taking the port off: that
// comes first.
func (r *releaser) releaseAll(ctx context.Context, session *store.Session) bool {
	r.postponeOrphans(ctx, session)
	pending, err := r.journal.Releases()
	if err != nil {
		r.log.Error("cannot read pending releases", "error", err)
		return false
	}
	done := true
	for _, e := range pending {
		off := kernel.Scope{Endpoints: []kernel.EndpointKey{{Network: e.Network, Endpoint: e.ID}}, Chains: bridge.PortChains(e.Ports)}
		steps.At(steps.ReleaseDue)
		err := r.unplug(ctx, off)
		steps.At(steps.ReleaseUnplugged)
		if err == nil {
			err = r.release(ctx, session, e)
		}
		if errors.Is(err, overspan.ErrUnavailable) {
			return false
		}
		done = done && err == nil
	}
	return done
}

// postponeOrphans finds endpoints that etcd has as this node's but that nobody
// here knows: the agent died between the transaction and the journal, or a
// transaction whose caller had given up was carried out and could not be
// undone. An attach is known here before its transaction is sent.
//
// After a registration it asks etcd for the newest; later only where the
// snapshot shows one: what that does not show yet, it will at the next look.
func (r *releaser) postponeOrphans(ctx context.Context, session *store.Session) {
	pending, err := r.journal.Releases()
	if err != nil {
		r.log.Error("cannot read pending releases", "error", err)
		return
	}
	if s := r.mirror.Snapshot(); session == r.swept && (s == nil || len(r.orphans(s, pending)) == 0) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, requestBound)
	defer cancel()
	s, err := r.look(ctx)
	if err != nil {
		r.log.Debug("cannot look for endpoints that nobody knows", "error", err)
		return
	}
	for _, e := range r.orphans(s, pending) {
		r.log.Info("releasing an endpoint that nobody here knows", "endpoint", e.Name)
		r.postpone(*e)
	}
	r.swept = session
}

// abandon leaves to run those endpoints of a network that nobody here knows: run
// may have looked for such before the network was followed, and is not woken by that.
func (r *releaser) abandon(seg *overspan.Segment) error {
	pending, err := r.journal.Releases()
	if err != nil {
		return err
	}
	for _, e := range r.orphansIn(seg, pending) {
		r.log.Info("releasing an endpoint that nobody here knows", "endpoint", e.Name)
		r.postpone(*e)
	}
	return nil
}

// orphans lists the endpoints of this node that nobody here knows, and that are
// not released anyway.
func (r *releaser) orphans(s *overspan.Snapshot, pending []overspan.Endpoint) (out []*overspan.Endpoint) {
	for _, seg := range s.Segments.All() {
		out = append(out, r.orphansIn(seg, pending)...)
	}
	return out
}

func (r *releaser) orphansIn(seg *overspan.Segment, pending []overspan.Endpoint) (out []*overspan.Endpoint) {
	self := r.journal.Identity().Node
	for slot, e := range seg.Endpoints.All() {
		if e.Node != self || slot != e.Slot {
			continue
		}
		if _, known := r.local.Attachment(e.ID); !known && !isAmong(e.ID, pending) {
			out = append(out, e)
		}
	}
	return out
}

func isAmong(id overspan.EndpointID, all []overspan.Endpoint) bool {
	return slices.ContainsFunc(all, func(e overspan.Endpoint) bool { return e.ID == id })
}
