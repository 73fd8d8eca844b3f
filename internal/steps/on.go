//go:build steps

package steps

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// At stops the whole process if this is the moment in the file that
// OVERSPAN_STOP_AT names, and removes the file, so that it stops once. It goes
// on at SIGCONT.
func At(m Moment) {
	path := os.Getenv("OVERSPAN_STOP_AT")
	if wanted, err := os.ReadFile(path); err != nil || string(wanted) != string(m) {
		return
	}
	if os.Remove(path) != nil {
		return // another goroutine was at the same moment, and faster
	}
	// The signal is this thread's, so that it does not get beyond the moment
	// before the process stands still.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Tgkill(os.Getpid(), unix.Gettid(), unix.SIGSTOP); err != nil {
		panic("stop at " + string(m) + ": " + err.Error())
	}
}
