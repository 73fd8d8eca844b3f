package kernel

import (
	"fmt"
	"strings"
)

// errorsShown is how many errors of entries are spelled out: thousands may fail
// alike.
const errorsShown = 3

// An ApplyError says which ops of a run were not carried out.
type ApplyError struct {
	Failed  []OpError
	Skipped []Op  // not tried: they build on one that failed, or the run was ended
	Ended   error // why the run was ended before its last op; nil if it was not
}

// An OpError is an op that failed, and why.
type OpError struct {
	Op  Op
	Err error
}

func (e OpError) Error() string { return fmt.Sprintf("%s: %v", e.Op, e.Err) }

// Unwrap returns the reason.
func (e OpError) Unwrap() error { return e.Err }

// Error names every op that failed, of entries the first few.
func (e *ApplyError) Error() string {
	var lines []string
	entries := 0
	for _, f := range e.Failed {
		if isEntry(f.Op) {
			entries++
		}
		if !isEntry(f.Op) || entries <= errorsShown {
			lines = append(lines, f.Error())
		}
	}
	if more := entries - errorsShown; more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more such ops failed", more))
	}
	if e.Ended != nil {
		lines = append(lines, e.Ended.Error())
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the reasons.
func (e *ApplyError) Unwrap() []error {
	errs := make([]error, 0, len(e.Failed)+1)
	for _, f := range e.Failed {
		errs = append(errs, f)
	}
	if e.Ended != nil {
		errs = append(errs, e.Ended)
	}
	return errs
}

// An applying is a run of ops under way.
type applying struct {
	failed broken
	result ApplyError
}

// fail notes that an op failed.
func (a *applying) fail(op Op, err error) {
	a.failed.add(op)
	a.result.Failed = append(a.result.Failed, OpError{op, err})
}

// skips reports whether an op cannot be tried, and notes it.
func (a *applying) skips(op Op) bool {
	if !a.failed.blocks(op) {
		return false
	}
	a.failed.add(op)
	a.result.Skipped = append(a.result.Skipped, op)
	return true
}

// end notes why the rest of the run is not tried.
func (a *applying) end(rest []Op, why error) error {
	a.result.Skipped = append(a.result.Skipped, rest...)
	a.result.Ended = why
	return a.err()
}

// err returns what was not carried out; nil if all was.
func (a *applying) err() error {
	if len(a.result.Failed) == 0 && a.result.Ended == nil {
		return nil
	}
	return &a.result
}

// Without returns ops without those of a set, and without what builds on them:
// the ops that are worth trying while it is known that those fail.
func Without(ops []Op, left func(Op) bool) []Op {
	out := make([]Op, 0, len(ops))
	failed := broken{}
	for _, op := range ops {
		if left(op) || failed.blocks(op) {
			failed.add(op)
			continue
		}
		out = append(out, op)
	}
	return out
}
