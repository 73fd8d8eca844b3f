package daemon

import (
	"context"
	"reflect"
	"time"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/await"
	"github.com/overspan/overspan/agent/reconcile"
	"github.com/overspan/overspan/kernel"
	"github.com/overspan/overspan/store"
)

// A NodeReport is how far a node is in a freeze.
type NodeReport = store.NodeReport

// A FreezeStatus tells of a freeze and how far the nodes are in it.
type FreezeStatus struct {
	overspan.Freeze
	Reports []NodeReport
}

// awaitTrust returns once this node may write to etcd: etcd is the one that it
// followed, or is known to all to have lost its past. Doubted closes when that is
// over.
func (d *Daemon) awaitTrust(ctx context.Context) (doubted <-chan struct{}, err error) {
	ctx, cancel := context.WithTimeout(ctx, trustBound)
	defer cancel()
	if _, _, err := d.mirror.Check(ctx); err != nil && d.mirror.Doubt() == "" {
		_ = await.Sleep(ctx, d.mirror.RetryPause()) // who asks again does not ask all the time
		return nil, err
	}
	for {
		changed := d.snapshots.Wait()
		if now := d.knowledge(); now.Writable() {
			return now.Doubted, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if _, stale := d.mirror.Stale(); stale != nil {
				return nil, stale
			}
			return nil, overspan.Errorf(overspan.ErrUnavailable, "follow etcd: its state could not be read within %s", trustBound)
		}
	}
}

// beginAnew forgets what only made sense in a history of etcd that is over. A
// pass that was planned from it is waited for.
func (d *Daemon) beginAnew(ctx context.Context) {
	if err := d.rec.Do(ctx, kernel.Scope{}); err != nil {
		d.log.Debug("the pass after etcd has lost its past", "error", err)
	}
	d.health.forget()
	d.confirmed.forget()
	d.rec.Mark(kernel.Scope{All: true, Global: true}, reconcile.CauseChange)
}

// settings returns what the cluster is set up with, as far as this node knows; else
// what it is to be set up with if this node is the first.
func (d *Daemon) settings() overspan.Meta {
	if s := d.knowledge().Shown; s != nil && s.Meta != (overspan.Meta{}) {
		return s.Meta
	}
	return d.cfg.Setup
}

// refuseFrozen returns an error while the cluster is frozen, before anything is
// tried that etcd would refuse.
func (d *Daemon) refuseFrozen() error {
	if s := d.knowledge().Shown; s != nil && s.Frozen != nil {
		return s.Frozen.Refusal()
	}
	return nil
}

// freezeStatus returns nil while the cluster is not frozen.
func (d *Daemon) freezeStatus(ctx context.Context) (*FreezeStatus, error) {
	now := d.knowledge()
	if now.Shown == nil || now.Shown.Frozen == nil {
		return nil, nil
	}
	reports, err := store.Reports(ctx, d.kv, d.keys, now.Memory)
	return &FreezeStatus{Freeze: *now.Shown.Frozen, Reports: reports}, err
}

// Accept ends a freeze: what etcd holds now is the truth from then on. Unless
// force is set it is refused while a node has yet to publish what it holds.
func (d *Daemon) Accept(ctx context.Context, force bool) (uint64, []NodeReport, error) {
	ctx, cancel := context.WithTimeout(ctx, requestBound)
	defer cancel()
	now := d.knowledge()
	count, reports, err := store.Accept(ctx, d.kv, d.keys, store.AcceptRequest{
		By:     d.Self(),
		Known:  now.Accepted,
		Memory: now.Memory,
		Force:  force,
	})
	if err != nil {
		return 0, reports, err
	}
	d.log.Warn("what etcd holds was accepted", "acceptances", count, "force", force)
	d.awaitSeen(ctx, "the acceptance")
	return count, reports, nil
}

// report tells the cluster how far this node is in publishing again what etcd
// has lost, where that has changed. A report does not outlive its session: etcd
// may have gone back again.
func (d *Daemon) report(ctx context.Context, state publicationState) error {
	s := d.knowledge().Etcd
	session, err := d.registrar.session()
	if err != nil || s == nil || s.Frozen == nil || s.Frozen.Revision != state.Freeze {
		return nil // there is none, or the next pass tells more
	}
	p := overspan.Report{
		NodeName:  d.cfg.NodeName,
		Networks:  state.Networks,
		Blocks:    state.Blocks,
		Endpoints: state.Endpoints,
		Failures:  state.failures(d.local.AllAttachments()),
	}
	if d.reported.is(session, *s.Frozen, p) {
		return nil
	}
	p.Since = time.Now().UTC()
	if err := session.PutReport(ctx, *s.Frozen, p); err != nil {
		return err
	}
	d.reported = lastReport{session: session, freeze: *s.Frozen, report: p}
	d.log.Info("published again what etcd had lost", "networks", p.Networks, "blocks", p.Blocks, "endpoints", p.Endpoints, "failures", len(p.Failures))
	return nil
}

// lastReport is what was reported last; only the publisher's goroutine uses it.
type lastReport struct {
	session *store.Session
	freeze  overspan.Freeze
	report  overspan.Report
}

func (l *lastReport) is(session *store.Session, f overspan.Freeze, p overspan.Report) bool {
	p.Since = l.report.Since
	return l.session == session && l.freeze == f && reflect.DeepEqual(l.report, p)
}
