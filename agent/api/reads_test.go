package api_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/api/apitest"
	"github.com/overspan/overspan/agent/daemon"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// stalenesses asks every read that can be stale.
func (c clients) stalenesses(t *testing.T) map[string]*overspanv1.Staleness {
	t.Helper()
	ctx := t.Context()
	return map[string]*overspanv1.Staleness{
		"networks":  must[*overspanv1.ListNetworksResponse](t)(c.networks.ListNetworks(ctx, &overspanv1.ListNetworksRequest{})).GetStale(),
		"network":   must[*overspanv1.GetNetworkResponse](t)(c.networks.GetNetwork(ctx, &overspanv1.GetNetworkRequest{Network: "demo"})).GetStale(),
		"endpoints": must[*overspanv1.ListEndpointsResponse](t)(c.endpoints.ListEndpoints(ctx, &overspanv1.ListEndpointsRequest{})).GetStale(),
		"endpoint":  must[*overspanv1.GetEndpointResponse](t)(c.endpoints.GetEndpoint(ctx, &overspanv1.GetEndpointRequest{Endpoint: "web1"})).GetStale(),
		"nodes":     must[*overspanv1.ListNodesResponse](t)(c.nodes.ListNodes(ctx, &overspanv1.ListNodesRequest{})).GetStale(),
		"node":      must[*overspanv1.GetNodeResponse](t)(c.nodes.GetNode(ctx, &overspanv1.GetNodeRequest{Node: "h2"})).GetStale(),
		"blocks":    must[*overspanv1.ListBlocksResponse](t)(c.system.ListBlocks(ctx, &overspanv1.ListBlocksRequest{})).GetStale(),
		"status":    must[*overspanv1.StatusResponse](t)(c.system.Status(ctx, &overspanv1.StatusRequest{})).GetStale(),
	}
}

// TestReadsSayWhenTheyAreStale: while etcd is away every read is answered, and
// says since when it may be out of date.
func TestReadsSayWhenTheyAreStale(t *testing.T) {
	d, c := start(t)
	c.plug(t, "demo", "web1")
	for read, stale := range c.stalenesses(t) {
		if stale != nil {
			t.Errorf("%s is stale while etcd is there: %v", read, stale)
		}
	}
	d.LoseEtcd("connection refused")
	for read, stale := range c.stalenesses(t) {
		if !stale.GetSince().AsTime().Equal(apitest.Created) || stale.GetReason() != "connection refused" {
			t.Errorf("%s: stale %v", read, stale)
		}
	}
	d.LoseEtcd("")
	d.FailSync(overspan.Errorf(overspan.ErrUnavailable, "no leader"))
	for read, stale := range c.stalenesses(t) {
		if stale.GetReason() != "no leader" {
			t.Errorf("%s: stale %v", read, stale)
		}
	}
}

// TestInteriorThatIsNotKnown: of a network that is not followed nothing is
// known while etcd is away, and the answer says that too.
func TestInteriorThatIsNotKnown(t *testing.T) {
	d, c := start(t)
	foreign(d, overspan.Network{ID: overspan.NetworkID(id("01")), Name: "far", Driver: overspan.DriverOverlay}, nil)
	got := must[*overspanv1.GetNetworkResponse](t)(c.networks.GetNetwork(t.Context(), &overspanv1.GetNetworkRequest{Network: "far"}))
	if got.GetStale() != nil {
		t.Errorf("stale: %v", got.GetStale())
	}
	d.LoseEtcd("connection refused")
	got = must[*overspanv1.GetNetworkResponse](t)(c.networks.GetNetwork(t.Context(), &overspanv1.GetNetworkRequest{Network: "far"}))
	if !strings.Contains(got.GetStale().GetReason(), "this node does not follow network far") {
		t.Errorf("stale: %v", got.GetStale())
	}
}

// TestBeforeTheFirstSnapshot: what needs the cluster says so; what is this
// node's own, and its status, are told.
func TestBeforeTheFirstSnapshot(t *testing.T) {
	d, c := start(t)
	must[*overspanv1.CreateSandboxResponse](t)(c.sandboxes.CreateSandbox(t.Context(), &overspanv1.CreateSandboxRequest{Name: "web1"}))
	d.Forget()
	d.LoseEtcd("connection refused")
	if _, err := c.networks.ListNetworks(t.Context(), &overspanv1.ListNetworksRequest{}); !errors.Is(err, overspan.ErrUnavailable) {
		t.Errorf("list networks: %v", err)
	}
	status := must[*overspanv1.StatusResponse](t)(c.system.Status(t.Context(), &overspanv1.StatusRequest{}))
	if status.GetSelf().GetNode().GetId() != string(apitest.Self) || status.GetStale() == nil {
		t.Errorf("status: %v", status)
	}
	if got := must[*overspanv1.ListSandboxesResponse](t)(c.sandboxes.ListSandboxes(t.Context(), &overspanv1.ListSandboxesRequest{})); len(got.GetSandboxes()) != 1 {
		t.Errorf("sandboxes: %v", got)
	}
}

func TestEndpoints(t *testing.T) {
	d, c := start(t)
	c.plug(t, "demo", "web1")
	c.plug(t, "other", "db")
	must[*overspanv1.ConnectResponse](t)(c.networks.Connect(t.Context(), &overspanv1.ConnectRequest{Network: "other", Target: "web1"}))
	ctx := t.Context()

	_, err := c.endpoints.GetEndpoint(ctx, &overspanv1.GetEndpointRequest{Endpoint: "web1"})
	if !errors.Is(err, overspan.ErrInvalid) || !strings.Contains(err.Error(), "the networks demo, other have one each") {
		t.Errorf("a name used twice: %v", err)
	}
	got := must[*overspanv1.GetEndpointResponse](t)(c.endpoints.GetEndpoint(ctx, &overspanv1.GetEndpointRequest{Endpoint: "web1", Network: "other"}))
	if got.GetEndpoint().GetNetworkName() != "other" || got.GetEndpoint().GetEndpoint().GetInterface() != "eth1" {
		t.Errorf("web1 in other: %v", got)
	}
	sb := must[*overspanv1.GetSandboxResponse](t)(c.sandboxes.GetSandbox(ctx, &overspanv1.GetSandboxRequest{Sandbox: "web1"}))
	if n := len(sb.GetSandbox().GetEndpoints()); n != 2 {
		t.Errorf("sandbox web1 has %d endpoints, want 2", n)
	}

	// A lost endpoint's record is gone, but it is still to be seen.
	d.Lose("db", "h2 holds its address")
	list := must[*overspanv1.ListEndpointsResponse](t)(c.endpoints.ListEndpoints(ctx, &overspanv1.ListEndpointsRequest{Network: "other"}))
	lost := map[string]string{}
	for _, e := range list.GetEndpoints() {
		lost[e.GetEndpoint().GetName()] = e.GetLost()
	}
	if diff := cmp.Diff(map[string]string{"web1": "", "db": "h2 holds its address"}, lost); diff != "" {
		t.Errorf("lost (-want +got):\n%s", diff)
	}

	// One that was disconnected while etcd is away has a record and no port.
	d.LoseEtcd("connection refused")
	must[*overspanv1.DisconnectResponse](t)(c.networks.Disconnect(ctx, &overspanv1.DisconnectRequest{Network: "other", Target: "web1"}))
	got = must[*overspanv1.GetEndpointResponse](t)(c.endpoints.GetEndpoint(ctx, &overspanv1.GetEndpointRequest{Endpoint: "web1", Network: "other"}))
	if !strings.Contains(got.GetEndpoint().GetLost(), "disconnected") {
		t.Errorf("an endpoint that waits for its release: %v", got)
	}
}

// A lost endpoint is seen under its network's name when that is gone, too.
func TestEndpointOfANetworkThatIsGone(t *testing.T) {
	d, c := start(t)
	c.plug(t, "demo", "web1")
	c.plug(t, "other", "db")
	d.Lose("web1", "network demo was removed")
	if _, err := d.RemoveNetwork(t.Context(), "demo"); err != nil {
		t.Fatal(err)
	}
	for network, want := range map[string][]string{"": {"demo/web1", "other/db"}, "demo": {"demo/web1"}, "other": {"other/db"}} {
		var got []string
		list := must[*overspanv1.ListEndpointsResponse](t)(c.endpoints.ListEndpoints(t.Context(), &overspanv1.ListEndpointsRequest{Network: network}))
		for _, e := range list.GetEndpoints() {
			got = append(got, e.GetNetworkName()+"/"+e.GetEndpoint().GetName())
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("endpoints of %q (-want +got):\n%s", network, diff)
		}
	}
	if _, err := c.endpoints.ListEndpoints(t.Context(), &overspanv1.ListEndpointsRequest{Network: "third"}); !errors.Is(err, overspan.ErrNotFound) {
		t.Errorf("a network that never was: %v", err)
	}
}

func TestNodes(t *testing.T) {
	_, c := start(t)
	c.plug(t, "demo", "web1")
	resp := must[*overspanv1.ListNodesResponse](t)(c.nodes.ListNodes(t.Context(), &overspanv1.ListNodesRequest{}))
	type row struct {
		Name     string
		Up, Self bool
		Networks []string
	}
	var rows []row
	for _, n := range resp.GetNodes() {
		rows = append(rows, row{n.GetNode().GetName(), n.GetUp(), n.GetSelf(), n.GetNetworks()})
	}
	want := []row{{"h1", true, true, []string{"demo"}}, {"h2", true, false, nil}, {"h3", false, false, nil}}
	if diff := cmp.Diff(want, rows); diff != "" {
		t.Errorf("nodes (-want +got):\n%s", diff)
	}
}

// TestEvents: from the headers on, nothing is missed; the stream ends with the
// caller.
func TestEvents(t *testing.T) {
	d, c := start(t)
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := c.system.Events(ctx, &overspanv1.EventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil {
		t.Fatal(err)
	}
	if n := d.Publish(daemon.Event{Time: apitest.Created, Type: "kernel", Action: "repair", Name: "add fdb", Attributes: map[string]string{"cause": "flushed"}}); n != 1 {
		t.Fatalf("%d subscribers, want 1", n)
	}
	got, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	e := got.GetEvent()
	if e.GetType() != "kernel" || e.GetAction() != "repair" || e.GetName() != "add fdb" || e.GetAttributes()["cause"] != "flushed" || !e.GetTime().AsTime().Equal(apitest.Created) {
		t.Errorf("event %v", e)
	}
	cancel()
	if _, err := stream.Recv(); err == nil {
		t.Error("the stream goes on after the caller left")
	}
}

// TestPanicsStayInTheirCall, unary or streamed.
func TestPanicsStayInTheirCall(t *testing.T) {
	d, c := start(t)
	d.Panic()
	_, err := c.system.Verify(t.Context(), &overspanv1.VerifyRequest{})
	if err == nil || !strings.HasPrefix(err.Error(), "internal error") {
		t.Errorf("verify: %v", err)
	}
	stream, err := c.system.Events(t.Context(), &overspanv1.EventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err == nil {
		t.Error("events go on after a panic")
	}
	must[*overspanv1.VersionResponse](t)(c.system.Version(t.Context(), &overspanv1.VersionRequest{}))
}
