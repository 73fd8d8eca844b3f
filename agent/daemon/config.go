package daemon

import (
	"context"

	"github.com/overspan/overspan"
)

// withConfig returns a request as it is once the configuration network that it
// names has been copied into it. What both could say only the configuration may.
func (d *Daemon) withConfig(ctx context.Context, req CreateRequest) (CreateRequest, error) {
	if req.ConfigFrom == "" {
		return req, nil
	}
	config, err := d.network(ctx, req.ConfigFrom)
	if err != nil {
		return req, err
	}
	return req.from(config)
}

// from copies a configuration network into a request.
func (r CreateRequest) from(config *overspan.Network) (CreateRequest, error) {
	switch {
	case !config.ConfigOnly:
		return r, overspan.Errorf(overspan.ErrInvalid, "network %s is not a configuration network: make one with --config-only", config.Name)
	case r.ConfigOnly:
		return r, overspan.Errorf(overspan.ErrInvalid, "a configuration network cannot depend on another configuration network: leave out --config-from %s", config.Name)
	case len(r.Options) > 0:
		return r, overspan.Errorf(overspan.ErrInvalid, "network driver options are not supported if the network depends on a configuration network: give them to %s, or leave out --config-from", config.Name)
	case len(r.Subnets)+len(r.Gateways)+len(r.Ranges)+len(r.Aux)+len(r.Labels) > 0:
		return r, overspan.Errorf(overspan.ErrInvalid, "user specified configurations are not supported if the network depends on a configuration network: give subnets and labels to %s, or leave out --config-from", config.Name)
	}
	r.ConfigFrom = config.Name
	r.Internal = r.Internal || config.Internal
	r.Options, r.Labels = config.Options, config.Labels
	r.Aux = map[string]string{}
	for _, s := range []overspan.Subnet{config.IPv4, config.IPv6} {
		if !s.IsValid() {
			continue
		}
		r.Subnets = append(r.Subnets, s.Prefix.String())
		if s.Gateway.IsValid() {
			r.Gateways = append(r.Gateways, s.Gateway.String())
		}
		if s.Range.IsValid() {
			r.Ranges = append(r.Ranges, s.Range.String())
		}
		for name, a := range s.Aux {
			r.Aux[name] = a.String()
		}
	}
	return r, nil
}
