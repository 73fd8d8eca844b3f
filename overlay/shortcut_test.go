package overlay_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/kernel"
	"github.com/overspan/overspan/overlay"
)

func TestShortcut(t *testing.T) {
	own, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	nodes := map[overspan.NodeID]*overspan.Node{
		self: {ID: self, VTEPs: []netip.Addr{own, netip.MustParseAddr("2001:db8::1")}},
		"a":  {ID: "a", VTEPs: []netip.Addr{other}},
		"b":  {ID: "b", VTEPs: []netip.Addr{netip.MustParseAddr("2001:db8::2")}},
	}
	over := func(name string, f overspan.Family) *overspan.Network {
		return &overspan.Network{Name: name, Driver: overspan.DriverOverlay, Underlay: f}
	}
	four, six, local := over("four", overspan.IPv4), over("six", overspan.IPv6), &overspan.Network{Name: "local", Driver: overspan.DriverBridge}
	at := kernel.Shortcut{Device: "eth0"}
	planned := []string{
		"program eth0 underlay dstport 4789 ip 192.0.2.1 isolated off open attached",
		"set overspan_vteps family ipv4 192.0.2.1 192.0.2.2",
	}
	const onlyIPv4 = "packets from and to other nodes take the slower way by the packet filter: only those over IPv4 can be taken past it"
	for _, row := range []struct {
		name     string
		networks []*overspan.Network
		nodes    map[overspan.NodeID]*overspan.Node
		at       kernel.Shortcut
		lines    []string
		warnings []string
	}{
		{"no network", nil, nodes, at, nil, nil},
		{"none that other nodes send to", []*overspan.Network{local}, nodes, at, nil, nil},
		{"one over IPv4", []*overspan.Network{local, four}, nodes, at, planned, nil},
		{"some over IPv6", []*overspan.Network{six, four, over("also", overspan.IPv6)}, nodes, at, planned, []string{"also, six: " + onlyIPv4}},
		{"all over IPv6", []*overspan.Network{six}, nodes, at, nil, []string{"six: " + onlyIPv4}},
		{
			"a host without",
			[]*overspan.Network{four},
			nodes,
			kernel.Shortcut{Why: "it has no Ethernet"},
			nil,
			[]string{"packets from and to other nodes take the slower way by the packet filter: it has no Ethernet"},
		},
		{"a host without, and none to send to", []*overspan.Network{local}, nodes, kernel.Shortcut{Why: "it has no Ethernet"}, nil, nil},
		{"not registered", []*overspan.Network{four}, nil, at, []string{"partial"}, nil},
	} {
		state, warnings := overlay.Shortcut(row.networks, self, row.nodes, vxlanPort, row.at)
		if diff := cmp.Diff(row.lines, state.Lines()); diff != "" {
			t.Errorf("%s: plan (-want +got):\n%s", row.name, diff)
		}
		if diff := cmp.Diff(row.warnings, warnings); diff != "" {
			t.Errorf("%s: warnings (-want +got):\n%s", row.name, diff)
		}
	}
}

// The program at the underlay knows networks over IPv4 alone.
func TestTunnelTellsItsVNI(t *testing.T) {
	for family, vni := range map[overspan.Family]uint32{overspan.IPv4: demo.VNI, overspan.IPv6: 0} {
		n := *demo
		n.Underlay = family
		if p := overlay.Program(&n); p.VNI != vni {
			t.Errorf("over %s: VNI %d, want %d", family, p.VNI, vni)
		}
	}
}
