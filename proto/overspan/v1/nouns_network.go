package overspanv1

import (
	"net/netip"
	"slices"

	"github.com/overspan/overspan"
)

// NetworkRecord returns the record of a network.
func NetworkRecord(n overspan.Network) *Network {
	return &Network{
		Id:       string(n.ID),
		Name:     n.Name,
		Driver:   string(n.Driver),
		Node:     string(n.Node),
		Ipv4:     subnetRecord(n.IPv4),
		Ipv6:     subnetRecord(n.IPv6),
		Vni:      n.VNI,
		Underlay: string(n.Underlay),
		Mtu:      uint32(n.MTU),
		Internal: n.Internal,
		Deleting: n.Deleting,
		Options:  n.Options,
		Labels:   n.Labels,
		Created:  stamp(n.Created),

		ConfigOnly: n.ConfigOnly,
		ConfigFrom: n.ConfigFrom,
	}
}

// Noun reads the record. Predefined networks (host, none) are nobody's record.
func (x *Network) Noun() (overspan.Network, error) {
	r := reader{record: "network " + overspan.ShortID(x.GetId())}
	n := overspan.Network{
		ID:       overspan.NetworkID(r.id("id", x.GetId())),
		Name:     r.name("network", x.GetName()),
		Driver:   overspan.Driver(x.GetDriver()),
		Node:     overspan.NodeID(x.GetNode()),
		IPv4:     r.subnet("ipv4", x.GetIpv4(), overspan.IPv4),
		IPv6:     r.subnet("ipv6", x.GetIpv6(), overspan.IPv6),
		VNI:      x.GetVni(),
		Underlay: overspan.Family(x.GetUnderlay()),
		Internal: x.GetInternal(),
		Deleting: x.GetDeleting(),
		Options:  x.GetOptions(),
		Labels:   x.GetLabels(),
		Created:  r.time("created", x.GetCreated()),

		ConfigOnly: x.GetConfigOnly(),
		ConfigFrom: x.GetConfigFrom(),
	}
	if n.ConfigOnly {
		r.config(n, x)
		return result(n, r)
	}
	n.MTU = r.mtu("mtu", x.GetMtu())
	r.check(n.IPv4.IsValid() || n.IPv6.IsValid(), "ipv4 and ipv6", "", "want a subnet")
	r.driver(n)
	return result(n, r)
}

// config checks that a configuration network has nothing that only others have.
func (r *reader) config(n overspan.Network, x *Network) {
	const none = "want none for a configuration network"
	r.check(n.Driver == overspan.DriverNull, "driver", n.Driver, "want null for a configuration network")
	r.check(n.Node == "", "node", n.Node, none)
	r.check(n.VNI == 0, "vni", n.VNI, none)
	r.check(n.Underlay == "", "underlay", n.Underlay, none)
	r.check(x.GetMtu() == 0, "mtu", x.GetMtu(), none)
	r.check(n.ConfigFrom == "", "config_from", n.ConfigFrom, none)
}

// driver checks the fields that an overlay network must have and a bridge must
// not, and the other way round.
func (r *reader) driver(n overspan.Network) {
	switch n.Driver {
	case overspan.DriverOverlay:
		r.check(n.Node == "", "node", n.Node, "want none for an overlay network")
		r.check(n.VNI > 0 && n.VNI <= maxVNI, "vni", n.VNI, "want 1 to 16777215")
		r.check(n.Underlay == overspan.IPv4 || n.Underlay == overspan.IPv6, "underlay", n.Underlay, "want ipv4 or ipv6")
	case overspan.DriverBridge:
		r.id("node", string(n.Node))
		r.check(n.VNI == 0, "vni", n.VNI, "want none for a bridge network")
		r.check(n.Underlay == "", "underlay", n.Underlay, "want none for a bridge network")
	default:
		r.check(false, "driver", n.Driver, "want overlay or bridge")
	}
}

func subnetRecord(s overspan.Subnet) *Subnet {
	if !s.IsValid() {
		return nil
	}
	out := &Subnet{Prefix: s.Prefix.String(), Gateway: text(s.Gateway)}
	if s.Range.IsValid() {
		out.Range = s.Range.String()
	}
	for name, a := range s.Aux {
		if out.Aux == nil {
			out.Aux = make(map[string]string, len(s.Aux))
		}
		out.Aux[name] = a.String()
	}
	return out
}

// subnet reads one family of a network; a missing one is the zero Subnet.
func (r *reader) subnet(field string, x *Subnet, family overspan.Family) overspan.Subnet {
	if x == nil {
		return overspan.Subnet{}
	}
	s := overspan.Subnet{
		Prefix:  r.prefix(field+".prefix", x.GetPrefix()),
		Gateway: r.addrOf(field+".gateway", x.GetGateway(), family),
	}
	if !s.Prefix.IsValid() {
		return s
	}
	r.check(overspan.FamilyOf(s.Prefix.Addr()) == family, field+".prefix", x.GetPrefix(), "want "+string(family))
	inside := func(field string, a netip.Addr) {
		r.check(!a.IsValid() || s.Prefix.Contains(a), field, a, "outside "+s.Prefix.String())
	}
	inside(field+".gateway", s.Gateway)
	if x.GetRange() != "" {
		s.Range = r.prefix(field+".range", x.GetRange())
		inside(field+".range", s.Range.Addr())
		r.check(s.Range.Bits() >= s.Prefix.Bits(), field+".range", x.GetRange(), "larger than "+s.Prefix.String())
	}
	for _, name := range sortedKeys(x.GetAux()) {
		if s.Aux == nil {
			s.Aux = make(map[string]netip.Addr, len(x.GetAux()))
		}
		at := field + ".aux." + name
		s.Aux[name] = r.addr(at, x.GetAux()[name])
		inside(at, s.Aux[name])
	}
	return s
}

// sortedKeys gives the checks an order, so that a bad record always has the
// same error.
func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
