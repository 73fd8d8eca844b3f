package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/reconcile"
	"github.com/overspan/overspan/kernel"
)

// Sandboxes returns the sandboxes that this node knows, oldest first.
func (d *Daemon) Sandboxes() []overspan.Sandbox {
	all := d.local.AllSandboxes()
	out := make([]overspan.Sandbox, 0, len(all))
	for _, s := range all {
		out = append(out, *s)
	}
	return out
}

// Attachments returns this node's endpoints, oldest first, and says of each
// whether it is lost, and whether its sandbox's default routes lead through it.
func (d *Daemon) Attachments() []overspan.Attachment {
	in, known := d.planInput(kernel.Scope{})
	if !known {
		return d.local.AllAttachments()
	}
	var out []overspan.Attachment
	ways := map[overspan.SandboxID]reconcile.Gateway{}
	for _, a := range in.Local.Attachments.List {
		if ways[a.Sandbox] == nil {
			ways[a.Sandbox] = wayOut(in, a.Sandbox)
		}
		out = append(out, standing(in, a, ways[a.Sandbox]))
	}
	return out
}

// Attachment returns what Attachments does of one endpoint; ok is false if this node
// has none such.
func (d *Daemon) Attachment(id overspan.EndpointID) (a overspan.Attachment, ok bool) {
	in, known := d.planInput(kernel.Scope{})
	if !known {
		return d.local.Attachment(id)
	}
	here := in.Local.Attachments.ByID.Get(id)
	if here == nil {
		return overspan.Attachment{}, false
	}
	return standing(in, here, wayOut(in, here.Sandbox)), true
}

// wayOut returns which endpoints a sandbox's default routes lead through.
func wayOut(in reconcile.Input, sandbox overspan.SandboxID) reconcile.Gateway {
	return reconcile.GatewayOf(in.Local.Attachments.InSandbox(sandbox), in.Snapshot.Networks, in.Works)
}

// standing returns an attachment with how it stands: whether it is lost, and whether
// the default routes of its sandbox lead through it.
func standing(in reconcile.Input, shared *overspan.Attachment, way reconcile.Gateway) overspan.Attachment {
	a := *shared
	a.Lost = in.WhyLost(a.Endpoint)
	a.Gateway = slices.Contains(slices.Collect(maps.Values(way)), a.Endpoint.ID)
	return a
}

// A SandboxRequest is what a user says about a new sandbox; all may be empty.
type SandboxRequest struct {
	Name string
	overspan.SandboxSettings
}

// CreateSandbox makes a lasting network namespace. It needs no etcd.
func (d *Daemon) CreateSandbox(ctx context.Context, req SandboxRequest) (overspan.Sandbox, error) {
	id, name := overspan.NewID(), req.Name
	if name == "" {
		name = "sandbox-" + overspan.ShortID(id)
	}
	if err := overspan.CheckName("sandbox", name); err != nil {
		return overspan.Sandbox{}, err
	}
	if err := req.Check(); err != nil {
		return overspan.Sandbox{}, err
	}
	sb := overspan.Sandbox{
		ID:      overspan.SandboxID(id),
		Name:    name,
		Kind:    overspan.SandboxMade,
		Netns:   filepath.Join(d.cfg.NetnsDir(), overspan.ShortID(id)),
		Created: time.Now().UTC(),

		SandboxSettings: req.SandboxSettings,
	}
	// Nobody removes it, or plugs it in, before it is whole.
	unlock, err := d.lockSandbox(ctx, sb.ID, sb.Name)
	if err != nil {
		return overspan.Sandbox{}, err
	}
	defer unlock()
	if err := d.admitSandbox(sb); err != nil {
		return overspan.Sandbox{}, err
	}
	err = d.rec.Do(ctx, kernel.Scope{Global: true})
	if err == nil {
		sb.Inode, err = d.host.Netns(sb.Netns)
	}
	if err == nil {
		d.local.PutSandbox(sb)
		err = d.journal.PutSandbox(sb)
	}
	if err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoBound)
		defer cancel()
		if undoErr := d.dropSandbox(undo, sb); undoErr != nil {
			d.log.Warn("cannot take back a sandbox; the next full pass will", "sandbox", sb.Name, "error", undoErr)
		}
		return overspan.Sandbox{}, fmt.Errorf("create sandbox %s: %w", sb.Name, err)
	}
	d.events.Publish(d.sandboxEvent("create", sb))
	return sb, nil
}

// lockSandbox takes a sandbox's gate: who has it may change what the sandbox is
// plugged into.
func (d *Daemon) lockSandbox(ctx context.Context, id overspan.SandboxID, name string) (unlock func(), err error) {
	if unlock, err = d.gates.lock(ctx, string(id)); err != nil {
		return nil, overspan.Errorf(overspan.ErrUnavailable, "sandbox %s is busy with other requests; try again: %w", name, err)
	}
	return unlock, nil
}

// admitSandbox enters a sandbox if its name is free.
func (d *Daemon) admitSandbox(sb overspan.Sandbox) error {
	d.admit.Lock()
	defer d.admit.Unlock()
	for _, other := range d.local.AllSandboxes() {
		if other.Name == sb.Name {
			return overspan.Errorf(overspan.ErrExists, "sandbox with name %s already exists", sb.Name)
		}
	}
	d.local.PutSandbox(sb)
	return nil
}

// RemoveSandbox disconnects a sandbox from its networks. One that we made is
// deleted, any other is forgotten.
func (d *Daemon) RemoveSandbox(ctx context.Context, ref string) error {
	sb, err := d.sandbox(ref)
	if err != nil {
		return err
	}
	unlock, err := d.lockSandbox(ctx, sb.ID, sb.Name)
	if err != nil {
		return err
	}
	defer unlock()
	if _, known := d.local.Sandbox(sb.ID); !known {
		return overspan.Errorf(overspan.ErrNotFound, "sandbox %s not found: it was removed meanwhile", ref)
	}
	var errs []error
	for _, a := range d.local.InSandbox(sb.ID) {
		if _, err := d.detach(ctx, *a); err != nil && !errors.Is(err, overspan.ErrNotFound) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := d.dropSandbox(ctx, sb); err != nil {
		return err
	}
	d.events.Publish(d.sandboxEvent("destroy", sb))
	return nil
}

// dropSandbox forgets a sandbox without endpoints, and deletes its namespace
// if it is ours.
func (d *Daemon) dropSandbox(ctx context.Context, sb overspan.Sandbox) error {
	d.local.DropSandbox(sb.ID)
	if err := d.journal.DeleteSandbox(sb.ID); err != nil {
		return err
	}
	if sb.Kind != overspan.SandboxMade {
		return nil
	}
	if d.doomed.has(sb.ID) {
		if err := d.rec.Flush(ctx); err != nil {
			return err
		}
	}
	return d.rec.Do(ctx, kernel.Scope{Global: true})
}

// forgetIfUnused forgets a foreign sandbox that has no endpoint any more: it
// was only known for its endpoints. The caller holds its gate.
func (d *Daemon) forgetIfUnused(sb overspan.Sandbox) {
	if sb.Kind == overspan.SandboxMade || len(d.local.InSandbox(sb.ID)) > 0 {
		return
	}
	d.local.DropSandbox(sb.ID)
	if err := d.journal.DeleteSandbox(sb.ID); err != nil {
		d.log.Error("cannot forget a sandbox", "sandbox", sb.Name, "error", err)
	}
}

// reviveSandboxes gives the sandboxes that we made their namespaces back after
// a reboot took them, and forgets none: the pins are part of the plan.
func (d *Daemon) reviveSandboxes(ctx context.Context) error {
	// What else could not be brought in line is no reason to leave them out.
	errs := []error{d.rec.Do(ctx, kernel.Scope{Global: true})}
	for _, sb := range d.Sandboxes() {
		if sb.Kind != overspan.SandboxMade || !strings.HasPrefix(sb.Netns, d.cfg.NetnsDir()) {
			continue
		}
		inode, err := d.host.Netns(sb.Netns)
		if err == nil && inode != sb.Inode {
			sb.Inode = inode
			d.local.PutSandbox(sb)
			err = d.journal.PutSandbox(sb)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
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
	for _, sb := range d.local.AllSandboxes() {
		if !d.namespaceGone(sb.ID) {
			continue
		}
		if err := d.bury(ctx, *sb); err != nil && ctx.Err() == nil {
			d.log.Error("cannot end what a sandbox had that is gone", "sandbox", sb.Name, "error", err)
		}
	}
}

// bury ends the endpoints of a sandbox that is gone, and forgets it.
func (d *Daemon) bury(ctx context.Context, sb overspan.Sandbox) error {
	unlock, err := d.lockSandbox(ctx, sb.ID, sb.Name)
	if err != nil {
		return err
	}
	defer unlock()
	if _, known := d.local.Sandbox(sb.ID); !known {
		return nil // others were faster
	}
	d.log.Info("sandbox is gone: ending its endpoints", "sandbox", sb.Name, "netns", sb.Netns)
	var errs []error
	for _, a := range d.local.InSandbox(sb.ID) {
		if _, err := d.detach(ctx, *a); err != nil && !errors.Is(err, overspan.ErrNotFound) {
			errs = append(errs, err)
		}
	}
	d.forgetIfUnused(sb)
	return errors.Join(errs...)
}

// namespaceGone reports whether a sandbox's namespace is known to be gone: after
// a reboot, or when its process died, the path names nothing or a namespace of
// somebody else, this host's own perhaps. The paths of the sandboxes that we
// made are ours: what they name is made again.
func (d *Daemon) namespaceGone(id overspan.SandboxID) bool {
	sb, known := d.local.Sandbox(id)
	if !known || sb.Kind == overspan.SandboxMade {
		return false
	}
	inode, err := d.host.Netns(sb.Netns)
	if err != nil {
		return errors.Is(err, overspan.ErrNotFound)
	}
	return !inode.Is(sb.Inode)
}

func (d *Daemon) sandboxEvent(action string, sb overspan.Sandbox) Event {
	return Event{
		Type: "sandbox", Action: action, ID: string(sb.ID), Name: sb.Name,
		Attributes: map[string]string{"kind": string(sb.Kind), "node": d.cfg.NodeName},
	}
}
