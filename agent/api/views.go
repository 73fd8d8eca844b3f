package api

import (
	"cmp"
	"net/netip"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// endpointView shows an endpoint; n is nil if its network is not known. Here is how
// this node has it; zero of another node's.
func (v *view) endpointView(n *overspan.Network, e overspan.Endpoint, here overspan.Attachment) *overspanv1.EndpointView {
	out := &overspanv1.EndpointView{
		Endpoint:        overspanv1.EndpointRecord(e),
		NetworkName:     cmp.Or(here.NetworkName, overspan.ShortID(e.Network)),
		NodeName:        v.NodeName(e.Node),
		Local:           e.Node == v.self,
		NodeDown:        e.Node != v.self && !v.up(e.Node),
		Lost:            here.Lost,
		Gateway:         here.Gateway,
		GatewayPriority: here.GatewayPriority,
		DriverOptions:   here.DriverOptions,
	}
	if n != nil {
		out.NetworkName = n.Name
		out.Ipv4Bits, out.Ipv6Bits = prefixBits(n.IPv4), prefixBits(n.IPv6)
	}
	return out
}

func prefixBits(s overspan.Subnet) uint32 {
	if !s.IsValid() {
		return 0
	}
	return uint32(s.Prefix.Bits())
}

// unreleased is why an endpoint of this node that has a record and no port is
// off its network.
const unreleased = "disconnected; its address and name are freed as soon as etcd takes it"

// endpointViews shows a network's endpoints, and those of this node that were
// lost: their records may be gone, their ports are still there. Of one that was
// disconnected while etcd was away it is the other way round.
func (v *view) endpointViews(i interior) []*overspanv1.EndpointView {
	var out []*overspanv1.EndpointView
	seen := map[overspan.EndpointID]bool{}
	for _, e := range i.endpoints() {
		seen[e.ID] = true
		here, plugged := v.here().byID[e.ID]
		shown := v.endpointView(i.network, *e, here)
		if shown.Local && !plugged {
			shown.Lost = unreleased
		}
		out = append(out, shown)
	}
	for _, a := range v.here().lost {
		if a.Endpoint.Network == i.network.ID && !seen[a.Endpoint.ID] {
			out = append(out, v.endpointView(i.network, a.Endpoint, a))
		}
	}
	return out
}

// leftBehind shows the lost endpoints of this node whose network is gone and meant.
func (v *view) leftBehind(meant func(network overspan.NetworkID, name string) bool) []*overspanv1.EndpointView {
	var out []*overspanv1.EndpointView
	for _, a := range v.here().lost {
		if v.Networks[a.Endpoint.Network] == nil && meant(a.Endpoint.Network, a.NetworkName) {
			out = append(out, v.endpointView(nil, a.Endpoint, a))
		}
	}
	return out
}

// nodeView shows a node. A registered node without presence is down.
func (v *view) nodeView(n *overspan.Node, networks []string) *overspanv1.NodeView {
	return &overspanv1.NodeView{
		Node:         overspanv1.NodeRecord(*n),
		Up:           v.up(n.ID),
		Registration: n.CreateRevision,
		Self:         n.ID == v.self,
		Networks:     networks,
	}
}

// nodeViews shows all nodes, with the memberships of each.
func (v *view) nodeViews(memberships map[overspan.NodeID][]string) []*overspanv1.NodeView {
	var out []*overspanv1.NodeView
	for _, n := range v.nodes() {
		out = append(out, v.nodeView(n, memberships[n.ID]))
	}
	return out
}

// memberships returns the names of the networks in which each node holds a
// block, of those networks that this node follows.
func (v *view) memberships() map[overspan.NodeID][]string {
	out := map[overspan.NodeID][]string{}
	for _, n := range v.networks() {
		s := v.Segments.Get(n.ID)
		if s == nil {
			continue
		}
		holders := map[overspan.NodeID]bool{}
		for b := range s.Blocks.Values() {
			holders[b.Node] = true
		}
		for id := range holders {
			out[id] = append(out[id], n.Name)
		}
	}
	return out
}

// blockViews shows a network's blocks, and how much of each is used.
func (v *view) blockViews(i interior) []*overspanv1.BlockView {
	used := map[overspan.Slot]uint64{}
	for slot := range i.segment.Endpoints.All() {
		if b, ok := i.segment.Holder(slot); ok {
			used[b.First]++
		}
	}
	var out []*overspanv1.BlockView
	for _, b := range i.blocks() {
		out = append(out, &overspanv1.BlockView{
			Network:      string(i.network.ID),
			NetworkName:  i.network.Name,
			Node:         string(b.Node),
			NodeName:     v.NodeName(b.Node),
			Up:           v.up(b.Node),
			First:        uint64(b.First),
			Size:         b.Size,
			Used:         used[b.First],
			Epoch:        b.CreateRevision,
			FirstAddress: slotAddress(i.network, b.First),
			LastAddress:  slotAddress(i.network, b.Last()),
		})
	}
	return out
}

// slotAddress returns the address of a slot, IPv4 where there is one.
func slotAddress(n *overspan.Network, s overspan.Slot) string {
	for _, subnet := range []overspan.Subnet{n.IPv4, n.IPv6} {
		if a := subnet.Addr(s); a != (netip.Addr{}) {
			return a.String()
		}
	}
	return ""
}

// sandboxView shows a sandbox with its endpoints.
func (v *view) sandboxView(s overspan.Sandbox) *overspanv1.SandboxView {
	out := &overspanv1.SandboxView{Sandbox: overspanv1.SandboxRecord(s)}
	var networks []*overspan.Network
	for _, a := range v.here().bySandbox[s.ID] {
		n := v.Networks[a.Endpoint.Network]
		out.Endpoints = append(out.Endpoints, v.endpointView(n, a.Endpoint, a))
		if n != nil && a.Lost == "" {
			networks = append(networks, n)
		}
	}
	for _, a := range overspan.Nameservers(networks...) {
		out.Nameservers = append(out.Nameservers, a.String())
	}
	return out
}
