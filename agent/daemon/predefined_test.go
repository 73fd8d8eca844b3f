package daemon

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/ipam"
)

// The default network is made when it is first wanted, once, however many want
// it at the same moment, and lasts.
func TestDefaultNetworkIsMadeOnceWhenWanted(t *testing.T) {
	c := newTestCluster(t, 2)
	n, other := c.nodes[0], c.nodes[1]
	if keys := c.keys("networks/", "names/", "subnets/"); len(keys) > 0 {
		t.Errorf("before anybody wants one there is %v", keys)
	}
	var all sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		target := n.container(fmt.Sprintf("box%d", i))
		all.Go(func() {
			_, errs[i] = n.Connect(t.Context(), ConnectRequest{Network: overspan.DefaultNetwork, Target: target})
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if keys := c.keys("networks/"); len(keys) != 1 {
		t.Errorf("there are %v; want one network", keys)
	}
	made, err := n.network(t.Context(), overspan.DefaultNetwork)
	if err != nil {
		t.Fatal(err)
	}
	if made.Node != n.Self() || made.ID != overspan.DefaultNetworkID(n.Self(), n.registeredAs().CreateRevision) || !made.IPv4.IsValid() {
		t.Errorf("the default network is %+v", made)
	}

	far := other.connect(ConnectRequest{Network: overspan.DefaultNetwork, Target: other.container("far")})
	if far.Network == made.ID {
		t.Error("two nodes have one default network")
	}
	n.stop()
	n.start()
	again := n.connect(ConnectRequest{Network: string(made.ID[:12]), Target: n.container("late")})
	if again.Network != made.ID {
		t.Errorf("after a restart the default network is %s, not %s", again.Network, made.ID)
	}
	n.clean()
	other.clean()
}

// Nobody else may have its name, and nobody removes it.
func TestDefaultNetworkIsNobodysToMakeOrRemove(t *testing.T) {
	c := newTestCluster(t, 1)
	n := c.nodes[0]
	create := func(driver string) {
		t.Helper()
		_, err := n.CreateNetwork(t.Context(), CreateRequest{Spec: ipam.Spec{Name: overspan.DefaultNetwork, Driver: driver}})
		if !errors.Is(err, overspan.ErrExists) {
			t.Errorf("create one of driver %s: %v", driver, err)
		}
	}
	remove := func(ref string) {
		t.Helper()
		const docker = "bridge is a pre-defined network and cannot be removed"
		if _, err := n.RemoveNetwork(t.Context(), ref); !errors.Is(err, overspan.ErrDenied) || err.Error() != docker {
			t.Errorf("remove %s: %v; want %q", ref, err, docker)
		}
	}
	create("overlay")
	create("bridge")
	remove(overspan.DefaultNetwork)
	if _, err := n.Connect(t.Context(), ConnectRequest{Network: overspan.DefaultNetwork, Target: "nothing"}); !errors.Is(err, overspan.ErrNotFound) {
		t.Errorf("connect nothing: %v", err)
	}
	if keys := c.keys("networks/", "names/", "subnets/"); len(keys) > 0 {
		t.Errorf("nobody has used it, and there is %v", keys)
	}
	e := n.connect(ConnectRequest{Network: overspan.DefaultNetwork, Target: n.container("web")})
	remove(overspan.DefaultNetwork)
	remove(string(e.Network))
}

// A node that was removed while it was away comes back with the networks that
// were its alone, unless somebody has taken what they need.
func TestReturningNodeBringsItsNetworks(t *testing.T) {
	c := newTestCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	web := h1.connect(ConnectRequest{Network: overspan.DefaultNetwork, Target: h1.container("web"), Name: "web"})
	req := CreateRequest{Spec: ipam.Spec{Name: "app", Subnets: []string{"10.60.0.0/24"}}, Labels: map[string]string{"team": "a"}}
	app, err := h1.CreateNetwork(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	db := h1.connect(ConnectRequest{Network: "app", Target: h1.container("db"), Name: "db"})
	req.Name, req.Subnets = "taken", []string{"10.61.0.0/24"}
	if _, err := h1.CreateNetwork(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	lost := h1.connect(ConnectRequest{Network: "taken", Target: h1.container("lost"), Name: "lost"})
	h1.clean()
	before := h1.kernel.State()
	h1.stop()

	h2.remove(h1)
	if keys := c.keys("networks/", "names/", "subnets/1"); len(keys) > 0 {
		t.Errorf("after the node's removal there is %v", keys)
	}
	req.Name = "heir"
	if _, err := h2.CreateNetwork(t.Context(), req); err != nil {
		t.Fatal(err)
	}

	h1.start()
	h1.served(web, db)
	back, err := h1.network(t.Context(), "app")
	if err != nil || back.ID != app.ID || back.Labels["team"] != "a" || back.IPv4.Prefix != app.IPv4.Prefix {
		t.Errorf("network app is %+v again, %v", back, err)
	}
	h1.eventually("the other endpoint is told to be lost", func() bool {
		for _, a := range h1.Attachments() {
			if a.Endpoint.ID == lost.ID {
				return strings.Contains(a.Lost, "network heir")
			}
		}
		return false
	})
	h1.clean()
	now := h1.kernel.State()
	for _, dev := range []string{overspan.BridgeName(web.Network), overspan.BridgeName(db.Network), overspan.VethName(web.ID), overspan.VethName(db.ID)} {
		if now.Links[dev] != before.Links[dev] {
			t.Errorf("%s was %+v, and is %+v", dev, before.Links[dev], now.Links[dev])
		}
	}
	if _, there := now.Links[overspan.BridgeName(lost.Network)]; there {
		t.Error("the bridge of the network that is another's is still there")
	}
}

// What a node has for itself it publishes again like all else, after etcd was
// emptied.
func TestLocalNetworksOutlastAnEmptyEtcd(t *testing.T) {
	c := newTestCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	web := h1.connect(ConnectRequest{Network: overspan.DefaultNetwork, Target: h1.container("web"), Name: "web"})
	far := h2.connect(ConnectRequest{Network: overspan.DefaultNetwork, Target: h2.container("far"), Name: "far"})
	c.rollBack(1)
	c.accept()
	c.whole()
	h1.served(web)
	h2.served(far)
	h1.clean()
	h2.clean()
}
