package reconcile

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/local"
	"github.com/overspan/overspan/internal/twonodes"
	"github.com/overspan/overspan/kernel"
)

// twoNodes is that cluster as its first node plans it.
func twoNodes() Input {
	return Input{
		Self:      twonodes.Self,
		Snapshot:  twonodes.Snapshot(),
		Local:     local.View{Attachments: local.AttachmentsOf(twonodes.Attachment())},
		VXLANPort: 4789,
	}
}

var wholeNetwork = kernel.Scope{Networks: []overspan.NetworkID{twonodes.Demo}}

func TestPlanEnslavesAPortOnlyWhileItsSlotIsOurs(t *testing.T) {
	veth := overspan.VethName(twonodes.Web)
	for _, test := range []struct {
		name   string
		change func(*Input)
		master string
	}{
		{"committed in an own block", func(*Input) {}, overspan.BridgeName(twonodes.Demo)},
		{"not committed yet", func(in *Input) { in.Local.Attachments.List[0].Committed = false }, ""},
		{"in a block that another node holds now", func(in *Input) {
			seg := in.Snapshot.Segments.Get(twonodes.Demo)
			b := seg.Blocks.Get(0)
			b.Node = twonodes.Other
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
			only, _ := plan(in, kernel.Scope{Endpoints: []kernel.EndpointKey{{Network: twonodes.Demo, Endpoint: twonodes.Web}}})
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
		change  func(*Input)
		scope   kernel.Scope
		partial bool
	}{
		{"all known", func(*Input) {}, wholeNetwork, false},
		{"interior not read", func(in *Input) { in.Snapshot.Segments.Delete(twonodes.Demo) }, wholeNetwork, true},
		{"record not read", func(in *Input) { delete(in.Snapshot.Networks, twonodes.Demo) }, wholeNetwork, true},
		{"an unreadable block", func(in *Input) { in.Snapshot.Segments.Get(twonodes.Demo).Bad = 1 }, wholeNetwork, true},
		{"frozen", func(in *Input) { in.Snapshot.Frozen = &overspan.Freeze{} }, wholeNetwork, true},
		{"an unreadable node", func(in *Input) { in.Snapshot.Bad = []overspan.BadRecord{{Key: "nodes/x"}} }, kernel.Scope{Global: true}, true},
		{"no endpoint and no block here", func(in *Input) {
			in.Local.Attachments = local.Attachments{}
			in.Snapshot.Segments.Get(twonodes.Demo).Blocks.Delete(0)
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
			e.Slot, e.Slots, e.MAC, e.IPv4 = 3, []overspan.Slot{3}, twonodes.Network().MAC(3), netip.MustParseAddr("10.1.0.3")
			seg.Endpoints.Put(3, &e)
		}, nil, false},
		{"an exception", func(_ *overspan.Snapshot, seg *overspan.Segment) {
			e := *seg.Endpoints.Get(2)
			e.Slot, e.Slots, e.MAC = 16, []overspan.Slot{16}, overspan.MAC{0x0a, 1}
			seg.Endpoints.Put(16, &e)
		}, networks(twonodes.Demo), false},
		{"a block", func(_ *overspan.Snapshot, seg *overspan.Segment) {
			seg.Blocks.Put(32, overspan.Block{Range: overspan.Range{First: 32, Size: 8}, Node: twonodes.Other})
		}, networks(twonodes.Demo), false},
		{"a node's VTEP", func(s *overspan.Snapshot, _ *overspan.Segment) {
			s.Nodes[twonodes.Other] = &overspan.Node{ID: twonodes.Other, VTEPs: []netip.Addr{netip.MustParseAddr("10.99.0.7")}}
		}, networks(twonodes.Demo), true},
		{"a node's presence", func(s *overspan.Snapshot, _ *overspan.Segment) {
			n := *s.Nodes[twonodes.Other]
			n.Presence = &overspan.Presence{PID: 1}
			s.Nodes[twonodes.Other] = &n
		}, nil, false},
		{"the network's end", func(s *overspan.Snapshot, _ *overspan.Segment) {
			s.Segments.Delete(twonodes.Demo)
		}, networks(twonodes.Demo), true},
	} {
		t.Run(test.name, func(t *testing.T) {
			before, after := twoNodes().Snapshot, twoNodes().Snapshot
			test.change(after, after.Segments.Get(twonodes.Demo))
			got, global := Changed(before, after, twonodes.Self)
			if diff := cmp.Diff(test.networks, got); diff != "" || global != test.global {
				t.Errorf("global %t, want %t; networks (-want +got):\n%s", global, test.global, diff)
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
		change  func(*Input)
		planned bool
		partial bool
		words   string
	}{
		{"there is one", func(*Input) {}, true, false, ""},
		{"there is none", func(in *Input) { in.Shortcut = kernel.Shortcut{Why: "of IPsec"} }, false, false, "of IPsec"},
		{"nobody knows", func(in *Input) { in.ShortcutErr = ErrNoSnapshot }, false, false, "slower way"},
		{"no programs", func(in *Input) { in.Guard = kernel.Guard{} }, false, false, ""},
		{"no network here", func(in *Input) {
			in.Local.Attachments = local.Attachments{}
			in.Snapshot.Segments.Get(twonodes.Demo).Blocks.Delete(0)
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
	if !moved(old, new, rewiring{}).has(Part{}) || moved(new, new, rewiring{}).has(Part{}) {
		t.Error("a shortcut that comes does not move what belongs to no network, or one that stays does")
	}
}
