package daemon

import (
	"context"
	"errors"
	"time"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/internal/steps"
	"github.com/overspan/overspan/store"
)

// plug attaches a sandbox whose gate the caller holds, and waits for what the
// user wants to be waited for. Ctx has etcd's time, which may be up before the peers
// are asked.
func (d *Daemon) plug(ctx, caller context.Context, n *overspan.Network, sb overspan.Sandbox, want connectWant, wait Wait) (ConnectResult, error) {
	if err := d.mayAttach(); err != nil {
		return ConnectResult{}, err
	}
	session, err := d.registrar.session()
	if err != nil {
		return ConnectResult{}, err
	}
	begun := time.Now()
	a, err := d.attach(ctx, caller, attaching{session: session, network: n, sandbox: sb, want: want})
	if err != nil && !errors.Is(err, overspan.ErrFenced) {
		if over := d.over(caller, session, begun); over != nil { // such as that the time was up
			err = overspan.Errorf(overspan.ErrFenced, "%w: %w", over, err)
		}
	}
	if err != nil {
		return ConnectResult{}, err
	}
	d.evicted.connected(a.Endpoint)
	d.events.Publish(d.attachmentEvent("connect", a))
	var missing []string
	if wait == WaitPeers {
		missing = d.awaitPeers(caller, session, n, a.Endpoint)
	}
	steps.At(steps.AttachConfirmed)
	if time.Since(begun) > standstill {
		d.catchUp(caller, begun)
	}
	if gone := d.taken(session, n, a.Endpoint); gone != nil {
		return ConnectResult{}, errors.Join(gone, d.takeBack(ctx, sb, a))
	}
	return ConnectResult{Endpoint: a.Endpoint, Unconfirmed: missing}, nil
}

// over returns why a session has ended; nil if it has not. After a standstill the
// session itself need not know yet: then etcd is asked.
func (d *Daemon) over(caller context.Context, session *store.Session, begun time.Time) error {
	if over := session.Over(); over != nil || time.Since(begun) <= standstill {
		return over
	}
	ctx, cancel := lookAfter(caller, begun)
	defer cancel()
	if err := session.Check(ctx); errors.Is(err, overspan.ErrFenced) {
		return err
	}
	return nil
}

// catchUp has the snapshot show what etcd holds now, if etcd answers in time.
func (d *Daemon) catchUp(caller context.Context, begun time.Time) {
	ctx, cancel := lookAfter(caller, begun)
	defer cancel()
	if err := d.Sync(ctx); err != nil {
		d.log.Debug("cannot look whether an endpoint still stands", "error", err)
	}
}

// lookAfter bounds a look at etcd for an attach that has begun so long ago.
func lookAfter(caller context.Context, begun time.Time) (context.Context, context.CancelFunc) {
	bound := standstillLook
	if left := answerWithin - time.Since(begun); left > 0 {
		bound = min(bound, left)
	}
	return context.WithTimeout(context.WithoutCancel(caller), bound)
}

// taken returns an error if an endpoint that was just attached is known to be
// lost again: the session that wrote its record is over, or the record is gone.
func (d *Daemon) taken(session *store.Session, n *overspan.Network, e overspan.Endpoint) error {
	if over := session.Over(); over != nil {
		return overspan.Errorf(overspan.ErrFenced, "endpoint %s was taken off network %s while it was attached: %w", e.Name, n.Name, over)
	}
	s := d.knowledge().Shown
	seg := s.Segments.Get(n.ID)
	if s.Frozen != nil || seg == nil || seg.Bad > 0 || seg.Revision < e.ModRevision {
		return nil // unknown is not absent
	}
	if now := seg.Endpoints.Get(e.Slot); now != nil && now.ID == e.ID {
		return nil
	}
	return overspan.Errorf(overspan.ErrFenced,
		"endpoint %s was taken off network %s while it was attached: this node was removed from the cluster, or the endpoint was disconnected by force", e.Name, n.Name)
}

// takeBack ends an attachment of which the caller is told that it failed. The
// sandbox, whose gate the caller holds, publishes again what it did before.
func (d *Daemon) takeBack(ctx context.Context, before overspan.Sandbox, a overspan.Attachment) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoBound)
	defer cancel()
	if err := d.journal.PutSandbox(before); err != nil {
		d.log.Error("cannot take ports out of the journal", "sandbox", before.Name, "error", err)
	}
	_, err := d.detachLeaving(ctx, a, before.Ports)
	return err
}
