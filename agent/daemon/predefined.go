package daemon

import (
	"context"
	"errors"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/ipam"
)

// usable finds the network that a sandbox is to be plugged into. The default
// network of this node is made when it is first wanted, not at the start of the
// agent: a thousand agents that start at once would contend for the subnets, and
// most may never need one.
func (d *Daemon) usable(ctx context.Context, ref string) (*overspan.Network, error) {
	n, err := d.network(ctx, ref)
	if err == nil && n.ConfigOnly {
		return nil, overspan.Errorf(overspan.ErrInvalid, "cannot create endpoint on configuration-only network %s: connect to one that is made from it", n.Name)
	}
	if !errors.Is(err, overspan.ErrNotFound) {
		return n, err
	}
	session, away := d.registrar.session()
	if away != nil {
		return nil, away
	}
	id := overspan.DefaultNetworkID(d.Self(), session.Registration())
	if !overspan.Refers(ref, overspan.DefaultNetwork, id) {
		return nil, err
	}
	if err := d.mayAttach(); err != nil {
		return nil, err
	}
	draft, addresses, err := draft(CreateRequest{Spec: ipam.Spec{Name: overspan.DefaultNetwork}}, d.Self())
	if err != nil {
		return nil, err
	}
	draft.ID = id
	n, err = d.create(ctx, session, draft, addresses)
	if errors.Is(err, overspan.ErrExists) {
		return d.network(ctx, overspan.DefaultNetwork) // another request was faster
	}
	return n, err
}

// errPredefined is docker's word about the removal of a network that is always
// there.
func errPredefined(name string) error {
	return overspan.Errorf(overspan.ErrDenied, "%s is a pre-defined network and cannot be removed", name)
}
