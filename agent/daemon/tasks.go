package daemon

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/ipam"
	"github.com/overspan/overspan/kernel"
	"github.com/overspan/overspan/store"
)

// followKernel turns the kernel's events into what has to be looked at again.
func (d *Daemon) followKernel(ctx context.Context) error {
	hints := d.host.Watch(ctx)
	var pending []kernel.Hint
	timer := time.NewTimer(hintDelay)
	timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case h, ok := <-hints:
			if !ok {
				return nil
			}
			if len(pending) == 0 {
				timer.Reset(hintDelay)
			}
			pending = append(pending, h)
		case <-timer.C:
			d.heed(pending)
			pending = nil
		}
	}
}

// heed marks what the hints may be about.
func (d *Daemon) heed(hints []kernel.Hint) {
	s := d.Snapshot()
	if s == nil {
		return
	}
	byDev := map[string]kernel.Scope{}
	for id := range s.Segments {
		scope := kernel.Scope{Networks: []overspan.NetworkID{id}}
		byDev[overspan.BridgeName(id)], byDev[overspan.VXLANName(id)] = scope, scope
	}
	for _, a := range d.local.allAttachments() {
		byDev[overspan.VethName(a.Endpoint.ID)] = endpointScope(a)
	}
	for _, h := range hints {
		switch scope, known := byDev[h.Dev]; {
		case h.All:
			d.rec.dirty.mark(kernel.Scope{All: true, Global: true}, causeHint)
			wake(d.routes)
			wake(d.deaths)
		case h.Rules:
			d.rec.dirty.mark(kernel.Scope{Global: true}, causeHint)
		case h.Routes:
			wake(d.routes)
		case known:
			d.rec.dirty.mark(scope, causeHint)
			if len(scope.Endpoints) > 0 {
				wake(d.deaths)
			}
		}
	}
}

// watchSandboxes ends the endpoints of sandboxes that are gone, whenever there
// is reason to look.
func (d *Daemon) watchSandboxes(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.deaths:
			d.buryDead(ctx)
		}
	}
}

// buryDead ends the endpoints of sandboxes that are gone: the process died, or
// the namespace was deleted or is another one now.
func (d *Daemon) buryDead(ctx context.Context) {
	for _, sb := range d.local.allSandboxes() {
		if d.namespaceGone(sb.ID) {
			d.bury(ctx, sb)
		}
	}
}

func (d *Daemon) bury(ctx context.Context, sb overspan.Sandbox) {
	unlock, err := d.lockSandbox(ctx, sb.ID, sb.Name)
	if err != nil {
		return // the agent is stopping
	}
	defer unlock()
	d.log.Info("sandbox is gone: ending its endpoints", "sandbox", sb.Name, "netns", sb.Netns)
	for _, a := range d.local.inSandbox(sb.ID) {
		if _, err := d.detach(ctx, a); err != nil {
			d.log.Error("cannot end an endpoint", "endpoint", a.Endpoint.Name, "error", err)
		}
	}
	d.forgetIfUnused(sb)
}

// answerWants gives up slots that other nodes ask for, as far as they are unused.
func (d *Daemon) answerWants(ctx context.Context) error {
	for {
		changed := d.snapshots.wait()
		for id, wants := range wantsOf(d.mirror.Snapshot(), d.Self()) {
			if err := d.alloc.Grants(ctx, id, wants, d.answer); err != nil {
				d.log.Warn("cannot answer a want", "network", overspan.ShortID(id), "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// wantsOf returns what others want of a node, by network.
func wantsOf(s *overspan.Snapshot, holder overspan.NodeID) map[overspan.NetworkID][]overspan.Want {
	out := map[overspan.NetworkID][]overspan.Want{}
	if s == nil {
		return out
	}
	for id, seg := range s.Segments {
		for _, w := range seg.Wants {
			if w.Holder == holder {
				out[id] = append(out[id], w)
			}
		}
	}
	return out
}

// answer gives the asker what it may have, or takes its want away: a refusal.
func (d *Daemon) answer(ctx context.Context, n *overspan.Network, w overspan.Want, g *ipam.Grant) error {
	session, err := d.session.get()
	if err != nil {
		return err
	}
	if g == nil {
		return session.DropWant(ctx, w)
	}
	err = session.Yield(ctx, n, w, g.From, g.Give, g.Keep)
	switch {
	case errors.Is(err, overspan.ErrConflict):
		// The block is another by now: the next snapshot shows what to answer.
		return nil
	case errors.Is(err, overspan.ErrNotFound), errors.Is(err, overspan.ErrInUse):
		// Withdrawn, its asker is gone, or what was to be given is in use.
		return session.DropWant(ctx, w)
	case err == nil:
		d.log.Info("yielded addresses", "network", n.Name, "slots", g.Give.String(), "to", nodeName(d.Snapshot(), w.Asker))
	}
	return err
}

// acknowledge tells the cluster how far this node has programmed the networks
// that ask for it.
func (d *Daemon) acknowledge(ctx context.Context) error {
	told := map[overspan.NetworkID]int64{}
	var teller *store.Session // who told that: what a removed node told is deleted with it
	for {
		applied := d.health.changed.wait()
		if session, err := d.session.get(); err == nil {
			if session != teller {
				clear(told)
				teller = session
			}
			d.putAcks(ctx, session, told)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-applied:
		}
	}
}

func (d *Daemon) putAcks(ctx context.Context, session *store.Session, told map[overspan.NetworkID]int64) {
	for id, rev := range d.owedAcks(told) {
		n := d.networkByID(id)
		if n == nil {
			continue // removed: its record may be seen to go before its interior
		}
		if err := session.PutAck(ctx, n, rev); err != nil {
			d.log.Warn("cannot acknowledge", "network", n.Name, "error", err)
			continue
		}
		told[id] = rev
	}
}

// owedAcks returns the revision applied of each network in which something
// newer than what was told asks for it.
func (d *Daemon) owedAcks(told map[overspan.NetworkID]int64) map[overspan.NetworkID]int64 {
	owed := map[overspan.NetworkID]int64{}
	s := d.mirror.Snapshot()
	if s == nil {
		return owed
	}
	for id, seg := range s.Segments {
		if !holds(seg, d.Self()) {
			continue
		}
		asked, applied := askedToAcknowledge(seg, d.Self()), d.health.appliedTo(id)
		if asked > told[id] && applied >= asked {
			owed[id] = applied
		}
	}
	return owed
}

// wake fills a channel of size 1.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// sleep waits for a while, or until ctx ends: then it returns why.
func sleep(ctx context.Context, how time.Duration) error {
	timer := time.NewTimer(how)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// publishNode keeps the registration true: routes, addresses and MTU change
// while the agent runs.
func (d *Daemon) publishNode(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.routes:
		}
		session, err := d.session.get()
		if err != nil {
			continue // a new session registers what is true then
		}
		node, err := d.describeNode()
		if err != nil {
			d.log.Warn("cannot read the underlay; the registration stays as it is", "error", err)
			continue
		}
		s := d.Snapshot()
		if s == nil || s.Nodes[d.Self()] == nil || sameNode(*s.Nodes[d.Self()], node) {
			continue
		}
		if err := session.Update(ctx, node); err != nil {
			d.log.Warn("cannot update the registration", "error", err)
		}
	}
}

func sameNode(a, b overspan.Node) bool {
	return a.Name == b.Name && a.MTU == b.MTU && a.Version == b.Version &&
		slices.Equal(a.VTEPs, b.VTEPs) && slices.Equal(a.Routes, b.Routes)
}

// housekeep does what has no event of its own: finishes removals that their
// remover left half done, gives back blocks that stay empty, and has another
// look at what may have been missed.
func (d *Daemon) housekeep(ctx context.Context) error {
	ticker := time.NewTicker(d.cfg.Resync)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		wake(d.routes)
		wake(d.releases)
		wake(d.deaths)
		session, err := d.session.get()
		s := d.mirror.Snapshot()
		if err != nil || s == nil {
			continue
		}
		if err := session.FinishRemovals(ctx, s); err != nil {
			d.log.Warn("cannot finish the removal of a network", "error", err)
		}
		d.returnIdle(ctx)
	}
}
