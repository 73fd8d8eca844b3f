package reconcile

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

// conflictsMost is how many conflicts are told: where more than that fails, each
// of them says the same. All are kept: what is known to fail is tried more rarely.
const conflictsMost = 64

// A Conflict is an op that fails again and again: as a rule something that is
// not ours stands in its way.
type Conflict struct {
	Since  time.Time
	Object string // "osx-0123456789"
	Text   string // object, cause, and what to try
	Dev    string // that it is about; "" for none
	part   Part
	told   bool // it has failed twice, so it was no race, and it is among the first conflictsMost
}

// conflicts is the ops that fail, by their text.
type conflicts map[string]Conflict

// holds reports whether an op is known to fail.
func (c conflicts) holds(op kernel.Op) bool {
	if len(c) == 0 {
		return false
	}
	_, failing := c[op.String()]
	return failing
}

// fail notes ops that failed, and what part each is of. Fresh says that some had
// not before; begun are to be told now: they have failed twice, or for another
// reason than before.
func (c conflicts) fail(failed []kernel.OpError, of func(kernel.Op) Part, now time.Time) (begun []Conflict, fresh bool) {
	told := len(c.standing())
	for _, f := range failed {
		key := f.Op.String()
		was, known := c[key]
		r := kernel.Repairs([]kernel.Op{f.Op})[0]
		is := Conflict{
			Since:  now,
			Object: r.Object,
			Text:   fmt.Sprintf("%s (%s) cannot be put right: %v", r.Object, r.Change, f.Err),
			Dev:    r.Dev,
			part:   of(f.Op),
			told:   was.told,
		}
		if known {
			is.Since = was.Since
		}
		if known && !was.told && told < conflictsMost {
			is.told = true
			told++
		}
		c[key] = is
		if is.told && (!was.told || was.Text != is.Text) {
			begun = append(begun, is)
		}
		fresh = fresh || !known
	}
	return begun, fresh
}

// end drops the conflicts within a scope but those whose ops are left, and
// returns those of them that were told.
func (c conflicts) end(scope kernel.Scope, left map[string]struct{}) []Conflict {
	var ended []Conflict
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
func (c conflicts) standing() []Conflict {
	var out []Conflict
	for _, is := range c {
		if is.told {
			out = append(out, is)
		}
	}
	slices.SortFunc(out, func(a, b Conflict) int { return strings.Compare(a.Text, b.Text) })
	return out
}
