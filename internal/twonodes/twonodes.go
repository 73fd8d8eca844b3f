// Package twonodes is the cluster that tests of the agent plan for: the overlay
// network demo with a block on each of two nodes, and endpoint web1 on the first.
package twonodes

import (
	"net/netip"

	"github.com/overspan/overspan"
)

// What there is.
const (
	Self  = overspan.NodeID("aaaa")
	Other = overspan.NodeID("bbbb")
	Demo  = overspan.NetworkID("1111111111222222222233333333334444444444555555555566666666667777")
	Web   = overspan.EndpointID("8888888888222222222233333333334444444444555555555566666666667777")
)

// Network returns demo.
func Network() *overspan.Network {
	return &overspan.Network{
		ID:       Demo,
		Name:     "demo",
		Driver:   overspan.DriverOverlay,
		IPv4:     overspan.Subnet{Prefix: netip.MustParsePrefix("10.1.0.0/24"), Gateway: netip.MustParseAddr("10.1.0.1")},
		VNI:      1 << 20,
		Underlay: overspan.IPv4,
		MTU:      1450,
	}
}

// Attachment returns how web1 is plugged in.
func Attachment() overspan.Attachment {
	n := Network()
	web := overspan.Endpoint{
		ID: Web, Network: n.ID, Node: Self, Name: "web1", Slot: 2, Slots: []overspan.Slot{2},
		IPv4: netip.MustParseAddr("10.1.0.2"), MAC: n.MAC(2), Interface: "eth0",
	}
	return overspan.Attachment{Endpoint: web, Sandbox: "s", Netns: "/run/netns/web1", Committed: true}
}

// Snapshot returns what etcd holds.
func Snapshot() *overspan.Snapshot {
	n, web := Network(), Attachment().Endpoint
	return &overspan.Snapshot{
		Revision: 7,
		Nodes: map[overspan.NodeID]*overspan.Node{
			Self:  {ID: Self, Name: "h1", VTEPs: []netip.Addr{netip.MustParseAddr("10.99.0.1")}, MTU: 1500},
			Other: {ID: Other, Name: "h2", VTEPs: []netip.Addr{netip.MustParseAddr("10.99.0.2")}, MTU: 1500},
		},
		Networks: map[overspan.NetworkID]*overspan.Network{n.ID: n},
		Segments: overspan.IDMapOf(map[overspan.NetworkID]*overspan.Segment{n.ID: {
			Revision: 7,
			Blocks: overspan.SlotMapOf(map[overspan.Slot]overspan.Block{
				0:  {Range: overspan.Range{First: 0, Size: 16}, Node: Self, CreateRevision: 3, ModRevision: 3},
				16: {Range: overspan.Range{First: 16, Size: 2}, Node: Other, CreateRevision: 4, ModRevision: 4, Ack: true},
			}),
			Endpoints: overspan.SlotMapOf(map[overspan.Slot]*overspan.Endpoint{2: &web}),
		}}),
	}
}
