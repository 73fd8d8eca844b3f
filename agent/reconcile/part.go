package reconcile

import (
	"cmp"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/local"
	"github.com/overspan/overspan/bridge"
	"github.com/overspan/overspan/kernel"
)

// A Part is a piece of the kernel's state whose plan changes as a whole: a
// network's devices and entries, one endpoint's veth, or, as the zero part,
// what belongs to no network.
type Part struct {
	Network  overspan.NetworkID
	Endpoint overspan.EndpointID
}

// vethPrefix begins the names of veths: the digits behind it are an endpoint's.
var vethPrefix = overspan.VethName("")

// stray is the part of what bears our mark and is nobody's. Only a look at
// everything finds it.
var stray = Part{Network: "stray"}

// publishedPorts is the part that publishes ports: nat chains and route_localnet. A
// pass for one endpoint reads some of it, a global one all of the chains.
var publishedPorts = Part{Network: "published ports"}

// subnets is the sets of the cluster's subnets: they change with networks that this
// node has no part in.
var subnets = Part{Network: "subnets"}

// within reports whether a scope takes the part.
func (p Part) within(scope kernel.Scope) bool {
	switch {
	case scope.All:
		return true
	case p == Part{}, p == publishedPorts:
		return scope.Global
	case p == subnets:
		return scope.Global || len(scope.Sets) > 0
	}
	return slices.Contains(scope.Networks, p.Network) ||
		slices.ContainsFunc(scope.Endpoints, func(k kernel.EndpointKey) bool { return p.Endpoint != "" && k.Endpoint == p.Endpoint })
}

// Has reports whether a device is one of a network's or an endpoint's.
func (p Part) Has(dev string) bool {
	if p.Endpoint != "" {
		return dev == overspan.VethName(p.Endpoint)
	}
	return p != stray && p != Part{} && (dev == overspan.BridgeName(p.Network) || dev == overspan.VXLANName(p.Network))
}

// A Finder tells which part a device belongs to, at one moment.
type Finder struct {
	in    Input
	scope kernel.Scope
	moved partSet // also those that are in the plan no more
	known map[string]Part
}

// NewFinder returns a Finder of what a snapshot and a view of this node hold: a device
// of neither belongs to no part.
func NewFinder(s *overspan.Snapshot, here local.View) *Finder {
	return &Finder{in: Input{Snapshot: s, Local: here}}
}

// of returns the part that an op is about.
func (f *Finder) of(op kernel.Op) Part {
	o, setting := op.(kernel.SetSysctl)
	// The setting that published ports need comes with its bridge, or changes
	// with a port.
	if aboutPorts(op) || setting && bridge.IsForPorts(o.Path) && f.moved.has(publishedPorts) {
		return publishedPorts
	}
	if aboutSubnets(op) {
		return subnets
	}
	return f.PartOf(kernel.Device(op))
}

// aboutSubnets reports whether an op is about what is in a set of subnets.
func aboutSubnets(op kernel.Op) bool {
	set := ""
	switch o := op.(type) {
	case kernel.AddSetEntry:
		set = o.Set
	case kernel.DelSetEntry:
		set = o.Set
	}
	return slices.Contains(bridge.SubnetSets(), set)
}

// aboutPorts reports whether an op is about nothing but published ports.
func aboutPorts(op kernel.Op) bool {
	switch o := op.(type) {
	case kernel.FlushFlows:
		return true
	case kernel.LoadChains:
		for name := range o.Chains {
			if !bridge.IsPortChain(kernel.ChainKey{Family: o.Family, Table: o.Table, Name: name}) {
				return false
			}
		}
		return true
	case kernel.DelChains:
		return !slices.ContainsFunc(o.Names, func(name string) bool {
			return !bridge.IsPortChain(kernel.ChainKey{Family: o.Family, Table: o.Table, Name: name})
		})
	}
	return false
}

// PartOf returns the part that a device belongs to; "" is no device.
func (f *Finder) PartOf(dev string) Part {
	if dev == "" {
		return Part{}
	}
	p, ok := f.known[dev]
	if !ok {
		p = f.find(dev)
		if f.known == nil {
			f.known = map[string]Part{}
		}
		f.known[dev] = p
	}
	return p
}

func (f *Finder) find(dev string) Part {
	kind, digits, _ := strings.Cut(dev, "-")
	if kind+"-" == vethPrefix {
		return f.findEndpoint(digits)
	}
	for _, id := range f.scope.Networks {
		if strings.HasPrefix(string(id), digits) {
			return Part{Network: id}
		}
	}
	for id := range f.in.Snapshot.Segments.Keys() {
		if strings.HasPrefix(string(id), digits) {
			return Part{Network: id}
		}
	}
	for p := range f.moved {
		if p.Endpoint == "" && strings.HasPrefix(string(p.Network), digits) {
			return p
		}
	}
	return stray
}

func (f *Finder) findEndpoint(digits string) Part {
	for _, k := range f.scope.Endpoints {
		if strings.HasPrefix(string(k.Endpoint), digits) {
			return Part{k.Network, k.Endpoint}
		}
	}
	for _, a := range f.in.Local.Attachments.List {
		if strings.HasPrefix(string(a.Endpoint.ID), digits) {
			return Part{a.Endpoint.Network, a.Endpoint.ID}
		}
	}
	for p := range f.moved {
		if strings.HasPrefix(string(p.Endpoint), digits) {
			return p
		}
	}
	return stray
}

// A partSet is a set of parts.
type partSet map[Part]struct{}

func (s partSet) add(parts ...Part) {
	for _, p := range parts {
		s[p] = struct{}{}
	}
}

// addScope adds all that a scope takes.
func (s partSet) addScope(scope kernel.Scope) {
	if scope.All {
		s.add(stray)
	}
	if scope.Global {
		s.add(Part{}, publishedPorts, subnets)
	}
	if len(scope.Sets) > 0 {
		s.add(subnets)
	}
	for _, id := range scope.Networks {
		s.add(Part{Network: id})
	}
	for _, k := range scope.Endpoints {
		s.add(Part{k.Network, k.Endpoint})
	}
}

// scope returns the scope that takes all the parts. Where an endpoint is
// plugged in, its attachment tells.
func (s partSet) scope(attachments local.Attachments) kernel.Scope {
	set := newDirtySet()
	for p := range s {
		switch {
		case p == Part{}:
			set.mark(kernel.Scope{Global: true}, CauseRetry)
		case p == subnets:
			set.mark(kernel.Scope{Sets: bridge.SubnetSets()}, CauseRetry)
		case p == stray, p == publishedPorts:
			set.mark(kernel.Scope{All: true, Global: true}, CauseRetry)
		case p.Endpoint == "":
			set.mark(kernel.Scope{Networks: []overspan.NetworkID{p.Network}}, CauseRetry)
		default:
			key := kernel.EndpointKey{Network: p.Network, Endpoint: p.Endpoint}
			if a := attachments.ByID.Get(p.Endpoint); a != nil {
				key = local.KeyOf(a)
			}
			set.mark(kernel.Scope{Endpoints: []kernel.EndpointKey{key}}, CauseRetry)
		}
	}
	scope, _, _, _ := set.take()
	return scope
}

// has reports whether a part, or the network that it is in, is in the set.
func (s partSet) has(p Part) bool {
	if _, ok := s[p]; ok {
		return true
	}
	_, ok := s[Part{Network: p.Network}]
	return ok && p.Endpoint != ""
}

// settle takes out what a pass over a scope has looked at, but for what it left
// undone.
func (s partSet) settle(scope kernel.Scope, left partSet) {
	for p := range s {
		if p.within(scope) && !left.has(p) {
			delete(s, p)
		}
	}
}

// moved lists the parts whose plan differs between two inputs, between which some
// things were rewired: a difference in the kernel there is our own change, not drift.
func moved(old, new Input, anew rewiring) partSet {
	out := partSet{}
	if old.Snapshot == nil {
		old.Snapshot = &overspan.Snapshot{}
	}
	if old.Local.Version != new.Local.Version || !maps.Equal(old.Lost, new.Lost) {
		out.addLocal(old, new)
	}
	if old.Shortcut != new.Shortcut {
		out.add(Part{})
	}
	for _, k := range anew.ends {
		out.add(Part{k.Network, k.Endpoint})
	}
	if len(anew.ports) > 0 {
		out.add(publishedPorts)
	}
	if old.Snapshot == new.Snapshot {
		return out
	}
	networks, global := Changed(old.Snapshot, new.Snapshot, new.Self)
	if wholeness(old.Snapshot) != wholeness(new.Snapshot) {
		networks, global = new.members(), true // what had to stay may go now
	}
	if global {
		out.add(Part{}, subnets)
	}
	if !SameSubnets(old.Snapshot, new.Snapshot) {
		out.add(subnets)
	}
	for _, id := range networks {
		out.add(Part{Network: id})
	}
	return out
}

// wholeness tells whether a snapshot says all that is to be, or holds back
// deletions.
func wholeness(s *overspan.Snapshot) bool { return s.Frozen == nil && len(s.Bad) == 0 }

// addLocal adds what depends on this node's sandboxes and endpoints. The first
// and last endpoint of a network may bring or take its devices and rules.
func (s partSet) addLocal(old, new Input) {
	before, now := old.Local.Attachments.ByID, new.Local.Attachments.ByID
	networks := map[overspan.NetworkID]struct{}{}
	touch := func(a *overspan.Attachment) {
		networks[a.Endpoint.Network] = struct{}{}
		s.add(Part{a.Endpoint.Network, a.Endpoint.ID})
		if len(old.Local.Ports[a.Sandbox])+len(new.Local.Ports[a.Sandbox]) > 0 {
			s.add(publishedPorts)
		}
	}
	for id := range now.Changes(before) {
		if a, b := now.Get(id), before.Get(id); a == nil || b == nil || !samePlug(a, b) {
			touch(cmp.Or(a, b))
		}
	}
	for id := range overspan.Changes(old.Lost, new.Lost) { // or found again
		if a := cmp.Or(now.Get(id), before.Get(id)); a != nil {
			touch(a)
		}
	}
	s.addMembership(old, new, networks)
	for id := range new.Local.Sandboxes.ByID.Changes(old.Local.Sandboxes.ByID) {
		if a, b := new.Local.Sandboxes.ByID.Get(id), old.Local.Sandboxes.ByID.Get(id); a == nil || b == nil || a.Netns != b.Netns {
			s.add(Part{})
		}
	}
}

// samePlug reports whether an endpoint's plan is the same, as far as its
// attachment goes.
func samePlug(a, b *overspan.Attachment) bool {
	return a.Committed == b.Committed && a.Netns == b.Netns && a.Endpoint.ModRevision == b.Endpoint.ModRevision
}

// addMembership adds the networks that this node has joined or left, among those of
// endpoints that have changed and those of which the snapshots differ.
func (s partSet) addMembership(old, new Input, networks map[overspan.NetworkID]struct{}) {
	for _, differ := range []iter.Seq[overspan.NetworkID]{
		maps.Keys(networks),
		new.Snapshot.Segments.Changes(old.Snapshot.Segments),
		overspan.Changes(old.Snapshot.Networks, new.Snapshot.Networks),
	} {
		for id := range differ {
			if old.Member(id) != new.Member(id) {
				s.add(Part{}, subnets, Part{Network: id})
			}
		}
	}
}
