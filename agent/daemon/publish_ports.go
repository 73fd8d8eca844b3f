package daemon

import (
	"context"
	"slices"
	"time"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/await"
	"github.com/overspan/overspan/agent/ports"
	"github.com/overspan/overspan/agent/reconcile"
	"github.com/overspan/overspan/bridge"
	"github.com/overspan/overspan/kernel"
)

// holdEvery is how often ports are tried again that could not be held at the
// agent's start.
const holdEvery = 5 * time.Second

// parsePublish reads which ports a user wants published.
func parsePublish(req ConnectRequest) ([]ports.Spec, error) {
	var out []ports.Spec
	for _, text := range req.Publish {
		specs, err := ports.ParseSpecs(text)
		if err != nil {
			return nil, err
		}
		out = append(out, specs...)
	}
	for _, text := range req.Expose {
		specs, err := ports.ParseExposed(text)
		if err != nil {
			return nil, err
		}
		if req.PublishAll {
			out = append(out, beyond(specs, out)...)
		}
	}
	if len(out) > ports.Most {
		return nil, overspan.Errorf(overspan.ErrInvalid, "%d ports are to be published: an endpoint can have %d", len(out), ports.Most)
	}
	return out, nil
}

// publishAt says where the ports of an endpoint in a network are published: one
// that names no address, where the network's options say.
func publishAt(n *overspan.Network, specs []ports.Spec) ([]ports.Spec, error) {
	if len(specs) > 0 && n.Internal {
		return nil, overspan.Errorf(overspan.ErrInvalid, "network %s is internal: nothing outside reaches it, so no port can be published there; publish it at another network of the container", n.Name)
	}
	binding := bridge.OptionsOf(n).HostBinding
	out := slices.Clone(specs)
	for i := range out {
		if !out[i].HostIP.IsValid() {
			out[i].HostIP = binding
		}
	}
	return out, nil
}

// beyond returns those of exposed that nothing else publishes.
func beyond(exposed, published []ports.Spec) (out []ports.Spec) {
	type target struct {
		protocol overspan.Protocol
		port     uint16
	}
	known := make(map[target]struct{}, len(published))
	for _, s := range published {
		known[target{s.Protocol, s.Port}] = struct{}{}
	}
	for _, s := range exposed {
		if _, is := known[target{s.Protocol, s.Port}]; !is {
			out = append(out, s)
		}
	}
	return out
}

// takePorts reserves what a sandbox is to publish besides what it does. It returns
// the sandbox with all of its ports, and those that it has taken.
func (d *Daemon) takePorts(sb overspan.Sandbox, specs []ports.Spec, families ...overspan.Family) (overspan.Sandbox, []overspan.Port, error) {
	if len(specs) > 0 && len(specs)+len(sb.Ports) > ports.Most {
		return sb, nil, overspan.Errorf(overspan.ErrInvalid, "%s has %d ports published, and %d more are to be: it can have %d", sb.Name, len(sb.Ports), len(specs), ports.Most)
	}
	taken, err := d.ports.Reserve(sb.ID, sb.Name, specs, families...)
	if err != nil || len(taken) == 0 {
		return sb, nil, err
	}
	sb.Ports = slices.Concat(sb.Ports, taken)
	slices.SortFunc(sb.Ports, overspan.Port.Compare)
	return sb, taken, nil
}

// portsMoved is what the reconciler tells of ports that lead to another endpoint
// than they did: in which networks. The records of both are written again.
func (d *Daemon) portsMoved(networks []overspan.NetworkID) {
	d.rec.Mark(kernel.Scope{Networks: networks}, reconcile.CauseHint)
	await.Wake(d.publisher.due)
}

// portsNow returns the ports that lead to the endpoints of this node which are on
// their networks: none to most.
func (d *Daemon) portsNow() map[overspan.EndpointID][]overspan.Port {
	out := map[overspan.EndpointID][]overspan.Port{}
	in, known := d.planInput(kernel.Scope{})
	if !known {
		return out
	}
	ways := in.Gateways()
	for _, a := range in.Local.Attachments.List {
		if in.Works(a) {
			out[a.Endpoint.ID] = in.PortsAt(a, ways)
		}
	}
	return out
}

// portsOfNew returns those of a sandbox's ports that will lead to an endpoint of
// it once that is plugged in.
func (d *Daemon) portsOfNew(sb overspan.Sandbox, a overspan.Attachment) []overspan.Port {
	if len(sb.Ports) == 0 {
		return nil
	}
	in, known := d.planInput(kernel.Scope{})
	if !known {
		return nil
	}
	a.Committed = true
	in.Local.Ports = map[overspan.SandboxID][]overspan.Port{sb.ID: sb.Ports}
	in.Local.Attachments.Put(&a)
	return in.PortsAt(&a, in.Gateways())
}

// holdPorts tries to hold what the agent could not hold at its start.
func (d *Daemon) holdPorts(ctx context.Context) error {
	for await.Sleep(ctx, holdEvery) == nil {
		d.ports.Retry()
	}
	return nil
}
