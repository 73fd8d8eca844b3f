package daemon

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/overspan/overspan/kernel"
)

// What could not be brought in line is tried again after retryFirst, then ever
// more rarely up to retryMost: a conflict may stand for days.
const (
	retryFirst = 100 * time.Millisecond
	retryMost  = 30 * time.Second
)

// conflictsMost is how many conflicts are kept: where more than that fails, each
// of them says the same.
const conflictsMost = 64

// A conflict is an op that fails again and again: as a rule something that is
// not ours stands in its way.
type conflict struct {
	Since  time.Time
	Object string // "osx-0123456789"
	Text   string // object, cause, and what to try
	dev    string // that it is about; "" for none
	part   part
	told   bool // it has failed twice: it was no race
}

// conflicts is the ops that fail, by their text.
type conflicts map[string]conflict

// holds reports whether an op is known to fail.
func (c conflicts) holds(op kernel.Op) bool {
	if len(c) == 0 {
		return false
	}
	_, failing := c[op.String()]
	return failing
}

// fail notes an op that failed. Fresh says that it had not before; begun that
// it is to be told now: it has failed twice, or for another reason than before.
func (c conflicts) fail(f kernel.OpError, p part, now time.Time) (_ conflict, begun, fresh bool) {
	key := f.Op.String()
	was, known := c[key]
	if !known && len(c) >= conflictsMost {
		return conflict{}, false, false
	}
	r := kernel.Repairs([]kernel.Op{f.Op})[0]
	is := conflict{
		Since:  now,
		Object: r.Object,
		Text:   fmt.Sprintf("%s (%s) cannot be put right: %v", r.Object, r.Change, f.Err),
		dev:    r.Dev,
		part:   p,
		told:   known,
	}
	if known {
		is.Since = was.Since
	}
	c[key] = is
	return is, known && (!was.told || was.Text != is.Text), !known
}

// end drops the conflicts within a scope but those whose ops are left, and
// returns those of them that were told.
func (c conflicts) end(scope kernel.Scope, left map[string]struct{}) []conflict {
	var ended []conflict
	for _, key := range slices.Sorted(maps.Keys(c)) {
		is := c[key]
		if _, stands := left[key]; stands || !is.part.within(scope) {
			continue
		}
		delete(c, key)
		if is.told {
			ended = append(ended, is)
		}
	}
	return ended
}

// standing lists the conflicts that were told.
func (c conflicts) standing() []conflict {
	var out []conflict
	for _, is := range c {
		if is.told {
			out = append(out, is)
		}
	}
	slices.SortFunc(out, func(a, b conflict) int { return strings.Compare(a.Text, b.Text) })
	return out
}
