package daemon

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/ipam"
)

// configRequest is a configuration that says all that one can say.
func configRequest() CreateRequest {
	return CreateRequest{
		Spec: ipam.Spec{
			Name: "defaults", Subnets: []string{"10.50.0.0/24", "fd50::/64"}, Gateways: []string{"10.50.0.254"},
			Ranges: []string{"10.50.0.128/25"}, Aux: map[string]string{"rtr": "10.50.0.129"},
		},
		Internal:   true,
		Options:    map[string]string{"com.docker.network.driver.mtu": "1400"},
		Labels:     map[string]string{"team": "a"},
		ConfigOnly: true,
	}
}

// Networks are made from a configuration on any node; it holds no lease, and
// stays while one of them does.
func TestNetworksAreMadeFromAConfiguration(t *testing.T) {
	c := newTestCluster(t, 2)
	n, other := c.nodes[0], c.nodes[1]
	config, err := n.CreateNetwork(t.Context(), configRequest())
	if err != nil {
		t.Fatal(err)
	}
	if keys := c.keys("subnets/1", "subnets/f", "vnis/"); len(keys) > 0 || config.Driver != overspan.DriverNull || config.Node != "" {
		t.Errorf("it leases %v, and is %+v", keys, config)
	}
	if _, err := n.Connect(t.Context(), ConnectRequest{Network: "defaults", Target: n.container("web")}); !errors.Is(err, overspan.ErrInvalid) || !strings.Contains(err.Error(), "configuration-only network defaults") {
		t.Errorf("connect to it: %v", err)
	}

	made, err := other.CreateNetwork(t.Context(), CreateRequest{Spec: ipam.Spec{Name: "app"}, ConfigFrom: string(config.ID[:12])})
	if err != nil {
		t.Fatal(err)
	}
	want := *config
	want.ID, want.Name, want.Driver, want.Node, want.MTU = made.ID, "app", overspan.DriverBridge, other.Self(), 1400
	want.ConfigOnly, want.ConfigFrom = false, "defaults"
	want.Created, want.CreateRevision, want.ModRevision = made.Created, made.CreateRevision, made.ModRevision
	if diff := cmp.Diff(fmt.Sprintf("%+v", want), fmt.Sprintf("%+v", *made)); diff != "" {
		t.Errorf("made from it (-want +got):\n%s", diff)
	}
	e := other.connect(ConnectRequest{Network: "app", Target: other.container("web")})
	if e.IPv4.String() != "10.50.0.128" {
		t.Errorf("the first address is %s", e.IPv4)
	}

	if err := n.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := n.RemoveNetwork(t.Context(), "defaults"); !errors.Is(err, overspan.ErrInUse) || !strings.Contains(err.Error(), `configuration network "defaults" is in use`) {
		t.Errorf("remove it while it is in use: %v", err)
	}
	if _, _, err := other.Disconnect(t.Context(), "app", e.Name); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"app", "defaults"} {
		if _, err := other.RemoveNetwork(t.Context(), name); err != nil {
			t.Errorf("remove %s: %v", name, err)
		}
	}
	if keys := c.keys("networks/", "names/", "vnis/", "subnets/1", "subnets/f"); len(keys) > 0 {
		t.Errorf("left: %v", keys)
	}
}

// While one node removes a configuration, and another makes a network from it,
// one of the two fails.
func TestConfigurationIsRemovedOrUsed(t *testing.T) {
	c := newTestCluster(t, 2)
	n, other := c.nodes[0], c.nodes[1]
	for round := range 20 {
		req := CreateRequest{Spec: ipam.Spec{Name: "defaults"}, ConfigOnly: true}
		if _, err := n.CreateNetwork(t.Context(), req); err != nil {
			t.Fatal(err)
		}
		if err := other.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		var both sync.WaitGroup
		var removed, made error
		both.Go(func() { _, removed = n.RemoveNetwork(t.Context(), "defaults") })
		both.Go(func() {
			_, made = other.CreateNetwork(t.Context(), CreateRequest{Spec: ipam.Spec{Name: "app"}, ConfigFrom: "defaults"})
		})
		both.Wait()
		if (removed == nil) == (made == nil) {
			t.Fatalf("round %d: removed: %v, made: %v", round, removed, made)
		}
		if made == nil {
			if _, err := other.RemoveNetwork(t.Context(), "app"); err != nil {
				t.Fatal(err)
			}
			if _, err := other.RemoveNetwork(t.Context(), "defaults"); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestWhatDoesNotGoWithAConfiguration(t *testing.T) {
	config := &overspan.Network{Name: "defaults", ConfigOnly: true, Driver: overspan.DriverNull}
	plain := &overspan.Network{Name: "plain", Driver: overspan.DriverOverlay}
	for name, c := range map[string]struct {
		config *overspan.Network
		req    CreateRequest
		say    string
	}{
		"no configuration":   {plain, CreateRequest{}, "network plain is not a configuration network"},
		"one from another":   {config, CreateRequest{ConfigOnly: true}, "cannot depend on another configuration network"},
		"subnet":             {config, CreateRequest{Spec: ipam.Spec{Subnets: []string{"10.1.0.0/24"}}}, "user specified configurations are not supported"},
		"auxiliary address":  {config, CreateRequest{Spec: ipam.Spec{Aux: map[string]string{"a": "10.1.0.1"}}}, "user specified configurations are not supported"},
		"label":              {config, CreateRequest{Labels: map[string]string{"a": "b"}}, "user specified configurations are not supported"},
		"option":             {config, CreateRequest{Options: map[string]string{"mtu": "1400"}}, "network driver options are not supported"},
		"nothing":            {config, CreateRequest{}, ""},
		"what it cannot say": {config, CreateRequest{Internal: true, Spec: ipam.Spec{IPv6: true, Driver: "overlay"}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.req.from(c.config)
			switch {
			case c.say == "" && err != nil:
				t.Error(err)
			case c.say != "" && (!errors.Is(err, overspan.ErrInvalid) || !strings.Contains(err.Error(), c.say)):
				t.Errorf("%v; want %q", err, c.say)
			}
		})
	}
	for name, spec := range map[string]ipam.Spec{
		"automatic IPv6": {Name: "defaults", IPv6: true},
		"no IPv4":        {Name: "defaults", NoIPv4: true, Subnets: []string{"fd50::/64"}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := draft(CreateRequest{Spec: spec, ConfigOnly: true}, "self"); !errors.Is(err, overspan.ErrInvalid) {
				t.Errorf("error %v", err)
			}
		})
	}
}
