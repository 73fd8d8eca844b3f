package kernel

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/overspan/overspan"
)

// Within returns the part of s that a Read of the scope returns.
func (s State) Within(scope Scope) State {
	out := s.Clone()
	insides := make(map[string]string) // namespace by veth
	for _, key := range scope.Endpoints {
		insides[overspan.VethName(key.Endpoint)] = key.Netns
	}
	maps.DeleteFunc(out.Insides, func(veth string, _ Inside) bool { return insides[veth] == "" })
	maps.DeleteFunc(out.Sysctls, func(path, _ string) bool { return !slices.Contains(scope.Sysctls, path) })
	if scope.All {
		return out
	}
	if !scope.Global {
		out.Netns, out.Sets, out.Chains = nil, nil, nil
	}
	maps.DeleteFunc(out.Links, func(name string, l Link) bool { return !scope.takes(name, l) })
	out.keepEntriesOf(out.Links)
	if len(scope.Networks) == 0 {
		maps.DeleteFunc(out.Doomed, func(name string, _ struct{}) bool {
			_, named := insides[name]
			return !named
		})
	}
	return out
}

// takes reports whether a link is in the scope.
func (sc Scope) takes(name string, l Link) bool {
	return sc.takesNetworkOf(name, l) ||
		slices.ContainsFunc(sc.Endpoints, func(k EndpointKey) bool { return overspan.VethName(k.Endpoint) == name })
}

// takesNetworkOf reports whether the network of a link is in the scope, by the
// link's alias or its name: one of them may have been changed.
func (sc Scope) takesNetworkOf(name string, l Link) bool {
	network, _, _ := overspan.ParseAlias(l.Alias)
	return slices.ContainsFunc(sc.Networks, func(id overspan.NetworkID) bool {
		return network == id || name == overspan.BridgeName(id) || name == overspan.VXLANName(id)
	})
}

// keepEntriesOf drops the entries of all devices but links.
func (s *State) keepEntriesOf(links map[string]Link) {
	other := func(dev string) bool {
		_, ok := links[dev]
		return !ok
	}
	maps.DeleteFunc(s.Insides, func(veth string, _ Inside) bool { return other(veth) })
	maps.DeleteFunc(s.FDB, func(k FDBKey, _ netip.Addr) bool { return other(k.Dev) })
	maps.DeleteFunc(s.Statics, func(k FDBKey, _ struct{}) bool { return other(k.Dev) })
	maps.DeleteFunc(s.Neighs, func(k NeighKey, _ overspan.MAC) bool { return other(k.Dev) })
	s.dropAddrs(func(a Addr) bool { return other(a.Dev) })
}
