//go:build steps

package steps

import (
	"os"
	"sync/atomic"
	"syscall"
)

// stopAt is the name of the moment at which the process stops itself once.
var stopAt = os.Getenv("OVERSPAN_STOP_AT")

var stopped atomic.Bool

// At stops the whole process, as SIGSTOP from outside would, if this is the
// moment that OVERSPAN_STOP_AT names. It goes on at SIGCONT, and never stops
// again.
func At(moment string) {
	if moment == stopAt && stopped.CompareAndSwap(false, true) {
		// The signal cannot be blocked; an error would only mean that there is none.
		_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
	}
}
