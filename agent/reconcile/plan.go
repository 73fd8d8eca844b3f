package reconcile

import (
	"fmt"
	"iter"
	"slices"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/local"
	"github.com/overspan/overspan/bridge"
	"github.com/overspan/overspan/kernel"
	"github.com/overspan/overspan/overlay"
)

// Input is all that a plan depends on.
type Input struct {
	Snapshot  *overspan.Snapshot
	Self      overspan.NodeID
	Local     local.View
	VXLANPort uint16
	Guard     kernel.Guard // of this host

	// Gone has the endpoints whose namespace is no more: what its path names
	// now, if anything, is not ours to put an interface into.
	Gone map[overspan.EndpointID]struct{}

	// Advertised are the host's devices that listen to router advertisements,
	// where the scope is global; the error is why they are not known.
	Advertised    []string
	AdvertisedErr error

	// Shortcut is where packets of the tunnel can be taken past the packet filter,
	// as it was last seen: where the scope is global, just now; the error is why
	// that is not known.
	Shortcut    kernel.Shortcut
	ShortcutErr error

	// Lost tells of the endpoints that could not be published again, and why.
	Lost map[overspan.EndpointID]string
}

// gone reports whether a part is an endpoint whose namespace is no more.
func (in Input) gone(p Part) bool {
	_, gone := in.Gone[p.Endpoint]
	return gone
}

// plan says what the kernel should hold within a scope. It is pure. Warnings
// are what an operator should know of it; what they are about is left out.
func plan(in Input, scope kernel.Scope) (kernel.State, []string) {
	// What becomes of a port alone is for this node to say, frozen or not.
	portsOnly := !scope.All && !scope.Global && len(scope.Networks)+len(scope.Sets) == 0
	state := kernel.State{Partial: in.Snapshot.Frozen != nil && !portsOnly}
	var warnings []string
	networks := scope.Networks
	if scope.All {
		networks = in.members()
	}
	ways := in.Gateways()
	for _, id := range networks {
		part, warns := in.network(id, ways)
		state.Take(part)
		warnings = append(warnings, warns...)
	}
	if !scope.All {
		for _, key := range scope.Endpoints {
			state.Take(in.endpoint(key, ways))
		}
		if len(scope.Chains) > 0 {
			state.Take(bridge.PortsWithin(in.publishing(ways), scope.Chains))
		}
	}
	if scope.All || scope.Global {
		part, warns := in.global(ways)
		state.Take(part)
		warnings = append(warnings, warns...)
	} else if len(scope.Sets) > 0 {
		state.Take(in.subnets())
	}
	return state, warnings
}

// members lists the networks that this node takes part in.
func (in Input) members() []overspan.NetworkID {
	return slices.Compact(slices.Sorted(in.joined()))
}

// joined yields the networks that this node takes part in, some of them twice
// perhaps.
func (in Input) joined() iter.Seq[overspan.NetworkID] {
	return func(yield func(overspan.NetworkID) bool) {
		for _, known := range []iter.Seq[overspan.NetworkID]{in.Local.Attachments.Networks(), in.Snapshot.Segments.Keys()} {
			for id := range known {
				if in.Member(id) && !yield(id) {
					return
				}
			}
		}
	}
}

// isMember reports whether this node takes part in any network.
func (in Input) isMember() bool {
	for range in.joined() {
		return true
	}
	return false
}

// Member reports whether this node takes part in a network: it has an endpoint
// there, or holds a block, so that the next attach finds all in place.
func (in Input) Member(id overspan.NetworkID) bool {
	seg := in.Snapshot.Segment(id)
	return slices.ContainsFunc(in.Local.Attachments.InNetwork(id), func(a *overspan.Attachment) bool { return !in.adrift(a) }) ||
		seg != nil && seg.HeldBy(in.Self)
}

// frontiers returns up to which revision each network of a scope is known.
func (in Input) frontiers(scope kernel.Scope) map[overspan.NetworkID]int64 {
	networks := scope.Networks
	if scope.All {
		networks = in.members()
	}
	out := map[overspan.NetworkID]int64{}
	for _, id := range networks {
		if seg := in.Snapshot.Segments.Get(id); seg != nil {
			out[id] = seg.Revision
		}
	}
	return out
}

// network plans one network's devices, ports and forwarding. A network of
// which this node is no member any more plans to nothing; one that it is a
// member of but cannot see is unknown.
func (in Input) network(id overspan.NetworkID, ways Gateways) (kernel.State, []string) {
	var ports []bridge.Port
	for _, a := range in.Local.Attachments.InNetwork(id) {
		if in.pluggable(a) {
			ports = append(ports, in.port(a, ways))
		}
	}
	n, seg := in.Snapshot.Networks[id], in.Snapshot.Segments.Get(id)
	if n == nil || seg == nil {
		return kernel.State{Partial: len(ports) > 0}, nil
	}
	if len(ports) == 0 && !seg.HeldBy(in.Self) {
		return kernel.State{}, nil
	}
	state := bridge.Plan(n, ports)
	var warnings []string
	if n.Driver == overspan.DriverOverlay {
		part, warns := overlay.Plan(n, in.Self, seg, in.Snapshot.Nodes, in.VXLANPort)
		if in.Guard.Programs && len(part.Links) > 0 {
			part.Programs = map[string]kernel.Program{overspan.VXLANName(n.ID): overlay.Program(n)}
		}
		state.Take(part)
		warnings = warns
	}
	return state, warnings
}

// endpoint plans one veth.
func (in Input) endpoint(key kernel.EndpointKey, ways Gateways) kernel.State {
	a, n := in.Local.Attachments.ByID.Get(key.Endpoint), in.Snapshot.Networks[key.Network]
	switch {
	case a == nil || !in.pluggable(a):
		return kernel.State{}
	case n == nil:
		return kernel.State{Partial: true}
	}
	return bridge.PlanPort(n, in.port(a, ways))
}

// pluggable reports whether there is a namespace and a network for an attachment.
func (in Input) pluggable(a *overspan.Attachment) bool {
	_, gone := in.Gone[a.Endpoint.ID]
	return !gone && !in.adrift(a)
}

// port says how an attachment is plugged in: on the bridge once its record
// stands in etcd, and only while it is not lost.
func (in Input) port(a *overspan.Attachment, ways Gateways) bridge.Port {
	e := a.Endpoint
	e.Ports = in.PortsAt(a, ways)
	return bridge.Port{
		Endpoint:  e,
		Netns:     a.Netns,
		Enslaved:  in.Works(a),
		Secondary: ways.secondary(a),
		Options:   a.DriverOptions,
		Guard:     in.Guard,
	}
}

// Works reports whether packets pass by an endpoint.
func (in Input) Works(a *overspan.Attachment) bool {
	return a.Committed && in.WhyLost(a.Endpoint) == ""
}

// WhyLost says why an endpoint is off its network, and what to do; "" if it is on
// it. That another node holds its slot is seen before anybody tries to publish
// the endpoint again.
func (in Input) WhyLost(e overspan.Endpoint) string {
	if seg := in.Snapshot.Segments.Get(e.Network); seg != nil {
		if holder := seg.ForeignHolder(e, in.Self); holder != "" {
			return local.BelongsTo(in.Snapshot, e, holder) + local.ConnectAgain
		}
	}
	return in.Lost[e.ID]
}

// adrift reports whether an endpoint's network is known to be gone: there is
// nothing that it could be plugged into.
func (in Input) adrift(a *overspan.Attachment) bool {
	_, lost := in.Lost[a.Endpoint.ID]
	return lost && in.Snapshot.Networks[a.Endpoint.Network] == nil
}

// subnets plans the sets of the cluster's subnets, where this node takes part in a
// network: its rules ask them.
func (in Input) subnets() kernel.State {
	var state kernel.State
	if in.isMember() {
		state = bridge.Subnets(in.Snapshot.Networks)
	}
	state.Partial = len(in.Snapshot.Bad) > 0
	return state
}

// global plans what belongs to no network: the rules, the set of VTEPs, the
// switches for forwarding, and the namespaces of the sandboxes that we made.
func (in Input) global(ways Gateways) (kernel.State, []string) {
	var networks []*overspan.Network
	known := true
	for _, id := range in.members() {
		if n := in.Snapshot.Networks[id]; n != nil {
			networks = append(networks, n)
		} else {
			known = false
		}
	}
	state := bridge.Rules(networks, in.Snapshot.Networks)
	state.Take(bridge.NAT(networks))
	state.Take(bridge.ForwardIPv4(networks))
	var warnings []string
	if in.AdvertisedErr == nil {
		state.Take(bridge.ForwardIPv6(networks, in.Advertised))
	} else {
		// The host could lose its own default route.
		warnings = append(warnings, fmt.Sprintf("IPv6 forwarding is left as it is: %v", in.AdvertisedErr))
	}
	state.Take(bridge.Ports(networks, in.publishing(ways)))
	state.Take(overlay.Rules(in.Snapshot.Nodes, in.Snapshot.Meta.VNIs, in.VXLANPort))
	part, warns := in.shortcut(networks)
	state.Take(part)
	warnings = append(warnings, warns...)
	state.Partial = state.Partial || !known || len(in.Snapshot.Bad) > 0
	state.Netns = map[string]struct{}{}
	for _, s := range in.Local.Sandboxes.List {
		if s.Kind == overspan.SandboxMade {
			state.Netns[s.Netns] = struct{}{}
		}
	}
	return state, warnings
}

// shortcut plans what takes packets of the tunnel past the packet filter, on a
// host that runs programs.
func (in Input) shortcut(networks []*overspan.Network) (kernel.State, []string) {
	switch {
	case !in.Guard.Programs:
		return kernel.State{}, nil
	case in.ShortcutErr != nil:
		// The rules judge all packets meanwhile; what else is planned is whole.
		return kernel.State{}, []string{fmt.Sprintf("packets from and to other nodes take the slower way by the packet filter: %v", in.ShortcutErr)}
	}
	return overlay.Shortcut(networks, in.Self, in.Snapshot.Nodes, in.VXLANPort, in.Shortcut)
}

// Changed lists the networks whose forwarding differs between two snapshots,
// and whether the rules or the VTEPs do. A nil old snapshot differs in all.
func Changed(old, new *overspan.Snapshot, self overspan.NodeID) (networks []overspan.NetworkID, global bool) {
	if old == nil || old.Meta != new.Meta {
		return slices.Sorted(new.Segments.Keys()), true
	}
	elsewhere := movedNodes(old.Nodes, new.Nodes)
	if _, here := elsewhere[self]; here {
		return slices.Sorted(new.Segments.Keys()), true
	}
	global = len(elsewhere) > 0
	differ := overspan.DifferingNetworks(old, new)
	if global {
		differ = slices.AppendSeq(differ, new.Segments.Keys())
	}
	for _, id := range differ {
		was, seg := old.Segments.Get(id), new.Segments.Get(id)
		switch {
		case was == nil && seg == nil: // not followed
		case was == nil || seg == nil:
			networks, global = append(networks, id), true
		case !sameForwarding(old.Networks[id], new.Networks[id], was, seg), anyHolds(seg, elsewhere):
			networks = append(networks, id)
			global = global || was.HeldBy(self) != seg.HeldBy(self)
		}
	}
	slices.Sort(networks)
	return slices.Compact(networks), global
}

// SameSubnets reports whether two snapshots know of the same subnets.
func SameSubnets(old, new *overspan.Snapshot) bool {
	if overspan.SameMap(old.Networks, new.Networks) {
		return true
	}
	if len(old.Networks) != len(new.Networks) {
		return false
	}
	for id, n := range new.Networks {
		was := old.Networks[id]
		if was != n && (was == nil || was.IPv4.Prefix != n.IPv4.Prefix || was.IPv6.Prefix != n.IPv6.Prefix) {
			return false
		}
	}
	return true
}

// anyHolds reports whether one of some nodes holds a block of the network.
func anyHolds(seg *overspan.Segment, nodes map[overspan.NodeID]struct{}) bool {
	if len(nodes) == 0 {
		return false
	}
	for b := range seg.Blocks.Values() {
		if _, ok := nodes[b.Node]; ok {
			return true
		}
	}
	return false
}

// sameForwarding reports whether a network's plan is the same but for the
// ports of this node: blocks and exceptions decide it.
func sameForwarding(n, m *overspan.Network, a, b *overspan.Segment) bool {
	if n == nil || m == nil || a == nil || n.ModRevision != m.ModRevision {
		return false
	}
	if a == b {
		return true
	}
	if a.Bad != b.Bad || !a.Blocks.Equal(b.Blocks) {
		return false
	}
	for slot := range b.Endpoints.Changes(a.Endpoints) {
		if exception(n, a, slot) != exception(m, b, slot) {
			return false
		}
	}
	return true
}

// exception returns the mod-revision of the endpoint at a slot if it is
// programmed from its own record; else none, which is below all others.
func exception(n *overspan.Network, seg *overspan.Segment, slot overspan.Slot) int64 {
	const none = -1
	if e := seg.Endpoints.Get(slot); e != nil && n.IsException(*e) {
		return e.ModRevision
	}
	return none
}
