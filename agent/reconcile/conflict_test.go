package reconcile

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/overspan/overspan/kernel"
)

// However many ops fail, each is known to; of them, conflictsMost are told.
func TestAllConflictsAreHeldBackAndSomeAreTold(t *testing.T) {
	var failed []kernel.OpError
	for i := range 2 * conflictsMost {
		failed = append(failed, kernel.OpError{Op: kernel.DelLink{Name: fmt.Sprint("osv-", i)}, Err: errors.New("busy")})
	}
	of := func(kernel.Op) Part { return Part{} }
	c := conflicts{}
	for try, want := range []struct {
		begun int
		fresh bool
	}{{0, true}, {conflictsMost, false}, {0, false}} {
		if begun, fresh := c.fail(failed, of, time.Now()); len(begun) != want.begun || fresh != want.fresh {
			t.Errorf("try %d: told %d, fresh %t; want %+v", try+1, len(begun), fresh, want)
		}
	}
	for _, f := range failed {
		if !c.holds(f.Op) {
			t.Errorf("%s is not known to fail", f.Op)
		}
	}
	if ended := c.end(kernel.Scope{All: true}, nil); len(ended) != conflictsMost || len(c) != 0 {
		t.Errorf("%d ended, %d are left", len(ended), len(c))
	}
}
