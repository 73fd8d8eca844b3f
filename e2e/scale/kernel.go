package scale

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/overspan/overspan/kernel"
)

// A tapped kernel tells when it was given a forwarding entry that somebody
// waits for, and counts its passes.
type tapped struct {
	*kernel.Fake
	node  int
	spot  *spotter
	reads *atomic.Int64
}

// Read implements daemon.Kernel.
func (k tapped) Read(ctx context.Context, scope kernel.Scope) (kernel.State, error) {
	k.reads.Add(1)
	return k.Fake.Read(ctx, scope)
}

// Apply implements daemon.Kernel.
func (k tapped) Apply(ctx context.Context, ops []kernel.Op) error {
	err := k.Fake.Apply(ctx, ops)
	now := time.Now()
	for _, op := range ops {
		if set, ok := op.(kernel.SetFDB); ok {
			k.spot.saw(k.node, set.Key, now)
		}
	}
	return err
}

// A spotter notes when each node's kernel was given one forwarding entry.
type spotter struct {
	mu   sync.Mutex // guards all below
	key  kernel.FDBKey
	seen map[int]time.Time
}

// await forgets everything and waits for an entry from now on.
func (s *spotter) await(key kernel.FDBKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.key, s.seen = key, map[int]time.Time{}
}

func (s *spotter) saw(node int, key kernel.FDBKey, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if key != s.key {
		return
	}
	if _, before := s.seen[node]; !before {
		s.seen[node] = at
	}
}

// times returns when each node had the entry, of those that have it.
func (s *spotter) times() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]time.Time, 0, len(s.seen))
	for _, at := range s.seen {
		out = append(out, at)
	}
	return out
}
