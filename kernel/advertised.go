package kernel

import (
	"fmt"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Advertised returns the devices of the host that must keep listening to router
// advertisements once it forwards IPv6, sorted by name. Unless their accept_ra
// is 2 the kernel then ignores advertisements, and drops at once the default
// routes that it had from them (rt6_purge_dflt_routers in net/ipv6/route.c).
func (h *Host) Advertised() ([]string, error) {
	links, err := h.route.links(0)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	routes, err := list(func() ([]netlink.Route, error) {
		return h.handle.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list IPv6 routes: %w", err)
	}
	routed := map[int]bool{}
	for _, r := range routes {
		if p, ok := toPrefix(r.Dst); r.Protocol == unix.RTPROT_RA && (!ok || p.Bits() == 0) {
			routed[r.LinkIndex] = true
		}
	}
	var out []string
	for _, d := range links {
		if hasOurName(d.name) {
			continue
		}
		settings, err := h.readSysctls([]string{ipv6Setting(d.name, "accept_ra"), ipv6Setting(d.name, "forwarding")})
		if err != nil {
			return nil, fmt.Errorf("read the IPv6 settings of %s: %w", d.name, err)
		}
		l := listener{
			acceptRA: settings[ipv6Setting(d.name, "accept_ra")],
			forwards: settings[ipv6Setting(d.name, "forwarding")] != "0",
			routed:   routed[d.index],
			nic:      slices.Contains([]LinkKind{"", "bond", "team", "vlan"}, d.Kind) && d.master == 0 && d.name != "lo",
		}
		if l.advertised() {
			out = append(out, d.name)
		}
	}
	slices.Sort(out)
	return out, nil
}

func ipv6Setting(dev, key string) string { return filepath.Join("net/ipv6/conf", dev, key) }

// A listener is what decides whether a device goes on listening to router
// advertisements.
type listener struct {
	acceptRA string // "0", "1", "2"; "" where the device has no IPv6
	forwards bool
	routed   bool // the kernel has a default route by it from an advertisement
	nic      bool // may be the way out: a NIC or a bond, team or VLAN of some; no bridge, and no port of a link
}

// advertised: where accept_ra is 0 the kernel does not listen, though another
// program may. A NIC is listened to also before the first advertisement has
// come, as when the host has just booted.
func (l listener) advertised() bool {
	switch l.acceptRA {
	case "", "0":
		return false
	case "1":
		return l.routed || l.nic && !l.forwards
	}
	return l.routed || l.nic
}
