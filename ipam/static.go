package ipam

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/overspan/overspan"
)

// decideExact is Decide for a certain address.
func (v View) decideExact(r Request) (Decision, error) {
	slot, err := staticSlot(v.Network, r.Addr)
	if err != nil {
		return nil, err
	}
	if e := v.Segment.Endpoints.Get(slot); e != nil {
		return nil, overspan.Errorf(overspan.ErrInUse, "address already in use: endpoint %s on node %s has %s in network %s%s",
			e.Name, v.Name(e.Node), r.Addr, v.Network.Name, v.away(e.Node))
	}
	if v.used(slot) {
		return nil, v.inUse(r.Addr, v.Self)
	}
	block, held := v.Segment.Holder(slot)
	if !held {
		single := overspan.BlockAt(slot, 1)
		for _, avoid := range r.Avoid {
			if avoid.Overlaps(single) {
				return nil, overspan.Errorf(overspan.ErrUnavailable,
					"address %s of network %s cannot be claimed although nobody seems to hold it: try again, or look for unreadable records with ctl status",
					r.Addr, v.Network.Name)
			}
		}
		return Claim{Range: single}, nil
	}
	if block.Node == v.Self {
		return Take{Slot: slot, Block: block}, nil
	}
	if _, refused := r.Refused[block.Node]; refused {
		return nil, v.inUse(r.Addr, block.Node)
	}
	if !v.Up(block.Node) {
		return nil, overspan.Errorf(overspan.ErrUnavailable,
			"address %s of network %s is held by node %s, which is away: take another address, wait until the node is back, or remove it for good with ctl node rm %s",
			r.Addr, v.Network.Name, v.Name(block.Node), v.Name(block.Node))
	}
	return Ask{Holder: block.Node, Slot: &slot}, nil
}

func (v View) inUse(a netip.Addr, holder overspan.NodeID) error {
	return overspan.Errorf(overspan.ErrInUse, "address already in use: %s of network %s is held by node %s",
		a, v.Network.Name, v.Name(holder))
}

// away adds to an error that a node which is away is its cause; "" if it is up.
func (v View) away(node overspan.NodeID) string {
	if node == v.Self || v.Up(node) {
		return ""
	}
	return fmt.Sprintf("; that node is away: wait until it is back, or remove it for good with ctl node rm %s", v.Name(node))
}

// staticSlot returns the slot of an address that a user asks for; ErrInvalid if
// it is outside the network's subnets or never lent.
func staticSlot(n *overspan.Network, a netip.Addr) (overspan.Slot, error) {
	subnet := n.IPv4
	if a.Is6() {
		subnet = n.IPv6
	}
	if !subnet.IsValid() || !subnet.Prefix.Contains(a) {
		return 0, overspan.Errorf(overspan.ErrInvalid, "address %s is not in this network's subnets (%s)", a, prefixes(n))
	}
	slot, ok := subnet.Slot(a)
	if !ok {
		return 0, overspan.Errorf(overspan.ErrInvalid, "address %s is too far up in %s: only the first 2^64 addresses can be lent", a, subnet.Prefix)
	}
	if n.Reserved(slot) == "" {
		return slot, nil
	}
	// A slot is reserved in both families; say whose address it is.
	alone := overspan.Network{IPv4: n.IPv4}
	other := n.IPv6
	if a.Is6() {
		alone, other = overspan.Network{IPv6: n.IPv6}, n.IPv4
	}
	if why := alone.Reserved(slot); why != "" {
		return 0, overspan.Errorf(overspan.ErrInvalid, "address %s is %s of network %s", a, why, n.Name)
	}
	return 0, overspan.Errorf(overspan.ErrInvalid, "address %s cannot be lent: %s, which goes with it, is %s of network %s",
		a, other.Addr(slot), n.Reserved(slot), n.Name)
}

// prefixes returns a network's subnets as text.
func prefixes(n *overspan.Network) string {
	var out []string
	for _, s := range []overspan.Subnet{n.IPv4, n.IPv6} {
		if s.IsValid() {
			out = append(out, s.Prefix.String())
		}
	}
	return strings.Join(out, ", ")
}
