package daemon

import (
	"context"
	"sync"
	"time"
)

// An Event is something that this agent saw happen.
type Event struct {
	Time time.Time
	Type string // "cluster", "network", "endpoint", "sandbox", "node" or "kernel"
	// Action is "create", "destroy", "connect", "disconnect", "lost", "publish",
	// "up", "down", "remove", "drain", "undrain", "evict", "fence", "repair",
	// "conflict", "resolve", "freeze" or "accept".
	Action     string
	ID         string
	Name       string
	Attributes map[string]string
}

// subscriberBuffer is how many events a reader may lag behind; one that lags
// further misses some, and is told so by the gap in time alone.
const subscriberBuffer = 256

// bus hands every event to all who listen. It never blocks who publishes.
type bus struct {
	mu   sync.Mutex // guards subs
	subs map[chan Event]struct{}
}

func newBus() *bus { return &bus{subs: map[chan Event]struct{}{}} }

// publish sends an event to all listeners.
func (b *bus) publish(e Event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for sub := range b.subs {
		select {
		case sub <- e:
		default:
		}
	}
}

// subscribe returns the events from now on; the channel closes when ctx ends.
func (b *bus) subscribe(ctx context.Context) <-chan Event {
	sub := make(chan Event, subscriberBuffer)
	b.mu.Lock()
	b.subs[sub] = struct{}{}
	b.mu.Unlock()
	context.AfterFunc(ctx, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.subs, sub)
		close(sub)
	})
	return sub
}
