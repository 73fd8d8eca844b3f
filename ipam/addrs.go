package ipam

import (
	"net/netip"

	"github.com/overspan/overspan"
)

// Addrs are the addresses that an endpoint must have. A zero one is left to
// the node's choice.
type Addrs struct {
	IPv4 netip.Addr
	IPv6 netip.Addr
}

// split turns the addresses asked for into requests for slots, IPv4's first,
// in which the zero Addr stands for any slot. There are two where one slot
// cannot serve both families: two addresses that are not a pair, or one whose
// slot has no address in the other family.
func (want Addrs) split(n *overspan.Network) ([]netip.Addr, error) {
	if want.IPv4.IsValid() && !want.IPv4.Is4() {
		return nil, overspan.Errorf(overspan.ErrInvalid, "%s is not an IPv4 address", want.IPv4)
	}
	if want.IPv6.IsValid() && !want.IPv6.Is6() {
		return nil, overspan.Errorf(overspan.ErrInvalid, "%s is not an IPv6 address", want.IPv6)
	}
	var slot4, slot6 overspan.Slot
	var err error
	if want.IPv4.IsValid() {
		if slot4, err = staticSlot(n, want.IPv4); err != nil {
			return nil, err
		}
	}
	if want.IPv6.IsValid() {
		if slot6, err = staticSlot(n, want.IPv6); err != nil {
			return nil, err
		}
	}
	switch {
	case want.IPv4.IsValid() && want.IPv6.IsValid() && slot4 != slot6:
		return []netip.Addr{want.IPv4, want.IPv6}, nil
	case want.IPv4.IsValid() && n.IPv6.IsValid() && !n.IPv6.Addr(slot4).IsValid():
		return []netip.Addr{want.IPv4, {}}, nil
	case want.IPv6.IsValid() && n.IPv4.IsValid() && !n.IPv4.Addr(slot6).IsValid():
		return []netip.Addr{{}, want.IPv6}, nil
	case want.IPv4.IsValid():
		return []netip.Addr{want.IPv4}, nil
	}
	return []netip.Addr{want.IPv6}, nil
}
