package daemon

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/bridge"
	"github.com/overspan/overspan/kernel"
)

// A gateway is the endpoint that a sandbox's default route leads through, by
// family; "" where none can have it.
type gateway map[overspan.Family]overspan.EndpointID

// gateways has an entry for each sandbox with several endpoints. In every other
// sandbox the only endpoint has the default routes that its network offers.
type gateways map[overspan.SandboxID]gateway

var families = []overspan.Family{overspan.IPv4, overspan.IPv6}

// gatewaysOf chooses which of each sandbox's endpoints its default routes lead
// through: of those in networks that are not internal one that works, before one
// that does not; then the one of the highest priority; then the oldest. It is
// pure, and the order of the attachments does not matter.
func gatewaysOf(attachments []overspan.Attachment, networks map[overspan.NetworkID]*overspan.Network, works func(overspan.Attachment) bool) gateways {
	bySandbox := map[overspan.SandboxID][]overspan.Attachment{}
	for _, a := range attachments {
		bySandbox[a.Sandbox] = append(bySandbox[a.Sandbox], a)
	}
	out := gateways{}
	for sb, several := range bySandbox {
		slices.SortFunc(several, func(a, b overspan.Attachment) int {
			return cmp.Or(
				cmp.Compare(idle(works(a)), idle(works(b))),
				cmp.Compare(b.GatewayPriority, a.GatewayPriority),
				a.Endpoint.Created.Compare(b.Endpoint.Created),
				cmp.Compare(a.Endpoint.ID, b.Endpoint.ID),
			)
		})
		out[sb] = gateway{}
		for _, f := range families {
			first := slices.IndexFunc(several, func(a overspan.Attachment) bool {
				n := networks[a.Endpoint.Network]
				return n != nil && hasAddr(a.Endpoint, f) && bridge.HasGateway(n, f)
			})
			if first >= 0 {
				out[sb][f] = several[first].Endpoint.ID
			}
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

// gateways chooses among this node's endpoints.
func (in planInput) gateways() gateways {
	return gatewaysOf(in.Siblings, in.Snapshot.Networks, in.works)
}

// secondary returns the families whose default route leads through another
// endpoint of the sandbox than this one.
func (g gateways) secondary(a overspan.Attachment) []overspan.Family {
	way, several := g[a.Sandbox]
	if !several {
		return nil
	}
	var out []overspan.Family
	for _, f := range families {
		if way[f] != a.Endpoint.ID {
			out = append(out, f)
		}
	}
	return out
}

// portsAt returns those of a sandbox's published ports that lead to one of its
// endpoints: to the one that has the default route of their family, since answers
// leave by that.
func (in planInput) portsAt(a overspan.Attachment, ways gateways) []overspan.Port {
	ports := in.Ports[a.Sandbox]
	if len(ports) == 0 || !in.works(a) {
		return nil
	}
	way, several := ways[a.Sandbox]
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
func (in planInput) publishing(ways gateways) []overspan.Endpoint {
	if len(in.Ports) == 0 {
		return nil
	}
	var out []overspan.Endpoint
	for i := range in.Attachments {
		e := in.Attachments[i].Endpoint
		if e.Ports = in.portsAt(in.Attachments[i], ways); len(e.Ports) > 0 {
			out = append(out, e)
		}
	}
	return out
}

// rerouted returns the endpoints that have got or lost a default route between
// two inputs: their containers' ends are to be looked at, whatever it was that
// changed.
func rerouted(old, new planInput) []kernel.EndpointKey {
	if sameWays(old, new) {
		return nil
	}
	before, now := old.gateways(), new.gateways()
	differ := map[overspan.EndpointID]struct{}{}
	for _, a := range slices.Concat(old.Siblings, new.Siblings) {
		if !slices.Equal(before.secondary(a), now.secondary(a)) {
			differ[a.Endpoint.ID] = struct{}{}
		}
	}
	if len(differ) == 0 {
		return nil
	}
	var out []kernel.EndpointKey
	for _, a := range new.Attachments { // but for those that are on their way out
		if _, moved := differ[a.Endpoint.ID]; moved {
			out = append(out, endpointKey(a))
		}
	}
	return out
}

// sameWays reports whether no default route can have moved between two inputs.
func sameWays(old, new planInput) bool {
	return old.Snapshot == nil || len(old.Siblings)+len(new.Siblings) == 0 ||
		old.Local == new.Local && old.Snapshot == new.Snapshot && maps.Equal(old.Lost, new.Lost)
}

// movedPorts are published ports that now lead to another endpoint of their sandbox.
// The networks are all of those sandboxes: their bridges have a setting,
// route_localnet, that only published ports need.
type movedPorts struct {
	ports    []overspan.Port
	networks []overspan.NetworkID
}

// rehomed returns the ports that have moved between two inputs.
func rehomed(old, new planInput) movedPorts {
	var out movedPorts
	if sameWays(old, new) || len(old.Ports)+len(new.Ports) == 0 {
		return out
	}
	concerned := map[overspan.SandboxID]struct{}{}
	for _, a := range slices.Concat(old.Siblings, new.Siblings) {
		concerned[a.Sandbox] = struct{}{}
	}
	before, now := old.homes(concerned), new.homes(concerned)
	moved := map[overspan.SandboxID]struct{}{}
	for sb := range concerned {
		for _, p := range slices.Concat(old.Ports[sb], new.Ports[sb]) {
			if before[p] != now[p] && !slices.Contains(out.ports, p) {
				out.ports = append(out.ports, p)
				moved[sb] = struct{}{}
			}
		}
	}
	for _, a := range slices.Concat(old.Siblings, new.Siblings) {
		if _, some := moved[a.Sandbox]; some && !slices.Contains(out.networks, a.Endpoint.Network) {
			out.networks = append(out.networks, a.Endpoint.Network)
		}
	}
	return out
}

// homes returns to which endpoint each published port of some sandboxes leads.
func (in planInput) homes(sandboxes map[overspan.SandboxID]struct{}) map[overspan.Port]overspan.EndpointID {
	out := map[overspan.Port]overspan.EndpointID{}
	ways := in.gateways()
	for _, a := range in.Attachments {
		if _, concerned := sandboxes[a.Sandbox]; concerned {
			for _, p := range in.portsAt(a, ways) {
				out[p] = a.Endpoint.ID
			}
		}
	}
	return out
}
