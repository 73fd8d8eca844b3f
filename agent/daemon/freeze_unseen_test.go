package daemon

import (
	"errors"
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
