// Package overlay plans what joins a network's bridges on many nodes: the
// VXLAN device, its forwarding and neighbour entries for every slot in blocks
// of other nodes, and the rules that guard the tunnel.
//
// It is pure: it reads nouns and returns a kernel.State, with no clock,
// randomness or I/O. Bridges and endpoints of this node are planned by package
// bridge. The one idea: a slot lives where its block's holder is, whether or
// not anybody uses it, so an endpoint can come and go without a peer's work.
package overlay

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/bridge"
	"github.com/overspan/overspan/kernel"
)

// Plan returns what the kernel of node self should hold for the tunnel of an
// overlay network, with warnings for the operator about what cannot be carried.
// It takes time in proportion to the slots in blocks of other nodes.
//
// A block of a node that is not in nodes is left out until that is known. Where
// the interior of the network or this node's own address is not known, the
// State is partial: then nothing that exists is to be deleted.
func Plan(n *overspan.Network, self overspan.NodeID, seg *overspan.Segment, nodes map[overspan.NodeID]*overspan.Node, port uint16) (kernel.State, []string) {
	p := planner{network: n, dev: overspan.VXLANName(n.ID), segment: seg}
	p.state.Partial = seg.Bad > 0
	local := p.local(nodes[self])
	if !local.IsValid() {
		p.state.Partial = true
		return p.state, p.warnings
	}
	p.state.Links = map[string]kernel.Link{p.dev: device(n, local, port)}
	p.holders(self, nodes)
	p.blocks()
	p.exceptions()
	return p.state, p.warnings
}

// A planner holds what one call of Plan works on.
type planner struct {
	network  *overspan.Network
	dev      string
	segment  *overspan.Segment
	vteps    map[overspan.NodeID]netip.Addr // of the other nodes that hold blocks
	state    kernel.State
	warnings []string
}

func (p *planner) warn(format string, args ...any) {
	p.warnings = append(p.warnings, fmt.Sprintf(format, args...))
}

// local returns this node's end of the tunnel; the zero Addr if it has none.
func (p *planner) local(self *overspan.Node) netip.Addr {
	n := p.network
	if self == nil {
		p.warn("network %s: this node is not registered: its tunnel is left as it is", n.Name)
		return netip.Addr{}
	}
	vtep := self.VTEP(n.Underlay)
	if !vtep.IsValid() {
		p.warn("network %s: this node has no %s address in the underlay: its tunnel is left as it is", n.Name, n.Underlay)
		return netip.Addr{}
	}
	if room := MTU(self.MTU, n.Underlay); room < n.MTU {
		p.warn("network %s: its MTU is %d, but this node's underlay carries only %d (%d less the tunnel's headers): larger packets are lost",
			n.Name, n.MTU, room, self.MTU)
	}
	return vtep
}

// device plans the VXLAN device, a port of the network's bridge.
func device(n *overspan.Network, local netip.Addr, port uint16) kernel.Link {
	return kernel.Link{
		Kind:   kernel.KindVXLAN,
		Alias:  overspan.NetworkAlias(n.ID),
		MAC:    deviceMAC(n.ID),
		MTU:    n.MTU,
		Up:     true,
		Master: overspan.BridgeName(n.ID),
		VXLAN: kernel.VXLAN{
			VNI:         n.VNI,
			Port:        port,
			Local:       local,
			Learning:    false,
			Proxy:       true,
			AddrGenNone: true,
		},
		Port: kernel.Port{
			// The bridge knows its own containers only: what it does not know
			// goes here, and the device drops what it has no entry for.
			Flood: true,
			// A frame from the tunnel never goes back into it. Its sender took
			// this node for the holder; when a block has just moved, two nodes
			// would otherwise throw the frame to and fro.
			Hairpin: false,
			// What passes between two nodes is between endpoints too.
			Isolated: !bridge.OptionsOf(n).ICC,
		},
	}
}

// Program plans what passes on, straight from the VXLAN device, what is for an
// endpoint of this node; ports find the device by it. Where endpoints are apart,
// those of other nodes are too.
func Program(n *overspan.Network) kernel.Program {
	p := kernel.Program{
		Kind: kernel.ProgramTunnel, Bridge: overspan.BridgeName(n.ID), Open: true, Attached: true,
		Isolated: !bridge.OptionsOf(n).ICC,
	}
	if n.Underlay == overspan.IPv4 {
		p.VNI = n.VNI // see Shortcut
	}
	return p
}

// deviceMAC makes a MAC for the VXLAN device, outside the derived space. No
// frame ever carries it, but it must be chosen: a kernel's choice could not be
// told from a stranger's change, which drops all permanent neighbours.
func deviceMAC(id overspan.NetworkID) overspan.MAC {
	sum := sha256.Sum256([]byte(id + "/vxlan"))
	return overspan.MAC{0x06, sum[0], sum[1], sum[2], sum[3], sum[4]}
}

// holders finds the tunnel's other ends.
func (p *planner) holders(self overspan.NodeID, nodes map[overspan.NodeID]*overspan.Node) {
	p.vteps = make(map[overspan.NodeID]netip.Addr)
	slots := 0
	var mute []overspan.NodeID
	for b := range p.segment.Blocks.Values() {
		node := nodes[b.Node]
		if b.Node == self || node == nil {
			continue
		}
		vtep := node.VTEP(p.network.Underlay)
		if !vtep.IsValid() {
			mute = append(mute, b.Node)
			continue
		}
		p.vteps[b.Node] = vtep
		slots += int(b.Size)
	}
	p.state.FDB = make(map[kernel.FDBKey]kernel.Dest, slots)
	families := 0
	for _, subnet := range []overspan.Subnet{p.network.IPv4, p.network.IPv6} {
		if subnet.IsValid() {
			families++
		}
	}
	p.state.Neighs = make(map[kernel.NeighKey]kernel.LLAddr, families*slots)
	slices.Sort(mute)
	for _, id := range slices.Compact(mute) {
		p.warn("network %s: node %s (%s) has no %s address in the underlay: its containers cannot be reached",
			p.network.Name, nodes[id].Name, overspan.ShortID(id), p.network.Underlay)
	}
}

// blocks plans every slot of every block of another node, used or not. Own
// slots have no entries here: duplicate address detection would find them.
func (p *planner) blocks() {
	for b := range p.segment.Blocks.Values() {
		if vtep, remote := p.vteps[b.Node]; remote {
			for slot := range each([]overspan.Range{b.Range}) {
				p.slot(slot, vtep)
			}
		}
	}
}

// slot plans what follows from a slot and who holds it.
func (p *planner) slot(s overspan.Slot, vtep netip.Addr) {
	n := p.network
	if !n.Derives(s) || n.Reserved(s) != "" {
		return
	}
	mac := n.MAC(s)
	p.state.FDB[kernel.FDBKey{Dev: p.dev, MAC: mac}] = kernel.Dest{VTEP: vtep}
	for _, subnet := range []overspan.Subnet{n.IPv4, n.IPv6} {
		p.neighbour(subnet.Addr(s), mac)
	}
}

// exceptions plans, one by one, the remote endpoints whose MAC does not follow
// from every slot of theirs. As everywhere the holder of the block says where a
// slot lives, not the record of who uses it.
func (p *planner) exceptions() {
	for s, e := range p.segment.Endpoints.All() {
		if !p.network.IsException(*e) {
			continue
		}
		block, _ := p.segment.Holder(s)
		if vtep, remote := p.vteps[block.Node]; remote {
			p.exception(s, e, vtep)
		}
	}
}

// exception plans what one slot of an exception adds to, or puts in the place
// of, what follows from the slot.
func (p *planner) exception(s overspan.Slot, e *overspan.Endpoint, vtep netip.Addr) {
	n := p.network
	if n.Reserved(s) != "" {
		return
	}
	if e.MAC.IsDerived() && e.MAC != n.MAC(e.Slot) {
		p.warn("network %s: endpoint %s claims %s, the MAC address of another slot: slot %d is left as it is", n.Name, e.Name, e.MAC, s)
		return
	}
	if s == e.Slot {
		p.state.FDB[kernel.FDBKey{Dev: p.dev, MAC: e.MAC}] = kernel.Dest{VTEP: vtep}
	}
	for _, subnet := range []overspan.Subnet{n.IPv4, n.IPv6} {
		if a := subnet.Addr(s); a == e.IPv4 || a == e.IPv6 {
			p.neighbour(a, e.MAC)
		}
	}
}

func (p *planner) neighbour(a netip.Addr, mac overspan.MAC) {
	if a.IsValid() {
		p.state.Neighs[kernel.NeighKey{Dev: p.dev, IP: a}] = kernel.LLAddr{MAC: mac}
	}
}
