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

// settle brings all nodes back, waits, and checks what must hold then: every
// endpoint is published as it was, or told as lost; and no two answer under one
// address. It returns those that are published.
func (s *saga) settle(t *rapid.T) map[overspan.EndpointID]*testNode {
	for _, n := range s.c.nodes {
		if s.away[n] {
			n.start()
			s.away[n] = false
		}
	}
	published := map[overspan.EndpointID]*testNode{}
	answers := map[string]string{} // who does, by network and address
	for _, n := range s.c.nodes {
		for _, a := range n.local.AllAttachments() {
			e := a.Endpoint
			n.eventually("each endpoint is published or lost", func() bool { return n.registered(e) && n.published(e) || n.loss(e) != "" })
			n.eventually("a lost one is off its network, any other on it", func() bool { return n.plugged(e) == n.published(e) })
			if !n.plugged(e) {
				continue
			}
			published[e.ID] = n
			at := fmt.Sprintf("%s in %s", e.IPv4, overspan.ShortID(e.Network))
			if other, two := answers[at]; two {
				t.Errorf("%s on %s and %s both answer under %s", e.Name, n.cfg.NodeName, other, at)
			}
			answers[at] = e.Name
			if b, held := n.mirrorSegment(e.Network).Holder(e.Slot); !held || b.Node != n.Self() {
				t.Errorf("%s on %s answers under %s, which is held by %q", e.Name, n.cfg.NodeName, at, b.Node)
			}
		}
		n.asPlanned()
	}
	return published
}

// registered reports whether an endpoint's record was written under the
// registration that the node has.
func (n *testNode) registered(e overspan.Endpoint) bool {
	session, err := n.registrar.session()
	a, known := n.local.Attachment(e.ID)
	return err == nil && known && a.Registration == session.Registration()
}

// loss returns why an endpoint is lost; "" if it is not.
func (n *testNode) loss(e overspan.Endpoint) string {
	for _, a := range n.Attachments() {
		if a.Endpoint.ID == e.ID {
			return a.Lost
		}
	}
	return ""
}

// newSaga begins with two nodes and a network.
func newSaga(t *testing.T) *saga {
	s := &saga{c: newTestCluster(t, 2), away: map[*testNode]bool{}}
	s.c.nodes[0].create(CreateRequest{Spec: ipam.Spec{Name: "demo", Subnets: []string{"10.20.0.0/28"}}})
	return s
}

func (s *saga) end() {
	for _, n := range s.c.nodes {
		n.stop()
	}
}

// TestNodesComeAndGo lets nodes leave, be removed and return at random, while
// others take their addresses, their names, and the network itself.
func TestNodesComeAndGo(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		s := newSaga(t)
		defer s.end()
		for range rapid.IntRange(5, 25).Draw(rt, "steps") {
			s.step(rt)
		}
		s.settle(rt)
	})
}

// TestEtcdForgetsARandomPast takes etcd back to a random moment of such a
// history: once all is published again and that is accepted, the same holds, and
// no endpoint was lost by it.
func TestEtcdForgetsARandomPast(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		s := newSaga(t)
		defer s.end()
		from := s.c.revision()
		for range rapid.IntRange(5, 20).Draw(rt, "steps") {
			s.step(rt)
		}
		backup := rapid.Int64Range(from, s.c.revision()).Draw(rt, "backup")
		before := s.settle(rt)
		s.c.touch() // so that each node has lost something
		s.c.rollBack(backup)
		for id, n := range before {
			if a, _ := n.local.Attachment(id); !n.plugged(a.Endpoint) {
				rt.Errorf("%s on %s is off its network while the cluster is frozen", a.Endpoint.Name, n.cfg.NodeName)
			}
		}
		s.c.accept()
		for _, n := range s.c.nodes {
			n.eventually("the freeze is over", func() bool { return n.Snapshot().Frozen == nil })
		}
		after := s.settle(rt)
		for id, n := range before {
			if after[id] != n {
				a, _ := n.local.Attachment(id)
				rt.Errorf("%s on %s was published, and is not: %s", a.Endpoint.Name, n.cfg.NodeName, a.Lost)
			}
		}
	})
}
