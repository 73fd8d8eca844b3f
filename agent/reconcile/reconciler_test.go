package reconcile

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/kernel"
)

// nothing is the input of a node that has no part in anything.
func nothing(kernel.Scope) (Input, bool) {
	return Input{Snapshot: &overspan.Snapshot{}}, true
}

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
	r := New(closingKernel{stop: stop}, slog.New(slog.DiscardHandler), Hooks{
		Input:  nothing,
		Passed: func(_ kernel.Scope, _ string, _ Result, err error) { t.Errorf("told as a failed pass: %v", err) },
	})
	if _, err := r.pass(ctx, kernel.Scope{All: true}, CauseResync); !errors.Is(err, errStopping) {
		t.Errorf("got %v, want %v", err, errStopping)
	}
	if !r.Settled() {
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
	done := make(chan struct{})
	r := New(k, slog.New(slog.DiscardHandler), Hooks{Input: nothing, Retired: func() { close(done) }})
	go r.Run(ctx, time.Hour)
	deadline, busy := time.After(20*time.Second), time.NewTicker(retireAfter/5)
	defer busy.Stop()
	for {
		select {
		case <-done:
			return
		case <-deadline:
			t.Fatalf("links were retired %d times; want once more after that had failed", len(k.retired))
		case <-busy.C:
			if err := r.Do(ctx, kernel.Scope{All: true}); err != nil {
				t.Fatal(err)
			}
		}
	}
}
