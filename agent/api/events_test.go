package api_test

import (
	"errors"
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/api/apitest"
	"github.com/overspan/overspan/agent/daemon"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// past asks for events that have happened, and returns their names.
func (c clients) past(t *testing.T, req *overspanv1.EventsRequest) ([]string, error) {
	t.Helper()
	stream, err := c.system.Events(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return out, overspanv1.FromStatus(err)
		}
		out = append(out, resp.GetEvent().GetName())
	}
}

func TestEventFilters(t *testing.T) {
	d, c := start(t)
	n, _ := c.plug(t, "demo", "web1")
	at := func(minutes int) time.Time { return time.Now().Add(time.Duration(minutes-60) * time.Minute) }
	for i, e := range []daemon.Event{
		{Type: "network", Action: "create", Name: "net", ID: id("ab"), Attributes: map[string]string{"scope": "global", "env": "prod"}},
		{Type: "endpoint", Action: "connect", Name: "web", ID: id("01"), Attributes: map[string]string{"network": "demo", "node": "h2", "sandbox": "box"}},
		{Type: "endpoint", Action: "disconnect", Name: "db", ID: id("02"), Attributes: map[string]string{"network": "other", "node": "h1"}},
		{Type: "node", Action: "up", Name: "h2", ID: string(apitest.Other)},
		{Type: "sandbox", Action: "create", Name: "box", Attributes: map[string]string{"node": "h1"}},
	} {
		e.Time = at(i)
		d.Publish(e)
	}
	for _, tt := range []struct {
		name    string
		filters map[string][]string
		want    []string
	}{
		{"none", nil, []string{"net", "web", "db", "h2", "box"}},
		{"type", map[string][]string{"type": {"endpoint", "node"}}, []string{"web", "db", "h2"}},
		{"event", map[string][]string{"event": {"create"}}, []string{"net", "box"}},
		{"network itself", map[string][]string{"network": {"net"}}, []string{"net"}},
		{"network itself, by id", map[string][]string{"network": {id("ab")[:12]}}, []string{"net"}},
		{"in a network", map[string][]string{"network": {"demo"}}, []string{"web"}},
		{"in a network, by id", map[string][]string{"network": {n.GetId()[:12]}}, []string{"web"}},
		{"node itself and on it", map[string][]string{"node": {"h2"}}, []string{"web", "h2"}},
		{"node, by id", map[string][]string{"node": {string(apitest.Other)}}, []string{"h2"}},
		{"sandbox", map[string][]string{"sandbox": {"box"}}, []string{"web", "box"}},
		{"label", map[string][]string{"label": {"env=prod"}}, []string{"net"}},
		{"scope", map[string][]string{"scope": {"global"}}, []string{"net"}},
		{"name and id", map[string][]string{"name": {"^d"}, "id": {"^02"}}, []string{"db"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := c.past(t, &overspanv1.EventsRequest{Since: "2h", Until: "0s", Filters: filters(tt.filters)})
			if diff := cmp.Diff(tt.want, got); diff != "" || err != nil {
				t.Errorf("%v; events (-want +got):\n%s", err, diff)
			}
		})
	}
	some, err := c.past(t, &overspanv1.EventsRequest{Since: at(1).Add(-time.Second).Format(time.RFC3339Nano), Until: "56m30s"})
	if diff := cmp.Diff([]string{"web", "db", "h2"}, some); diff != "" || err != nil {
		t.Errorf("%v; of a span (-want +got):\n%s", err, diff)
	}
	for name, req := range map[string]*overspanv1.EventsRequest{
		`invalid since: "soon" is no time: use how long ago (10m, 1h30m), a date (2026-11-21T08:00:00Z), or seconds since 1970`: {Since: "soon"},
		`invalid filter 'color': use event, id, label, name, network, node, sandbox, scope, type`:                               {Filters: filters(map[string][]string{"color": {"red"}})},
		`since (2026-01-02T00:00:00Z) must not be after until (2026-01-01T00:00:00Z)`:                                           {Since: "2026-01-02Z", Until: "2026-01-01Z"},
	} {
		if _, err := c.past(t, req); !errors.Is(err, overspan.ErrInvalid) || err.Error() != name {
			t.Errorf("error %v, want %s", err, name)
		}
	}
}

// TestMissedEventsPassFilters, and are told of in the stream.
func TestMissedEventsPassFilters(t *testing.T) {
	d, c := start(t)
	for range daemon.EventsKept + 3 {
		d.Publish(daemon.Event{Type: "node", Action: "up", Name: "h2"})
	}
	d.Publish(daemon.Event{Type: "network", Action: "create", Name: "net"})
	stream, err := c.system.Events(t.Context(), &overspanv1.EventsRequest{Since: "1h", Filters: filters(map[string][]string{"type": {"network"}})})
	if err != nil {
		t.Fatal(err)
	}
	first := must[*overspanv1.EventsResponse](t)(stream.Recv()).GetEvent()
	second := must[*overspanv1.EventsResponse](t)(stream.Recv()).GetEvent()
	if first.GetAction() != "missed" || first.GetAttributes()["count"] != "4" || second.GetName() != "net" {
		t.Errorf("events %v, %v", first, second)
	}
}
