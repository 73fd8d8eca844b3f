// Package await has goroutines wait for one another, and for a while.
package await

import (
	"context"
	"sync"
	"time"
)

// A Beacon wakes all who wait for the next change of something.
type Beacon struct {
	mu   sync.Mutex // guards next
	next chan struct{}
}

// NewBeacon makes a beacon.
func NewBeacon() *Beacon { return &Beacon{next: make(chan struct{})} }

// Wait returns a channel that closes at the next change after the call.
func (b *Beacon) Wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.next
}

// Fire wakes all who wait now.
func (b *Beacon) Fire() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.next)
	b.next = make(chan struct{})
}

// Wake fills a channel of size 1.
func Wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// WakeIn wakes after a while: what has failed is tried again.
func WakeIn(c chan struct{}, after time.Duration) {
	time.AfterFunc(after, func() { Wake(c) })
}

// Sleep waits for a while, or until ctx ends: then it returns why.
func Sleep(ctx context.Context, how time.Duration) error {
	timer := time.NewTimer(how)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
