package daemon

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/ipam"
	"github.com/overspan/overspan/store"
)

func TestDisconnectDoesNotWaitForEtcd(t *testing.T) {
	c := newTestCluster(t, 1)
	n := c.nodes[0]
	demo := n.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	targets := []string{"first", "second"}
	for _, name := range targets {
		n.connect(ConnectRequest{Network: "demo", Target: n.container(name), Name: name})
	}
	n.line.SetDown(true)
	for _, target := range targets {
		begin := time.Now()
		_, pending, err := n.Disconnect(t.Context(), "demo", target)
		if err != nil || !pending {
			t.Errorf("disconnect %s: pending %v, %v", target, pending, err)
		}
		if took := time.Since(begin); took > requestBound {
			t.Errorf("disconnect %s took %s", target, took)
		}
	}
	_, _, err := n.Disconnect(t.Context(), "demo", targets[0])
	if !errors.Is(err, overspan.ErrNotFound) || !strings.Contains(err.Error(), "on this node any more: it was disconnected") {
		t.Errorf("once more: %v, want it to say that it is disconnected already", err)
	}
	if got := n.Status(t.Context()); got.PendingReleases != 2 {
		t.Errorf("%d releases are pending, want 2", got.PendingReleases)
	}
	n.line.SetDown(false)
	n.eventually("both are released", func() bool {
		return len(c.keys("net/"+string(demo.ID)+"/endpoints/")) == 0
	})
}

// A fullEtcd can be read; while it is full it takes no writes.
type fullEtcd struct {
	store.KV
	full atomic.Bool
}

func (f *fullEtcd) Txn(ctx context.Context, t store.Txn) (store.Result, error) {
	for _, op := range t.Then {
		if op.Kind != store.OpGet && f.full.Load() {
			return store.Result{}, errFull
		}
	}
	return f.KV.Txn(ctx, t)
}

// errFull is what the test's etcd says.
var errFull = overspan.Errorf(overspan.ErrUnavailable, "etcd takes no writes: it is full")

func (f *fullEtcd) Grant(ctx context.Context, ttl time.Duration) (store.LeaseID, error) {
	if f.full.Load() {
		return 0, errFull
	}
	return f.KV.Grant(ctx, ttl)
}

func TestReadyWhileEtcdIsFull(t *testing.T) {
	c := newTestCluster(t, 1)
	n := c.nodes[0]
	n.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	n.connect(ConnectRequest{Network: "demo", Target: n.container("web")})
	n.stop()
	full := &fullEtcd{KV: n.line}
	full.full.Store(true)
	n.kv = full
	n.start()
	n.clean()
	_, err := n.Connect(t.Context(), ConnectRequest{Network: "demo", Target: n.container("late")})
	if err == nil || !strings.Contains(err.Error(), errFull.Error()) {
		t.Errorf("connect: %v, want it to say %q", err, errFull)
	}
	if w := n.Status(t.Context()).Warnings; !slices.ContainsFunc(w, func(s string) bool { return strings.Contains(s, errFull.Error()) }) {
		t.Errorf("status warns of %q, want it to say %q", w, errFull)
	}
	full.full.Store(false)
	n.eventually("it is registered", func() bool { _, err := n.registrar.session(); return err == nil })
	n.connect(ConnectRequest{Network: "demo", Target: n.container("late")})
}

func TestSandboxIsPluggedInAgainWhileItsReleaseIsPending(t *testing.T) {
	c := newTestCluster(t, 1)
	n := c.nodes[0]
	n.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	target := n.container("web")
	n.connect(ConnectRequest{Network: "demo", Target: target})
	n.line.SetDown(true)
	if _, pending, err := n.Disconnect(t.Context(), "demo", target); err != nil || !pending {
		t.Fatalf("disconnect: pending %v, %v", pending, err)
	}
	n.line.SetDown(false)
	n.connect(ConnectRequest{Network: "demo", Target: target})
}

func TestHalfRemovedNetworkGoesWhenEtcdIsBack(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, 1)
	n := c.nodes[0]
	n.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	n.eventually("nothing is left to look at", n.rec.Settled)
	n.line.InjectTxn(store.TxnPasses, store.TxnHangs, store.TxnHangs) // marked, no more
	if _, err := n.RemoveNetwork(t.Context(), "demo"); !errors.Is(err, overspan.ErrUnavailable) {
		t.Errorf("remove: %v, want that etcd is away", err)
	}
	if len(c.keys("names/")) > 0 || len(c.keys("networks/")) == 0 {
		t.Errorf("the network is not half removed: %v", c.keys("names/", "networks/"))
	}
	n.eventually("the other half goes", func() bool { return len(c.keys("networks/", "vnis/", "subnets/ipv4/")) == 0 })
}
