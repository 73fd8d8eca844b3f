package api

import (
	"context"
	"time"

	"google.golang.org/grpc"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/daemon"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// Events streams until the caller goes, the agent stops, or the span that was
// asked for is over.
func (s *systemService) Events(req *overspanv1.EventsRequest, stream grpc.ServerStreamingServer[overspanv1.EventsResponse]) error {
	span, err := parseSpan(req, time.Now())
	if err != nil {
		return err
	}
	wanted, err := eventKeys(s.latest()).parse(req.GetFilters())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	events := s.system.Subscribe(ctx, span)
	// The headers tell the caller that from now on nothing is missed.
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	for {
		select {
		case <-s.stopping:
			return overspan.Errorf(overspan.ErrUnavailable, "the agent is stopping")
		case e, ok := <-events:
			switch {
			case !ok:
				return ctx.Err()
			case e.Type != daemon.TypeEvents && !wanted(e):
				continue
			}
			if err := stream.Send(&overspanv1.EventsResponse{Event: eventRecord(e)}); err != nil {
				return err
			}
		}
	}
}

// parseSpan reads which time a caller wants to hear of.
func parseSpan(req *overspanv1.EventsRequest, now time.Time) (span daemon.Span, err error) {
	if text := req.GetSince(); text != "" {
		if span.Since, err = parseMoment(text, now); err != nil {
			return span, overspan.Errorf(overspan.ErrInvalid, "invalid since: %w", err)
		}
	}
	if text := req.GetUntil(); text != "" {
		if span.Until, err = parseMoment(text, now); err != nil {
			return span, overspan.Errorf(overspan.ErrInvalid, "invalid until: %w", err)
		}
	}
	if !span.Until.IsZero() && span.Since.After(span.Until) {
		return span, overspan.Errorf(overspan.ErrInvalid, "since (%s) must not be after until (%s)", span.Since.Format(time.RFC3339), span.Until.Format(time.RFC3339))
	}
	return span, nil
}

// eventKeys are docker's, as far as there is something to them here, and those
// of our own nouns. A label is any attribute, as docker has it.
func eventKeys(v *view) filterKeys[daemon.Event] {
	attribute := func(name string) func(daemon.Event) string {
		return func(e daemon.Event) string { return e.Attributes[name] }
	}
	return filterKeys[daemon.Event]{
		"type":    exactly(func(e daemon.Event) string { return e.Type }),
		"event":   exactly(func(e daemon.Event) string { return e.Action }),
		"id":      pattern(func(e daemon.Event) string { return e.ID }),
		"name":    pattern(func(e daemon.Event) string { return e.Name }),
		"label":   label(func(e daemon.Event) map[string]string { return e.Attributes }),
		"scope":   exactly(attribute("scope")),
		"network": v.eventsNetwork(),
		"node":    about("node"),
		"sandbox": about("sandbox"),
	}
}

// about is a key for events of one type, and for others that name such a thing
// as an attribute.
func about(noun string) filterKey[daemon.Event] {
	return reference(func(e daemon.Event) []named {
		out := []named{{name: e.Attributes[noun]}}
		if e.Type == noun {
			out = append(out, named{e.Name, e.ID})
		}
		return out
	})
}

// eventsNetwork is about("network") that also knows networks of now by their
// ids: attributes have names alone.
func (v *view) eventsNetwork() filterKey[daemon.Event] {
	key := about("network")
	return filterKey[daemon.Event]{Parse: func(value string) (filter[daemon.Event], error) {
		of, err := key.Parse(value)
		if n, missing := v.network(value); missing == nil && err == nil {
			byName, err := key.Parse(n.Name)
			return anyOf([]filter[daemon.Event]{of, byName}), err
		}
		return of, err
	}}
}

func eventRecord(e daemon.Event) *overspanv1.Event {
	return &overspanv1.Event{
		Time:       timestamp(e.Time),
		Type:       e.Type,
		Action:     e.Action,
		Id:         e.ID,
		Name:       e.Name,
		Attributes: e.Attributes,
	}
}
