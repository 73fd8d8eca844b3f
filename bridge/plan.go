// Package bridge plans what a network needs on a node apart from the tunnel:
// the bridge with the gateway's addresses, a veth pair for each endpoint of the
// node, and the filter rules for all of that.
//
// It is pure: it reads nouns and returns a kernel.State, with no clock,
// randomness or I/O. It does not decide which slot an endpoint has, nor reach
// other nodes: that is ipam's and overlay's work. An overlay network is a
// bridge network whose bridge has one more port, so both kinds come here.
package bridge

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/kernel"
)

// A Port is an endpoint of this node and where it is plugged in.
type Port struct {
	Endpoint overspan.Endpoint
	Netns    string // path of the sandbox's namespace

	// Enslaved puts the host end on the bridge. It is false while the
	// endpoint's record is not committed, and for good once its slot is no
	// longer this node's: such a port speaks to nobody.
	Enslaved bool

	// Secondary are the families whose default route leads through another
	// endpoint of the sandbox.
	Secondary []overspan.Family

	// Options are those of the endpoint, as the user wrote them.
	Options map[string]string

	// Guard is what this host can hold the endpoint to its own addresses with.
	Guard kernel.Guard
}

// Plan returns what the kernel should hold for a network on this node: the
// bridge, the gateway's addresses on it, and every port.
func Plan(n *overspan.Network, ports []Port) kernel.State {
	dev := overspan.BridgeName(n.ID)
	s := newState(len(ports))
	s.Links[dev] = kernel.Link{
		Kind:  kernel.KindBridge,
		Alias: overspan.NetworkAlias(n.ID),
		// The same on every node, so that a default route survives whatever
		// happens to this bridge, and never that of a port.
		MAC: n.GatewayMAC(),
		MTU: n.MTU,
		Up:  true,
		// Users find it by the name that they have chosen; it is ours by its own.
		AltName: OptionsOf(n).Name,
	}
	for _, subnet := range []overspan.Subnet{n.IPv4, n.IPv6} {
		if subnet.IsValid() && subnet.Gateway.IsValid() {
			s.Addrs[kernel.Addr{Dev: dev, Prefix: within(subnet, subnet.Gateway)}] = struct{}{}
		}
	}
	if n.IPv6.IsValid() && n.IPv6.Gateway.IsValid() {
		// The kernel asks for the neighbour of a packet that it forwards under its
		// link-local address, and without one not at all. The bridge has none by
		// itself; this one is the same on every node, as its MAC is.
		s.Addrs[kernel.Addr{Dev: dev, Prefix: netip.PrefixFrom(n.GatewayMAC().LinkLocal(), 64)}] = struct{}{}
	}
	// A host otherwise answers ARP for any of its addresses on any device:
	// containers would find the gateways of other networks on theirs.
	s.Sysctls["net/ipv4/conf/"+dev+"/arp_ignore"] = "1"
	// A host that does not forward otherwise takes its default route from
	// whatever container sends a router advertisement.
	s.Sysctls["net/ipv6/conf/"+dev+"/accept_ra"] = "0"
	// See routeLoopback.
	s.Sysctls[routeLoopback(n)] = "0"
	for _, p := range ports {
		addPort(&s, n, p)
	}
	return s
}

// routeLoopback is the switch that lets the kernel route 127.0.0.0/8 by the
// bridge: only so a container is reached by a port that is published there. It
// is off where none is, for then nothing but the rules keeps containers from
// what listens on the node's loopback.
func routeLoopback(n *overspan.Network) string {
	return "net/ipv4/conf/" + overspan.BridgeName(n.ID) + "/" + routeLocalnet
}

const routeLocalnet = "route_localnet"

// IsForPorts reports whether a sysctl is one that only published ports need.
func IsForPorts(path string) bool { return strings.HasSuffix(path, "/"+routeLocalnet) }

// PlanPort returns what the kernel should hold for one port: the part of Plan
// that a scope of this endpoint alone sees.
func PlanPort(n *overspan.Network, p Port) kernel.State {
	s := newState(1)
	addPort(&s, n, p)
	return s
}

func newState(ports int) kernel.State {
	return kernel.State{
		Links:    make(map[string]kernel.Link, ports+1),
		Programs: make(map[string]kernel.Program, ports),
		Insides:  make(map[string]kernel.Inside, ports),
		Addrs:    make(map[kernel.Addr]struct{}),
		Statics:  make(map[kernel.FDBKey]struct{}, ports),
		Sysctls:  make(map[string]string),
	}
}

func addPort(s *kernel.State, n *overspan.Network, p Port) {
	dev := overspan.VethName(p.Endpoint.ID)
	host := kernel.Link{
		Kind:  kernel.KindVeth,
		Alias: overspan.EndpointAlias(n.ID, p.Endpoint.ID),
		MTU:   n.MTU,
		// Up before it is enslaved, so that the container's end has its carrier
		// by the time that the port opens and the first packet is not lost.
		Up: true,
	}
	if p.Enslaved {
		host.Master = overspan.BridgeName(n.ID)
		// The static entry below says where the MAC is: nothing is learned, and
		// what the bridge does not know is not here. Hairpin lets a container
		// reach itself by an address that leads back to it.
		// Between isolated ports nothing passes. A program checks more than the
		// lock, which is for hosts without one.
		host.Port = kernel.Port{
			Learning: false, Flood: false, Hairpin: true,
			Isolated: !OptionsOf(n).ICC,
			Locked:   p.Guard.Locked && !p.Guard.Programs,
		}
		s.Statics[kernel.FDBKey{Dev: dev, MAC: p.Endpoint.MAC}] = struct{}{}
		if entersByLoopback(p.Endpoint) {
			s.Sysctls[routeLoopback(n)] = "1"
		}
	}
	s.Links[dev] = host
	s.Insides[dev] = inside(n, p)
	if p.Guard.Programs {
		s.Programs[dev] = program(n, p, host)
	}
}

// program plans what judges the endpoint's frames and passes them on. It is there
// before the port is on the bridge, but lets nothing pass until then.
func program(n *overspan.Network, p Port, host kernel.Link) kernel.Program {
	return kernel.Program{
		Kind:     kernel.ProgramPort,
		Bridge:   overspan.BridgeName(n.ID),
		MAC:      p.Endpoint.MAC,
		IPv4:     p.Endpoint.IPv4,
		IPv6:     p.Endpoint.IPv6,
		Gateway:  n.GatewayMAC(),
		Isolated: host.Port.Isolated,
		Open:     p.Enslaved,
		Attached: true,
	}
}

// HasGateway reports whether endpoints of the network can have the default route
// of their sandboxes, for a family.
func HasGateway(n *overspan.Network, f overspan.Family) bool {
	return !n.Internal && subnetOf(n, f).Gateway.IsValid()
}

func subnetOf(n *overspan.Network, f overspan.Family) overspan.Subnet {
	if f == overspan.IPv6 {
		return n.IPv6
	}
	return n.IPv4
}

// inside plans the container's end. The default routes go by the gateway,
// which is on this node whatever node that is.
func inside(n *overspan.Network, p Port) kernel.Inside {
	in := kernel.Inside{
		Netns: p.Netns,
		Name:  p.Endpoint.Interface,
		MAC:   p.Endpoint.MAC,
		MTU:   n.MTU,
		Up:    true,

		Sysctls: EndpointOptionsOf(p.Options).sysctls(p.Endpoint.Interface),
	}
	for _, a := range p.Endpoint.Addrs() {
		family, everywhere := overspan.FamilyOf(a), netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if family == overspan.IPv6 {
			everywhere = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		subnet := subnetOf(n, family)
		in.Addrs = append(in.Addrs, within(subnet, a))
		if HasGateway(n, family) && !slices.Contains(p.Secondary, family) {
			in.Routes = append(in.Routes, kernel.Route{Dst: everywhere, Via: subnet.Gateway, Metric: kernel.RouteMetric(p.Endpoint.Interface, family)})
		}
	}
	slices.SortFunc(in.Addrs, netip.Prefix.Compare)
	slices.SortFunc(in.Routes, func(a, b kernel.Route) int { return a.Dst.Compare(b.Dst) })
	return in
}

// within returns an address with the length of its subnet's prefix.
func within(s overspan.Subnet, a netip.Addr) netip.Prefix {
	return netip.PrefixFrom(a, s.Prefix.Bits())
}
