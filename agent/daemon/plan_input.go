package daemon

import (
	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/await"
	"github.com/overspan/overspan/agent/reconcile"
	"github.com/overspan/overspan/kernel"
)

// planInput is what the reconciler plans a scope from; ok is false while
// nothing is known.
func (d *Daemon) planInput(scope kernel.Scope) (reconcile.Input, bool) {
	s := d.knowledge().Shown
	if s == nil {
		return reconcile.Input{}, false
	}
	in := reconcile.Input{
		Snapshot:  s,
		Self:      d.Self(),
		VXLANPort: d.cfg.VXLANPort,
		Guard:     d.host.Guard(),
		Gone:      map[overspan.EndpointID]struct{}{},
		Lost:      d.publisher.lost(),
	}
	if scope.All || scope.Global {
		in.Advertised, in.AdvertisedErr = d.host.Advertised()
		d.lookForShortcut(s)
	}
	if found := d.shortcut.Load(); found != nil {
		in.Shortcut, in.ShortcutErr = found.at, found.err
	}
	in.Local = d.local.View()
	for _, a := range in.Local.Attachments.Within(scope) {
		if d.namespaceGone(a.Sandbox) {
			in.Gone[a.Endpoint.ID] = struct{}{}
		}
	}
	if len(in.Gone) > 0 {
		await.Wake(d.deaths)
	}
	return in, true
}

// A shortcut is where packets of the tunnel can be taken past the packet filter,
// or why that is not known.
type shortcut struct {
	at  kernel.Shortcut
	err error
}

// shortcutMoved reports whether the shortcut is not what it was, such as because
// its device was made anew.
func (d *Daemon) shortcutMoved(s *overspan.Snapshot) bool {
	was, self := d.shortcut.Load(), s.Nodes[d.Self()]
	if was == nil || self == nil {
		return false
	}
	at, err := d.host.Shortcut(self.VTEP(overspan.IPv4))
	return at != was.at || (err == nil) != (was.err == nil)
}

func (d *Daemon) lookForShortcut(s *overspan.Snapshot) {
	if self := s.Nodes[d.Self()]; self != nil {
		at, err := d.host.Shortcut(self.VTEP(overspan.IPv4))
		d.shortcut.Store(&shortcut{at, err})
	}
}
