package daemon

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/local"
	"github.com/overspan/overspan/agent/reconcile"
	"github.com/overspan/overspan/bridge"
	"github.com/overspan/overspan/internal/steps"
	"github.com/overspan/overspan/kernel"
)

// Disconnect takes an endpoint of this node off a network: port first, so that
// nothing can still answer under the address when etcd lends it again.
func (d *Daemon) Disconnect(ctx context.Context, network, target string) (overspan.Endpoint, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, requestBound)
	defer cancel()
	a, err := d.findAttachment(ctx, network, target)
	if err != nil {
		return overspan.Endpoint{}, false, err
	}
	unlock, err := d.lockSandbox(ctx, a.Sandbox, a.Endpoint.Sandbox)
	if err != nil {
		return overspan.Endpoint{}, false, err
	}
	defer unlock()
	pending, err := d.detach(ctx, a)
	if sb, ok := d.local.Sandbox(a.Sandbox); ok {
		d.forgetIfUnused(sb)
	}
	return a.Endpoint, pending, err
}

// detach ends an attachment whose sandbox's gate the caller holds. Pending
// says that etcd is away: the record is released when it is back.
func (d *Daemon) detach(ctx context.Context, a overspan.Attachment) (pending bool, err error) {
	return d.detachLeaving(ctx, a, d.local.PortsOf(a.Sandbox))
}

// detachLeaving is detach, after which the sandbox publishes these ports alone if it
// has other endpoints, and nothing otherwise.
func (d *Daemon) detachLeaving(ctx context.Context, a overspan.Attachment, ports []overspan.Port) (pending bool, err error) {
	steps.At(steps.DetachBegun)
	if now, there := d.local.Attachment(a.Endpoint.ID); there {
		a = now // its record may have been written again since it was found
	}
	was := d.local.PortsOf(a.Sandbox)
	if !d.local.DropAttachment(a.Endpoint.ID, ports) {
		return false, overspan.Errorf(overspan.ErrNotFound, "endpoint %s is being disconnected already", a.Endpoint.Name)
	}
	left := d.local.PortsOf(a.Sandbox) // they lead to another endpoint now
	ended := slices.DeleteFunc(slices.Clone(was), func(p overspan.Port) bool { return slices.Contains(left, p) })
	var g errgroup.Group
	g.Go(func() error {
		defer steps.At(steps.DetachDeferred)
		return d.journal.Defer(a.Endpoint)
	})
	g.Go(func() error {
		defer steps.At(steps.DetachUnplugged)
		return d.unplug(ctx, a, ended)
	})
	err = g.Wait()
	d.names.Settle()
	d.doomed.add(a.Sandbox)
	d.departed(a.Endpoint.Network)
	d.events.Publish(d.attachmentEvent("disconnect", a))
	defer d.reconsider(a.Endpoint.Network)
	if err != nil {
		d.releaser.postpone(a.Endpoint)
		return false, fmt.Errorf("disconnect %s, which goes on in the background: %w", a.Endpoint.Name, err)
	}
	return !d.releaser.releaseSoon(ctx, a.Endpoint), nil
}

// unplug takes an endpoint off its network, and those ports out of the rules that
// its sandbox publishes no more: nobody has them then. What fails goes on in the
// background.
func (d *Daemon) unplug(ctx context.Context, a overspan.Attachment, ended []overspan.Port) error {
	scope := local.ScopeOf(a)
	scope.Chains = bridge.PortChains(ended)
	err := d.rec.Do(ctx, scope)
	if err != nil {
		d.rec.Mark(scope, reconcile.CauseChange)
	}
	if len(ended) > 0 {
		d.ports.Keep(a.Sandbox, d.local.PortsOf(a.Sandbox))
		// The bridge may have a setting that only published ports need.
		d.rec.Mark(kernel.Scope{Networks: []overspan.NetworkID{a.Endpoint.Network}}, reconcile.CauseHint)
	}
	return err
}

// departed has a network looked at again in which this node has neither an
// endpoint nor a block any more, for its devices to go. Mostly the block goes
// last, and the snapshot without it is reason enough; not so when the node was
// removed from the cluster.
func (d *Daemon) departed(id overspan.NetworkID) {
	seg := d.knowledge().Shown.Segment(id)
	if seg == nil || seg.HeldBy(d.Self()) || len(d.local.InNetwork(id)) > 0 {
		return
	}
	d.rec.Mark(kernel.Scope{Global: true, Networks: []overspan.NetworkID{id}}, reconcile.CauseChange)
}
