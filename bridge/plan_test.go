package bridge_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/bridge"
	"github.com/overspan/overspan/internal/golden"
	"github.com/overspan/overspan/kernel"
)

// endpoint makes the endpoint at a slot, with an address of each family that
// the network has.
func endpoint(n *overspan.Network, id string, slot overspan.Slot) overspan.Endpoint {
	return overspan.Endpoint{
		ID: overspan.EndpointID(strings.Repeat(id, 64)), Network: n.ID, Slot: slot, Slots: []overspan.Slot{slot},
		IPv4: n.IPv4.Addr(slot), IPv6: n.IPv6.Addr(slot), MAC: n.MAC(slot), Interface: "eth0",
	}
}

func TestPlan(t *testing.T) {
	dual := network("d", 1)
	only4 := network("4", 1)
	only4.IPv6 = overspan.Subnet{}
	only6 := network("6", 1)
	only6.IPv4 = overspan.Subnet{}
	internal := network("c", 1)
	internal.Internal = true
	mute := network("e", 1)
	mute.IPv4.Gateway = netip.Addr{}

	for name, n := range map[string]*overspan.Network{
		"dual-stack": dual, "ipv4": only4, "ipv6": only6, "internal": internal, "no-ipv4-gateway": mute,
	} {
		t.Run(name, func(t *testing.T) {
			s := bridge.Plan(n, []bridge.Port{{Endpoint: endpoint(n, "1", 16), Netns: "/run/netns/web1", Enslaved: true}})
			golden.Check(t, name, s.Lines())
		})
	}
	t.Run("ports", func(t *testing.T) {
		chosen := endpoint(dual, "4", 19)
		chosen.MAC = overspan.MAC{0x0a, 0, 0, 0, 0, 1}
		s := bridge.Plan(dual, []bridge.Port{
			{Endpoint: endpoint(dual, "1", 16), Netns: "/run/netns/attached", Enslaved: true},
			{Endpoint: endpoint(dual, "2", 17), Netns: "/run/netns/prepared"},
			{Endpoint: endpoint(dual, "3", 18), Netns: "/run/netns/elsewhere-too", Enslaved: true},
			{Endpoint: chosen, Netns: "/run/netns/chosen-mac", Enslaved: true},
		})
		golden.Check(t, "ports", s.Lines())
	})
}

// What a host can hold containers to their addresses with decides between a
// program and a lock. Either way nothing passes before the port is on the bridge.
func TestGuard(t *testing.T) {
	n := network("d", 1)
	veth := overspan.VethName(endpoint(n, "1", 16).ID)
	for name, row := range map[string]struct {
		guard    kernel.Guard
		enslaved bool
		locked   bool
		program  bool
	}{
		"programs":               {kernel.Guard{Programs: true, Locked: true}, true, false, true},
		"programs, prepared":     {kernel.Guard{Programs: true, Locked: true}, false, false, true},
		"locked ports":           {kernel.Guard{Locked: true}, true, true, false},
		"locked ports, prepared": {kernel.Guard{Locked: true}, false, false, false},
		"neither":                {kernel.Guard{}, true, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			e := endpoint(n, "1", 16)
			s := bridge.PlanPort(n, bridge.Port{Endpoint: e, Netns: "/run/netns/a", Enslaved: row.enslaved, Guard: row.guard})
			if got := s.Links[veth].Port.Locked; got != row.locked {
				t.Errorf("locked: %v, want %v", got, row.locked)
			}
			want := map[string]kernel.Program{}
			if row.program {
				want[veth] = kernel.Program{
					Kind: kernel.ProgramPort, Bridge: overspan.BridgeName(n.ID), MAC: e.MAC, IPv4: e.IPv4, IPv6: e.IPv6,
					Gateway: n.GatewayMAC(), Open: row.enslaved, Attached: true,
				}
			}
			if diff := cmp.Diff(want, s.Programs, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Errorf("programs (-want +got):\n%s", diff)
			}
		})
	}
}

// Ports between which nothing is to pass are isolated; with all else they may
// speak.
func TestPortsApart(t *testing.T) {
	n := network("d", 1)
	for _, apart := range []bool{false, true} {
		if apart {
			n.Options = map[string]string{"icc": "false"}
		}
		s := bridge.PlanPort(n, bridge.Port{Endpoint: endpoint(n, "1", 16), Enslaved: true})
		for name, link := range s.Links {
			if link.Port.Isolated != apart {
				t.Errorf("with the options %v: %s is isolated: %v", n.Options, name, link.Port.Isolated)
			}
		}
	}
}

func TestRules(t *testing.T) {
	a, b, c := network("a", 1), network("b", 2), network("c", 3)
	c.Internal = true
	b.IPv6 = overspan.Subnet{}
	golden.Check(t, "rules", text(bridge.Rules([]*overspan.Network{a, b, c}, map[overspan.NetworkID]*overspan.Network{a.ID: a, b.ID: b, c.ID: c})))
	golden.Check(t, "rules-no-network", text(bridge.Rules(nil, nil)))
}

// text returns the lines of a state of rules without the rules' hashes, which
// nobody can review.
func text(s kernel.State) []string {
	for key, chain := range s.Chains {
		for i := range chain.Rules {
			chain.Rules[i].Hash = "-"
		}
		s.Chains[key] = chain
	}
	return s.Lines()
}

// TestPlanIsTheSumOfItsPorts: a pass over one endpoint wants what a pass over
// its whole network wants of it, in whatever order the ports are given.
func TestPlanIsTheSumOfItsPorts(t *testing.T) {
	n := network("d", 1)
	var ports []bridge.Port
	for i, id := range []string{"1", "2", "3", "4"} {
		ports = append(ports, bridge.Port{Endpoint: endpoint(n, id, overspan.Slot(16+i)), Netns: "/run/netns/" + id, Enslaved: i%2 == 0})
	}
	want := bridge.Plan(n, ports).Lines()
	rapid.Check(t, func(t *rapid.T) {
		shuffled := rapid.Permutation(ports).Draw(t, "ports")
		if diff := cmp.Diff(want, bridge.Plan(n, shuffled).Lines()); diff != "" {
			t.Errorf("in another order (-want +got):\n%s", diff)
		}
		split := rapid.IntRange(0, len(ports)).Draw(t, "split")
		sum := bridge.Plan(n, shuffled[:split])
		for _, p := range shuffled[split:] {
			sum.Add(bridge.PlanPort(n, p))
		}
		if diff := cmp.Diff(want, sum.Lines()); diff != "" {
			t.Errorf("port by port (-want +got):\n%s", diff)
		}
	})
}

func TestRulesInAnyOrder(t *testing.T) {
	a, b, c := network("a", 1), network("b", 2), network("c", 3)
	b.Internal, c.Internal = true, true
	want := bridge.Rules([]*overspan.Network{a, b, c}, map[overspan.NetworkID]*overspan.Network{a.ID: a, b.ID: b, c.ID: c}).Lines()
	if diff := cmp.Diff(want, bridge.Rules([]*overspan.Network{c, a, b}, map[overspan.NetworkID]*overspan.Network{a.ID: a, b.ID: b, c.ID: c}).Lines()); diff != "" {
		t.Errorf("in another order (-want +got):\n%s", diff)
	}
}
