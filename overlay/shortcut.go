package overlay

import (
	"fmt"
	"slices"
	"strings"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/kernel"
)

// Shortcut plans what takes packets of the tunnel past the packet filter of node
// self, where there is a device for it: from all registered nodes, and for those
// of its networks that are told their VNI. A warning says of which networks all
// packets take the kernel's way, and why.
func Shortcut(networks []*overspan.Network, self overspan.NodeID, nodes map[overspan.NodeID]*overspan.Node, port uint16, at kernel.Shortcut) (kernel.State, []string) {
	var takes bool
	var others []string
	for _, n := range networks {
		switch {
		case n.Driver != overspan.DriverOverlay:
		case n.Underlay == overspan.IPv4:
			takes = true
		default:
			others = append(others, n.Name)
		}
	}
	var warnings []string
	if len(others) > 0 {
		slices.Sort(others)
		warnings = append(warnings, fmt.Sprintf("%s: packets from and to other nodes take the slower way by the packet filter: only those over IPv4 can be taken past it",
			strings.Join(others, ", ")))
	}
	node := nodes[self]
	switch {
	case !takes:
		return kernel.State{}, warnings
	case node == nil:
		return kernel.State{Partial: true}, warnings // which is told with each network
	case at.Why != "":
		return kernel.State{}, append(warnings, "packets from and to other nodes take the slower way by the packet filter: "+at.Why)
	}
	return kernel.State{
		Sets: map[string]kernel.AddrSet{
			kernel.UnderlayVTEPs: {Family: overspan.IPv4, Members: vteps(nodes, overspan.IPv4)},
		},
		Programs: map[string]kernel.Program{
			at.Device: {Kind: kernel.ProgramUnderlay, IPv4: node.VTEP(overspan.IPv4), Port: port, Open: true, Attached: true},
		},
	}, warnings
}
