package kernel

import (
	"encoding/binary"
	"iter"
	"net/netip"

	"github.com/overspan/overspan"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// typeMask takes NLA_F_NESTED and NLA_F_NET_BYTEORDER off an attribute's type.
const typeMask = ^uint16(unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)

// walk walks over netlink attributes. It stops where they are malformed: what
// is missing then reads as zero.
func walk(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofRtAttr {
			size := int(binary.NativeEndian.Uint16(b))
			if size < unix.SizeofRtAttr || size > len(b) {
				return
			}
			if !yield(binary.NativeEndian.Uint16(b[2:])&typeMask, b[unix.SizeofRtAttr:size]) {
				return
			}
			b = b[min(len(b), (size+unix.RTA_ALIGNTO-1)&^(unix.RTA_ALIGNTO-1)):]
		}
	}
}

func getU8(b []byte) uint8 {
	if len(b) < 1 {
		return 0
	}
	return b[0]
}

func getU32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}

// getPort reads a 16-bit number in network order.
func getPort(b []byte) uint16 {
	if len(b) < 2 {
		return 0
	}
	return binary.BigEndian.Uint16(b)
}

// getMAC returns the zero MAC for link-layer addresses that are no MACs.
func getMAC(b []byte) overspan.MAC {
	var m overspan.MAC
	if len(b) == len(m) {
		copy(m[:], b)
	}
	return m
}

func getAddr(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a
}

func rta(kind int, value []byte) *nl.RtAttr     { return nl.NewRtAttr(kind, value) }
func rtaU8(kind int, value uint8) *nl.RtAttr    { return nl.NewRtAttr(kind, []byte{value}) }
func rtaU32(kind int, value uint32) *nl.RtAttr  { return nl.NewRtAttr(kind, nl.Uint32Attr(value)) }
func rtaText(kind int, value string) *nl.RtAttr { return nl.NewRtAttr(kind, nl.ZeroTerminated(value)) }

func rtaPort(kind int, value uint16) *nl.RtAttr {
	return nl.NewRtAttr(kind, nl.BEUint16Attr(value))
}

func rtaFlag(kind int, on bool) *nl.RtAttr {
	if on {
		return rtaU8(kind, 1)
	}
	return rtaU8(kind, 0)
}

// nest puts attributes into another.
func nest(kind int, inner ...*nl.RtAttr) *nl.RtAttr {
	outer := nl.NewRtAttr(kind, nil)
	for _, a := range inner {
		outer.AddChild(a)
	}
	return outer
}

func afInet(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
