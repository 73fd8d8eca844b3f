package lab

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// An Underlay says which families the hosts' interfaces have addresses of.
type Underlay int

// The underlays.
const (
	UnderlayIPv4 Underlay = iota
	UnderlayIPv6
	UnderlayDual
)

// The underlay's subnets. Host number n has the address base + n.
var (
	underlay4 = netip.MustParsePrefix("10.99.0.0/24")
	underlay6 = netip.MustParsePrefix("fd99::/64")
)

// etcdNumber is the number of the host that etcd's first member runs on.
const etcdNumber = 250

// switchMTU is what the switch forwards; hosts may have less.
const switchMTU = 9216

// addrs returns the underlay addresses of host number n.
func (u Underlay) addrs(n uint8) []netip.Addr {
	v4, v6 := underlay4.Addr().As4(), underlay6.Addr().As16()
	v4[3], v6[15] = n, n
	switch u {
	case UnderlayIPv4:
		return []netip.Addr{netip.AddrFrom4(v4)}
	case UnderlayIPv6:
		return []netip.Addr{netip.AddrFrom16(v6)}
	default:
		return []netip.Addr{netip.AddrFrom4(v4), netip.AddrFrom16(v6)}
	}
}

// A segment is the underlay: a bridge in a namespace of its own, with one port
// per host, named like it.
type segment struct {
	net   namespace
	links *netlink.Handle
	swtch *netlink.Bridge
}

func newSegment() (*segment, error) {
	ns, err := newNamespace()
	if err != nil {
		return nil, err
	}
	s := &segment{net: ns}
	if s.links, err = netlink.NewHandleAt(netns.NsHandle(ns.fd())); err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	snooping := false
	s.swtch = &netlink.Bridge{
		LinkAttrs:         netlink.LinkAttrs{Name: "switch", MTU: switchMTU},
		MulticastSnooping: &snooping,
	}
	if err := s.links.LinkAdd(s.swtch); err != nil {
		return nil, fmt.Errorf("make the switch: %w", err)
	}
	if err := s.links.LinkSetUp(s.swtch); err != nil {
		return nil, fmt.Errorf("start the switch: %w", err)
	}
	return s, nil
}

// plug connects a host, with its addresses and the MTU of its interface.
func (s *segment) plug(h *Host, mtu int) error {
	veth := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: h.Name, MTU: switchMTU, MasterIndex: s.swtch.Index},
		PeerName:      underlayDev,
		PeerNamespace: netlink.NsFd(h.net.fd()),
	}
	if err := s.links.LinkAdd(veth); err != nil {
		return fmt.Errorf("plug in host %s: %w", h.Name, err)
	}
	if err := s.set(h, true); err != nil {
		return err
	}
	eth0, err := h.links.LinkByName(underlayDev)
	if err != nil {
		return fmt.Errorf("find %s of host %s: %w", underlayDev, h.Name, err)
	}
	lo, err := h.links.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo of host %s: %w", h.Name, err)
	}
	// No waiting for duplicate address detection: link-local addresses are of
	// use at once.
	if err := h.Sysctl(map[string]string{"net/ipv6/conf/" + underlayDev + "/accept_dad": "0"}); err != nil {
		return err
	}
	if err := h.links.LinkSetMTU(eth0, mtu); err != nil {
		return fmt.Errorf("set MTU %d on host %s: %w", mtu, h.Name, err)
	}
	for _, a := range h.Addrs {
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(underlay4.Bits(), 32)}}
		if a.Is6() {
			addr.Mask = net.CIDRMask(underlay6.Bits(), 128)
		}
		if err := h.links.AddrAdd(eth0, addr); err != nil {
			return fmt.Errorf("add address %s on host %s: %w", a, h.Name, err)
		}
	}
	for _, l := range []netlink.Link{lo, eth0} {
		if err := h.links.LinkSetUp(l); err != nil {
			return fmt.Errorf("set %s up on host %s: %w", l.Attrs().Name, h.Name, err)
		}
	}
	return nil
}

// set takes a host's cable out, or puts it back in.
func (s *segment) set(h *Host, up bool) error {
	port, err := s.links.LinkByName(h.Name)
	if err != nil {
		return fmt.Errorf("find the switch port of host %s: %w", h.Name, err)
	}
	change := s.links.LinkSetDown
	if up {
		change = s.links.LinkSetUp
	}
	if err := change(port); err != nil {
		return fmt.Errorf("switch the port of host %s: %w", h.Name, err)
	}
	return nil
}

func (s *segment) close() {
	if s.links != nil {
		s.links.Close()
	}
	s.net.close()
}
