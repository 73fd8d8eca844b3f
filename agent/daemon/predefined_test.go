package daemon

import (
	"errors"
	"fmt"
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
	if made.Node != n.Self() || made.ID != overspan.DefaultNetworkID(n.Self(), n.shown().CreateRevision) || !made.IPv4.IsValid() {
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
