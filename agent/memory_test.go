package main

import (
	"context"
	"runtime/debug"
	"testing"
	"time"
)

func TestHeapMayGrow(t *testing.T) {
	for _, test := range []struct {
		name string
		live uint64
		want int
	}{
		{"nothing collected yet", 0, 400},
		{"an idle agent", 4 << 20, 400},
		{"as much as the room", 16 << 20, 100},
		{"where half of it is the room", 32 << 20, 50},
		{"a large cluster", 64 << 20, 50},
	} {
		if got := percentFor(test.live); got != test.want {
			t.Errorf("%s: %d %%, want %d %%", test.name, got, test.want)
		}
	}
}

func TestWhatIsWorthFreeing(t *testing.T) {
	freed := usage{taken: 40 << 20, allocated: 100 << 20}
	for _, test := range []struct {
		name        string
		before, now usage
		want        bool
	}{
		{"little has come since", freed, usage{taken: 50 << 20, allocated: 101 << 20}, false},
		{"a pass is under way", freed, usage{taken: 80 << 20, allocated: 150 << 20}, false},
		{"a pass is over", usage{allocated: 150 << 20}, usage{taken: 80 << 20, allocated: 150 << 20}, true},
		{"others ask for a little meanwhile", usage{allocated: 150 << 20}, usage{taken: 80 << 20, allocated: 150<<20 + calm}, true},
		{"the collector's own room is used up", usage{allocated: 200 << 20}, usage{taken: 40<<20 + gcRoom, allocated: 200 << 20}, true},
		{"there is less than there was", usage{allocated: 200 << 20}, usage{taken: 20 << 20, allocated: 200 << 20}, false},
	} {
		if got := worthFreeing(freed, test.before, test.now); got != test.want {
			t.Errorf("%s: %t, want %t", test.name, got, test.want)
		}
	}
}

// What something of size has left goes back, though nothing is allocated any more.
func TestGarbageGoesBackToTheHost(t *testing.T) {
	t.Setenv("GOGC", "")
	old := debug.SetGCPercent(100)
	defer debug.SetGCPercent(old)
	const garbage = 256 << 20
	for range garbage >> 20 {
		kept = append(kept, make([]byte, 1<<20))
	}
	if taken := usageNow().taken; taken < garbage {
		t.Fatalf("%d bytes are taken: less than is in use", taken)
	}
	kept = nil

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- spareMemory(ctx, 10*time.Millisecond) }()
	for tick := time.Tick(10 * time.Millisecond); usageNow().taken > garbage/2; {
		select {
		case <-tick:
		case <-ctx.Done():
			t.Fatalf("%d bytes are taken still", usageNow().taken)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// kept keeps memory in use.
var kept [][]byte
