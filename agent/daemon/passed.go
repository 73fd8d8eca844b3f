package daemon

import (
	"slices"

	"github.com/overspan/overspan/agent/await"
	"github.com/overspan/overspan/agent/reconcile"
	"github.com/overspan/overspan/kernel"
)

// passed notes what a pass did: for the status, for acknowledgements, and as
// events where it had to repair what nobody here had changed, or could not.
func (d *Daemon) passed(scope kernel.Scope, cause string, res reconcile.Result, err error) {
	d.health.note(scope, res, err, !d.rec.Lagging())
	repairs := kernel.Repairs(res.Repaired)
	d.meter.count(cause, res, repairs, err)
	if err != nil {
		d.log.Error("pass", "cause", cause, "ops", len(res.Ops), "error", err)
		await.Wake(d.deaths)
	}
	d.health.applied(scope, res)
	d.unrealise(scope, res.Input)
	for _, r := range repairs {
		d.log.Warn("repaired", "what", r.String(), "cause", cause)
		d.events.Publish(Event{Type: "kernel", Action: "repair", Name: r.String(), Attributes: d.whose(res, r.Dev, cause)})
	}
	for _, c := range res.Begun {
		d.log.Error("conflict", "what", c.Text)
		d.events.Publish(Event{Type: "kernel", Action: "conflict", Name: c.Text, Attributes: d.whose(res, c.Dev, cause)})
	}
	for _, c := range res.Ended {
		d.log.Info("conflict is over", "what", c.Text)
		d.events.Publish(Event{Type: "kernel", Action: "resolve", Name: c.Object, Attributes: d.whose(res, c.Dev, cause)})
	}
}

// unrealise forgets of the networks in a pass that this node is no member of any more
// that their devices are there.
func (d *Daemon) unrealise(scope kernel.Scope, in reconcile.Input) {
	if in.Snapshot == nil {
		return // the pass planned nothing
	}
	networks := scope.Networks
	if scope.All {
		networks = slices.Collect(in.Snapshot.Segments.Keys())
	}
	for _, id := range networks {
		if d.realised.has(id) && !in.Member(id) {
			d.realised.drop(id)
		}
	}
}

// whose says what an event about a device is about, and what led to it.
func (d *Daemon) whose(res reconcile.Result, dev, cause string) map[string]string {
	out := map[string]string{"cause": cause, "node": d.cfg.NodeName}
	p := res.PartOf(dev)
	if n := res.Input.Snapshot.Networks[p.Network]; n != nil {
		out["network"] = n.Name
	}
	if a := res.Input.Local.Attachments.ByID.Get(p.Endpoint); a != nil {
		out["endpoint"] = a.Endpoint.Name
	}
	return out
}
