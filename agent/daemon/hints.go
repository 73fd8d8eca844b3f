package daemon

import (
	"context"
	"slices"
	"time"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/await"
	"github.com/overspan/overspan/agent/local"
	"github.com/overspan/overspan/agent/reconcile"
	"github.com/overspan/overspan/kernel"
)

// hintDelay lets the events of one change arrive before one pass looks at all
// of them. It is far below the second in which drift is to be repaired.
const hintDelay = 100 * time.Millisecond

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
	s := d.knowledge().Shown
	if s == nil {
		return
	}
	here := d.local.View()
	find := reconcile.NewFinder(s, here)
	ofHost := func(h kernel.Hint) bool { return h.Links || h.Routes }
	if slices.ContainsFunc(hints, ofHost) && d.shortcutMoved(s) {
		d.rec.Mark(kernel.Scope{Global: true}, reconcile.CauseHint)
	}
	for _, h := range hints {
		switch p := find.PartOf(h.Dev); {
		case h.All:
			// Any veth may have changed, so every container's end is looked at.
			d.rec.Mark(kernel.Scope{All: true, Global: true, Endpoints: local.KeysOf(here.Attachments.List)}, reconcile.CauseHint)
			await.Wake(d.registrar.changed)
			await.Wake(d.deaths)
		case h.Links:
			d.rec.TryAgain()
		case h.Rules, h.Forwarding, h.Underlay:
			d.rec.Mark(kernel.Scope{Global: true}, reconcile.CauseHint)
		case h.Routes:
			await.Wake(d.registrar.changed)
		case !p.Has(h.Dev): // not ours
		case p.Endpoint == "":
			d.rec.Mark(kernel.Scope{Networks: []overspan.NetworkID{p.Network}}, reconcile.CauseHint)
		default:
			if a, known := here.Attachments.Get(p.Endpoint); known {
				d.rec.Mark(local.ScopeOf(a), reconcile.CauseHint)
				await.Wake(d.deaths)
			}
		}
	}
}
