package daemon

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/ports"
	"github.com/overspan/overspan/ipam"
)

// remove takes another node out of the cluster, as node rm --force does.
func (n *testNode) remove(other *testNode) {
	n.t.Helper()
	if _, err := n.RemoveNode(n.t.Context(), other.cfg.NodeName, true); err != nil {
		n.t.Fatal(err)
	}
}

// rejoins waits until the node is registered anew.
func (n *testNode) rejoins(before int64) {
	n.t.Helper()
	n.eventually("it is registered anew", func() bool {
		session, err := n.registrar.session()
		return err == nil && session.Registration() != before
	})
}

// The presence of a node lasts a minute here: nothing but the snapshot tells it
// sooner that it was removed.
func TestARemovedNodeRegistersAnewAtOnce(t *testing.T) {
	c := newTestCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	before := h1.registration()
	h2.remove(h1)
	h1.rejoins(before)
}

// A node that is removed while an attach waits for the peers has lost the
// endpoint again: the caller is told so, and nothing is left.
func TestAttachOfANodeThatIsRemovedMeanwhile(t *testing.T) {
	c := newTestCluster(t, 3)
	h1, h2, h3 := c.nodes[0], c.nodes[1], c.nodes[2]
	net := h1.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	h3.connect(ConnectRequest{Network: "demo", Target: h3.container("peer")})
	h3.line.SetDown(true) // it acknowledges nothing

	before, told := h1.registration(), make(chan error, 1)
	target := h1.container("web")
	go func() {
		_, err := h1.Connect(t.Context(), ConnectRequest{Network: "demo", Target: target})
		told <- err
	}()
	endpoints := "net/" + string(net.ID) + "/endpoints/"
	h1.eventually("the attach waits for the peers", func() bool {
		return len(c.keys(endpoints)) == 2 && len(h1.Attachments()) == 1 && h1.Attachments()[0].Committed
	})
	h2.remove(h1)
	if err := <-told; !errors.Is(err, overspan.ErrFenced) || !strings.Contains(err.Error(), "removed from the cluster") {
		t.Errorf("connect: %v", err)
	}
	h1.rejoins(before)
	if got := h1.Attachments(); len(got) > 0 {
		t.Errorf("attachments %v are left", got)
	}
	if got := c.keys(endpoints); len(got) != 1 {
		t.Errorf("etcd has the endpoints %v; want that of h3 alone", got)
	}
	h1.atRest() // once it has seen all of its own removal
	h3.line.SetDown(false)
}

// An attach that fails after all gives back the ports that it took, and no others,
// where its sandbox has another network.
func TestAttachThatFailsLateGivesBackItsPorts(t *testing.T) {
	c := newTestCluster(t, 3)
	h1, h2, h3 := c.nodes[0], c.nodes[1], c.nodes[2]
	h1.create(CreateRequest{Spec: ipam.Spec{Name: "own"}})
	h1.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	target := h1.container("web")
	h1.connect(ConnectRequest{Network: "own", Target: target, Publish: []string{"80"}})
	kept := h1.Sandboxes()[0].Ports
	h3.connect(ConnectRequest{Network: "demo", Target: h3.container("peer")})
	h3.line.SetDown(true) // it acknowledges nothing

	before, told := h1.registration(), make(chan error, 1)
	go func() {
		_, err := h1.Connect(t.Context(), ConnectRequest{Network: "demo", Target: target, Publish: []string{"81"}})
		told <- err
	}()
	h1.eventually("the attach waits for the peers", func() bool {
		return len(h1.Attachments()) == 2 && h1.Attachments()[1].Committed && len(h1.Sandboxes()[0].Ports) > len(kept)
	})
	taken := h1.Sandboxes()[0].Ports
	h2.remove(h1)
	if err := <-told; !errors.Is(err, overspan.ErrFenced) {
		t.Errorf("connect: %v", err)
	}
	if got := h1.Sandboxes()[0].Ports; !slices.Equal(got, kept) {
		t.Errorf("ports %v of %v are left; want %v", got, taken, kept)
	}
	if noted, err := h1.journal.Sandboxes(); err != nil || len(noted) != 1 || !slices.Equal(noted[0].Ports, kept) {
		t.Errorf("the journal has %v, %v; want the ports %v", noted, err, kept)
	}
	for _, p := range taken {
		again, err := h1.ports.Reserve("another", "another", []ports.Spec{{Protocol: p.Protocol, Port: p.Port, HostIP: p.HostIP, First: p.HostPort, Last: p.HostPort}}, overspan.FamilyOf(p.HostIP))
		if held := slices.Contains(kept, p); (err != nil) != held {
			t.Errorf("port %s, reserved again: %v, %v", p, again, err)
		}
	}
	h1.ports.Keep("another", nil)
	h1.rejoins(before)
	h3.line.SetDown(false)
	h1.asPlanned() // also of the network that it is no member of any more
	h1.clean()
}

// asPlanned waits until a node's kernel is what its plan says.
func (n *testNode) asPlanned() {
	n.t.Helper()
	n.eventually("the kernel is as planned", func() bool {
		_, drift, err := n.Verify(n.t.Context())
		return err == nil && len(drift) == 0
	})
}
