package kernel

import (
	"net/netip"
	"slices"

	"github.com/overspan/overspan"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// What package nl does not name of linux/netfilter/nfnetlink_conntrack.h, and the
// kernel's own names for what a filter compares.
const (
	ctaFilter          = 25 // CTA_FILTER, since Linux 5.8: older kernels list everything
	ctaFilterOrigFlags = 1
	filterProtocol     = 1 << 3
	filterDstPort      = 1 << 5
)

// conntrackMessage returns a request to conntrack.
func conntrackMessage(command int, f overspan.Family, parts ...*nl.RtAttr) message {
	all := []nl.NetlinkRequestData{&nl.Nfgenmsg{NfgenFamily: nfFamily(f), Version: nl.NFNETLINK_V0}}
	for _, p := range parts {
		all = append(all, p)
	}
	return newMessage(command|unix.NFNL_SUBSYS_CTNETLINK<<8, 0, all...)
}

// onlyTo limits a listing to the entries of a flow's protocol and port.
func onlyTo(f Flow) []*nl.RtAttr {
	return []*nl.RtAttr{
		nest(nl.CTA_TUPLE_ORIG|unix.NLA_F_NESTED, nest(nl.CTA_TUPLE_PROTO|unix.NLA_F_NESTED,
			rtaU8(nl.CTA_PROTO_NUM, protocolNumbers[f.Protocol]), rtaPort(nl.CTA_PROTO_DST_PORT, f.Dst.Port()))),
		nest(ctaFilter|unix.NLA_F_NESTED, rtaU32(ctaFilterOrigFlags, filterProtocol|filterDstPort)),
	}
}

// A conntrackEntry is what conntrack knows of a flow.
type conntrackEntry struct {
	family   overspan.Family
	protocol uint8
	to       netip.AddrPort // as the sender has it
	answers  netip.AddrPort // who answers: where it leads

	// The attributes that name the entry, as the kernel wrote them: the tuple, its
	// zone, and an id that no later entry of the same tuple has.
	tuple, zone, id []byte
}

// decodeConntrack reads an entry. What it does not tell is zero.
func decodeConntrack(b []byte) conntrackEntry {
	e := conntrackEntry{family: overspan.IPv4}
	if len(b) > 0 && b[0] == unix.AF_INET6 {
		e.family = overspan.IPv6
	}
	for kind, v := range walk(b[min(len(b), nl.SizeofNfgenmsg):]) {
		switch kind {
		case nl.CTA_TUPLE_ORIG:
			e.tuple = slices.Clone(v)
			e.protocol, _, e.to = decodeTuple(v)
		case nl.CTA_TUPLE_REPLY:
			_, e.answers, _ = decodeTuple(v)
		case nl.CTA_ZONE:
			e.zone = slices.Clone(v)
		case nl.CTA_ID:
			e.id = slices.Clone(v)
		}
	}
	return e
}

func decodeTuple(b []byte) (protocol uint8, src, dst netip.AddrPort) {
	var srcAddr, dstAddr netip.Addr
	var srcPort, dstPort uint16
	for kind, v := range walk(b) {
		for inner, v := range walk(v) {
			switch {
			case kind == nl.CTA_TUPLE_IP && (inner == nl.CTA_IP_V4_SRC || inner == nl.CTA_IP_V6_SRC):
				srcAddr = getAddr(v)
			case kind == nl.CTA_TUPLE_IP && (inner == nl.CTA_IP_V4_DST || inner == nl.CTA_IP_V6_DST):
				dstAddr = getAddr(v)
			case kind == nl.CTA_TUPLE_PROTO && inner == nl.CTA_PROTO_NUM:
				protocol = getU8(v)
			case kind == nl.CTA_TUPLE_PROTO && inner == nl.CTA_PROTO_SRC_PORT:
				srcPort = getPort(v)
			case kind == nl.CTA_TUPLE_PROTO && inner == nl.CTA_PROTO_DST_PORT:
				dstPort = getPort(v)
			}
		}
	}
	return protocol, netip.AddrPortFrom(srcAddr, srcPort), netip.AddrPortFrom(dstAddr, dstPort)
}

// deletion returns the message that deletes the entry, and no later one.
func (e conntrackEntry) deletion() message {
	parts := []*nl.RtAttr{rta(nl.CTA_TUPLE_ORIG|unix.NLA_F_NESTED, e.tuple)}
	if e.zone != nil {
		parts = append(parts, rta(nl.CTA_ZONE, e.zone))
	}
	if e.id != nil {
		parts = append(parts, rta(nl.CTA_ID, e.id))
	}
	return conntrackMessage(nl.IPCTNL_MSG_CT_DELETE, e.family, parts...)
}
