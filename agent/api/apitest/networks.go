package apitest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/daemon"
	"github.com/overspan/overspan/ipam"
)

// blockSize is that of the only block that this node holds in a network.
const blockSize = 8

// CreateNetwork implements api.Daemon. The n-th network gets 10.0.n.0/24.
func (d *Daemon) CreateNetwork(_ context.Context, r daemon.CreateRequest) (*overspan.Network, error) {
	plan, err := ipam.ParseSpec(r.Spec)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.reachable(); err != nil {
		return nil, err
	}
	for _, n := range d.snapshot.Networks {
		if n.Name == r.Name {
			return nil, overspan.Errorf(overspan.ErrExists, "network with name %s already exists", r.Name)
		}
	}
	n := &overspan.Network{
		ID:       overspan.NetworkID(d.newID()),
		Name:     r.Name,
		Driver:   plan.Driver,
		IPv4:     plan.IPv4,
		IPv6:     plan.IPv6,
		MTU:      1450,
		Internal: r.Internal,
		Options:  r.Options,
		Labels:   r.Labels,
		Created:  Created,

		ConfigOnly: r.ConfigOnly,
		ConfigFrom: r.ConfigFrom,
	}
	if plan.AutoIPv4 && !n.ConfigOnly {
		n.IPv4 = automatic(fmt.Sprintf("10.0.%d.0/24", d.made))
	}
	if plan.AutoIPv6 {
		n.IPv6 = automatic(fmt.Sprintf("fd00:0:0:%x::/64", d.made))
	}
	switch {
	case n.ConfigOnly:
		n.Driver, n.MTU = overspan.DriverNull, 0
	case n.Driver == overspan.DriverOverlay:
		n.VNI, n.Underlay = uint32(4096+d.made), overspan.IPv4
	default:
		n.Node = Self
	}
	d.change(func(s *overspan.Snapshot) {
		s.Networks[n.ID] = n
		s.Segments.Put(n.ID, &overspan.Segment{})
	})
	d.events.Publish(daemon.Event{Time: Created, Type: "network", Action: "create", ID: string(n.ID), Name: n.Name})
	return n, nil
}

// automatic makes a subnet whose gateway is its first address.
func automatic(text string) overspan.Subnet {
	p := netip.MustParsePrefix(text)
	return overspan.Subnet{Prefix: p, Gateway: p.Addr().Next()}
}

// network finds a network. The caller holds mu.
func (d *Daemon) network(ref string) (*overspan.Network, error) {
	if ref == "host" || ref == "none" {
		return nil, overspan.Errorf(overspan.ErrInvalid, "network %s is predefined", ref)
	}
	names := map[overspan.NetworkID]string{}
	for id, n := range d.snapshot.Networks {
		if n.On(Self) {
			names[id] = n.Name
		}
	}
	id, err := overspan.Match("network", ref, maps.All(names))
	if err != nil {
		return nil, err
	}
	return d.snapshot.Networks[id], nil
}

// RemoveNetwork implements api.Daemon.
func (d *Daemon) RemoveNetwork(_ context.Context, ref string) (overspan.NetworkID, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.reachable(); err != nil {
		return "", err
	}
	if overspan.IsPredefined(ref) {
		return "", overspan.Errorf(overspan.ErrDenied, "%s is a pre-defined network and cannot be removed", ref)
	}
	n, err := d.network(ref)
	if err != nil {
		return "", err
	}
	var users []string
	for e := range d.snapshot.Segments.Get(n.ID).Endpoints.Values() {
		users = append(users, e.Name)
	}
	if len(users) > 0 {
		slices.Sort(users)
		return "", overspan.Errorf(overspan.ErrInUse, "network %s has active endpoints: %s", n.Name, strings.Join(users, ", "))
	}
	d.change(func(s *overspan.Snapshot) {
		delete(s.Networks, n.ID)
		s.Segments.Delete(n.ID)
	})
	return n.ID, nil
}

// Connect implements api.Daemon. Targets are sandboxes; with WaitPeers h2 is
// reported late if the endpoint's name begins with "late".
func (d *Daemon) Connect(_ context.Context, r daemon.ConnectRequest) (daemon.ConnectResult, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.reachable(); err != nil {
		return daemon.ConnectResult{}, err
	}
	sb, err := d.sandbox(r.Target)
	if err != nil {
		return daemon.ConnectResult{}, err
	}
	if r.Network == overspan.DefaultNetwork {
		d.needDefault()
	}
	n, err := d.network(r.Network)
	if err != nil {
		return daemon.ConnectResult{}, err
	}
	segment := d.snapshot.Segments.Get(n.ID)
	slot, err := choose(n, segment, r.IP)
	if err != nil {
		return daemon.ConnectResult{}, err
	}
	e := overspan.Endpoint{
		ID:        overspan.EndpointID(d.newID()),
		Network:   n.ID,
		Node:      Self,
		Name:      cmp.Or(r.Name, sb.Name),
		Slot:      slot,
		Slots:     []overspan.Slot{slot},
		IPv4:      n.IPv4.Addr(slot),
		IPv6:      n.IPv6.Addr(slot),
		MAC:       n.MAC(slot),
		Sandbox:   sb.Name,
		Interface: cmp.Or(r.Interface, fmt.Sprintf("eth%d", d.plugged(sb.ID))),
		Created:   Created,
		Aliases:   r.Aliases,
	}
	if r.MAC != "" {
		if e.MAC, err = overspan.ParseMAC(r.MAC); err != nil {
			return daemon.ConnectResult{}, err
		}
	}
	d.change(func(s *overspan.Snapshot) { s.Segments.Put(n.ID, with(segment, e)) })
	d.attachments = append(d.attachments, overspan.Attachment{
		Endpoint: e, Sandbox: sb.ID, Netns: sb.Netns, NetworkName: n.Name, Committed: true,
		GatewayPriority: r.GatewayPriority, DriverOptions: r.DriverOptions, Gateway: d.plugged(sb.ID) == 0, Links: r.Links,
	})
	result := daemon.ConnectResult{Endpoint: e}
	if r.Wait == daemon.WaitPeers && strings.HasPrefix(e.Name, "late") {
		result.Unconfirmed = []string{"h2"}
	}
	return result, nil
}

// needDefault makes the default network where it is not there yet. The caller
// holds mu.
func (d *Daemon) needDefault() {
	id := overspan.DefaultNetworkID(Self, d.snapshot.Nodes[Self].CreateRevision)
	if d.snapshot.Networks[id] != nil {
		return
	}
	n := &overspan.Network{
		ID: id, Name: overspan.DefaultNetwork, Driver: overspan.DriverBridge, Node: Self,
		IPv4: automatic("172.16.0.0/24"), MTU: 1500, Created: Created,
	}
	d.change(func(s *overspan.Snapshot) { s.Networks[id] = n; s.Segments.Put(id, &overspan.Segment{}) })
}

// choose takes the wanted slot, else the lowest free one.
func choose(n *overspan.Network, segment *overspan.Segment, ip string) (overspan.Slot, error) {
	free := func(s overspan.Slot) bool { return n.Reserved(s) == "" && segment.Endpoints.Get(s) == nil }
	if ip != "" {
		addr, err := netip.ParseAddr(ip)
		if err != nil {
			return 0, overspan.Errorf(overspan.ErrInvalid, "invalid address %q", ip)
		}
		slot, ok := n.IPv4.Slot(addr)
		switch {
		case !ok:
			return 0, overspan.Errorf(overspan.ErrInvalid, "%s is not in this network's subnets", addr)
		case !free(slot):
			return 0, overspan.Errorf(overspan.ErrInUse, "address already in use: %s", addr)
		}
		return slot, nil
	}
	for slot := overspan.Slot(1); slot < n.Slots(); slot++ {
		if free(slot) {
			return slot, nil
		}
	}
	return 0, overspan.Errorf(overspan.ErrExhausted, "network %s has no free address", n.Name)
}

// with returns a copy of a segment with an endpoint, and with a block around it.
func with(s *overspan.Segment, e overspan.Endpoint) *overspan.Segment {
	out := &overspan.Segment{Blocks: s.Blocks, Endpoints: s.Endpoints}
	for _, slot := range e.Slots {
		out.Endpoints.Put(slot, &e)
		around := overspan.BlockAt(slot, blockSize)
		out.Blocks.Put(around.First, overspan.Block{Range: around, Node: e.Node, CreateRevision: 50})
	}
	return out
}

func without(s *overspan.Segment, e overspan.Endpoint) *overspan.Segment {
	out := &overspan.Segment{Blocks: s.Blocks, Endpoints: s.Endpoints}
	for _, slot := range e.Slots {
		out.Endpoints.Delete(slot)
	}
	return out
}

// Disconnect implements api.Daemon.
func (d *Daemon) Disconnect(_ context.Context, network, target string) (overspan.Endpoint, bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.network(network)
	if err != nil {
		return overspan.Endpoint{}, false, err
	}
	for i, a := range d.attachments {
		if a.Endpoint.Network == n.ID && (a.Endpoint.Name == target || a.Endpoint.Sandbox == target) {
			d.detach(i)
			return a.Endpoint, !d.since.IsZero(), nil
		}
	}
	return overspan.Endpoint{}, false, overspan.Errorf(overspan.ErrNotFound, "%s is not connected to network %s on this node", target, n.Name)
}

// ForceDisconnect implements api.Daemon. An endpoint that is not this node's is
// taken for one of h3, which is away.
func (d *Daemon) ForceDisconnect(ctx context.Context, network, target string) (overspan.Endpoint, bool, error) {
	e, pending, err := d.Disconnect(ctx, network, target)
	if err == nil {
		return e, pending, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.network(network)
	if err != nil {
		return overspan.Endpoint{}, false, err
	}
	for e := range d.snapshot.Segments.Get(n.ID).Endpoints.Values() {
		if e.Name == target {
			d.change(func(s *overspan.Snapshot) { s.Segments.Put(n.ID, without(s.Segments.Get(n.ID), *e)) })
			return *e, false, nil
		}
	}
	return overspan.Endpoint{}, false, overspan.Errorf(overspan.ErrNotFound, "%s is not connected to network %s on any node", target, n.Name)
}

// Place plugs an endpoint of another node into a network, at its last address.
func (d *Daemon) Place(network, name string, node overspan.NodeID) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.network(network)
	if err != nil {
		return err
	}
	slot := n.Slots() - 2
	e := overspan.Endpoint{
		ID: overspan.EndpointID(d.newID()), Network: n.ID, Node: node, Name: name, Slot: slot, Slots: []overspan.Slot{slot},
		IPv4: n.IPv4.Addr(slot), MAC: n.MAC(slot), Sandbox: name, Interface: "eth0", Created: Created,
	}
	d.change(func(s *overspan.Snapshot) { s.Segments.Put(n.ID, with(s.Segments.Get(n.ID), e)) })
	return nil
}

// detach removes the i-th attachment, and its record unless etcd is away. The
// caller holds mu.
func (d *Daemon) detach(i int) {
	e := d.attachments[i].Endpoint
	d.attachments = slices.Delete(d.attachments, i, i+1)
	d.unreleased = append(d.unreleased, e)
	if d.since.IsZero() {
		d.release()
	}
}

// release removes the records of endpoints that were detached.
func (d *Daemon) release() {
	for _, e := range d.unreleased {
		if d.snapshot.Segments.Get(e.Network) == nil {
			continue // not followed
		}
		d.change(func(s *overspan.Snapshot) { s.Segments.Put(e.Network, without(s.Segments.Get(e.Network), e)) })
	}
	d.unreleased = nil
}
