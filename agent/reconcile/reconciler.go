// Package reconcile keeps a kernel in line with what etcd and this node say. A pass
// plans a scope from an Input, which is pure, reads the kernel, and carries out what
// differs; the Reconciler decides when, over what, and what to try again, and tells
// which differences nobody here had made.
package reconcile

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/await"
	"github.com/overspan/overspan/agent/local"
	"github.com/overspan/overspan/bridge"
	"github.com/overspan/overspan/kernel"
)

// A Kernel is what the reconciler reads and changes. Read may return part of
// the state with an error and says so in it; Apply is idempotent. Neither is
// called by anyone but the reconciler.
type Kernel interface {
	Read(ctx context.Context, scope kernel.Scope) (kernel.State, error)
	Apply(ctx context.Context, ops []kernel.Op) error
	Retire(ctx context.Context) error
}

// retireAfter is how long the reconciler must have been idle before it deletes
// doomed links, retireWithin how long they wait for that, and retireAtMost how many may:
// deleting blocks the kernel's RTNL lock for 20 to 50 ms, however many go at once.
const (
	retireAfter  = 50 * time.Millisecond
	retireWithin = time.Second
	retireAtMost = 64
)

// insidesAtOnce is how many containers' ends a pass looks at where nobody waits for
// it: each takes entering a namespace.
const insidesAtOnce = 32

// retireAgain is when to try again after doomed links could not be deleted.
const retireAgain = time.Second

// A Result is what one pass found and did.
type Result struct {
	Input    Input // what it was planned from
	Revision int64 // of its snapshot
	Ops      []kernel.Op
	Done     []kernel.Op // those of Ops that were carried out
	Repaired []kernel.Op // those of Done that undid what nobody here had done
	Warnings []string
	Took     time.Duration

	// Segments is up to which revision each network of the scope was brought in
	// line: a network's own watch may be ahead of the snapshot as a whole.
	Segments map[overspan.NetworkID]int64

	Begun, Ended []Conflict // that this pass met, or saw gone
	Conflicts    []Conflict // that stand after it, in any scope

	// doomed is how many links were found that wait to be retired, those of an
	// agent that was killed before it had done so included.
	doomed int

	partial bool        // not all could be read
	left    []kernel.Op // those of Ops that were not carried out
	find    *Finder
}

// PartOf returns the part of this node's kernel state that a device belongs to; the zero
// Part for "", which is no device, and for one that is nobody's.
func (res *Result) PartOf(dev string) Part { return res.find.PartOf(dev) }

// Hooks are what a reconciler asks, and what it tells by its own goroutine. All but
// Input may be nil.
type Hooks struct {
	// Input returns what to plan a scope from; ok is false before the first
	// complete snapshot, and nothing is read or written until then.
	Input func(kernel.Scope) (in Input, ok bool)

	// Passed is told of every pass. Cause says what led to it.
	Passed func(scope kernel.Scope, cause string, res Result, err error)

	// Changing is told what settings were that are about to be changed, of all
	// that is not ours. An error leaves them as they are.
	Changing func(was map[string]string) error

	// Rehomed is told of published ports that lead elsewhere than before the last
	// pass: in which networks.
	Rehomed func(networks []overspan.NetworkID)

	// Retired is told when no doomed link is left.
	Retired func()
}

// A Reconciler owns the kernel: one goroutine runs one pass at a time.
type Reconciler struct {
	kernel Kernel
	log    *slog.Logger
	hooks  Hooks

	requests chan passRequest
	stopped  chan struct{} // closed when Run has ended
	again    chan struct{} // size 1: what failed may succeed now
	dirty    *dirtySet
	lagging  atomic.Bool // failed is not empty

	// All below belongs to Run's goroutine.
	failed    partSet       // what a pass could not bring in line; tried again
	conflicts conflicts     // why
	delay     time.Duration // before the next try
	moved     partSet       // what was changed here and not looked at since
	seen      Input         // what the last pass was planned from
	bases     map[overspan.NetworkID]basis
	looked    bool                 // everything was once brought in line
	insides   []kernel.EndpointKey // containers' ends that this resync has not looked at yet
	doomed    int                  // links that wait to be retired
	since     time.Time            // when the first of them was seen to wait
	notBefore time.Time            // retiring them has failed: it is not tried again before
	fresh     bool                 // something failed for the first time
}

type passRequest struct {
	scope  kernel.Scope
	dry    bool // compare only
	retire bool // delete doomed links, no pass
	answer chan passAnswer
}

type passAnswer struct {
	res Result
	err error
}

// New makes a reconciler of a kernel; Run runs it.
func New(k Kernel, log *slog.Logger, hooks Hooks) *Reconciler {
	return &Reconciler{
		kernel:    k,
		log:       log,
		hooks:     hooks,
		requests:  make(chan passRequest),
		stopped:   make(chan struct{}),
		again:     make(chan struct{}, 1),
		dirty:     newDirtySet(),
		failed:    partSet{},
		conflicts: conflicts{},
		delay:     retryFirst,
		moved:     partSet{},
		bases:     map[overspan.NetworkID]basis{},
	}
}

// The causes of a pass.
const (
	CauseRequest = "request" // somebody waits for it
	CauseChange  = "change"  // the desired state changed
	CauseHint    = "hint"    // the kernel said that something changed
	CauseResync  = "resync"  // it is time to look at everything
	CauseRetry   = "retry"   // something failed before
)

// Run reconciles until ctx ends. A full pass runs every resync, and after it those
// over the containers' ends, a few at a time: others may ask between them.
func (r *Reconciler) Run(ctx context.Context, resync time.Duration) error {
	defer close(r.stopped)
	ticker := time.NewTicker(resync)
	defer ticker.Stop()
	idle := time.NewTimer(retireAfter)
	defer idle.Stop()
	retry := time.NewTimer(retryMost)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case req := <-r.requests:
			req.answer <- r.serve(ctx, req)
		case <-r.dirty.ready:
			if scope, changed, cause, some := r.dirty.take(); some {
				r.passOver(ctx, scope, changed, cause)
			}
		case <-ticker.C:
			res, _ := r.pass(ctx, kernel.Scope{All: true, Global: true}, CauseResync)
			r.insides = local.KeysOf(res.Input.Local.Attachments.List)
		case <-r.more():
			n := min(len(r.insides), insidesAtOnce)
			r.pass(ctx, kernel.Scope{Endpoints: r.insides[:n]}, CauseResync)
			r.insides = r.insides[n:]
		case <-retry.C:
			r.retry(ctx)
			retry.Reset(r.delay)
		case <-r.again:
			r.delay = retryFirst
			r.retry(ctx)
			retry.Reset(r.delay)
		case <-idle.C:
			r.retire(ctx)
		}
		r.retireIfDue(ctx)
		if r.fresh {
			r.fresh, r.delay = false, retryFirst
			retry.Reset(r.delay)
		}
		if r.doomed > 0 {
			idle.Reset(max(retireAfter, time.Until(r.notBefore)))
		}
	}
}

// more returns a channel from which one can receive while containers' ends wait to be
// looked at, else never.
func (r *Reconciler) more() <-chan struct{} {
	if len(r.insides) == 0 {
		return nil
	}
	c := make(chan struct{})
	close(c)
	return c
}

func (r *Reconciler) serve(ctx context.Context, req passRequest) passAnswer {
	switch {
	case req.retire:
		return passAnswer{err: r.retire(ctx)}
	case req.dry:
		res, err := r.compare(ctx, req.scope, nil)
		return passAnswer{res, err}
	}
	res, err := r.pass(ctx, req.scope, CauseRequest)
	return passAnswer{res, err}
}

// ErrNoSnapshot says that nothing is known yet: rule 1 of the loop.
var ErrNoSnapshot = overspan.Errorf(overspan.ErrUnavailable, "the cluster's state is not known yet: neither etcd nor the journal has told it")

// errStopping says that the agent is on its way out.
var errStopping = overspan.Errorf(overspan.ErrUnavailable, "the agent is stopping")

// compare reads and plans a scope and returns the ops that lead from one to
// the other. Of the networks in changed only the plan may have changed.
func (r *Reconciler) compare(ctx context.Context, scope kernel.Scope, changed []overspan.NetworkID) (Result, error) {
	in, ok := r.hooks.Input(scope)
	if !ok {
		return Result{}, ErrNoSnapshot
	}
	return r.compareWith(ctx, in, scope, changed)
}

// widen adds to a scope the containers' ends whose default routes have moved since
// the last pass, and the chains of ports that moved with them. It reads the input
// again for each wider scope, since the input depends on that, and returns the last,
// with what has moved.
func (r *Reconciler) widen(scope kernel.Scope) (kernel.Scope, Input, rewiring, error) {
	for {
		in, ok := r.hooks.Input(scope)
		if !ok {
			return scope, in, rewiring{}, ErrNoSnapshot
		}
		anew := rewired(r.seen, in)
		more := slices.DeleteFunc(slices.Clone(anew.ends), func(k kernel.EndpointKey) bool { return slices.Contains(scope.Endpoints, k) })
		if len(more) == 0 {
			scope.Chains = unique(slices.Concat(scope.Chains, bridge.PortChains(anew.ports)))
			return scope, in, anew, nil
		}
		scope.Endpoints = slices.Concat(scope.Endpoints, more)
	}
}

func (r *Reconciler) compareWith(ctx context.Context, in Input, scope kernel.Scope, changed []overspan.NetworkID) (Result, error) {
	look, entries := r.narrow(in, scope, changed)
	if len(look.Sets) > 0 && !in.isMember() {
		look.Sets = nil // they go in the pass that takes the rules which ask them
	}
	want, warnings := plan(in, look)
	want.Take(entries)
	have, err := r.kernel.Read(ctx, look.WithSysctls(want))
	return Result{
		Input:    in,
		Revision: in.Snapshot.Revision,
		Ops:      kernel.Diff(have, want),
		Warnings: warnings,
		Segments: in.frontiers(scope),
		doomed:   len(have.Doomed),
	}, err
}

func (r *Reconciler) pass(ctx context.Context, scope kernel.Scope, cause string) (Result, error) {
	return r.passOver(ctx, scope, nil, cause)
}

// passOver brings a scope in line. Of the networks in changed only the plan may
// have changed since they were.
func (r *Reconciler) passOver(ctx context.Context, asked kernel.Scope, changed []overspan.NetworkID, cause string) (Result, error) {
	begin := time.Now()
	scope, in, anew, err := r.widen(asked)
	if err != nil {
		return Result{}, err
	}
	res, err := r.compareWith(ctx, in, scope, changed)
	res.partial = err != nil
	maps.Copy(r.moved, moved(r.seen, in, anew))
	r.seen = in
	res.find = &Finder{in: in, scope: scope, moved: r.moved}
	r.doomed = max(r.doomed, res.doomed)
	failed := r.apply(ctx, cause, &res)
	err = errors.Join(err, failed)
	if err != nil && ctx.Err() != nil {
		return res, errStopping
	}
	r.judge(asked, scope, cause, &res, failed)
	res.Took = time.Since(begin)
	if r.hooks.Passed != nil {
		r.hooks.Passed(scope, cause, res, err)
	}
	if len(anew.networks) > 0 && r.hooks.Rehomed != nil {
		r.hooks.Rehomed(anew.networks)
	}
	return res, err
}

// retireIfDue deletes doomed links that are not to wait for an idle moment any more.
func (r *Reconciler) retireIfDue(ctx context.Context) {
	now := time.Now()
	if r.doomed > 0 && r.since.IsZero() {
		r.since = now
	}
	due := r.doomed >= retireAtMost || r.doomed > 0 && now.Sub(r.since) >= retireWithin
	if due && !now.Before(r.notBefore) {
		r.retire(ctx)
	}
}

// retire deletes the doomed links, if there are any.
func (r *Reconciler) retire(ctx context.Context) error {
	if r.doomed == 0 {
		return nil
	}
	err := r.kernel.Retire(ctx)
	if err != nil {
		r.notBefore = time.Now().Add(retireAgain)
		r.log.Warn("cannot delete doomed links; will try again", "error", err)
		return err
	}
	r.doomed, r.since = 0, time.Time{}
	if r.hooks.Retired != nil {
		r.hooks.Retired()
	}
	return nil
}

// Mark has a scope looked at soon. Cause says what led to that.
func (r *Reconciler) Mark(scope kernel.Scope, cause string) { r.dirty.mark(scope, cause) }

// TryAgain tries what has failed again at once: it may succeed now.
func (r *Reconciler) TryAgain() { await.Wake(r.again) }

// Lagging reports whether something could not be brought in line, and waits to be
// tried again.
func (r *Reconciler) Lagging() bool { return r.lagging.Load() }

// Settled reports whether nothing waits to be looked at.
func (r *Reconciler) Settled() bool { return r.dirty.empty() && !r.Lagging() }

// Do runs a pass over a scope and waits for it.
func (r *Reconciler) Do(ctx context.Context, scope kernel.Scope) error {
	_, err := r.ask(ctx, passRequest{scope: scope})
	return err
}

// Verify compares everything, inside the sandboxes too, and changes nothing.
func (r *Reconciler) Verify(ctx context.Context) (Result, error) {
	scope := kernel.Scope{All: true, Global: true}
	if in, ok := r.hooks.Input(scope); ok {
		scope.Endpoints = local.KeysOf(in.Local.Attachments.List)
	}
	return r.ask(ctx, passRequest{scope: scope, dry: true})
}

// Flush deletes what is doomed, now.
func (r *Reconciler) Flush(ctx context.Context) error {
	_, err := r.ask(ctx, passRequest{retire: true})
	return err
}

func (r *Reconciler) ask(ctx context.Context, req passRequest) (Result, error) {
	req.answer = make(chan passAnswer, 1)
	select {
	case r.requests <- req:
	case <-r.stopped:
		return Result{}, errStopping
	case <-ctx.Done():
		return Result{}, busy(ctx)
	}
	select {
	case a := <-req.answer:
		return a.res, a.err
	case <-ctx.Done():
		return Result{}, busy(ctx)
	}
}

func busy(ctx context.Context) error {
	return overspan.Errorf(overspan.ErrUnavailable, "this node's kernel was not brought in line in time; try again: %w", ctx.Err())
}
