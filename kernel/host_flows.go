package kernel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/overspan/overspan"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// protocolNumbers are what IP calls the protocols.
var protocolNumbers = map[overspan.Protocol]uint8{
	overspan.TCP:  unix.IPPROTO_TCP,
	overspan.UDP:  unix.IPPROTO_UDP,
	overspan.SCTP: unix.IPPROTO_SCTP,
}

// parseFlow reads what a rule publishes, as iptables-save prints it; the zero
// Flow if it publishes nothing. A rule that names no address serves all of the
// host's.
func parseFlow(spec string) Flow {
	values := map[string]string{}
	words := strings.Fields(quoted.ReplaceAllString(spec, "TEXT"))
	for i, word := range words[:max(0, len(words)-1)] {
		values[word] = words[i+1]
	}
	to, err := netip.ParseAddrPort(values["--to-destination"])
	port, bad := strconv.ParseUint(values["--dport"], 10, 16)
	if err != nil || bad != nil {
		return Flow{}
	}
	dst := netip.IPv4Unspecified()
	if to.Addr().Is6() {
		dst = netip.IPv6Unspecified()
	}
	if host, named := values["-d"]; named {
		bare, _, _ := strings.Cut(host, "/")
		if dst, err = netip.ParseAddr(bare); err != nil {
			return Flow{}
		}
	}
	return Flow{Protocol: overspan.Protocol(values["-p"]), Dst: netip.AddrPortFrom(dst, uint16(port)), To: to}
}

// flushFlows deletes conntrack's entries that a packet to a published port would
// follow elsewhere than its rule says. Entries of others, and those that lead
// where they should, stay.
func (h *Host) flushFlows(ctx context.Context, o FlushFlows) error {
	local, err := h.localAddrs()
	if err != nil {
		return err
	}
	filters := map[netlink.InetFamily][]netlink.CustomConntrackFilter{}
	for _, f := range o.Flows {
		family := netlink.InetFamily(unix.AF_INET)
		if f.Dst.Addr().Is6() {
			family = unix.AF_INET6
		}
		filters[family] = append(filters[family], strayFlows{f, local})
	}
	for family, of := range filters {
		if err := h.deleteFlows(ctx, family, of); err != nil {
			return fmt.Errorf("delete conntrack entries: %w", err)
		}
	}
	return nil
}

// deleteFlows looks through the whole table, again if that changed meanwhile so
// much that some may have been missed.
func (h *Host) deleteFlows(ctx context.Context, family netlink.InetFamily, filters []netlink.CustomConntrackFilter) (err error) {
	for range dumpTries {
		_, err = h.conntrack.ConntrackDeleteFilters(netlink.ConntrackTable, family, filters...)
		if !errors.Is(err, netlink.ErrDumpInterrupted) || ctx.Err() != nil {
			break
		}
	}
	return err
}

// localAddrs returns the addresses of the host's devices.
func (h *Host) localAddrs() (map[netip.Addr]struct{}, error) {
	found, err := h.route.addrs(0)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	out := make(map[netip.Addr]struct{}, len(found))
	for _, a := range found {
		out[a.prefix.Addr()] = struct{}{}
	}
	return out, nil
}

// strayFlows matches the entries of a flow that lead elsewhere.
type strayFlows struct {
	flow  Flow
	local map[netip.Addr]struct{}
}

// MatchConntrackFlow is called by package netlink for every entry.
func (s strayFlows) MatchConntrackFlow(entry *netlink.ConntrackFlow) bool {
	dst := addrPort(entry.Forward.DstIP, entry.Forward.DstPort)
	if entry.Forward.Protocol != protocolNumbers[s.flow.Protocol] || dst.Port() != s.flow.Dst.Port() {
		return false
	}
	if s.flow.Dst.Addr().IsUnspecified() {
		// What only passes through this host to the same port elsewhere is not
		// ours.
		if _, here := s.local[dst.Addr()]; !here && !dst.Addr().IsLoopback() {
			return false
		}
	} else if dst != s.flow.Dst {
		return false
	}
	return addrPort(entry.Reverse.SrcIP, entry.Reverse.SrcPort) != s.flow.To
}

func addrPort(ip net.IP, port uint16) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(addr.Unmap(), port)
}
