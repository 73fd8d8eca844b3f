package daemon

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overspan/overspan"
)

// noon is when the n-th event of a test happens, n seconds later.
var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func (e *Events) happen(from, to int) {
	for n := from; n < to; n++ {
		e.Publish(Event{Time: noon.Add(time.Duration(n) * time.Second), Type: "node", Action: "up", Name: strconv.Itoa(n)})
	}
}

// take receives n events, and shows each by its name, missed ones by how many.
func take(t *testing.T, events <-chan Event, n int) []string {
	t.Helper()
	var out []string
	for range n {
		select {
		case e, ok := <-events:
			switch {
			case !ok:
				return append(out, "end")
			case e.Type == TypeEvents:
				out = append(out, e.Action+" "+e.Attributes["count"])
			default:
				out = append(out, e.Name)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("only %v came", out)
		}
	}
	return out
}

// TestEventsOfASpan: of the past comes what was asked for, then what happens.
func TestEventsOfASpan(t *testing.T) {
	at := func(n int) time.Time { return noon.Add(time.Duration(n) * time.Second) }
	for _, tt := range []struct {
		name string
		Span
		want []string
	}{
		{"from now on", Span{}, []string{"5", "6"}},
		{"since one", Span{Since: at(3)}, []string{"3", "4", "5", "6"}},
		{"since between two", Span{Since: at(3).Add(1)}, []string{"4", "5", "6"}},
		{"since before all", Span{Since: at(-1)}, []string{"0", "1", "2", "3", "4", "5", "6"}},
		{"since after all", Span{Since: at(9)}, []string{"5", "6"}},
		{"between two of the past", Span{Since: at(1), Until: at(2)}, []string{"1", "2", "end"}},
		{"until the past", Span{Until: at(2)}, []string{"end"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := NewEvents()
			e.happen(0, 5)
			events := e.Subscribe(t.Context(), tt.Span)
			e.happen(5, 7)
			if diff := cmp.Diff(tt.want, take(t, events, len(tt.want))); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
		})
	}
}

// TestEventsUntilNow: all that has happened, and then the end.
func TestEventsUntilNow(t *testing.T) {
	e := NewEvents()
	e.happen(0, 3)
	events := e.Subscribe(t.Context(), Span{Since: noon, Until: time.Now()})
	if diff := cmp.Diff([]string{"0", "1", "2", "end"}, take(t, events, 4)); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// TestEventsMissed: who lags, or asks for what is forgotten, is told how much.
func TestEventsMissed(t *testing.T) {
	e := NewEvents()
	slow := e.Subscribe(t.Context(), Span{})
	e.happen(0, EventsKept)
	first := take(t, slow, 1) // the others are on their way now
	e.happen(EventsKept, 3*EventsKept)
	seen, missed := len(first), 0
	for seen+missed < 3*EventsKept {
		ev := <-slow
		if ev.Type == TypeEvents {
			n, err := strconv.Atoi(ev.Attributes["count"])
			if err != nil || ev.Action != "missed" || ev.Time.IsZero() {
				t.Fatalf("event %+v", ev)
			}
			missed += n
			continue
		}
		if ev.Name != strconv.Itoa(seen+missed) {
			t.Fatalf("event %s after %d seen and %d missed", ev.Name, seen, missed)
		}
		seen++
	}
	if missed == 0 {
		t.Error("nothing was missed")
	}
	late := e.Subscribe(t.Context(), Span{Since: noon})
	oldest := 2 * EventsKept
	if diff := cmp.Diff([]string{"missed " + strconv.Itoa(oldest), strconv.Itoa(oldest)}, take(t, late, 2)); diff != "" {
		t.Errorf("since the begin (-want +got):\n%s", diff)
	}
	kept := e.Subscribe(t.Context(), Span{Since: noon.Add(time.Duration(oldest) * time.Second)})
	if diff := cmp.Diff([]string{strconv.Itoa(oldest)}, take(t, kept, 1)); diff != "" {
		t.Errorf("since the oldest that is kept (-want +got):\n%s", diff)
	}
}

// TestEventsEndWithTheReader, also while he takes none.
func TestEventsEndWithTheReader(t *testing.T) {
	e := NewEvents()
	ctx, cancel := context.WithCancel(t.Context())
	events := e.Subscribe(ctx, Span{})
	e.happen(0, 2)
	cancel()
	for range events {
	}
}

func told(events []Event) []string {
	var out []string
	for _, e := range events {
		line := e.Type + " " + e.Action + " " + e.Name
		for _, key := range slices.Sorted(maps.Keys(e.Attributes)) {
			line += " " + key + "=" + e.Attributes[key]
		}
		out = append(out, line)
	}
	return out
}

// TestNews: what is different between two snapshots is told once, and of this
// node's endpoints nothing.
func TestNews(t *testing.T) {
	const self, other, gone = overspan.NodeID("11"), overspan.NodeID("22"), overspan.NodeID("33")
	node := func(id overspan.NodeID, name string, up bool) *overspan.Node {
		n := &overspan.Node{ID: id, Name: name}
		if up {
			n.Presence = &overspan.Presence{}
		}
		return n
	}
	endpoint := func(id string, on overspan.NodeID, slots ...overspan.Slot) *overspan.Endpoint {
		return &overspan.Endpoint{ID: overspan.EndpointID(id), Name: id, Network: "demo", Node: on, Slot: slots[0], Slots: slots, Interface: "eth0", Sandbox: "box"}
	}
	segment := func(endpoints ...*overspan.Endpoint) *overspan.Segment {
		s := &overspan.Segment{}
		for _, e := range endpoints {
			for _, slot := range e.Slots {
				s.Endpoints.Put(slot, e)
			}
		}
		return s
	}
	base := func() *overspan.Snapshot {
		return &overspan.Snapshot{
			Nodes: map[overspan.NodeID]*overspan.Node{self: node(self, "h1", true), other: node(other, "h2", true), gone: node(gone, "h3", false)},
			Networks: map[overspan.NetworkID]*overspan.Network{
				"demo": {ID: "demo", Name: "demo", Driver: overspan.DriverOverlay},
			},
			Segments: overspan.IDMapOf(map[overspan.NetworkID]*overspan.Segment{"demo": segment(endpoint("mine", self, 2), endpoint("theirs", other, 9, 4))}),
		}
	}
	const attached = " addresses= interface=eth0 network=demo node=h2 sandbox=box"
	for _, tt := range []struct {
		name   string
		change func(*overspan.Snapshot)
		want   []string
	}{
		{"nothing", func(*overspan.Snapshot) {}, nil},
		{"an endpoint there", func(s *overspan.Snapshot) {
			s.Segments.Put("demo", segment(endpoint("mine", self, 2), endpoint("theirs", other, 9, 4), endpoint("new", other, 5)))
		}, []string{"endpoint connect new" + attached}},
		{"an endpoint goes there, of several slots", func(s *overspan.Snapshot) {
			s.Segments.Put("demo", segment(endpoint("mine", self, 2)))
		}, []string{"endpoint disconnect theirs" + attached}},
		{"another takes its slot", func(s *overspan.Snapshot) {
			s.Segments.Put("demo", segment(endpoint("mine", self, 2), endpoint("next", other, 9)))
		}, []string{"endpoint disconnect theirs" + attached, "endpoint connect next" + attached}},
		{"its record is written again", func(s *overspan.Snapshot) {
			again := endpoint("theirs", other, 9, 4)
			again.ModRevision = 7
			s.Segments.Put("demo", segment(endpoint("mine", self, 2), again))
		}, nil},
		{"mine is told of elsewhere", func(s *overspan.Snapshot) {
			s.Segments.Put("demo", segment(endpoint("another of mine", self, 3), endpoint("theirs", other, 9, 4)))
		}, nil},
		{"something cannot be read", func(s *overspan.Snapshot) {
			s.Segments.Put("demo", &overspan.Segment{Bad: 1})
		}, nil},
		{"a network is left", func(s *overspan.Snapshot) { s.Segments = overspan.Segments{} }, nil},
		{"a network is followed", func(s *overspan.Snapshot) { s.Segments.Put("more", segment(endpoint("old", other, 3))) }, nil},
		{"networks come and go", func(s *overspan.Snapshot) {
			s.Networks = map[overspan.NetworkID]*overspan.Network{
				"new": {Name: "new", Driver: overspan.DriverOverlay, Labels: map[string]string{"env": "prod", "driver": "mine"}},
				"br":  {Name: "br", Driver: overspan.DriverBridge, Node: self},
				"not": {Name: "not for this node to know", Driver: overspan.DriverBridge, Node: other},
			}
			s.Segments = overspan.Segments{}
		}, []string{"network create br driver=bridge node=h1 scope=local", "network create new driver=overlay env=prod scope=global", "network destroy demo driver=overlay scope=global"}},
		{"nodes come and go", func(s *overspan.Snapshot) {
			draining := node(other, "h2", true)
			draining.Draining = true
			s.Nodes = map[overspan.NodeID]*overspan.Node{self: node(self, "h1", false), other: draining, "44": node("44", "h4", true)}
		}, []string{"node down h1 addresses=", "node drain h2 addresses=", "node up h4 addresses=", "node remove h3 addresses="}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			old, new := base(), base()
			new.Segments.Put("demo", old.Segments.Get("demo"))
			tt.change(new)
			if diff := cmp.Diff(tt.want, told(news(old, new, self))); diff != "" {
				t.Errorf("news (-want +got):\n%s", diff)
			}
		})
	}
	if first := news(nil, base(), self); first != nil {
		t.Errorf("the first snapshot is news: %v", first)
	}
}
