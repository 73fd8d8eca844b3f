package kernel

import (
	"maps"
	"net/netip"
	"strings"

	"github.com/overspan/overspan"
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
	s.Doomed = maps.Clone(s.Doomed)
	return s
}

func (a AddrSet) clone() AddrSet {
	a.Addrs = maps.Clone(a.Addrs)
	return a
}

// dropLink removes a link and all that the kernel drops with it; a bridge's
// ports are released first.
func (s *State) dropLink(name string) {
	for port, link := range s.Links {
		if link.Master == name {
			link.Master, link.Port = "", Port{}
			s.Links[port] = link
			s.dropStatics(port)
		}
	}
	delete(s.Links, name)
	delete(s.Insides, name)
	s.dropStatics(name)
	s.dropNeighs(name)
	s.dropAddrs(func(a Addr) bool { return a.Dev == name })
	maps.DeleteFunc(s.FDB, func(k FDBKey, _ netip.Addr) bool { return k.Dev == name })
	maps.DeleteFunc(s.Sysctls, func(path, _ string) bool { return sysctlDev(path) == name })
}

func (s *State) dropStatics(dev string) {
	maps.DeleteFunc(s.Statics, func(k FDBKey, _ struct{}) bool { return k.Dev == dev })
}

func (s *State) dropNeighs(dev string) {
	maps.DeleteFunc(s.Neighs, func(k NeighKey, _ overspan.MAC) bool { return k.Dev == dev })
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
