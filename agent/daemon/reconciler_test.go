package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/ipam"
	"github.com/overspan/overspan/kernel"
)

// A closingKernel is one during whose reads the agent is told to stop.
type closingKernel struct {
	Kernel
	stop context.CancelFunc
}

func (k closingKernel) Read(ctx context.Context, _ kernel.Scope) (kernel.State, error) {
	k.stop()
	return kernel.State{Partial: true}, ctx.Err()
}

func (k closingKernel) Apply(ctx context.Context, _ []kernel.Op) error { return ctx.Err() }

func TestPassThatTheEndCutsShortSaysSo(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	r := newReconciler(closingKernel{stop: stop}, slog.New(slog.DiscardHandler), func(kernel.Scope) (planInput, bool) {
		return planInput{Snapshot: &overspan.Snapshot{}}, true
	})
	r.passed = func(_ kernel.Scope, _ string, _ passResult, err error) { t.Errorf("told as a failed pass: %v", err) }
	if _, err := r.pass(ctx, kernel.Scope{All: true}, causeResync); !errors.Is(err, errStopping) {
		t.Errorf("got %v, want %v", err, errStopping)
	}
	if !r.settled() {
		t.Error("the pass is to be tried again")
	}
}

// A stubbornKernel has a doomed link that cannot be deleted at first.
type stubbornKernel struct {
	Kernel
	retired chan struct{} // size 2
}

func (stubbornKernel) Read(context.Context, kernel.Scope) (kernel.State, error) {
	return kernel.State{Doomed: map[string]struct{}{"osv-0123456789": {}}}, nil
}

func (stubbornKernel) Apply(context.Context, []kernel.Op) error { return nil }

func (k stubbornKernel) Retire(context.Context) error {
	k.retired <- struct{}{}
	if len(k.retired) == 1 {
		return errors.New("not today")
	}
	return nil
}

// Links are retired, and again once that has failed, also where the reconciler is
// never idle for as long as they wait for that.
func TestRetiringDoesNotWaitForEver(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	k := stubbornKernel{retired: make(chan struct{}, 2)}
	r := newReconciler(k, slog.New(slog.DiscardHandler), func(kernel.Scope) (planInput, bool) {
		return planInput{Snapshot: &overspan.Snapshot{}}, true
	})
	done := make(chan struct{})
	r.passed = func(kernel.Scope, string, passResult, error) {}
	r.retired = func() { close(done) }
	go r.run(ctx, time.Hour)
	deadline, busy := time.After(20*time.Second), time.NewTicker(retireAfter/5)
	defer busy.Stop()
	for {
		select {
		case <-done:
			return
		case <-deadline:
			t.Fatalf("links were retired %d times; want once more after that had failed", len(k.retired))
		case <-busy.C:
			if err := r.do(ctx, kernel.Scope{All: true}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A repair that fails is not told as one: the same device in the way would be
// "repaired" at every retry.
func TestRepairThatFailsIsNotTold(t *testing.T) {
	c := newTestCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	net := h1.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	h1.connect(ConnectRequest{Network: "demo", Target: h1.container("web1")})
	far := h2.connect(ConnectRequest{Network: "demo", Target: h2.container("web2")})
	before := h1.atRest()
	events := h1.Subscribe(t.Context(), Span{})
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
		if !n.rec.settled() || len(n.kernel.State().Doomed) > 0 {
			return false // and links are not retired until nobody asks for anything
		}
		_, drift, err := n.Verify(n.t.Context())
		return err == nil && len(drift) == 0
	})
	return n.kernel.State()
}
