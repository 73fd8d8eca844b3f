package daemon

import (
	"context"
	"errors"
	"time"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/kernel"
	"github.com/overspan/overspan/store"
)

// releaseEvery is how often pending releases are tried again.
const releaseEvery = time.Second

// release takes an endpoint's record out of etcd and frees its slots. Its port
// must be off the network by then. That it was released before is no error.
func (d *Daemon) release(ctx context.Context, session *store.Session, e overspan.Endpoint) error {
	rev, err := session.Detach(ctx, e)
	if err != nil {
		d.log.Warn("release is pending", "endpoint", e.Name, "error", err)
		return err
	}
	if err := d.mirror.WaitSegment(ctx, e.Network, rev); err != nil {
		d.log.Debug("released, but the mirror lags", "endpoint", e.Name, "error", err)
	}
	d.free(e, true)
	if err := d.journal.DeleteRelease(e.ID); err != nil {
		d.log.Error("cannot forget a pending release", "endpoint", e.Name, "error", err)
	}
	return nil
}

// free gives an endpoint's slots back to the allocator, once: by the second
// time they may be another's.
func (d *Daemon) free(e overspan.Endpoint, rest bool) {
	if d.lent.drop(e.ID) {
		d.alloc.Release(e.Network, e.Slots, rest)
	}
}

// postpone leaves a release to finishReleases, of this run or the next.
func (d *Daemon) postpone(e overspan.Endpoint) {
	if err := d.journal.Defer(e); err != nil {
		d.log.Error("cannot note a pending release", "endpoint", e.Name, "error", err)
	}
	wake(d.releases)
}

// finishReleases takes endpoints out of etcd whose release could not be carried
// out at once, or that nobody here knows.
func (d *Daemon) finishReleases(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.releases:
		}
		// Without a session there is nothing to do: a new one wakes this again.
		if session, err := d.session.get(); err == nil && !d.releaseAll(ctx, session) {
			wake(d.releases)
		}
		if sleep(ctx, releaseEvery) != nil {
			return nil
		}
	}
}

// releaseAll carries out the pending releases and reports whether none is left.
// The agent may have died between noting a release and taking the port off: that
// comes first.
func (d *Daemon) releaseAll(ctx context.Context, session *store.Session) bool {
	d.postponeOrphans(ctx)
	pending, err := d.journal.Releases()
	if err != nil {
		d.log.Error("cannot read pending releases", "error", err)
		return false
	}
	done := true
	for _, e := range pending {
		off := kernel.Scope{Endpoints: []kernel.EndpointKey{{Network: e.Network, Endpoint: e.ID}}}
		err := d.rec.do(ctx, off)
		if err == nil {
			err = d.release(ctx, session, e)
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
func (d *Daemon) postponeOrphans(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, requestBound)
	defer cancel()
	if err := d.Sync(ctx); err != nil {
		d.log.Debug("cannot look for endpoints that nobody knows", "error", err)
		return
	}
	for _, seg := range d.mirror.Snapshot().Segments {
		for slot, e := range seg.Endpoints {
			if e.Node != d.Self() || slot != e.Slot {
				continue
			}
			if _, known := d.local.attachment(e.ID); known {
				continue
			}
			d.log.Info("releasing an endpoint that nobody here knows", "endpoint", e.Name)
			d.postpone(*e)
		}
	}
}
