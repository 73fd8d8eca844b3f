package daemon

import (
	"slices"
	"strings"
	"testing"

	"github.com/overspan/overspan/ipam"
)

func TestRebootTouchesNoForeignNamespace(t *testing.T) {
	c := newTestCluster(t, 1)
	n := c.nodes[0]
	n.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	target := n.container("web")
	n.connect(ConnectRequest{Network: "demo", Target: target})
	n.eventually("nothing is left to look at", n.rec.settled)
	n.stop()

	// The path names another process's namespace by now.
	path := strings.TrimPrefix(target, "netns:")
	n.kernel.LoseNetns(path)
	n.kernel.MakeNetns(path)
	before := len(n.ops.since(0))
	n.start()
	n.eventually("the endpoint is given up", func() bool { return len(n.Attachments()) == 0 && len(n.Sandboxes()) == 0 })
	n.clean()
	for _, op := range n.ops.since(before) {
		if strings.HasPrefix(op, "add link osv-") {
			t.Errorf("an interface was put into a foreign namespace: %s", op)
		}
	}
	n.eventually("the record of the endpoint is gone", func() bool {
		return !slices.ContainsFunc(c.keys("net/"), func(key string) bool { return !strings.Contains(key, "/blocks/") })
	})
}
