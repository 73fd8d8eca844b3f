package daemon

import (
	"slices"
	"testing"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/internal/twonodes"
	"github.com/overspan/overspan/ipam"
	"github.com/overspan/overspan/kernel"
)

// An endpoint whose MAC does not follow from its slots is told to every peer
// one by one, and connect waits for that too.
func TestConnectWaitsForExceptions(t *testing.T) {
	c := newTestCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	c.nodes[0].create(CreateRequest{Spec: ipam.Spec{Name: "demo", Subnets: []string{"10.7.0.0/24", "fd00:7::/64"}}})
	h2.connect(ConnectRequest{Network: "demo", Target: h2.container("peer")})
	for name, req := range map[string]ConnectRequest{
		"mac":   {MAC: "0a:00:00:00:00:01"},
		"slots": {IP: "10.7.0.9", IP6: "fd00:7::77"},
		"high":  {IP6: "fd00:7::1234:5678:9abc"},
	} {
		req.Network, req.Target = "demo", h1.container(name)
		req.Name = "e" + name[:1]
		e := h1.connect(req)
		state, dev := h2.kernel.State(), overspan.VXLANName(e.Network)
		if got := state.FDB[kernel.FDBKey{Dev: dev, MAC: e.MAC}].String(); got != h1.cfg.Underlay[0] {
			t.Errorf("%s: h2 sends %s to %s", name, e.MAC, got)
		}
		for _, a := range e.Addrs() {
			if got := state.Neighs[kernel.NeighKey{Dev: dev, IP: a}].MAC; got != e.MAC {
				t.Errorf("%s: on h2 %s is at %s, want %s", name, a, got, e.MAC)
			}
		}
	}
	h1.clean()
	h2.clean()
}

func TestWhatConnectWaitsFor(t *testing.T) {
	c := newTestCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	for _, name := range []string{"one", "two", "three"} {
		h1.create(CreateRequest{Spec: ipam.Spec{Name: name}})
		h2.connect(ConnectRequest{Network: name, Target: h2.container(name)})
	}
	h2.line.SetDown(true) // present still, but deaf
	for _, test := range []struct {
		network string
		wait    Wait
		late    []string
	}{
		{"one", WaitPeers, []string{"h2"}},
		{"two", WaitLocal, nil},
		{"three", WaitNone, nil},
	} {
		res, err := h1.Connect(t.Context(), ConnectRequest{Network: test.network, Target: h1.container(test.network), Wait: test.wait})
		if err != nil || !slices.Equal(res.Unconfirmed, test.late) {
			t.Errorf("network %s: unconfirmed by %v, %v; want %v", test.network, res.Unconfirmed, err, test.late)
		}
		h1.eventually(test.network+": the port is on its bridge", func() bool {
			return h1.kernel.State().Links[overspan.VethName(res.Endpoint.ID)].Master == overspan.BridgeName(res.Endpoint.Network)
		})
	}
	h2.line.SetDown(false)
	h2.eventually("what was missed is made up for", func() bool {
		for _, a := range h1.Attachments() {
			if !h2.sendsTo(a.Endpoint, h1) {
				return false
			}
		}
		return true
	})
}

// What is known of a block goes with it, and with the network that it is in.
func TestConfirmedBlocksAreForgottenWithTheBlocks(t *testing.T) {
	s := twonodes.Snapshot()
	stands := keyOf(twonodes.Demo, s.Segments.Get(twonodes.Demo).Blocks.Get(0))
	anew, left := stands, stands
	anew.epoch--
	left.network = "left"
	var c confirmedBlocks
	c.add([]blockKey{stands, anew, left})
	c.keep(s)
	if !c.has(stands) || c.has(anew) || c.has(left) {
		t.Errorf("kept are %v, want only %v", c.set, stands)
	}
}
