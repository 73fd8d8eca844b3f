package daemon

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/overspan/overspan"
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
	r := newReconciler(closingKernel{stop: stop}, slog.New(slog.DiscardHandler), func() (planInput, bool) {
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
