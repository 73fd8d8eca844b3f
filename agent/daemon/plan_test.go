package daemon

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/local"
	"github.com/overspan/overspan/kernel"
)

const (
	selfNode  = overspan.NodeID("aaaa")
	otherNode = overspan.NodeID("bbbb")
	demoNet   = overspan.NetworkID("1111111111222222222233333333334444444444555555555566666666667777")
	webEnd    = overspan.EndpointID("8888888888222222222233333333334444444444555555555566666666667777")
)

func demo() *overspan.Network {
	return &overspan.Network{
		ID:       demoNet,
		Name:     "demo",
		Driver:   overspan.DriverOverlay,
		IPv4:     overspan.Subnet{Prefix: netip.MustParsePrefix("10.1.0.0/24"), Gateway: netip.MustParseAddr("10.1.0.1")},
		VNI:      1 << 20,
		Underlay: overspan.IPv4,
		MTU:      1450,
	}
}

// twoNodes is demo with a block on each of two nodes, and web1 on this one.
func twoNodes() planInput {
	n := demo()
	web := overspan.Endpoint{
		ID: webEnd, Network: n.ID, Node: selfNode, Name: "web1", Slot: 2, Slots: []overspan.Slot{2},
		IPv4: netip.MustParseAddr("10.1.0.2"), MAC: n.MAC(2), Interface: "eth0",
	}
	return planInput{
		Self: selfNode,
		Snapshot: &overspan.Snapshot{
			Revision: 7,
			Nodes: map[overspan.NodeID]*overspan.Node{
				selfNode:  {ID: selfNode, Name: "h1", VTEPs: []netip.Addr{netip.MustParseAddr("10.99.0.1")}, MTU: 1500},
				otherNode: {ID: otherNode, Name: "h2", VTEPs: []netip.Addr{netip.MustParseAddr("10.99.0.2")}, MTU: 1500},
			},
			Networks: map[overspan.NetworkID]*overspan.Network{n.ID: n},
			Segments: overspan.IDMapOf(map[overspan.NetworkID]*overspan.Segment{n.ID: {
				Revision: 7,
				Blocks: overspan.SlotMapOf(map[overspan.Slot]overspan.Block{
					0:  {Range: overspan.Range{First: 0, Size: 16}, Node: selfNode, CreateRevision: 3, ModRevision: 3},
					16: {Range: overspan.Range{First: 16, Size: 2}, Node: otherNode, CreateRevision: 4, ModRevision: 4, Ack: true},
				}),
				Endpoints: overspan.SlotMapOf(map[overspan.Slot]*overspan.Endpoint{2: &web}),
			}}),
		},
		Local:     local.View{Attachments: local.AttachmentsOf(overspan.Attachment{Endpoint: web, Sandbox: "s", Netns: "/run/netns/web1", Committed: true})},
		VXLANPort: 4789,
	}
}

var wholeNetwork = kernel.Scope{Networks: []overspan.NetworkID{demoNet}}

func TestPlanEnslavesAPortOnlyWhileItsSlotIsOurs(t *testing.T) {
	veth := overspan.VethName(webEnd)
	for _, test := range []struct {
		name   string
		change func(*planInput)
		master string
	}{
		{"committed in an own block", func(*planInput) {}, overspan.BridgeName(demoNet)},
		{"not committed yet", func(in *planInput) { in.Local.Attachments.List[0].Committed = false }, ""},
		{"in a block that another node holds now", func(in *planInput) {
			seg := in.Snapshot.Segments.Get(demoNet)
			b := seg.Blocks.Get(0)
			b.Node = otherNode
			seg.Blocks.Put(0, b)
		}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := twoNodes()
			test.change(&in)
			state, _ := plan(in, wholeNetwork)
			if got := state.Links[veth].Master; got != test.master {
				t.Errorf("master %q, want %q", got, test.master)
			}
			only, _ := plan(in, kernel.Scope{Endpoints: []kernel.EndpointKey{{Network: demoNet, Endpoint: webEnd}}})
			if diff := cmp.Diff(state.Links[veth], only.Links[veth], cmp.Comparer(sameAddr)); diff != "" {
				t.Errorf("the endpoint's own scope plans it differently (-network +endpoint):\n%s", diff)
			}
		})
	}
}

func sameAddr(a, b netip.Addr) bool { return a == b }

func TestPlanOfWhatIsUnknownIsPartial(t *testing.T) {
	for _, test := range []struct {
		name    string
		change  func(*planInput)
		scope   kernel.Scope
		partial bool
	}{
		{"all known", func(*planInput) {}, wholeNetwork, false},
		{"interior not read", func(in *planInput) { in.Snapshot.Segments.Delete(demoNet) }, wholeNetwork, true},
		{"record not read", func(in *planInput) { delete(in.Snapshot.Networks, demoNet) }, wholeNetwork, true},
		{"an unreadable block", func(in *planInput) { in.Snapshot.Segments.Get(demoNet).Bad = 1 }, wholeNetwork, true},
		{"frozen", func(in *planInput) { in.Snapshot.Frozen = &overspan.Freeze{} }, wholeNetwork, true},
		{"an unreadable node", func(in *planInput) { in.Snapshot.Bad = []overspan.BadRecord{{Key: "nodes/x"}} }, kernel.Scope{Global: true}, true},
		{"no endpoint and no block here", func(in *planInput) {
			in.Local.Attachments = local.Attachments{}
			in.Snapshot.Segments.Get(demoNet).Blocks.Delete(0)
		}, wholeNetwork, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := twoNodes()
			test.change(&in)
			if state, _ := plan(in, test.scope); state.Partial != test.partial {
				t.Errorf("partial %t, want %t", state.Partial, test.partial)
			}
		})
	}
}

func TestChangedNamesWhatForwardingHangsOn(t *testing.T) {
	networks := func(ids ...overspan.NetworkID) []overspan.NetworkID { return ids }
	for _, test := range []struct {
		name     string
		change   func(*overspan.Snapshot, *overspan.Segment)
		networks []overspan.NetworkID
		global   bool
	}{
		{"nothing", func(*overspan.Snapshot, *overspan.Segment) {}, nil, false},
		{"an endpoint in a block", func(_ *overspan.Snapshot, seg *overspan.Segment) {
			e := *seg.Endpoints.Get(2)
			e.Slot, e.Slots, e.MAC, e.IPv4 = 3, []overspan.Slot{3}, demo().MAC(3), netip.MustParseAddr("10.1.0.3")
			seg.Endpoints.Put(3, &e)
		}, nil, false},
		{"an exception", func(_ *overspan.Snapshot, seg *overspan.Segment) {
			e := *seg.Endpoints.Get(2)
			e.Slot, e.Slots, e.MAC = 16, []overspan.Slot{16}, overspan.MAC{0x0a, 1}
			seg.Endpoints.Put(16, &e)
		}, networks(demoNet), false},
		{"a block", func(_ *overspan.Snapshot, seg *overspan.Segment) {
			seg.Blocks.Put(32, overspan.Block{Range: overspan.Range{First: 32, Size: 8}, Node: otherNode})
		}, networks(demoNet), false},
		{"a node's VTEP", func(s *overspan.Snapshot, _ *overspan.Segment) {
			s.Nodes[otherNode] = &overspan.Node{ID: otherNode, VTEPs: []netip.Addr{netip.MustParseAddr("10.99.0.7")}}
		}, networks(demoNet), true},
		{"a node's presence", func(s *overspan.Snapshot, _ *overspan.Segment) {
			n := *s.Nodes[otherNode]
			n.Presence = &overspan.Presence{PID: 1}
			s.Nodes[otherNode] = &n
		}, nil, false},
		{"the network's end", func(s *overspan.Snapshot, _ *overspan.Segment) {
			s.Segments.Delete(demoNet)
		}, networks(demoNet), true},
	} {
		t.Run(test.name, func(t *testing.T) {
			before, after := twoNodes().Snapshot, twoNodes().Snapshot
			test.change(after, after.Segments.Get(demoNet))
			got, global := changed(before, after, selfNode)
			if diff := cmp.Diff(test.networks, got); diff != "" || global != test.global {
				t.Errorf("global %t, want %t; networks (-want +got):\n%s", global, test.global, diff)
			}
		})
	}
}

func TestAcknowledgeAsksForWhatOthersAskedFor(t *testing.T) {
	seg := twoNodes().Snapshot.Segments.Get(demoNet)
	first := ackDemand{}.after(seg, selfNode)
	if first.newest != 4 {
		t.Errorf("this node owes an acknowledgement of %d, want 4", first.newest)
	}
	if got := (ackDemand{}).after(seg, otherNode).newest; got != 0 {
		t.Errorf("the asker owes itself an acknowledgement of %d, want none", got)
	}
	later := *seg
	later.Revision = 9
	later.Endpoints.Put(17, &overspan.Endpoint{Node: otherNode, Ack: true, ModRevision: 9})
	later.Endpoints.Put(3, &overspan.Endpoint{Node: selfNode, Ack: true, ModRevision: 8})
	if got := first.after(&later, selfNode).newest; got != 9 {
		t.Errorf("after an exception this node owes an acknowledgement of %d, want 9", got)
	}
	back := *seg
	back.Revision = 2
	back.Blocks = overspan.SlotMap[overspan.Block]{}
	if got := first.after(&back, selfNode).newest; got != 0 {
		t.Errorf("after a return to the past this node owes an acknowledgement of %d, want none", got)
	}
}

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
	nodes := map[overspan.NodeID]*overspan.Node{selfNode: {ID: selfNode, Name: "h1", MTU: 9000}, otherNode: {ID: otherNode, Name: "h2", MTU: 1400}}
	six := overspan.Subnet{Prefix: netip.MustParsePrefix("fd00::/64")}
	for _, test := range []struct {
		name  string
		n     overspan.Network
		named int
		want  int // 0: refused
	}{
		{"overlay", overspan.Network{Driver: overspan.DriverOverlay, Underlay: overspan.IPv4}, 0, 1350},
		{"bridge", overspan.Network{Driver: overspan.DriverBridge, Node: selfNode}, 0, 9000},
		{"bridge beside a larger underlay", overspan.Network{Driver: overspan.DriverBridge, Node: otherNode}, 0, 1400},
		{"named", overspan.Network{Driver: overspan.DriverBridge, Node: otherNode}, 500, 500},
		{"named for IPv6", overspan.Network{Driver: overspan.DriverBridge, Node: otherNode, IPv6: six}, 1279, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := chooseMTU(test.n, test.named, nodes)
			if got != test.want || (err == nil) != (test.want > 0) {
				t.Errorf("%d, %v; want %d", got, err, test.want)
			}
		})
	}
}

// Where packets of the tunnel can be taken past the packet filter, only a host can
// tell: what it cannot say leaves all as it is, and what it says anew is no drift.
func TestPlanFollowsTheShortcut(t *testing.T) {
	global := kernel.Scope{Global: true}
	at := kernel.Shortcut{Device: "eth0"}
	for _, test := range []struct {
		name    string
		change  func(*planInput)
		planned bool
		partial bool
		words   string
	}{
		{"there is one", func(*planInput) {}, true, false, ""},
		{"there is none", func(in *planInput) { in.Shortcut = kernel.Shortcut{Why: "of IPsec"} }, false, false, "of IPsec"},
		{"nobody knows", func(in *planInput) { in.ShortcutErr = errNoSnapshot }, false, false, "slower way"},
		{"no programs", func(in *planInput) { in.Guard = kernel.Guard{} }, false, false, ""},
		{"no network here", func(in *planInput) {
			in.Local.Attachments = local.Attachments{}
			in.Snapshot.Segments.Get(demoNet).Blocks.Delete(0)
		}, false, false, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := twoNodes()
			in.Guard, in.Shortcut = kernel.Guard{Programs: true}, at
			test.change(&in)
			state, warnings := plan(in, global)
			_, program := state.Programs["eth0"]
			_, set := state.Sets[kernel.UnderlayVTEPs]
			if program != test.planned || set != test.planned || state.Partial != test.partial {
				t.Errorf("program %t, set %t, partial %t, want %t, %[4]t, %t", program, set, state.Partial, test.planned, test.partial)
			}
			if got := strings.Join(warnings, "\n"); !strings.Contains(got, test.words) || (got == "") != (test.words == "") {
				t.Errorf("warnings %q, want %q in them", got, test.words)
			}
		})
	}
	old, new := twoNodes(), twoNodes()
	new.Shortcut = at
	if !moved(old, new, rewiring{}).has(part{}) || moved(new, new, rewiring{}).has(part{}) {
		t.Error("a shortcut that comes does not move what belongs to no network, or one that stays does")
	}
}
