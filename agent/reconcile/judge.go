package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/kernel"
)

// apply carries out the ops of a pass. Passes that a hint or a change led to
// leave out what is known to fail: the traces of such an op, of a device that
// is made and deleted again, would be a hint to the next pass.
func (r *Reconciler) apply(ctx context.Context, cause string, res *Result) error {
	ops := res.Ops
	if len(r.conflicts) > 0 && (cause == CauseHint || cause == CauseChange) {
		ops = kernel.Without(ops, r.conflicts.holds)
	}
	ops, unnoted := r.noted(ops)
	var err error
	if len(ops) > 0 {
		err = r.kernel.Apply(ctx, ops)
	}
	res.Done = ops
	if err != nil {
		res.Done = carriedOut(ops, err)
	}
	err = errors.Join(err, unnoted)
	if len(res.Done) < len(res.Ops) {
		res.left = without(res.Ops, res.Done)
	}
	tell := r.log.Enabled(ctx, slog.LevelDebug) // what a thousand entries are called takes its time
	for _, op := range res.Done {
		if tell {
			r.log.Debug("applied", "op", op.String(), "cause", cause)
		}
		if _, doomed := op.(kernel.DoomLink); doomed {
			r.doomed++
		}
	}
	return err
}

// noted has what the host's own settings are noted before they are changed, and
// returns the ops that may then be carried out.
func (r *Reconciler) noted(ops []kernel.Op) ([]kernel.Op, error) {
	was := map[string]string{}
	ofHost := func(op kernel.Op) bool {
		o, ok := op.(kernel.SetSysctl)
		return ok && kernel.Device(op) == "" && o.Was != ""
	}
	for _, op := range ops {
		if ofHost(op) {
			o := op.(kernel.SetSysctl)
			was[o.Path] = o.Was
		}
	}
	if len(was) == 0 || r.hooks.Changing == nil {
		return ops, nil
	}
	if err := r.hooks.Changing(was); err != nil {
		return kernel.Without(ops, ofHost), fmt.Errorf("the host's settings stay as they are: %w", err)
	}
	return ops, nil
}

// carriedOut returns those of ops that an error of Apply does not name.
func carriedOut(ops []kernel.Op, err error) []kernel.Op {
	var not *kernel.ApplyError
	if !errors.As(err, &not) {
		return nil
	}
	left := slices.Clone(not.Skipped)
	for _, f := range not.Failed {
		left = append(left, f.Op)
	}
	return without(ops, left)
}

// without returns ops but for some of them.
func without(ops, some []kernel.Op) []kernel.Op {
	texts := textsOf(some)
	return slices.DeleteFunc(slices.Clone(ops), func(op kernel.Op) bool {
		_, out := texts[op.String()]
		return out
	})
}

func textsOf(ops []kernel.Op) map[string]struct{} {
	texts := make(map[string]struct{}, len(ops))
	for _, op := range ops {
		texts[op.String()] = struct{}{}
	}
	return texts
}

// judge decides what a pass means: which ops were repairs, what to try again, and
// what is a conflict. What a request asked for is not tried again here: its caller
// gets the error, and decides.
func (r *Reconciler) judge(asked, scope kernel.Scope, cause string, res *Result, failed error) {
	for _, op := range res.Done {
		// Before everything was once looked at, nobody knows who changed what.
		if p := res.find.of(op); r.looked && !r.moved.has(p) && !res.Input.gone(p) {
			res.Repaired = append(res.Repaired, op)
		}
	}
	left := partSet{}
	for _, op := range res.left {
		left.add(res.find.of(op))
	}
	if res.partial {
		left.addScope(scope)
	}
	r.looked = r.looked || scope.All && len(left) == 0
	r.contend(scope, cause, res, failed)
	r.rebase(scope, res.Input, left)
	r.moved.settle(scope, left)
	r.failed.settle(scope, left)
	for p := range left {
		if cause == CauseRequest && p.within(asked) {
			continue
		}
		_, before := r.failed[p]
		r.fresh = r.fresh || !before
		r.failed.add(p)
	}
	r.lagging.Store(len(r.failed) > 0)
	maps.DeleteFunc(res.Segments, func(id overspan.NetworkID, _ int64) bool {
		// The rules guard every network.
		return left.has(Part{}) || left.has(stray) || left.has(Part{Network: id})
	})
}

// contend learns what stands in the way, and what does no more.
func (r *Reconciler) contend(scope kernel.Scope, cause string, res *Result, failed error) {
	var not *kernel.ApplyError
	if cause != CauseRequest && errors.As(failed, &not) {
		begun, fresh := r.conflicts.fail(not.Failed, res.find.of, time.Now())
		res.Begun = begun
		r.fresh = r.fresh || fresh
	}
	if !res.partial {
		res.Ended = r.conflicts.end(scope, textsOf(res.left))
	}
	res.Conflicts = r.conflicts.standing()
}

// retry tries again what failed, if anything did, and says when to do so next.
func (r *Reconciler) retry(ctx context.Context) {
	if len(r.failed) == 0 {
		r.delay = retryMost
		return
	}
	r.pass(ctx, r.failed.scope(r.seen.Local.Attachments), CauseRetry)
	r.delay = min(2*r.delay, retryMost)
}
