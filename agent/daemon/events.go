package daemon

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/overspan/overspan/agent/await"
)

// An Event is something that this agent did, or saw happen.
type Event struct {
	Time time.Time
	// Type is "cluster", "network", "endpoint", "sandbox", "node", "kernel" or
	// TypeEvents.
	Type string
	// Action is "create", "destroy", "connect", "disconnect", "lost", "publish",
	// "up", "down", "remove", "drain", "undrain", "evict", "fence", "repair",
	// "conflict", "resolve", "freeze" or "accept"; of events "missed".
	Action string
	ID     string
	Name   string
	// Attributes say more. "node" is the name of the node where it happened,
	// where it happened on one.
	Attributes map[string]string
}

// TypeEvents is the type of what is told of the telling itself.
const TypeEvents = "events"

// EventsKept is how many events of the past an agent remembers.
const EventsKept = 1024

// A Span is which events somebody wants to hear of.
type Span struct {
	Since time.Time // zero: from the call on
	Until time.Time // zero: for ever
}

// Events are the newest events, for all who want to hear of them. Each reader
// goes through them at his own pace; who publishes never waits. One that is so
// slow that events are forgotten before he comes to them is told how many.
type Events struct {
	told *await.Beacon // fires after each event

	mu    sync.Mutex // guards all below
	kept  []Event    // a ring once it is full
	count int        // of all events so far: the n-th is kept at n modulo EventsKept
	lost  time.Time  // of the newest one that is not kept any more
}

// NewEvents returns events of which none has happened.
func NewEvents() *Events { return &Events{told: await.NewBeacon()} }

// Publish tells all who listen of an event, now or when they come to it.
func (e *Events) Publish(ev Event) {
	e.mu.Lock()
	if ev.Time.IsZero() {
		ev.Time = time.Now()
	}
	if len(e.kept) < EventsKept {
		e.kept = append(e.kept, ev)
	} else {
		e.lost = e.kept[e.count%EventsKept].Time
		e.kept[e.count%EventsKept] = ev
	}
	e.count++
	e.mu.Unlock()
	e.told.Fire()
}

// Subscribe returns the events of a span. The channel closes when ctx ends, or
// behind the last event of the span. From the return on nothing is missed
// silently: where events are forgotten already, one of TypeEvents and action
// "missed" says how many.
func (e *Events) Subscribe(ctx context.Context, span Span) <-chan Event {
	next := e.first(span.Since)
	out := make(chan Event)
	go func() {
		defer close(out)
		e.pump(ctx, next, span.Until, out)
	}()
	return out
}

// first returns the number of the first event that is not older than since; if
// one that is not has been forgotten, that of the first of all.
func (e *Events) first(since time.Time) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	if since.IsZero() {
		return e.count
	}
	oldest := e.count - len(e.kept)
	for n := e.count; n > oldest; n-- {
		if e.kept[(n-1)%EventsKept].Time.Before(since) {
			return n
		}
	}
	if e.lost.Before(since) {
		return oldest
	}
	return 0
}

// after returns the events from the n-th on, and how many of them are forgotten.
func (e *Events) after(n int) (events []Event, missed int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	oldest := e.count - len(e.kept)
	if n < oldest {
		missed, n = oldest-n, oldest
	}
	for ; n < e.count; n++ {
		events = append(events, e.kept[n%EventsKept])
	}
	return events, missed
}

// pump sends the events from the n-th on, until one is later than until or that
// moment has come.
func (e *Events) pump(ctx context.Context, n int, until time.Time, out chan<- Event) {
	var over <-chan time.Time
	if !until.IsZero() {
		timer := time.NewTimer(time.Until(until))
		defer timer.Stop()
		over = timer.C
	}
	for last := false; ; {
		told := e.told.Wait()
		events, missed := e.after(n)
		n += missed + len(events)
		if missed > 0 {
			events = slices.Insert(events, 0, missedEvent(missed, events))
		}
		for _, ev := range events {
			if !until.IsZero() && ev.Time.After(until) {
				return
			}
			select {
			case out <- ev:
			case <-ctx.Done():
				return
			}
		}
		if last {
			return
		}
		select {
		case <-told:
		case <-over:
			last = true
		case <-ctx.Done():
			return
		}
	}
}

// missedEvent tells that events were forgotten before the ones that follow.
func missedEvent(n int, next []Event) Event {
	ev := Event{Type: TypeEvents, Action: "missed", Attributes: map[string]string{"count": strconv.Itoa(n)}}
	if len(next) > 0 {
		ev.Time = next[0].Time
	}
	return ev
}
