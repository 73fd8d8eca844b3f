package kernel

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/overspan/overspan"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// defaultBits: a shorter prefix is a default route, or a piece of one, as VPNs
// set it up (0.0.0.0/1 and 128.0.0.0/1, or 2000::/3).
const defaultBits = 4

// An Underlay is the device that carries a node's VXLAN packets.
type Underlay struct {
	Device string
	MTU    int          // in bytes
	Addrs  []netip.Addr // at most one of each family, IPv4 first
}

// Underlay finds the underlay device by an address of this host, or by its
// name. Given an address, that one stands for its family; of the others, the
// device's first global unicast address is taken.
func (h *Host) Underlay(spec string) (Underlay, error) {
	want, err := netip.ParseAddr(spec)
	if err != nil {
		return h.underlayOf(spec, netip.Addr{})
	}
	want = want.Unmap()
	addrs, err := list(func() ([]netlink.Addr, error) { return h.handle.AddrList(nil, unix.AF_UNSPEC) })
	if err != nil {
		return Underlay{}, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if have, ok := toPrefix(a.IPNet); ok && have.Addr() == want {
			d, err := h.route.linkAt(a.LinkIndex)
			if err != nil {
				return Underlay{}, fmt.Errorf("look up the device of %s: %w", want, err)
			}
			return h.underlayOf(d.name, want)
		}
	}
	return Underlay{}, overspan.Errorf(overspan.ErrNotFound, "address %s is on no interface of this host", want)
}

func (h *Host) underlayOf(name string, want netip.Addr) (Underlay, error) {
	d, err := h.route.link(name)
	if errors.Is(err, errNoDevice) {
		return Underlay{}, overspan.Errorf(overspan.ErrNotFound, "interface %s not found", name)
	}
	if err != nil {
		return Underlay{}, fmt.Errorf("look up %s: %w", name, err)
	}
	addrs, err := h.deviceAddrs(d.index)
	if err != nil {
		return Underlay{}, fmt.Errorf("list addresses of %s: %w", name, err)
	}
	u := Underlay{Device: name, MTU: d.MTU}
	for _, f := range []overspan.Family{overspan.IPv4, overspan.IPv6} {
		if want.IsValid() && overspan.FamilyOf(want) == f {
			u.Addrs = append(u.Addrs, want)
			continue
		}
		if i := slices.IndexFunc(addrs, func(a netip.Addr) bool { return overspan.FamilyOf(a) == f }); i >= 0 {
			u.Addrs = append(u.Addrs, addrs[i])
		}
	}
	if len(u.Addrs) == 0 {
		return Underlay{}, overspan.Errorf(overspan.ErrInvalid, "interface %s has no global unicast address", name)
	}
	return u, nil
}

// deviceAddrs returns a device's lasting global unicast addresses, in the
// kernel's order. Temporary ones (RFC 8981) change by themselves.
func (h *Host) deviceAddrs(index int) ([]netip.Addr, error) {
	link := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: index}}
	addrs, err := list(func() ([]netlink.Addr, error) { return h.handle.AddrList(link, unix.AF_UNSPEC) })
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, a := range addrs {
		p, ok := toPrefix(a.IPNet)
		if !ok || !p.Addr().IsGlobalUnicast() || a.Scope != unix.RT_SCOPE_UNIVERSE {
			continue
		}
		// For IPv4 the flag means "secondary", which is as good as any.
		if p.Addr().Is6() && a.Flags&unix.IFA_F_TEMPORARY != 0 {
			continue
		}
		out = append(out, p.Addr())
	}
	return out, nil
}

// HostRoutes returns the destinations that this host routes by itself, sorted
// and without duplicates: no subnet of ours may overlap one. Default routes,
// loopback, link-local and multicast destinations are left out, and so is all
// that lies on devices of ours.
func (h *Host) HostRoutes() ([]netip.Prefix, error) {
	links, err := h.route.links(0)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	ours := map[int]bool{}
	for _, d := range links {
		ours[d.index] = d.ours()
	}
	found := map[netip.Prefix]struct{}{}
	routes, err := list(func() ([]netlink.Route, error) {
		return h.handle.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		// The local table holds the host's own addresses; they are below.
		if r.Table == unix.RT_TABLE_LOCAL || ours[r.LinkIndex] {
			continue
		}
		addForeign(found, r.Dst)
	}
	addrs, err := list(func() ([]netlink.Addr, error) { return h.handle.AddrList(nil, unix.AF_UNSPEC) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if !ours[a.LinkIndex] {
			addForeign(found, a.IPNet)
		}
	}
	out := make([]netip.Prefix, 0, len(found))
	for p := range found {
		out = append(out, p)
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return out, nil
}

func addForeign(found map[netip.Prefix]struct{}, n *net.IPNet) {
	p, ok := toPrefix(n)
	if !ok || p.Bits() < defaultBits || p.Addr().IsLoopback() || p.Addr().IsMulticast() || p.Addr().IsLinkLocalUnicast() {
		return
	}
	found[p.Masked()] = struct{}{}
}

// toPrefix returns ok false for nil, which is how the netlink package writes
// some default routes.
func toPrefix(n *net.IPNet) (p netip.Prefix, ok bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}, false
	}
	bits, size := n.Mask.Size()
	if size == 32 {
		a = a.Unmap()
	}
	return netip.PrefixFrom(a, bits), true
}

// list repeats a listing of the netlink package that a change interrupted, as
// conn.dump does for our own.
func list[T any](f func() ([]T, error)) ([]T, error) {
	var out []T
	var err error
	for range dumpTries {
		if out, err = f(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return out, err
		}
	}
	return nil, err
}

// compareRoutes orders the routes of an Inside.
func compareRoutes(a, b Route) int {
	return cmp.Or(a.Dst.Compare(b.Dst), a.Via.Compare(b.Via))
}
