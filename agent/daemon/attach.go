package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/local"
	"github.com/overspan/overspan/agent/reconcile"
	"github.com/overspan/overspan/bridge"
	"github.com/overspan/overspan/internal/steps"
	"github.com/overspan/overspan/ipam"
	"github.com/overspan/overspan/kernel"
	"github.com/overspan/overspan/store"
)

// attachTries bounds how often an attach starts anew after its block was split
// for another node between the choice of the slot and the transaction.
const attachTries = 8

// An attaching is an attach that is asked for: of which sandbox to which network,
// and by which session.
type attaching struct {
	session *store.Session
	network *overspan.Network
	sandbox overspan.Sandbox // as it is before
	want    connectWant
}

// attach makes an endpoint; the caller holds the sandbox's gate. Ctx bounds the work
// in etcd. Once the record is committed, the rest goes on until caller ends.
func (d *Daemon) attach(ctx, caller context.Context, at attaching) (overspan.Attachment, error) {
	id := at.network.ID
	if err := d.follow(ctx, id); err != nil {
		return overspan.Attachment{}, err
	}
	defer d.settle(id)
	e, err := d.describe(ctx, at)
	if err == nil {
		err = d.releaser.awaitName(ctx, id, e.Name)
	}
	if err == nil {
		err = d.publisher.reserve(at.network, e.Name, at.session.Registration())
	}
	if err != nil {
		return overspan.Attachment{}, err
	}
	for range attachTries {
		var a overspan.Attachment
		var lost bool
		a, lost, err = d.attachOnce(ctx, caller, at, e)
		if !lost {
			return a, err
		}
		if err := d.Sync(ctx); err != nil {
			return a, err
		}
		if at.network, err = d.network(ctx, string(id)); err != nil {
			return a, err
		}
	}
	return overspan.Attachment{}, overspan.Errorf(overspan.ErrConflict, "network %s: its addresses change hands faster than one could be taken; try again: %w", at.network.Name, err)
}

// describe fills in all of an endpoint but its id and its addresses.
func (d *Daemon) describe(ctx context.Context, at attaching) (overspan.Endpoint, error) {
	n, sb := at.network, at.sandbox
	here := d.local.InSandbox(sb.ID)
	for _, a := range here {
		if a.Endpoint.Network == n.ID {
			return overspan.Endpoint{}, overspan.Errorf(overspan.ErrExists, "%s is connected to network %s already, as %s (%s)", sb.Name, n.Name, a.Endpoint.Name, a.Endpoint.Interface)
		}
	}
	if d.doomed.has(sb.ID) {
		// An interface that is on its way out still bears its name.
		if err := d.rec.Flush(ctx); err != nil {
			return overspan.Endpoint{}, fmt.Errorf("delete the interfaces that %s left: %w", sb.Name, err)
		}
	}
	taken, err := d.host.Interfaces(sb.Netns)
	if err != nil {
		return overspan.Endpoint{}, err
	}
	for _, a := range here {
		taken = append(taken, a.Endpoint.Interface)
	}
	ifname, err := chooseInterface(at.want.ifname, taken, sb.Name)
	if err != nil {
		return overspan.Endpoint{}, err
	}
	return overspan.Endpoint{
		Network:   n.ID,
		Node:      d.Self(),
		Name:      cmp.Or(at.want.name, sb.Name),
		Aliases:   at.want.aliases,
		Sandbox:   sb.Name,
		Interface: ifname,
		Created:   time.Now().UTC(),
	}, nil
}

// attachOnce takes a slot and brings the endpoint up in etcd and in the kernel
// at the same time. On error nothing of it is left; lost says that the error is
// somebody's being faster, and no reason not to try again.
func (d *Daemon) attachOnce(ctx, caller context.Context, at attaching, e overspan.Endpoint) (_ overspan.Attachment, lost bool, _ error) {
	steps.At(steps.AttachBegun)
	n, want := at.network, at.want
	// An id for each try: the release of an earlier one may be pending.
	e.ID = overspan.EndpointID(overspan.NewID())
	sb, taken, err := d.takePorts(at.sandbox, want.publish, n.Families()...)
	if err != nil {
		return overspan.Attachment{}, false, err
	}
	lease, err := d.alloc.Acquire(ctx, n.ID, ipam.Addrs{IPv4: want.ip, IPv6: want.ip6})
	if err != nil {
		d.ports.Keep(sb.ID, at.sandbox.Ports)
		return overspan.Attachment{}, errors.Is(err, overspan.ErrConflict), err
	}
	steps.At(steps.AttachChosen)
	d.releaser.lent.add(e.ID)
	e = address(n, e, lease, want)
	a := overspan.Attachment{
		Endpoint: e, Sandbox: sb.ID, Netns: sb.Netns, NetworkName: n.Name,
		GatewayPriority: want.gatewayPriority, DriverOptions: want.driverOptions, Links: want.links,
	}
	if n.Node != "" {
		a.Local = n
	}
	e.Ports = d.portsOfNew(sb, a)
	a.Endpoint = e
	d.local.PutAttachment(a)

	// The transaction takes longer: it goes first, and on this goroutine, which
	// then hears of its outcome without a switch.
	patient, stop := context.WithTimeout(caller, kernelBound)
	defer stop()
	var beside errgroup.Group
	beside.Go(func() error { return d.prepare(patient, a) })
	stored, flown := at.session.Attach(ctx, store.AttachRequest{Endpoint: e, Network: n, Blocks: lease.Blocks})
	if flown != nil {
		stop() // the rest is in vain
	}
	if err := cmp.Or(flown, beside.Wait()); err != nil {
		d.undo(ctx, at, a, taken, flown)
		// An address that nobody asked for may be in use by what an earlier attach
		// has left on its way, and the snapshot does not show yet.
		lost := errors.Is(flown, overspan.ErrConflict) || errors.Is(flown, overspan.ErrInUse) && want.chooses()
		return a, lost, err
	}
	e = stored

	steps.At(steps.AttachCommitted)
	a.Endpoint, a.Committed, a.Registration = e, true, at.session.Registration()
	if err := d.putInForce(ctx, patient, sb, a, portScope(a, taken), want.waitLocal); err != nil {
		d.undo(ctx, at, a, taken, nil)
		return a, false, err
	}
	return a, false, nil
}

// putInForce does what is left of an attach once its record stands in etcd.
func (d *Daemon) putInForce(ctx, patient context.Context, sb overspan.Sandbox, a overspan.Attachment, port kernel.Scope, wait bool) error {
	d.local.PutAttachmentIn(sb, a)
	var beside errgroup.Group
	beside.Go(func() error {
		defer steps.At(steps.AttachNoted)
		return d.journal.PutAttachmentIn(sb, a)
	})
	beside.Go(func() error {
		// Names are answered from the snapshot: the endpoint's own is known when
		// its record is shown.
		d.names.Settle()
		return d.awaitRecord(ctx, patient, a.Endpoint.Network, a.Endpoint.ModRevision)
	})
	return errors.Join(d.open(patient, port, wait), beside.Wait())
}

// awaitRecord waits for the snapshot to show a network's interior of a revision: as
// long as the request has, or for a moment where the kernel has used that up.
func (d *Daemon) awaitRecord(ctx, patient context.Context, id overspan.NetworkID, revision int64) error {
	if ctx.Err() == nil {
		return d.mirror.WaitSegment(ctx, id, revision)
	}
	seen, cancel := context.WithTimeout(patient, seenBound)
	defer cancel()
	return d.mirror.WaitSegment(seen, id, revision)
}

// open has the host end of an endpoint's veth put on its bridge.
func (d *Daemon) open(ctx context.Context, scope kernel.Scope, wait bool) error {
	if !wait {
		d.rec.Mark(scope, reconcile.CauseChange)
		return nil
	}
	defer steps.At(steps.AttachPlugged)
	return d.rec.Do(ctx, scope)
}

// address gives an endpoint the addresses of its slots. The slot of the IPv4
// address comes first: the MAC follows from it.
func address(n *overspan.Network, e overspan.Endpoint, lease ipam.Lease, want connectWant) overspan.Endpoint {
	e.Slots, e.Slot = lease.Slots, lease.Slots[0]
	e.IPv4, e.IPv6 = lease.IPv4, lease.IPv6
	e.MAC = want.mac
	if e.MAC.IsZero() {
		e.MAC = n.MAC(e.Slot)
	}
	e.Ack = n.IsException(e)
	return e
}

// prepare makes the endpoint's veth, and the network's devices where this is
// its first endpoint on the node.
func (d *Daemon) prepare(ctx context.Context, a overspan.Attachment) error {
	if !d.realised.has(a.Endpoint.Network) {
		scope := kernel.Scope{Global: true, Networks: []overspan.NetworkID{a.Endpoint.Network}}
		if err := d.rec.Do(ctx, scope); err != nil {
			return err
		}
		d.realised.add(a.Endpoint.Network)
	}
	steps.At(steps.AttachPreparing)
	defer steps.At(steps.AttachPrepared)
	return refusedSetting(a, d.rec.Do(ctx, local.ScopeOf(a)))
}

// refusedSetting adds to a SysctlError which endpoint and which driver option asked
// for the setting. Other errors name their op already.
func refusedSetting(a overspan.Attachment, err error) error {
	var not *kernel.SysctlError
	if !errors.As(err, &not) {
		return err
	}
	return fmt.Errorf("connect %s to network %s: %s of its driver options: %w", a.Endpoint.Sandbox, a.NetworkName, bridge.OptionSysctls, not)
}

// undo takes back an attach that failed: off the kernel first, then out of
// etcd. The sandbox is as it was before, without the ports that were taken. Flown
// is what became of the transaction; nil if it was committed.
func (d *Daemon) undo(ctx context.Context, at attaching, a overspan.Attachment, taken []overspan.Port, flown error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoBound)
	defer cancel()
	steps.At(steps.UndoBegun)
	d.local.DropAttachmentIn(at.sandbox, a.Endpoint.ID)
	off := d.unplug(ctx, a, taken)
	steps.At(steps.UndoUnplugged)
	if off != nil {
		d.log.Warn("cannot take back a veth; will try again", "endpoint", a.Endpoint.Name, "error", off)
	}
	d.doomed.add(a.Sandbox)
	d.departed(a.Endpoint.Network)
	noted := d.journal.DeleteAttachmentIn(at.sandbox, a.Endpoint.ID)
	if noted != nil {
		d.log.Error("cannot take an attachment out of the journal", "endpoint", a.Endpoint.Name, "error", noted)
	}
	steps.At(steps.UndoForgotten)
	switch {
	case flown != nil:
		// A transaction of unknown outcome is settled, and undone if need be,
		// by the session itself.
		d.releaser.free(a.Endpoint, errors.Is(flown, overspan.ErrUnavailable) || errors.Is(flown, overspan.ErrInUse))
	case off != nil, noted != nil:
		// Nor is the record released while the journal has the attachment: the next
		// run would take its absence for a sign that etcd has lost its past.
		d.releaser.postpone(a.Endpoint)
	case d.releaser.release(ctx, at.session, a.Endpoint) != nil:
		d.releaser.postpone(a.Endpoint)
	}
}

// portScope is the endpoint's veth without the container's end, which an attach
// has just made, and the rules of ports: nothing else is about to change. Where
// default routes move to it or from it, the reconciler looks at the ends and the
// ports concerned.
func portScope(a overspan.Attachment, taken []overspan.Port) kernel.Scope {
	scope := local.ScopeOf(a)
	scope.Endpoints[0].Netns = ""
	scope.Chains = bridge.PortChains(taken)
	return scope
}

// attachmentEvent tells of an endpoint of this node.
func (d *Daemon) attachmentEvent(action string, a overspan.Attachment) Event {
	return endpointEvent(action, a.Endpoint, a.NetworkLabel(), d.cfg.NodeName)
}
