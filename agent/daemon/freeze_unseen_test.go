package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/ipam"
	"github.com/overspan/overspan/store"
)

// A node that has written nothing since the backup was made, and follows no network,
// gives nobody an address that another node's endpoint has, though it is the first
// to meet the etcd that was restored.
func TestRollbackIsNoticedByWhoHasLostNothing(t *testing.T) {
	c := newTestCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	h1.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	backup := c.revision()
	own := h1.connect(ConnectRequest{Network: "demo", Target: h1.container("a")})
	h2.eventually("the claim is heard of", func() bool { rev, _ := h2.mirror.Claimed(); return rev > backup })
	h1.line.SetDown(true)
	c.etcd.RollbackAhead(backup)
	_, err := h2.Connect(t.Context(), ConnectRequest{Network: "demo", Target: h2.container("b"), Wait: WaitLocal})
	// Whichever is first: the mirror, or the claim itself.
	if !errors.Is(err, overspan.ErrUnavailable) && !errors.Is(err, store.ErrForgotten) {
		t.Errorf("connect: error %v, want ErrUnavailable or ErrForgotten", err)
	}
	if left := c.keys("net/"); len(left) > 0 {
		t.Errorf("it was written: %v", left)
	}
	c.frozen(h2)
	h1.line.SetDown(false)
	c.frozen(h1)
	c.accept()
	c.whole()
	if e := h2.connect(ConnectRequest{Network: "demo", Target: h2.container("b")}); e.IPv4 == own.IPv4 {
		t.Errorf("both have %s", e.IPv4)
	}
}

// A node that was down as an operator accepted one loss, and is up again after the
// next, goes through that freeze as the others do. It took each snapshot that told of
// the acceptance for another loss.
func TestNodeThatMissedAnAcceptanceGoesThroughTheNextFreeze(t *testing.T) {
	c := newTestCluster(t, 3)
	h1, h2, h3 := c.nodes[0], c.nodes[1], c.nodes[2]
	h1.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	for _, n := range c.nodes {
		n.connect(ConnectRequest{Network: "demo", Target: n.container("a")})
	}
	h3.stop()
	h1.eventually("h3 is seen to be down", func() bool { return h1.Snapshot().Nodes[h3.Self()].Presence == nil })
	var last overspan.Endpoint
	for loss := range 2 {
		backup := c.revision()
		last = h1.connect(ConnectRequest{Network: "demo", Target: h1.container(fmt.Sprint("late", loss))})
		c.etcd.Rollback(backup)
		c.forgetPresence(h3)
		c.frozen(h1, h2)
		if loss == 0 {
			c.accept()
			h1.eventually("the freeze is over", func() bool { return h1.Snapshot().Frozen == nil })
			h2.eventually("the freeze is over", func() bool { return h2.Snapshot().Frozen == nil })
		}
	}
	h3.start()
	c.frozen(h3)
	h1.eventually("h3 has reported", func() bool { return slices.Contains(c.keys("reports/"), "reports/"+string(h3.Self())) })
	session, err := h3.registrar.session()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := h1.Disconnect(t.Context(), "demo", last.Name); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*requestBound)
	defer cancel()
	if err := h3.Sync(ctx); err != nil {
		t.Errorf("h3 cannot follow the freeze: %v", err)
	}
	if now := h3.knowledge(); !now.Writable() || now.Memory == nil || now.Accepted != 1 {
		t.Errorf("h3 does not go by its memory and etcd: %+v", now)
	}
	if now, err := h3.registrar.session(); now != session {
		t.Errorf("h3 has another session by now: %v", err)
	}
	c.accept()
	c.whole()
}
