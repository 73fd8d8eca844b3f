package overlay_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/bridge"
	"github.com/overspan/overspan/internal/nstest"
	"github.com/overspan/overspan/kernel"
	"github.com/overspan/overspan/overlay"
)

// TestPlansMakeAMesh brings the plans of two nodes into real kernels and sends
// one packet each way: nothing but the plans tells either where the other is.
func TestPlansMakeAMesh(t *testing.T) {
	for _, underlay := range []overspan.Family{overspan.IPv4, overspan.IPv6} {
		t.Run("over "+string(underlay), func(t *testing.T) { testMesh(t, underlay) })
	}
}

func testMesh(t *testing.T, underlay overspan.Family) {
	n := *demo
	n.Underlay, n.MTU = underlay, overlay.MTU(1500, underlay)
	nodes := map[overspan.NodeID]*overspan.Node{
		"1": {ID: "1", MTU: 1500, VTEPs: addrs("10.99.0.1", "fd99::1")},
		"2": {ID: "2", MTU: 1500, VTEPs: addrs("10.99.0.2", "fd99::2")},
	}
	seg := &overspan.Segment{Blocks: overspan.SlotMapOf(map[overspan.Slot]overspan.Block{
		2: {Range: overspan.Range{First: 2, Size: 2}, Node: "1"},
		4: {Range: overspan.Range{First: 4, Size: 4}, Node: "2"},
	})}

	hosts := map[overspan.NodeID]*nstest.Namespace{"1": nstest.New(t, "node1"), "2": nstest.New(t, "node2")}
	nstest.Join(hosts["1"], "eth0", hosts["2"], "eth0")
	boxes := make(map[overspan.NodeID]*nstest.Namespace)
	for id, slot := range map[overspan.NodeID]overspan.Slot{"1": 2, "2": 5} {
		hosts[id].Script(fmt.Sprintf("link set eth0 up\naddr add 10.99.0.%[1]s/24 dev eth0\naddr add fd99::%[1]s/64 dev eth0 nodad", id))
		boxes[id] = nstest.New(t, "box"+string(id))
		want, _ := overlay.Plan(&n, id, seg, nodes, vxlanPort)
		want.Add(bridge.Plan(&n, []bridge.Port{{
			Netns: boxes[id].Path(), Enslaved: true,
			Endpoint: overspan.Endpoint{
				ID: overspan.EndpointID(strings.Repeat(string(id), 64)), Network: n.ID, Slot: slot, Slots: []overspan.Slot{slot},
				IPv4: n.IPv4.Addr(slot), IPv6: n.IPv6.Addr(slot), MAC: n.MAC(slot), Interface: "eth0",
			},
		}}))
		want.Add(bridge.Rules([]*overspan.Network{&n}, nil))
		want.Add(overlay.Rules(nodes, ours, vxlanPort))
		hosts[id].Apply(kernel.Scope{All: true, Endpoints: []kernel.EndpointKey{{
			Network: n.ID, Endpoint: overspan.EndpointID(strings.Repeat(string(id), 64)), Netns: boxes[id].Path(),
		}}}, want)
	}
	hosts["1"].Meet("10.99.0.2", "fd99::2")

	for _, address := range []string{"10.0.0.5", "fd00::5"} {
		boxes["1"].Run("ping", "-c", "1", "-W", "2", address)
		// What just fits, unfragmented; the headers of IP and ICMP come on top.
		headers := map[bool]int{false: 28, true: 48}[strings.Contains(address, ":")]
		boxes["1"].Run("ping", "-c", "1", "-W", "2", "-M", "do", "-s", fmt.Sprint(n.MTU-headers), address)
	}
	boxes["2"].Run("ping", "-c", "1", "-W", "2", "10.0.0.2")
}
