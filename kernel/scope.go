package kernel

import (
	"maps"
	"slices"

	"github.com/overspan/overspan"
)

// Within returns the part of s that a Read of the scope returns. It shares no
// map with s.
func (s State) Within(scope Scope) State {
	out := s.devicesWithin(scope)
	out.Partial, out.NoIPv6 = s.Partial, s.NoIPv6
	for _, key := range scope.Endpoints {
		veth := overspan.VethName(key.Endpoint)
		if in, ok := s.Insides[veth]; ok && key.Netns != "" {
			in.Sysctls = slices.DeleteFunc(slices.Clone(in.Sysctls), func(s Sysctl) bool {
				return !slices.Contains(scope.InsideSysctls[veth], s.Path)
			})
			put(&out.Insides, veth, in)
		}
	}
	for _, path := range scope.Sysctls {
		if value, ok := s.Sysctls[path]; ok {
			put(&out.Sysctls, path, value)
		}
	}
	for _, key := range scope.Chains {
		if c, ok := s.Chains[key]; ok {
			c.Hook = ""
			put(&out.Chains, key, c)
		}
	}
	for _, name := range scope.Sets {
		if set, ok := s.Sets[name]; ok {
			put(&out.Sets, name, set.clone())
		}
	}
	if scope.All || scope.Global {
		global := State{Netns: s.Netns, Sets: s.Sets, Chains: s.Chains, Owed: s.Owed}.Clone()
		out.Netns, out.Sets, out.Chains, out.Owed = global.Netns, global.Sets, global.Chains, global.Owed
		for dev, p := range s.Programs {
			if !hasOurName(dev) {
				put(&out.Programs, dev, p)
			}
		}
	}
	if scope.Tables {
		out.Tables = maps.Clone(s.Tables)
	}
	return out
}

// WithSysctls returns the scope with the sysctls that a plan sets: of the host,
// and of the containers' ends.
func (sc Scope) WithSysctls(want State) Scope {
	sc.Sysctls = slices.Sorted(maps.Keys(want.Sysctls))
	sc.InsideSysctls = make(map[string][]string)
	for veth, in := range want.Insides {
		for _, s := range in.Sysctls {
			sc.InsideSysctls[veth] = append(sc.InsideSysctls[veth], s.Path)
		}
	}
	return sc
}

// devicesWithin returns the links of a scope and what hangs on them. The time
// it takes for single endpoints and entries does not depend on how many others
// there are.
func (s State) devicesWithin(scope Scope) State {
	if scope.All {
		return State{Links: s.Links, Addrs: s.Addrs, FDB: s.FDB, Statics: s.Statics, Neighs: s.Neighs, Programs: s.Programs, Doomed: s.Doomed}.Clone()
	}
	var out State
	if len(scope.Networks) > 0 {
		out = State{Links: s.Links, Addrs: s.Addrs, FDB: s.FDB, Statics: s.Statics, Neighs: s.Neighs, Programs: s.Programs, Doomed: s.Doomed}.Clone()
		maps.DeleteFunc(out.Links, func(name string, l Link) bool { return !scope.takesNetworkOf(name, l) })
		out.keepEntriesOf(out.Links)
	}
	for _, key := range scope.Endpoints {
		s.copyVeth(&out, overspan.VethName(key.Endpoint))
	}
	for _, key := range scope.FDB {
		if dst, ok := s.FDB[key]; ok {
			put(&out.FDB, key, dst)
		}
	}
	for _, key := range scope.Neighs {
		if mac, ok := s.Neighs[key]; ok {
			put(&out.Neighs, key, mac)
		}
	}
	return out
}

// copyVeth copies what there is of one veth.
func (s State) copyVeth(out *State, veth string) {
	if _, doomed := s.Doomed[veth]; doomed {
		put(&out.Doomed, veth, struct{}{})
	}
	l, ok := s.Links[veth]
	if !ok {
		return
	}
	put(&out.Links, veth, l)
	if p, ok := s.Programs[veth]; ok {
		put(&out.Programs, veth, p)
	}
	for k := range s.Statics {
		if k.Dev == veth {
			put(&out.Statics, k, struct{}{})
		}
	}
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
	maps.DeleteFunc(s.FDB, func(k FDBKey, _ Dest) bool { return other(k.Dev) })
	maps.DeleteFunc(s.Statics, func(k FDBKey, _ struct{}) bool { return other(k.Dev) })
	maps.DeleteFunc(s.Neighs, func(k NeighKey, _ LLAddr) bool { return other(k.Dev) })
	maps.DeleteFunc(s.Programs, func(dev string, _ Program) bool { return other(dev) })
	s.dropAddrs(func(a Addr) bool { return other(a.Dev) })
}
