package overspan

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
)

// A Slot is the number of an address in its network: IPv4 = subnet base + slot,
// IPv6 = subnet base + slot. One slot, one endpoint.
type Slot uint64

// DerivedSlots bounds the slots whose MAC follows from them; those at or above
// it are exceptions. Dynamic addresses always lie below.
const DerivedSlots Slot = 1 << 32

// MaxBlockSize is the largest block, in slots. Blocks are powers of two.
const MaxBlockSize = 64

// A Range is Size consecutive slots from First on. As a block it is aligned:
// First is a multiple of Size, and Size a power of two.
type Range struct {
	First Slot
	Size  uint64
}

// Contains reports whether the slot lies in the range.
func (r Range) Contains(s Slot) bool { return s >= r.First && uint64(s-r.First) < r.Size }

// Overlaps reports whether the two ranges share a slot.
func (r Range) Overlaps(o Range) bool { return r.Contains(o.First) || o.Contains(r.First) }

// Last returns the last slot of a non-empty range.
func (r Range) Last() Slot { return r.First + Slot(r.Size-1) }

// IsBlock reports whether the range has the shape of a block.
func (r Range) IsBlock() bool {
	return r.Size >= 1 && r.Size <= MaxBlockSize && bits.OnesCount64(r.Size) == 1 && uint64(r.First)%r.Size == 0
}

func (r Range) String() string { return fmt.Sprintf("%d-%d", r.First, r.Last()) }

// BlockSizes returns the closed set of block sizes, smallest first.
func BlockSizes() []uint64 { return []uint64{1, 2, 4, 8, 16, 32, 64} }

// BlockAt returns the block of a size that a slot lies in.
func BlockAt(s Slot, size uint64) Range { return Range{First: s &^ Slot(size-1), Size: size} }

// Addr returns the subnet's address of a slot; the zero Addr if the subnet is
// unset or too small.
func (s Subnet) Addr(slot Slot) netip.Addr {
	if !s.IsValid() {
		return netip.Addr{}
	}
	base := s.Prefix.Masked().Addr()
	host := base.BitLen() - s.Prefix.Bits()
	if host < 64 && uint64(slot)>>host != 0 {
		return netip.Addr{}
	}
	if base.Is4() {
		raw := base.As4()
		binary.BigEndian.PutUint32(raw[:], binary.BigEndian.Uint32(raw[:])+uint32(slot))
		return netip.AddrFrom4(raw)
	}
	raw := base.As16()
	// The low 64 bits of a base are zero below its prefix, so no carry leaves them.
	low := binary.BigEndian.Uint64(raw[8:])
	binary.BigEndian.PutUint64(raw[8:], low+uint64(slot))
	return netip.AddrFrom16(raw)
}

// Slot returns the slot of an address of the subnet; ok is false if the
// address lies outside it, or 2^64 or more above its base.
func (s Subnet) Slot(a netip.Addr) (slot Slot, ok bool) {
	if !s.IsValid() || !s.Prefix.Contains(a) {
		return 0, false
	}
	base := s.Prefix.Masked().Addr()
	if base.Is4() {
		x, y := a.As4(), base.As4()
		return Slot(binary.BigEndian.Uint32(x[:]) - binary.BigEndian.Uint32(y[:])), true
	}
	x, y := a.As16(), base.As16()
	if binary.BigEndian.Uint64(x[:8]) != binary.BigEndian.Uint64(y[:8]) {
		return 0, false
	}
	return Slot(binary.BigEndian.Uint64(x[8:]) - binary.BigEndian.Uint64(y[8:])), true
}

// MAC returns the MAC of a slot: 02:42 and the four bytes of its IPv4 address,
// or the low four bytes of its IPv6 address where the network has no IPv4. A
// slot for which that would not be unique gets an address outside the derived
// space, made from the network's id and the slot: an exception.
func (n *Network) MAC(slot Slot) MAC {
	if n.Derives(slot) {
		var low [4]byte
		if n.IPv4.IsValid() {
			low = n.IPv4.Addr(slot).As4()
		} else {
			raw := n.IPv6.Addr(slot).As16()
			copy(low[:], raw[12:])
		}
		return MAC{0x02, 0x42, low[0], low[1], low[2], low[3]}
	}
	return hashMAC(fmt.Sprintf("%s/%d", n.ID, slot))
}

// Derives reports whether the slot's MAC follows from its address.
func (n *Network) Derives(slot Slot) bool {
	if slot >= DerivedSlots {
		return false
	}
	if n.IPv4.IsValid() {
		return n.IPv4.Addr(slot).IsValid()
	}
	return n.IPv6.Addr(slot).IsValid()
}

// Slots returns how many slots have an address in every family of the
// network, at most DerivedSlots: dynamic addresses come from below it.
func (n *Network) Slots() Slot {
	limit := DerivedSlots
	for _, s := range []Subnet{n.IPv4, n.IPv6} {
		if !s.IsValid() {
			continue
		}
		if host := s.Prefix.Addr().BitLen() - s.Prefix.Bits(); host < 32 {
			limit = min(limit, Slot(1)<<host)
		}
	}
	return limit
}

// Reserved reports whether a slot is never lent, and why: "" if it may be.
// Slot 0 is the network's own address (in IPv6 the routers' anycast address,
// RFC 4291 section 2.6.1).
func (n *Network) Reserved(slot Slot) string {
	if slot == 0 {
		return "the network address"
	}
	if n.IPv4.IsValid() {
		host := 32 - n.IPv4.Prefix.Bits()
		if slot == Slot(1)<<host-1 {
			return "the broadcast address"
		}
	}
	for _, s := range []Subnet{n.IPv4, n.IPv6} {
		if at, ok := s.Slot(s.Gateway); ok && at == slot {
			return "the gateway"
		}
		for name, a := range s.Aux {
			if at, ok := s.Slot(a); ok && at == slot {
				return fmt.Sprintf("the auxiliary address %q", name)
			}
		}
	}
	return ""
}

// Families lists the families that the network has a subnet of.
func (n *Network) Families() []Family {
	var out []Family
	if n.IPv4.IsValid() {
		out = append(out, IPv4)
	}
	if n.IPv6.IsValid() {
		out = append(out, IPv6)
	}
	return out
}

// GatewayMAC returns the MAC of the network's gateway, the same on every node.
func (n *Network) GatewayMAC() MAC {
	for _, s := range []Subnet{n.IPv4, n.IPv6} {
		if at, ok := s.Slot(s.Gateway); ok {
			return n.MAC(at)
		}
	}
	return hashMAC(string(n.ID) + "/gateway")
}

// IsException reports whether peers must be told of the endpoint one by one:
// its MAC does not follow from each slot that it owns.
func (n *Network) IsException(e Endpoint) bool {
	for _, s := range e.Slots {
		if !n.Derives(s) || n.MAC(s) != e.MAC {
			return true
		}
	}
	return false
}
