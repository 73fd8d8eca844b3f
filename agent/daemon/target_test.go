package daemon

import (
	"testing"

	"github.com/overspan/overspan/ipam"
)

func TestNameOfANamespaceOutweighsTheDigitsOfAnID(t *testing.T) {
	c := newTestCluster(t, 1)
	n := c.nodes[0]
	n.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	n.connect(ConnectRequest{Network: "demo", Target: n.container("web")})
	digits := string(n.Sandboxes()[0].ID[:2])
	n.kernel.MakeNetns("/run/netns/" + digits)
	if e := n.connect(ConnectRequest{Network: "demo", Target: digits}); e.Sandbox != digits {
		t.Errorf("target %s is taken for sandbox %s", digits, e.Sandbox)
	}
	if _, err := n.target(t.Context(), string(n.Sandboxes()[0].ID[:12])); err != nil {
		t.Errorf("digits that name nothing else: %v", err)
	}
}
