package main

import (
	"context"
	"os"
	"runtime/debug"
	"time"
)

// gcPercent lets the heap grow by half before it is collected, not by all of it:
// the agent allocates little for most of the time, and memory is the host's.
const gcPercent = 50

// afterPass is how long after the moment of a full pass it is over.
const afterPass = 3 * time.Second

// spareMemory tunes the collector, unless the environment does, and gives memory
// back to the host after each full pass, until ctx ends. One over a large network
// leaves more garbage than the agent otherwise holds; without this it would stay
// until the next one.
func spareMemory(ctx context.Context, resync time.Duration) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	timer := time.NewTimer(afterPass)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
			debug.FreeOSMemory()
			timer.Reset(resync)
		}
	}
}
