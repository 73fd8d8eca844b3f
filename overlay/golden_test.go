package overlay_test

import (
	"os"
	"strings"
	"testing"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/bridge"
	"github.com/overspan/overspan/internal/golden"
	"github.com/overspan/overspan/overlay"
)

// segment has a block of another node around the gateway, one of this node, and
// one of a third node with three exceptions: a chosen MAC, an IPv6 address of
// another slot than the IPv4 one, and a slot beyond those that a MAC follows from.
func segment(n *overspan.Network) *overspan.Segment {
	seg := &overspan.Segment{}
	for _, b := range []overspan.Block{
		{Range: overspan.Range{First: 0, Size: 4}, Node: "a"},
		{Range: overspan.Range{First: 4, Size: 4}, Node: self},
		{Range: overspan.Range{First: 8, Size: 4}, Node: "b"},
	} {
		seg.Blocks.Put(b.First, b)
	}
	put := func(e overspan.Endpoint) {
		for _, slot := range e.Slots {
			seg.Endpoints.Put(slot, &e)
		}
	}
	put(overspan.Endpoint{
		Name: "plain", Node: "a", Slot: 2, Slots: []overspan.Slot{2},
		IPv4: n.IPv4.Addr(2), IPv6: n.IPv6.Addr(2), MAC: n.MAC(2),
	})
	put(overspan.Endpoint{
		Name: "chosen-mac", Node: "b", Slot: 8, Slots: []overspan.Slot{8},
		IPv4: n.IPv4.Addr(8), IPv6: n.IPv6.Addr(8), MAC: overspan.MAC{0x0a, 0, 0, 0, 0, 8},
	})
	if n.IPv6.IsValid() {
		beyond := overspan.DerivedSlots + 1
		seg.Blocks.Put(beyond, overspan.Block{Range: overspan.Range{First: beyond, Size: 1}, Node: "b"})
		put(overspan.Endpoint{Name: "beyond", Node: "b", Slot: beyond, Slots: []overspan.Slot{beyond}, IPv6: n.IPv6.Addr(beyond), MAC: n.MAC(beyond)})
	}
	if n.IPv4.IsValid() && n.IPv6.IsValid() {
		put(overspan.Endpoint{
			Name: "two-slots", Node: "b", Slot: 9, Slots: []overspan.Slot{9, 10},
			IPv4: n.IPv4.Addr(9), IPv6: n.IPv6.Addr(10), MAC: n.MAC(9),
		})
	}
	return seg
}

func TestPlan(t *testing.T) {
	only4, only6, under6 := *demo, *demo, *demo
	only4.IPv6 = overspan.Subnet{}
	only6.IPv4 = overspan.Subnet{}
	under6.Underlay, under6.MTU = overspan.IPv6, 1430
	for name, n := range map[string]*overspan.Network{
		"ipv4": &only4, "ipv6": &only6, "dual-stack": demo, "dual-stack-over-ipv6": &under6,
	} {
		t.Run(name, func(t *testing.T) {
			state, _ := overlay.Plan(n, self, segment(n), cluster(), vxlanPort)
			golden.Check(t, name, state.Lines())
		})
	}
}

// TestEveryRuleIsDocumented: whoever lists the rules of a node finds what each
// of them is for.
func TestEveryRuleIsDocumented(t *testing.T) {
	doc, err := os.ReadFile("../docs/rules.md")
	if err != nil {
		t.Fatal(err)
	}
	internal := *demo
	internal.ID, internal.Internal = overspan.NetworkID(strings.Repeat("c", 64)), true
	s := overlay.Rules(nil, ours, vxlanPort)
	s.Add(bridge.Rules([]*overspan.Network{&internal}, nil))
	for key, chain := range s.Chains {
		if !strings.Contains(string(doc), "`"+key.Name+"`") {
			t.Errorf("%s is not in docs/rules.md", key)
		}
		for _, r := range chain.Rules {
			// Names of sets are shown for IPv4.
			if !strings.Contains(string(doc), "    "+r.Text+"\n") && !strings.Contains(string(doc), "    "+strings.ReplaceAll(r.Text, "6 ", "4 ")+"\n") {
				t.Errorf("%s: %s is not in docs/rules.md", key, r.Text)
			}
		}
	}
}

func TestRules(t *testing.T) {
	s := overlay.Rules(cluster(), ours, vxlanPort)
	// Nobody can review a rule's hash.
	for _, chain := range s.Chains {
		for i := range chain.Rules {
			chain.Rules[i].Hash = "-"
		}
	}
	golden.Check(t, "rules", s.Lines())
}
