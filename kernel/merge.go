package kernel

import (
	"maps"
	"slices"
	"strings"
)

// put sets a key of a map that may be nil.
func put[M ~map[K]V, K comparable, V any](m *M, key K, value V) {
	if *m == nil {
		*m = make(M)
	}
	(*m)[key] = value
}

// Clone returns a copy that shares no map with s. Lists within an Inside or a
// Chain are shared: nobody changes them in place.
func (s State) Clone() State {
	s.Netns = maps.Clone(s.Netns)
	s.Links = maps.Clone(s.Links)
	s.Insides = maps.Clone(s.Insides)
	s.Addrs = maps.Clone(s.Addrs)
	s.FDB = maps.Clone(s.FDB)
	s.Statics = maps.Clone(s.Statics)
	s.Neighs = maps.Clone(s.Neighs)
	s.Sysctls = maps.Clone(s.Sysctls)
	s.Sets = maps.Clone(s.Sets)
	for name, set := range s.Sets {
		s.Sets[name] = set.clone()
	}
	s.Chains = maps.Clone(s.Chains)
	s.Programs = maps.Clone(s.Programs)
	s.Tables = maps.Clone(s.Tables)
	s.Owed = maps.Clone(s.Owed)
	s.Doomed = maps.Clone(s.Doomed)
	return s
}

// Add merges o into s. Where both hold a key, o's value stands; sets become
// the union of both. Both may be used on: no map is shared.
func (s *State) Add(o State) { s.Take(o.Clone()) }

// Take is Add for an o that is not used any more: what s has nothing of it takes
// over as it is, for it may be large.
func (s *State) Take(o State) {
	s.Partial = s.Partial || o.Partial
	s.NoIPv6 = s.NoIPv6 || o.NoIPv6
	s.Netns = merge(s.Netns, o.Netns)
	s.Links = merge(s.Links, o.Links)
	s.Insides = merge(s.Insides, o.Insides)
	s.Addrs = merge(s.Addrs, o.Addrs)
	s.FDB = merge(s.FDB, o.FDB)
	s.Statics = merge(s.Statics, o.Statics)
	s.Neighs = merge(s.Neighs, o.Neighs)
	s.Sysctls = merge(s.Sysctls, o.Sysctls)
	for name, theirs := range o.Sets {
		put(&s.Sets, name, AddrSet{theirs.Family, theirs.Subnets, merge(s.Sets[name].Members, theirs.Members)})
	}
	s.Chains = merge(s.Chains, o.Chains)
	s.Programs = merge(s.Programs, o.Programs)
	s.Tables = merge(s.Tables, o.Tables)
	s.Owed = merge(s.Owed, o.Owed)
	s.Doomed = merge(s.Doomed, o.Doomed)
}

// merge moves src into dst, or is src where there is no dst.
func merge[M ~map[K]V, K comparable, V any](dst, src M) M {
	if len(dst) == 0 && src != nil {
		return src
	}
	maps.Copy(dst, src)
	return dst
}

// Equal reports whether no op leads from one state to the other, and both are
// equally whole. Unlike Diff it compares everything: what only one of the two
// holds is a difference.
func (s State) Equal(o State) bool {
	return s.Partial == o.Partial && s.NoIPv6 == o.NoIPv6 &&
		maps.Equal(s.Netns, o.Netns) &&
		maps.Equal(s.Links, o.Links) &&
		maps.EqualFunc(s.Insides, o.Insides, Inside.equal) &&
		maps.Equal(s.Addrs, o.Addrs) &&
		maps.Equal(s.FDB, o.FDB) &&
		maps.Equal(s.Statics, o.Statics) &&
		maps.Equal(s.Neighs, o.Neighs) &&
		maps.Equal(s.Sysctls, o.Sysctls) &&
		maps.EqualFunc(s.Sets, o.Sets, AddrSet.equal) &&
		equalChains(s.Chains, o.Chains) &&
		maps.Equal(s.Programs, o.Programs) &&
		maps.Equal(s.Tables, o.Tables) &&
		maps.Equal(s.Owed, o.Owed) &&
		maps.Equal(s.Doomed, o.Doomed)
}

func (i Inside) equal(o Inside) bool {
	return i.Netns == o.Netns && i.Missing == o.Missing && i.Name == o.Name &&
		i.MAC == o.MAC && i.MTU == o.MTU && i.Up == o.Up &&
		slices.Equal(i.Addrs, o.Addrs) && slices.Equal(i.Routes, o.Routes) && slices.Equal(i.Sysctls, o.Sysctls)
}

func (a AddrSet) equal(o AddrSet) bool {
	return a.Family == o.Family && a.Subnets == o.Subnets && maps.Equal(a.Members, o.Members)
}

func equalChains(a, b map[ChainKey]Chain) bool {
	if len(a) != len(b) {
		return false
	}
	for key, x := range a {
		y, ok := b[key]
		if !ok || x.Hook != y.Hook || !x.Open && !y.Open && !slices.Equal(x.ids(key.Name), y.ids(key.Name)) {
			return false
		}
	}
	return true
}

func (a AddrSet) clone() AddrSet {
	a.Members = maps.Clone(a.Members)
	return a
}

// dropLink removes a link and all that the kernel drops with it: what only its
// kind can hold is looked for under that kind alone. A bridge's ports are
// released.
func (s *State) dropLink(name string) {
	switch s.Links[name].Kind {
	case KindBridge:
		s.releasePorts(name)
		s.dropAddrs(func(a Addr) bool { return a.Dev == name })
	case KindVXLAN:
		s.dropNeighs(name)
		maps.DeleteFunc(s.FDB, func(k FDBKey, _ Dest) bool { return k.Dev == name })
	case KindVeth:
		delete(s.Insides, name)
	}
	s.dropStatics(name)
	delete(s.Programs, name)
	maps.DeleteFunc(s.Sysctls, func(path, _ string) bool { return sysctlDev(path) == name })
	delete(s.Links, name)
}

func (s *State) releasePorts(bridge string) {
	for name, link := range s.Links {
		if link.Master == bridge {
			link.Master, link.Port = "", Port{}
			s.Links[name] = link
			s.dropStatics(name)
		}
	}
}

func (s *State) dropStatics(dev string) {
	maps.DeleteFunc(s.Statics, func(k FDBKey, _ struct{}) bool { return k.Dev == dev })
}

func (s *State) dropNeighs(dev string) {
	maps.DeleteFunc(s.Neighs, func(k NeighKey, _ LLAddr) bool { return k.Dev == dev })
}

func (s *State) dropAddrs(drop func(Addr) bool) {
	maps.DeleteFunc(s.Addrs, func(a Addr, _ struct{}) bool { return drop(a) })
}

// sysctlDev returns the device whose setting a sysctl is, "" for none:
// net/FAMILY/conf/DEV/KEY and net/FAMILY/neigh/DEV/KEY.
func sysctlDev(path string) string {
	parts := strings.Split(path, "/")
	if len(parts) != 5 || parts[0] != "net" || parts[2] != "conf" && parts[2] != "neigh" {
		return ""
	}
	return parts[3]
}
