package daemon

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/ipam"
	"github.com/overspan/overspan/kernel"
	"github.com/overspan/overspan/store"
)

func TestRebootTouchesNoForeignNamespace(t *testing.T) {
	c := newTestCluster(t, 1)
	n := c.nodes[0]
	n.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	target := n.container("web")
	n.connect(ConnectRequest{Network: "demo", Target: target})
	n.eventually("nothing is left to look at", n.rec.Settled)
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

func TestRestartRetiresWhatItsPredecessorDoomed(t *testing.T) {
	c := newTestCluster(t, 1)
	n := c.nodes[0]
	n.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	e := n.connect(ConnectRequest{Network: "demo", Target: n.container("web")})
	n.stop()
	// The agent was killed between a disconnect and the end of its links.
	n.kernel.Mutate(func(s *kernel.State) { s.Doomed = map[string]struct{}{overspan.VethName(e.ID) + "x": {}} })
	n.start()
	n.eventually("the doomed veth is gone", func() bool { return len(n.kernel.State().Doomed) == 0 })
}

// diesReleasing ends the agent as if it had been killed right after it had noted a
// release.
func (n *testNode) diesReleasing(e overspan.Endpoint) {
	n.t.Helper()
	n.stop()
	j, err := store.OpenJournal(n.cfg.JournalPath())
	if err != nil {
		n.t.Fatal(err)
	}
	if err := errors.Join(j.Defer(e), j.Close()); err != nil {
		n.t.Fatal(err)
	}
}

func TestReleaseOfTheLastRunTakesThePortOffFirst(t *testing.T) {
	c := newTestCluster(t, 1)
	n := c.nodes[0]
	n.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	e := n.connect(ConnectRequest{Network: "demo", Target: n.container("web")})
	n.eventually("nothing is left to look at", n.rec.Settled)
	n.diesReleasing(e)
	n.kv = watchedTxns{KV: n.line, before: func(txn store.Txn) {
		for _, op := range txn.Then {
			if op.Kind == store.OpTxn && strings.Contains(op.Txn.Then[0].Range.Key, "/endpoints/") && n.kernel.State().Links[overspan.VethName(e.ID)].Master != "" {
				t.Error("the record is deleted while the port is still on the bridge")
			}
		}
	}}
	for range 3 {
		n.kernel.FailNext("doom link osv-", overspan.Errorf(overspan.ErrUnsupported, "not today"))
	}
	n.start()
	n.eventually("the release is done", func() bool { return len(c.keys("names/", "net/")) == 2 })
	n.clean()
}

// An endpoint was freed by force, and the agent died before its port was off: nobody
// else has its address until it is.
func TestSlotOfAPendingReleaseIsNotLent(t *testing.T) {
	c := newTestCluster(t, 1)
	n := c.nodes[0]
	n.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	e := n.connect(ConnectRequest{Network: "demo", Target: n.container("web")})
	n.diesReleasing(e)
	for _, key := range c.keys("net/") {
		if !strings.Contains(key, "/blocks/") {
			c.txn(store.Delete(store.Key("/overspan/test/v1/" + key)))
		}
	}
	n.kernel.FailNext("doom link osv-", overspan.Errorf(overspan.ErrUnsupported, "not today"))
	n.line.SetDown(true)
	n.start()
	if !n.releaser.lent.has(e.ID) {
		t.Error("the address may be lent though the port is there still")
	}
	n.line.SetDown(false)
	n.eventually("the port is off, and the address lent", func() bool {
		_, err := n.Connect(t.Context(), ConnectRequest{Network: "demo", Target: n.container("other"), IP: e.IPv4.String()})
		if err != nil {
			return false
		}
		if n.kernel.State().Links[overspan.VethName(e.ID)].Master != "" {
			t.Error("the address was lent while the port was there still")
		}
		return true
	})
}

// watchedTxns is a line to etcd whose transactions a test sees before they go.
type watchedTxns struct {
	store.KV
	before func(store.Txn)
}

func (w watchedTxns) Txn(ctx context.Context, t store.Txn) (store.Result, error) {
	w.before(t)
	return w.KV.Txn(ctx, t)
}
