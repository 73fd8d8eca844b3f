package apitest

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/daemon"
)

// Sandboxes implements api.Daemon.
func (d *Daemon) Sandboxes() []overspan.Sandbox {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.sandboxes)
}

// Attachments implements api.Daemon.
func (d *Daemon) Attachments() []overspan.Attachment {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.attachments)
}

// Attachment implements api.Daemon.
func (d *Daemon) Attachment(id overspan.EndpointID) (overspan.Attachment, bool) {
	for _, a := range d.Attachments() {
		if a.Endpoint.ID == id {
			return a, true
		}
	}
	return overspan.Attachment{}, false
}

// CreateSandbox implements api.Daemon.
func (d *Daemon) CreateSandbox(_ context.Context, r daemon.SandboxRequest) (overspan.Sandbox, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	id := overspan.SandboxID(d.newID())
	sb := overspan.Sandbox{
		ID:      id,
		Name:    cmp.Or(r.Name, "sandbox-"+overspan.ShortID(id)),
		Kind:    overspan.SandboxMade,
		Created: Created,

		SandboxSettings: r.SandboxSettings,
	}
	if err := overspan.CheckName("sandbox", sb.Name); err != nil {
		return overspan.Sandbox{}, err
	}
	for _, other := range d.sandboxes {
		if other.Name == sb.Name {
			return overspan.Sandbox{}, overspan.Errorf(overspan.ErrExists, "sandbox with name %s already exists", sb.Name)
		}
	}
	sb.Netns = "/run/overspan/netns/" + overspan.ShortID(id)
	if d.Netns != nil {
		path, err := d.Netns(sb.Name)
		if err != nil {
			return overspan.Sandbox{}, err
		}
		sb.Netns = path
	}
	d.sandboxes = append(d.sandboxes, sb)
	return sb, nil
}

// sandbox finds a sandbox. The caller holds mu.
func (d *Daemon) sandbox(ref string) (overspan.Sandbox, error) {
	names := map[overspan.SandboxID]string{}
	for _, sb := range d.sandboxes {
		names[sb.ID] = sb.Name
	}
	id, err := overspan.Match("sandbox", ref, maps.All(names))
	if err != nil {
		return overspan.Sandbox{}, err
	}
	i := slices.IndexFunc(d.sandboxes, func(sb overspan.Sandbox) bool { return sb.ID == id })
	return d.sandboxes[i], nil
}

// plugged counts a sandbox's endpoints. The caller holds mu.
func (d *Daemon) plugged(id overspan.SandboxID) (n int) {
	for _, a := range d.attachments {
		if a.Sandbox == id {
			n++
		}
	}
	return n
}

// RemoveSandbox implements api.Daemon.
func (d *Daemon) RemoveSandbox(_ context.Context, ref string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	sb, err := d.sandbox(ref)
	if err != nil {
		return err
	}
	for i := len(d.attachments) - 1; i >= 0; i-- {
		if d.attachments[i].Sandbox == sb.ID {
			d.detach(i)
		}
	}
	d.sandboxes = slices.DeleteFunc(d.sandboxes, func(other overspan.Sandbox) bool { return other.ID == sb.ID })
	if d.Unmake != nil {
		return d.Unmake(sb.Name)
	}
	return nil
}
