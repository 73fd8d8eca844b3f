package daemon

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/ipam"
)

// A saga is a random history of nodes that come and go.
type saga struct {
	c     *testCluster
	away  map[*testNode]bool
	count int // of containers made
}

// step does one thing that may happen in a cluster.
func (s *saga) step(t *rapid.T) {
	n := rapid.SampledFrom(s.c.nodes).Draw(t, "node")
	if s.away[n] {
		n.start()
		s.away[n] = false
		return
	}
	switch rapid.IntRange(0, 9).Draw(t, "what") {
	case 0, 1, 2, 3, 4:
		s.connect(t, n)
	case 5:
		if here := n.Attachments(); len(here) > 0 {
			e := rapid.SampledFrom(here).Draw(t, "endpoint").Endpoint
			if _, pending, err := n.Disconnect(t.Context(), "demo", string(e.ID)); err != nil || pending {
				t.Errorf("disconnect %s on %s: pending %t, %v", e.Name, n.cfg.NodeName, pending, err)
			}
		}
	case 6, 7, 8:
		n.stop()
		s.away[n] = true
		if rapid.IntRange(0, 3).Draw(t, "only away") > 0 {
			s.c.remove(n)
		}
	case 9:
		if _, err := n.RemoveNetwork(t.Context(), "demo"); err == nil {
			n.create(CreateRequest{Spec: ipam.Spec{Name: "demo", Subnets: []string{"10.20.0.0/28"}}})
		}
	}
}

// connect wants one of few names, and perhaps one of few addresses, so that
// nodes take each other's.
func (s *saga) connect(t *rapid.T, n *testNode) {
	s.count++
	req := ConnectRequest{
		Network: "demo", Target: n.container(fmt.Sprint("c", s.count)), Wait: WaitLocal,
		Name: rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f"}).Draw(t, "name"),
	}
	if rapid.Bool().Draw(t, "by its address") {
		req.IP = fmt.Sprintf("10.20.0.%d", rapid.IntRange(2, 9).Draw(t, "address"))
	}
	_, _ = n.Connect(t.Context(), req) // names and addresses that are taken are refused
}

// end brings all nodes back and checks what must hold then: every endpoint is
// published as it was, or told as lost; and no two answer under one address.
func (s *saga) end(t *rapid.T) {
	for _, n := range s.c.nodes {
		if s.away[n] {
			n.start()
		}
	}
	answers := map[string]string{} // who does, by network and address
	for _, n := range s.c.nodes {
		registration := n.registration()
		for _, a := range n.local.allAttachments() {
			e := a.Endpoint
			n.eventually("each endpoint is published or lost", func() bool {
				now, _ := n.local.attachment(e.ID)
				_, lost := n.lostNames()[e.Name]
				return now.Registration == registration && n.published(e) || lost
			})
			n.eventually("a lost one is off its network, any other on it", func() bool {
				return n.plugged(e) == n.published(e)
			})
			if !n.plugged(e) {
				continue
			}
			at := fmt.Sprintf("%s in %s", e.IPv4, overspan.ShortID(e.Network))
			if other, two := answers[at]; two {
				t.Errorf("%s on %s and %s both answer under %s", e.Name, n.cfg.NodeName, other, at)
			}
			answers[at] = e.Name
			if b, held := n.mirrorSegment(e.Network).Holder(e.Slot); !held || b.Node != n.Self() {
				t.Errorf("%s on %s answers under %s, which is held by %q", e.Name, n.cfg.NodeName, at, b.Node)
			}
		}
		n.eventually("the kernel is as planned", func() bool {
			_, drift, err := n.Verify(n.t.Context())
			return err == nil && len(drift) == 0
		})
	}
}

// TestNodesComeAndGo lets nodes leave, be removed and return at random, while
// others take their addresses, their names, and the network itself.
func TestNodesComeAndGo(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c := newTestCluster(t, 2)
		defer func() {
			for _, n := range c.nodes {
				n.stop()
			}
		}()
		c.nodes[0].create(CreateRequest{Spec: ipam.Spec{Name: "demo", Subnets: []string{"10.20.0.0/28"}}})
		s := &saga{c: c, away: map[*testNode]bool{}}
		for range rapid.IntRange(5, 25).Draw(rt, "steps") {
			s.step(rt)
		}
		s.end(rt)
	})
}
