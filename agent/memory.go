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

// lookEvery is how often the agent looks at its memory, and calm how many bytes it
// allocates between two looks, at the most, where nothing of size is being done.
const (
	lookEvery = 500 * time.Millisecond
	calm      = 1 << 20
)

// spareMemory has the collector follow what is live, unless the environment tunes
// it, and gives memory back to the host whenever something that has left much
// garbage is over, until ctx ends: a pass over a large network, or a listing of it.
// Each leaves more than the agent otherwise holds, and what comes after allocates so
// little that it would stay for minutes.
func spareMemory(ctx context.Context, every time.Duration) error {
	tuned := os.Getenv("GOGC") != ""
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	var before, freed usage
	percent := 0
	for {
		now := usageNow()
		// What the runtime has given back by itself counts as well.
		freed.taken = min(freed.taken, now.taken)
		if worthFreeing(freed, before, now) {
			debug.FreeOSMemory()
			now = usageNow()
			freed = now
		}
		// To set it stops the world for a moment, also where it was so.
		if p := percentFor(now.live); p != percent && !tuned {
			debug.SetGCPercent(p)
			percent = p
		}
		before = now
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// percentFor returns by how much a heap of which so many bytes are live may
// grow, in percent of them.
func percentFor(live uint64) int {
	return max(gcPercent, int(100*gcRoom/max(live, leastHeap)))
}

// A usage is what the heap needs, in bytes.
type usage struct {
	live      uint64 // what the last collection has left
	taken     uint64 // of the host's memory
	allocated uint64 // since the start
}

// worthFreeing reports whether the heap takes much more than when memory was last
// given back, and nothing is being done that has use for it.
func worthFreeing(freed, before, now usage) bool {
	return now.taken >= freed.taken+gcRoom && now.allocated <= before.allocated+calm
}

func usageNow() usage {
	samples := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"},
		{Name: "/gc/heap/allocs:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/unused:bytes"},
		{Name: "/memory/classes/heap/free:bytes"}, // but not what was given back
	}
	metrics.Read(samples)
	u := usage{live: samples[0].Value.Uint64(), allocated: samples[1].Value.Uint64()}
	for _, s := range samples[2:] {
		u.taken += s.Value.Uint64()
	}
	return u
}
