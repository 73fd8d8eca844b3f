package daemon

import (
	"fmt"
	"slices"
	"testing"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/ipam"
	"github.com/overspan/overspan/kernel"
)

// A repair that fails is not told as one: the same device in the way would be
// "repaired" at every retry.
func TestRepairThatFailsIsNotTold(t *testing.T) {
	c := newTestCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	net := h1.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	h1.connect(ConnectRequest{Network: "demo", Target: h1.container("web1")})
	events := h1.Subscribe(t.Context(), Span{})
	far := h2.connect(ConnectRequest{Network: "demo", Target: h2.container("web2")})
	h1.awaits(events, "endpoint", "connect", far.Name) // no other comes after it
	before := h1.atRest()
	vxlan := overspan.VXLANName(net.ID)
	neigh := fmt.Sprintf("neighbour %s on %s lladdr %s missing → added", far.IPv4, vxlan, far.MAC)
	again := fmt.Sprintf("fdb %s on %s dst 10.99.0.2 missing → added", far.MAC, vxlan)
	fdb := fmt.Sprintf("add fdb %s dev %s dst 10.99.0.2", far.MAC, vxlan)
	h1.kernel.FailNext(fdb, overspan.Errorf(overspan.ErrUnsupported, "not today"))
	h1.kernel.Mutate(func(s *kernel.State) {
		delete(s.Neighs, kernel.NeighKey{Dev: vxlan, IP: far.IPv4})
		delete(s.FDB, kernel.FDBKey{Dev: vxlan, MAC: far.MAC})
	})
	h1.eventually("repaired at the second try", func() bool { return h1.kernel.State().Equal(before) })
	if told := []string{(<-events).Name, (<-events).Name}; !slices.Equal(told, []string{neigh, again}) {
		t.Errorf("told %q, want first what did not fail and then the other", told)
	}
}

// atRest returns the kernel once it is what etcd held at the call, and nothing is on
// its way out.
func (n *testNode) atRest() kernel.State {
	n.t.Helper()
	if err := n.Sync(n.t.Context()); err != nil {
		n.t.Fatal(err)
	}
	n.eventually("the kernel is in line", func() bool {
		if !n.rec.Settled() || len(n.kernel.State().Doomed) > 0 {
			return false // and links are not retired until nobody asks for anything
		}
		_, drift, err := n.Verify(n.t.Context())
		return err == nil && len(drift) == 0
	})
	return n.kernel.State()
}
