package daemon

import (
	"context"
	"slices"
	"time"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/ports"
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

// unpublished ends the publication of an endpoint whose rules are gone, or are on
// their way out where that has failed. The whole network is looked at again, for
// its bridge may have a setting that only published ports need.
func (d *Daemon) unpublished(a overspan.Attachment) {
	d.ports.Release(a.Endpoint.ID)
	if len(a.Endpoint.Ports) > 0 {
		d.rec.dirty.mark(kernel.Scope{Networks: []overspan.NetworkID{a.Endpoint.Network}}, causeHint)
	}
}

// holdPorts tries to hold what the agent could not hold at its start.
func (d *Daemon) holdPorts(ctx context.Context) error {
	for sleep(ctx, holdEvery) == nil {
		d.ports.Retry()
	}
	return nil
}
