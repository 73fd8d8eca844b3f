package kernel

import (
	"maps"
	"os"
	"strings"

	"github.com/overspan/overspan"
)

// lacksIPv6 reports whether the kernel has been told to have no IPv6, by
// ipv6.disable=1 on its command line. Namespaces have it or lack it all alike.
func lacksIPv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6/conf")
	return os.IsNotExist(err)
}

// withoutIPv6 returns the state without what a kernel needs IPv6 for. Containers'
// ends stay as they are: that one cannot have its address is for its user to know.
func (s State) withoutIPv6() State {
	s.Sysctls = maps.Clone(s.Sysctls)
	maps.DeleteFunc(s.Sysctls, func(path, _ string) bool { return strings.HasPrefix(path, "net/ipv6/") })
	s.Addrs = maps.Clone(s.Addrs)
	s.dropAddrs(func(a Addr) bool { return a.Prefix.Addr().Is6() })
	s.Neighs = maps.Clone(s.Neighs)
	maps.DeleteFunc(s.Neighs, func(k NeighKey, _ LLAddr) bool { return k.IP.Is6() })
	s.Chains = maps.Clone(s.Chains)
	maps.DeleteFunc(s.Chains, func(k ChainKey, _ Chain) bool { return k.Family == overspan.IPv6 })
	return s
}

// checkFamilies refuses a container's end that the kernel has no family for.
func (h *Host) checkFamilies(in Inside) error {
	for _, p := range in.Addrs {
		if h.noIPv6 && p.Addr().Is6() {
			return overspan.Errorf(overspan.ErrUnsupported, "%s cannot have %s: this kernel has no IPv6 (ipv6.disable=1 on its command line): connect to networks without IPv6 on this node, or boot it with IPv6", in.Name, p)
		}
	}
	return nil
}
