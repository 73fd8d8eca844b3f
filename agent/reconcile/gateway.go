package reconcile

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/local"
	"github.com/overspan/overspan/bridge"
	"github.com/overspan/overspan/kernel"
)

// A Gateway is the endpoint that a sandbox's default route leads through, by
// family; "" where none can have it.
type Gateway map[overspan.Family]overspan.EndpointID

// Gateways chooses for the sandboxes with several endpoints, each when it is first
// asked for. In every other sandbox the only endpoint has the default routes that its
// network offers.
type Gateways struct {
	in     Input
	chosen map[overspan.SandboxID]Gateway
}

var families = []overspan.Family{overspan.IPv4, overspan.IPv6}

// GatewayOf chooses which of a sandbox's endpoints its default routes lead through:
// of those in networks that are not internal one that works, before one that does
// not; then the one of the highest priority; then the oldest. It is pure, and the
// order of the attachments does not matter.
func GatewayOf(attachments []*overspan.Attachment, networks map[overspan.NetworkID]*overspan.Network, works func(*overspan.Attachment) bool) Gateway {
	sorted := slices.SortedFunc(slices.Values(attachments), func(a, b *overspan.Attachment) int {
		return cmp.Or(
			cmp.Compare(idle(works(a)), idle(works(b))),
			cmp.Compare(b.GatewayPriority, a.GatewayPriority),
			a.Endpoint.Created.Compare(b.Endpoint.Created),
			cmp.Compare(a.Endpoint.ID, b.Endpoint.ID),
		)
	})
	out := Gateway{}
	for _, f := range families {
		first := slices.IndexFunc(sorted, func(a *overspan.Attachment) bool {
			n := networks[a.Endpoint.Network]
			return n != nil && hasAddr(a.Endpoint, f) && bridge.HasGateway(n, f)
		})
		if first >= 0 {
			out[f] = sorted[first].Endpoint.ID
		}
	}
	return out
}

// idle puts what works first.
func idle(works bool) int {
	if works {
		return 0
	}
	return 1
}

func hasAddr(e overspan.Endpoint, f overspan.Family) bool {
	return slices.ContainsFunc(e.Addrs(), func(a netip.Addr) bool { return overspan.FamilyOf(a) == f })
}

// Gateways chooses among this node's endpoints.
func (in Input) Gateways() Gateways {
	return Gateways{in, map[overspan.SandboxID]Gateway{}}
}

// of returns the choice for a sandbox; several is false if there is none to make.
func (g Gateways) of(id overspan.SandboxID) (way Gateway, several bool) {
	here := g.in.Local.Attachments.InSandbox(id)
	if len(here) < 2 {
		return nil, false
	}
	way, known := g.chosen[id]
	if !known {
		way = GatewayOf(here, g.in.Snapshot.Networks, g.in.Works)
		g.chosen[id] = way
	}
	return way, true
}

// secondary returns the families whose default route leads through another
// endpoint of the sandbox than this one.
func (g Gateways) secondary(a *overspan.Attachment) []overspan.Family {
	way, several := g.of(a.Sandbox)
	if !several {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(families), func(f overspan.Family) bool { return way[f] == a.Endpoint.ID })
}

// PortsAt returns those of a sandbox's published ports that lead to one of its
// endpoints: to the one that has the default route of their family, since answers
// leave by that.
func (in Input) PortsAt(a *overspan.Attachment, ways Gateways) []overspan.Port {
	ports := in.Local.Ports[a.Sandbox]
	if len(ports) == 0 || !in.Works(a) {
		return nil
	}
	way, several := ways.of(a.Sandbox)
	n := in.Snapshot.Networks[a.Endpoint.Network]
	leads := map[overspan.Family]bool{}
	for _, f := range families {
		// Of a network that is not known, nothing is taken away.
		leads[f] = several && way[f] == a.Endpoint.ID || !several && hasAddr(a.Endpoint, f) && (n == nil || bridge.HasGateway(n, f))
	}
	return slices.DeleteFunc(slices.Clone(ports), func(p overspan.Port) bool { return !leads[overspan.FamilyOf(p.HostIP)] })
}

// publishing lists the endpoints that published ports lead to, each with those
// ports alone. A pass does not check the namespaces of all of them: an endpoint
// whose namespace is gone is disconnected soon.
func (in Input) publishing(ways Gateways) []overspan.Endpoint {
	var out []overspan.Endpoint
	for _, id := range slices.Sorted(maps.Keys(in.Local.Ports)) {
		for _, a := range in.Local.Attachments.InSandbox(id) {
			e := a.Endpoint
			if e.Ports = in.PortsAt(a, ways); len(e.Ports) > 0 {
				out = append(out, e)
			}
		}
	}
	return out
}

// rewiring is what has moved within sandboxes of several endpoints: default routes,
// whose containers' ends are to be looked at, whatever it was that changed; and
// published ports, which now lead to another endpoint. The networks are all of those
// ports' sandboxes: their bridges have a setting, route_localnet, that only
// published ports need.
type rewiring struct {
	ends     []kernel.EndpointKey
	ports    []overspan.Port
	networks []overspan.NetworkID
}

// rewired returns what has moved between two inputs.
func rewired(old, new Input) (out rewiring) {
	before, now := old.Gateways(), new.Gateways()
	for _, id := range unsettled(old, new) {
		for _, a := range new.Local.Attachments.InSandbox(id) { // but for those that are on their way out
			if !slices.Equal(before.secondary(a), now.secondary(a)) {
				out.ends = append(out.ends, local.KeyOf(a))
			}
		}
		ports := slices.Collect(overspan.Changes(before.homes(id), now.homes(id)))
		if len(ports) == 0 {
			continue
		}
		out.ports = append(out.ports, ports...)
		for _, a := range slices.Concat(old.Local.Attachments.InSandbox(id), new.Local.Attachments.InSandbox(id)) {
			if !slices.Contains(out.networks, a.Endpoint.Network) {
				out.networks = append(out.networks, a.Endpoint.Network)
			}
		}
	}
	return out
}

// unsettled returns the sandboxes in which default routes, or what they publish, may
// have moved between two inputs: of several endpoints, and with something new that
// this follows from.
func unsettled(old, new Input) []overspan.SandboxID {
	if old.Snapshot == nil {
		return nil
	}
	was, is := &old.Local.Attachments, &new.Local.Attachments
	var ids []overspan.SandboxID
	for id := range is.ByID.Changes(was.ByID) {
		for _, a := range []*overspan.Attachment{was.ByID.Get(id), is.ByID.Get(id)} {
			if a != nil {
				ids = append(ids, a.Sandbox)
			}
		}
	}
	for id := range overspan.Changes(old.Lost, new.Lost) {
		if a := is.ByID.Get(id); a != nil {
			ids = append(ids, a.Sandbox)
		}
	}
	for _, id := range overspan.DifferingNetworks(old.Snapshot, new.Snapshot) {
		if n, seg := old.Snapshot.Networks[id], old.Snapshot.Segments.Get(id); n == new.Snapshot.Networks[id] && sameHolders(seg, new.Snapshot.Segments.Get(id)) {
			continue
		}
		for _, a := range is.InNetwork(id) {
			ids = append(ids, a.Sandbox)
		}
	}
	if !overspan.SameMap(old.Local.Ports, new.Local.Ports) {
		ids = slices.AppendSeq(slices.AppendSeq(ids, maps.Keys(old.Local.Ports)), maps.Keys(new.Local.Ports))
	}
	slices.Sort(ids)
	return slices.DeleteFunc(slices.Compact(ids), func(id overspan.SandboxID) bool {
		return len(was.InSandbox(id)) < 2 && len(is.InSandbox(id)) < 2
	})
}

// sameHolders reports whether the same nodes hold the same slots of a network.
func sameHolders(a, b *overspan.Segment) bool {
	return a == b || a != nil && b != nil && a.Blocks.Equal(b.Blocks)
}

// homes returns to which endpoint each published port of a sandbox leads.
func (g Gateways) homes(id overspan.SandboxID) map[overspan.Port]overspan.EndpointID {
	out := map[overspan.Port]overspan.EndpointID{}
	for _, a := range g.in.Local.Attachments.InSandbox(id) {
		for _, p := range g.in.PortsAt(a, g) {
			out[p] = a.Endpoint.ID
		}
	}
	return out
}
