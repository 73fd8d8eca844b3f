package api_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/api/apitest"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// listed returns how each node is listed, by name.
func (c clients) listed(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, n := range must[*overspanv1.ListNodesResponse](t)(c.nodes.ListNodes(t.Context(), &overspanv1.ListNodesRequest{})).GetNodes() {
		how := "down"
		switch {
		case n.GetRemoving():
			how = "removing"
		case n.GetUp():
			how = "up"
		}
		if n.GetNode().GetDraining() {
			how += ", draining"
		}
		out[n.GetNode().GetName()] = how
	}
	return out
}

func TestNodesLeaveAndDrain(t *testing.T) {
	d, c := start(t)
	shows := func(after string, want map[string]string) {
		t.Helper()
		if diff := cmp.Diff(want, c.listed(t)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", after, diff)
		}
	}
	drained := must[*overspanv1.DrainNodeResponse](t)(c.nodes.DrainNode(t.Context(), &overspanv1.DrainNodeRequest{Node: "h2"}))
	if n := drained.GetNode(); n.GetName() != "h2" || !n.GetDraining() {
		t.Errorf("drained is %v", n)
	}
	shows("h2 drained", map[string]string{"h1": "up", "h2": "up, draining", "h3": "down"})
	must[*overspanv1.DrainNodeResponse](t)(c.nodes.DrainNode(t.Context(), &overspanv1.DrainNodeRequest{Node: "h2", Undo: true}))

	_, err := c.nodes.RemoveNode(t.Context(), &overspanv1.RemoveNodeRequest{Node: "h2"})
	if !errors.Is(err, overspan.ErrInUse) {
		t.Errorf("remove a node that is up: %v", err)
	}
	removed := must[*overspanv1.RemoveNodeResponse](t)(c.nodes.RemoveNode(t.Context(), &overspanv1.RemoveNodeRequest{Node: "h3"}))
	if n := removed.GetNode(); n.GetId() != string(apitest.Away) || n.GetName() != "h3" || removed.GetEndpoints() != 2 || removed.GetBlocks() != 1 {
		t.Errorf("removed is %v", removed)
	}
	shows("h3 removed", map[string]string{"h1": "up", "h2": "up"})

	if err := d.HalfRemove("h2"); err != nil {
		t.Fatal(err)
	}
	shows("h2 half removed", map[string]string{"h1": "up", "h2": "removing"})
	got := must[*overspanv1.GetNodeResponse](t)(c.nodes.GetNode(t.Context(), &overspanv1.GetNodeRequest{Node: string(apitest.Other)[:5]}))
	if !got.GetNode().GetRemoving() {
		t.Errorf("half removed, h2 is %v", got.GetNode())
	}
	// Nobody knows of it while etcd is away.
	d.LoseEtcd("connection refused")
	shows("etcd away", map[string]string{"h1": "up"})
}

func TestDisconnectByForce(t *testing.T) {
	d, c := start(t)
	c.plug(t, "demo", "web1")
	if err := d.Place("demo", "web3", apitest.Away); err != nil {
		t.Fatal(err)
	}
	req := &overspanv1.DisconnectRequest{Network: "demo", Target: "web3"}
	if _, err := c.networks.Disconnect(t.Context(), req); !errors.Is(err, overspan.ErrNotFound) {
		t.Errorf("without force: %v", err)
	}
	req.Force = true
	resp := must[*overspanv1.DisconnectResponse](t)(c.networks.Disconnect(t.Context(), req))
	if e := resp.GetEndpoint(); e.GetEndpoint().GetName() != "web3" || e.GetNodeName() != "h3" || e.GetLocal() {
		t.Errorf("freed is %v", e)
	}
}
