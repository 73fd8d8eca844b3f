package daemon

import (
	"net/netip"
	"testing"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/internal/twonodes"
)

func TestChooseInterface(t *testing.T) {
	for _, test := range []struct {
		want, name string
		taken      []string
		fails      bool
	}{
		{name: "eth0", taken: []string{"lo"}},
		{name: "eth1", taken: []string{"lo", "eth0", "eth2"}},
		{want: "net0", name: "net0", taken: []string{"lo", "eth0"}},
		{want: "eth0", taken: []string{"lo", "eth0"}, fails: true},
	} {
		got, err := chooseInterface(test.want, test.taken, "web1")
		if got != test.name || (err != nil) != test.fails {
			t.Errorf("want %q among %v: got %q, %v", test.want, test.taken, got, err)
		}
	}
	for _, bad := range []string{".", "..", "a/b", "a b", "sixteen-letters-", "a:1", "a%d", "all", "default"} {
		if checkInterfaceName(bad) == nil {
			t.Errorf("interface name %q is accepted", bad)
		}
	}
}

func TestMTUOfALocalNetworkIsItsNodes(t *testing.T) {
	nodes := map[overspan.NodeID]*overspan.Node{twonodes.Self: {ID: twonodes.Self, Name: "h1", MTU: 9000}, twonodes.Other: {ID: twonodes.Other, Name: "h2", MTU: 1400}}
	six := overspan.Subnet{Prefix: netip.MustParsePrefix("fd00::/64")}
	for _, test := range []struct {
		name  string
		n     overspan.Network
		named int
		want  int // 0: refused
	}{
		{"overlay", overspan.Network{Driver: overspan.DriverOverlay, Underlay: overspan.IPv4}, 0, 1350},
		{"bridge", overspan.Network{Driver: overspan.DriverBridge, Node: twonodes.Self}, 0, 9000},
		{"bridge beside a larger underlay", overspan.Network{Driver: overspan.DriverBridge, Node: twonodes.Other}, 0, 1400},
		{"named", overspan.Network{Driver: overspan.DriverBridge, Node: twonodes.Other}, 500, 500},
		{"named for IPv6", overspan.Network{Driver: overspan.DriverBridge, Node: twonodes.Other, IPv6: six}, 1279, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := chooseMTU(test.n, test.named, nodes)
			if got != test.want || (err == nil) != (test.want > 0) {
				t.Errorf("%d, %v; want %d", got, err, test.want)
			}
		})
	}
}
