package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// gcPercent lets the heap grow by half before it is collected, not by all of it:
// the agent allocates little for most of the time, and memory is the host's.
const gcPercent = 50

// gcRoom is how many bytes the heap may grow at the least: where little is
// live, half of it is filled by a few attaches, and each collection would make
// one of them wait.
const gcRoom = 16 << 20

// leastHeap is the heap that the runtime never collects before at 100 percent;
// at others it is in proportion.
const leastHeap = 4 << 20

// afterPass is how long after the moment of a full pass it is over.
const afterPass = 3 * time.Second

// spareMemory tunes the collector, unless the environment does, and gives memory
// back to the host after each full pass, until ctx ends. One over a large network
// leaves more garbage than the agent otherwise holds; without this it would stay
// until the next one.
func spareMemory(ctx context.Context, resync time.Duration) error {
	tune := func() {}
	if os.Getenv("GOGC") == "" {
		tune = func() { debug.SetGCPercent(percentFor(liveHeap())) }
	}
	tune()
	timer := time.NewTimer(afterPass)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
			debug.FreeOSMemory()
			tune()
			timer.Reset(resync)
		}
	}
}

// percentFor returns by how much a heap of which so many bytes are live may
// grow, in percent of them.
func percentFor(live uint64) int {
	return max(gcPercent, int(100*gcRoom/max(live, leastHeap)))
}

// liveHeap returns how many bytes the last collection has left.
func liveHeap() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
