package ipam

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/overspan/overspan"
)

// TestAcceptance5 walks through scenario 5: one node alone takes the lowest
// addresses of the range, and static ones anywhere in the subnet.
func TestAcceptance5(t *testing.T) {
	n := network(t, Spec{
		Subnets: []string{"10.20.0.0/24"}, Ranges: []string{"10.20.0.128/25"},
		Gateways: []string{"10.20.0.254"}, Aux: map[string]string{"rtr": "10.20.0.129"},
	})
	h1 := newCluster(t, n, "h1").members["h1"]
	for _, want := range []string{"10.20.0.128", "10.20.0.130"} {
		lease, err := h1.attach(t.Context(), Addrs{})
		if err != nil || lease.IPv4 != addr(want) {
			t.Fatalf("got %s, %v, want %s", lease.IPv4, err, want)
		}
	}
	lease, err := h1.attach(t.Context(), Addrs{IPv4: addr("10.20.0.5")})
	if err != nil || lease.IPv4 != addr("10.20.0.5") {
		t.Fatalf("static address: %s, %v", lease.IPv4, err)
	}
	for _, tc := range []struct {
		ip    string
		class error
		text  string
	}{
		{"10.20.0.254", overspan.ErrInvalid, "address 10.20.0.254 is the gateway of network demo"},
		{"10.20.0.0", overspan.ErrInvalid, "address 10.20.0.0 is the network address of network demo"},
		{"10.20.0.255", overspan.ErrInvalid, "address 10.20.0.255 is the broadcast address of network demo"},
		{"10.20.0.129", overspan.ErrInvalid, `address 10.20.0.129 is the auxiliary address "rtr" of network demo`},
		{"10.20.0.5", overspan.ErrInUse, "address already in use"},
		{"10.20.0.128", overspan.ErrInUse, "address already in use"},
		{"10.21.0.5", overspan.ErrInvalid, "address 10.21.0.5 is not in this network's subnets (10.20.0.0/24)"},
	} {
		_, err := h1.attach(t.Context(), Addrs{IPv4: addr(tc.ip)})
		if !errors.Is(err, tc.class) || !strings.Contains(err.Error(), tc.text) {
			t.Errorf("--ip %s: got %v, want %q", tc.ip, err, tc.text)
		}
	}
}

// TestWholeSubnetIsLent walks through scenarios 6 and 7, one attach at a time.
func TestWholeSubnetIsLent(t *testing.T) {
	for _, tc := range []struct {
		subnet string
		nodes  int
		lends  int
	}{
		{"10.0.0.0/24", 20, 253},
		{"10.0.0.0/29", 3, 5},
		{"10.0.0.0/30", 3, 1},
		{"10.0.0.0/24", 1, 253},
	} {
		t.Run(tc.subnet, func(t *testing.T) {
			ids := nodes(tc.nodes)
			c := newCluster(t, network(t, Spec{Subnets: []string{tc.subnet}}), ids...)
			var last Lease
			for i := range tc.lends {
				var err error
				if last, err = c.members[ids[i%len(ids)]].attach(t.Context(), Addrs{}); err != nil {
					t.Fatalf("attach %d: %v", i+1, err)
				}
			}
			for _, id := range ids {
				_, err := c.members[id].attach(t.Context(), Addrs{})
				if !errors.Is(err, overspan.ErrExhausted) || !strings.Contains(err.Error(), "node h1 holds ") {
					t.Fatalf("one more on %s: got %v, want an error that names the holders", id, err)
				}
			}
			c.members[ids[(tc.lends-1)%len(ids)]].detach(last)
			if _, err := c.members[ids[len(ids)-1]].attach(t.Context(), Addrs{}); err != nil {
				t.Fatalf("after one is freed: %v", err)
			}
		})
	}
}

// TestNodesThatAskEachOther lets every node attach at once, in networks that
// are too small for that: all wait for each other's answers, and all get theirs.
func TestNodesThatAskEachOther(t *testing.T) {
	for _, tc := range []struct {
		name   string
		subnet string
		nodes  int
		lends  int
		lag    bool // nobody sees what others do, unless it refreshes its view
	}{
		{name: "a /24 over 20 nodes", subnet: "10.0.0.0/24", nodes: 20, lends: 253},
		{name: "a /24 over 20 nodes that lag", subnet: "10.0.0.0/24", nodes: 20, lends: 253, lag: true},
		{name: "a /28 over 4 nodes", subnet: "10.0.0.0/28", nodes: 4, lends: 13},
		{name: "a /29 over 3 nodes that lag", subnet: "10.0.0.0/29", nodes: 3, lends: 5, lag: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			ids := nodes(tc.nodes)
			c := newCluster(t, network(t, Spec{Subnets: []string{tc.subnet}}), ids...)
			var servers, attaches sync.WaitGroup
			defer servers.Wait()
			defer cancel()
			for _, m := range c.members {
				m.wants = make(chan wanted)
				if tc.lag {
					m.seen = c.segment
				}
				servers.Go(func() { m.serve(ctx) })
			}
			for i := range tc.lends {
				attaches.Go(func() {
					if _, err := c.members[ids[i%len(ids)]].attach(ctx, Addrs{}); err != nil {
						t.Errorf("attach: %v", err)
					}
				})
			}
			attaches.Wait()
			if got := c.segment.Endpoints.Len(); got != tc.lends {
				t.Errorf("%d addresses are lent, want %d", got, tc.lends)
			}
		})
	}
}
