package overlay_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/kernel"
	"github.com/overspan/overspan/overlay"
)

const self overspan.NodeID = "self"

// TestPlanFollowsTheHolders asks the plans of random clusters about every slot
// and compares with what the slot's holder alone says.
func TestPlanFollowsTheHolders(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n, nodes := drawNetwork(t), cluster()
		seg := drawSegment(t, n)
		state, _ := overlay.Plan(n, self, seg, nodes, vxlanPort)

		fdb, neighs := expect(n, seg, nodes)
		addrs := cmpopts.EquateComparable(netip.Addr{})
		if diff := cmp.Diff(fdb, state.FDB, addrs); diff != "" {
			t.Errorf("FDB (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(neighs, state.Neighs, addrs); diff != "" {
			t.Errorf("neighbours (-want +got):\n%s", diff)
		}
		for key, to := range state.Neighs {
			if _, ok := state.FDB[kernel.FDBKey{Dev: key.Dev, MAC: to.MAC}]; !ok {
				t.Errorf("%s resolves to %s, which leads nowhere", key.IP, to)
			}
		}
	})
}

// expect says slot by slot what the tunnel must know.
func expect(n *overspan.Network, seg *overspan.Segment, nodes map[overspan.NodeID]*overspan.Node) (map[kernel.FDBKey]kernel.Dest, map[kernel.NeighKey]kernel.LLAddr) {
	fdb := make(map[kernel.FDBKey]kernel.Dest)
	neighs := make(map[kernel.NeighKey]kernel.LLAddr)
	dev := overspan.VXLANName(n.ID)
	for slot := range slotsOf(n) {
		block, held := seg.Holder(slot)
		node := nodes[block.Node]
		if !held || block.Node == self || node == nil || !node.VTEP(n.Underlay).IsValid() || n.Reserved(slot) != "" {
			continue
		}
		vtep := kernel.Dest{VTEP: node.VTEP(n.Underlay)}
		if n.Derives(slot) {
			fdb[kernel.FDBKey{Dev: dev, MAC: n.MAC(slot)}] = vtep
		}
		e := seg.Endpoints.Get(slot)
		if e != nil && e.Slot == slot {
			fdb[kernel.FDBKey{Dev: dev, MAC: e.MAC}] = vtep
		}
		for _, a := range []netip.Addr{n.IPv4.Addr(slot), n.IPv6.Addr(slot)} {
			switch {
			case !a.IsValid():
			case e != nil && slices.Contains(e.Addrs(), a):
				neighs[kernel.NeighKey{Dev: dev, IP: a}] = kernel.LLAddr{MAC: e.MAC}
			case n.Derives(slot):
				neighs[kernel.NeighKey{Dev: dev, IP: a}] = kernel.LLAddr{MAC: n.MAC(slot)}
			}
		}
	}
	return fdb, neighs
}

// cluster is five nodes as others may see them; a sixth, "ghost", holds blocks
// and is not known.
func cluster() map[overspan.NodeID]*overspan.Node {
	return map[overspan.NodeID]*overspan.Node{
		self:    {ID: self, Name: "h1", MTU: 1500, VTEPs: addrs("10.99.0.1", "fd99::1")},
		"a":     {ID: "a", Name: "h2", MTU: 1500, VTEPs: addrs("10.99.0.2", "fd99::2")},
		"b":     {ID: "b", Name: "h3", MTU: 1500, VTEPs: addrs("10.99.0.3", "fd99::3")},
		"only4": {ID: "only4", Name: "h4", MTU: 1500, VTEPs: addrs("10.99.0.4")},
		"only6": {ID: "only6", Name: "h5", MTU: 1500, VTEPs: addrs("fd99::5")},
	}
}

// slotsOf yields the slots that a drawn segment may use: the lowest, some that
// have no IPv4 address in a /24, and some that no MAC follows from.
func slotsOf(n *overspan.Network) func(func(overspan.Slot) bool) {
	starts := []overspan.Slot{0}
	if n.IPv6.IsValid() {
		starts = append(starts, 256, overspan.DerivedSlots)
	}
	return func(yield func(overspan.Slot) bool) {
		for _, start := range starts {
			for slot := start; slot < start+128; slot++ {
				if !yield(slot) {
					return
				}
			}
		}
	}
}

func drawNetwork(t *rapid.T) *overspan.Network {
	n := *demo
	n.Underlay = rapid.SampledFrom([]overspan.Family{overspan.IPv4, overspan.IPv6}).Draw(t, "underlay")
	switch rapid.SampledFrom([]string{"IPv4", "IPv6", "both"}).Draw(t, "families") {
	case "IPv4":
		n.IPv6 = overspan.Subnet{}
	case "IPv6":
		n.IPv4 = overspan.Subnet{}
	}
	if n.IPv4.IsValid() && rapid.Bool().Draw(t, "aux") {
		n.IPv4.Aux = map[string]netip.Addr{"rtr": netip.MustParseAddr("10.0.0.9")}
	}
	return &n
}

// drawSegment draws disjoint blocks of any holders, and endpoints in them.
func drawSegment(t *rapid.T, n *overspan.Network) *overspan.Segment {
	seg := &overspan.Segment{}
	holders := []overspan.NodeID{"", self, "a", "b", "only4", "only6", "ghost"}
	var free overspan.Slot
	for slot := range slotsOf(n) {
		if slot < free {
			continue
		}
		size := rapid.SampledFrom(overspan.BlockSizes()).Draw(t, "size")
		free = slot + 1
		block := overspan.Block{Range: overspan.BlockAt(slot, size), Node: rapid.SampledFrom(holders).Draw(t, "holder")}
		if block.First == slot && block.Node != "" {
			seg.Blocks.Put(slot, block)
			free = slot + overspan.Slot(size)
		}
	}
	for slot := range slotsOf(n) {
		if rapid.IntRange(0, 3).Draw(t, "endpoint") == 0 {
			drawEndpoint(t, n, seg, slot)
		}
	}
	return seg
}

// drawEndpoint puts an endpoint at a slot where one may be: an ordinary one,
// one whose MAC was chosen, or one whose IPv6 address has another slot.
func drawEndpoint(t *rapid.T, n *overspan.Network, seg *overspan.Segment, slot overspan.Slot) {
	free := func(s overspan.Slot) bool { return seg.Endpoints.Get(s) == nil && n.Reserved(s) == "" }
	block, held := seg.Holder(slot)
	if !held || !free(slot) {
		return
	}
	e := &overspan.Endpoint{
		Name: fmt.Sprintf("e%d", slot), Node: block.Node, Slot: slot, Slots: []overspan.Slot{slot},
		IPv4: n.IPv4.Addr(slot), IPv6: n.IPv6.Addr(slot), MAC: n.MAC(slot),
	}
	switch rapid.SampledFrom([]string{"ordinary", "chosen MAC", "two slots"}).Draw(t, "kind") {
	case "chosen MAC":
		e.MAC = overspan.MAC{0x0a, 0, byte(slot >> 32), byte(slot >> 16), byte(slot >> 8), byte(slot)}
	case "two slots":
		other := block.Last()
		if other != slot && free(other) && e.IPv4.IsValid() && e.IPv6.IsValid() {
			e.Slots, e.IPv6 = append(e.Slots, other), n.IPv6.Addr(other)
		}
	}
	for _, s := range e.Slots {
		seg.Endpoints.Put(s, e)
	}
}

// TestPlanAfterAMove: a block that moves changes destinations and nothing else.
func TestPlanAfterAMove(t *testing.T) {
	seg := func(holder overspan.NodeID) *overspan.Segment {
		return &overspan.Segment{Blocks: overspan.SlotMapOf(map[overspan.Slot]overspan.Block{
			16: {Range: overspan.Range{First: 16, Size: 8}, Node: holder},
		})}
	}
	before, _ := overlay.Plan(demo, self, seg("a"), cluster(), vxlanPort)
	after, _ := overlay.Plan(demo, self, seg("b"), cluster(), vxlanPort)
	if len(before.FDB) != 8 || !slices.Equal(keys(before.FDB), keys(after.FDB)) {
		t.Errorf("FDB keys changed: %v, then %v", before.FDB, after.FDB)
	}
	if !maps.Equal(before.Neighs, after.Neighs) {
		t.Errorf("neighbours (-before +after):\n%s", cmp.Diff(before.Neighs, after.Neighs, cmpopts.EquateComparable(netip.Addr{})))
	}
}

func keys(fdb map[kernel.FDBKey]kernel.Dest) []string {
	var out []string
	for key := range fdb {
		out = append(out, key.MAC.String())
	}
	slices.Sort(out)
	return out
}

// TestPlanOfTheUnknown: what is not known is left as it is, and said.
func TestPlanOfTheUnknown(t *testing.T) {
	block := func(id overspan.NodeID) overspan.SlotMap[overspan.Block] {
		return overspan.SlotMapOf(map[overspan.Slot]overspan.Block{8: {Range: overspan.Range{First: 8, Size: 4}, Node: id}})
	}
	short := cluster()
	short[self].MTU = 1499
	mute := cluster()
	mute[self].VTEPs = addrs("fd99::1")
	thief := &overspan.Endpoint{Name: "thief", Slot: 9, Slots: []overspan.Slot{9}, IPv4: demo.IPv4.Addr(9), MAC: demo.MAC(1)}

	for name, tc := range map[string]struct {
		seg     overspan.Segment
		nodes   map[overspan.NodeID]*overspan.Node
		partial bool
		entries int // of the FDB
		device  bool
		warning string
	}{
		"all is well":                      {overspan.Segment{Blocks: block("a")}, cluster(), false, 4, true, ""},
		"unreadable records":               {overspan.Segment{Blocks: block("a"), Bad: 1}, cluster(), true, 4, true, ""},
		"this node is not registered":      {overspan.Segment{Blocks: block("a")}, nil, true, 0, false, "not registered"},
		"this node has no VTEP":            {overspan.Segment{Blocks: block("a")}, mute, true, 0, false, "this node has no ipv4 address"},
		"this node's underlay is small":    {overspan.Segment{Blocks: block("a")}, short, false, 4, true, "its MTU is 1450, but this node's underlay carries only 1449"},
		"the holder is not known":          {overspan.Segment{Blocks: block("ghost")}, cluster(), false, 0, true, ""},
		"the holder has no VTEP":           {overspan.Segment{Blocks: block("only6")}, cluster(), false, 0, true, "node h5 (only6) has no ipv4 address"},
		"an endpoint claims another's MAC": {overspan.Segment{Blocks: block("a"), Endpoints: overspan.SlotMapOf(map[overspan.Slot]*overspan.Endpoint{9: thief})}, cluster(), false, 4, true, "endpoint thief claims 02:42:0a:00:00:01"},
	} {
		t.Run(name, func(t *testing.T) {
			state, warnings := overlay.Plan(demo, self, &tc.seg, tc.nodes, vxlanPort)
			if state.Partial != tc.partial {
				t.Errorf("partial: %v, want %v", state.Partial, tc.partial)
			}
			if len(state.FDB) != tc.entries {
				t.Errorf("%d FDB entries, want %d", len(state.FDB), tc.entries)
			}
			if (len(state.Links) == 1) != tc.device {
				t.Errorf("links %v, want the device: %v", state.Links, tc.device)
			}
			if got := strings.Join(warnings, "\n"); !strings.Contains(got, tc.warning) || (tc.warning == "") != (got == "") {
				t.Errorf("warnings %q, want %q", got, tc.warning)
			}
		})
	}
}

func TestMTU(t *testing.T) {
	for _, tc := range []struct {
		underlay int
		family   overspan.Family
		want     int
	}{{1500, overspan.IPv4, 1450}, {1500, overspan.IPv6, 1430}, {9000, overspan.IPv4, 8950}, {1400, overspan.IPv6, 1330}} {
		if got := overlay.MTU(tc.underlay, tc.family); got != tc.want {
			t.Errorf("MTU(%d, %s) = %d, want %d", tc.underlay, tc.family, got, tc.want)
		}
	}
}

func BenchmarkPlan(b *testing.B) {
	for _, slots := range []overspan.Slot{256, 50_000} {
		n := *demo
		n.IPv4.Prefix = netip.MustParsePrefix("10.0.0.0/16")
		seg := &overspan.Segment{}
		for first := overspan.Slot(0); first < slots; first += overspan.MaxBlockSize {
			seg.Blocks.Put(first, overspan.Block{Range: overspan.Range{First: first, Size: overspan.MaxBlockSize}, Node: "a"})
		}
		nodes := cluster()
		b.Run(fmt.Sprintf("slots=%d", slots), func(b *testing.B) {
			for b.Loop() {
				overlay.Plan(&n, self, seg, nodes, vxlanPort)
			}
		})
	}
}

// Where endpoints are to be apart, those on other nodes are too.
func TestTunnelApart(t *testing.T) {
	for _, apart := range []bool{false, true} {
		n := *demo
		if apart {
			n.Options = map[string]string{"icc": "false"}
		}
		state, _ := overlay.Plan(&n, self, segment(&n), cluster(), vxlanPort)
		if link := state.Links[overspan.VXLANName(n.ID)]; link.Port.Isolated != apart {
			t.Errorf("with the options %v the port is isolated: %v", n.Options, link.Port.Isolated)
		}
		if p := overlay.Program(&n); p.Isolated != apart {
			t.Errorf("with the options %v the program takes the port for isolated: %v", n.Options, p.Isolated)
		}
	}
}
