package overlay

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/kernel"
)

// The chains and sets that this package plans.
const (
	chainRaw    = "OVERSPAN-RAW"
	chainVXLAN  = "OVERSPAN-RAW-VXLAN"
	chainTunnel = "OVERSPAN-RAW-TUNNEL"
	chainRawOut = "OVERSPAN-RAW-OUT"

	setVTEPs4 = "overspan-vtep4"
	setVTEPs6 = "overspan-vtep6"
)

// lastVNI is the largest VXLAN network identifier: it has 24 bits.
const lastVNI = 1<<24 - 1

// Rules returns the rules that guard the tunnel, and the sets of VTEPs that
// they ask. Packets to the VXLAN port are judged in the raw table: a container's
// is dropped before it could be masqueraded as this node's own, and the tunnel's
// are never tracked.
//
// The sources of packets are not authenticated: whoever can send with a
// registered VTEP's address on the underlay can inject frames.
func Rules(nodes map[overspan.NodeID]*overspan.Node, vnis overspan.VNIRange, port uint16) kernel.State {
	s := kernel.State{
		Sets: map[string]kernel.AddrSet{
			setVTEPs4: {Family: overspan.IPv4, Members: vteps(nodes, overspan.IPv4)},
			setVTEPs6: {Family: overspan.IPv6, Members: vteps(nodes, overspan.IPv6)},
		},
		Chains: make(map[kernel.ChainKey]kernel.Chain),
	}
	vxlan := fmt.Sprintf("-p udp --dport %d", port)
	const toNode = "-m addrtype --dst-type LOCAL"
	for f, set := range map[overspan.Family]string{overspan.IPv4: setVTEPs4, overspan.IPv6: setVTEPs6} {
		toVTEP := "-m set --match-set " + set + " dst"
		add := func(name, hook string, rules ...string) {
			chain := kernel.Chain{Hook: hook}
			for _, text := range rules {
				chain.Rules = append(chain.Rules, kernel.Rule{Text: text})
			}
			s.Chains[kernel.ChainKey{Family: f, Table: "raw", Name: name}] = chain
		}
		// This one rule is all that other packets meet.
		add(chainRaw, "PREROUTING", vxlan+" -j "+chainVXLAN)
		add(chainVXLAN, "",
			// Containers of ours send to no address of this node.
			"-i osb-+ "+toNode+" -j DROP",
			// What peers send is decided here, early: each look at a set or at
			// the type of an address costs every packet of the tunnel.
			"-m set --match-set "+set+" src "+toNode+" -g "+chainTunnel,
			// Nobody sends to another node by way of this one. Between two
			// containers the port is one like any other: what is bridged from
			// one to the other has no VTEP for its destination.
			toVTEP+" -m addrtype ! --dst-type LOCAL -j DROP",
			toNode+ourVNIs(f, vnis)+" -j DROP",
			toNode+" -j CT --notrack",
		)
		add(chainTunnel, "", "-j CT --notrack")
		add(chainRawOut, "OUTPUT", vxlan+" "+toVTEP+" -j CT --notrack")
	}
	return s
}

// ourVNIs matches a stranger's packet unless its VNI can be seen to be outside
// our range: that is other software's, on the same port. Where it cannot be
// seen, in a fragment or behind IPv6 extension headers, which no kernel's VXLAN
// sends, the packet counts as meant for us.
func ourVNIs(f overspan.Family, vnis overspan.VNIRange) string {
	foreign := foreignVNIs(vnis)
	if foreign == "" {
		return ""
	}
	// The VNI is the three bytes that follow 12 bytes after the start of the
	// UDP header. In IPv4 that start is where the header's length says (byte 0,
	// low half, in units of 4); in IPv6 it is at 40 if byte 6, the type of the
	// next header, says UDP.
	vni := "0>>22&0x3C@12>>8=" + foreign
	if f == overspan.IPv6 {
		vni = "4>>8&0xFF=17&&52>>8=" + foreign
	}
	return ` -m u32 ! --u32 "` + vni + `"`
}

// foreignVNIs returns the VNIs that are not ours as u32 writes ranges; "" if
// all are ours.
func foreignVNIs(ours overspan.VNIRange) string {
	var ranges []string
	if ours.First > 0 {
		ranges = append(ranges, fmt.Sprintf("0:%d", ours.First-1))
	}
	if ours.Last < lastVNI {
		ranges = append(ranges, fmt.Sprintf("%d:%d", ours.Last+1, lastVNI))
	}
	return strings.Join(ranges, ",")
}

func vteps(nodes map[overspan.NodeID]*overspan.Node, f overspan.Family) map[netip.Prefix]struct{} {
	out := make(map[netip.Prefix]struct{})
	for _, n := range nodes {
		if a := n.VTEP(f); a.IsValid() {
			out[kernel.Single(a)] = struct{}{}
		}
	}
	return out
}
