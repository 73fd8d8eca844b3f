package kernel

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/overspan/overspan"
)

// await reads hints until the wanted one comes.
func await(t *testing.T, hints <-chan Hint, want Hint) {
	t.Helper()
	deadline := time.After(5 * time.Second)
	for {
		select {
		case got, ok := <-hints:
			if !ok {
				t.Fatal("the channel was closed")
			}
			if got == want {
				return
			}
		case <-deadline:
			t.Fatalf("no hint %+v", want)
		}
	}
}

// drain reads hints until there are none for a moment.
func drain(t *testing.T, hints <-chan Hint) []Hint {
	t.Helper()
	var all []Hint
	for {
		select {
		case got := <-hints:
			all = append(all, got)
		case <-time.After(300 * time.Millisecond):
			return all
		}
	}
}

func TestWatch(t *testing.T) {
	s := newTestSite(t)
	converge(t, s.host, s.scope, s.want)
	ctx, cancel := context.WithCancel(t.Context())
	hints := s.host.Watch(ctx)
	await(t, hints, Hint{All: true})
	drain(t, hints)

	expand := strings.NewReplacer("BRIDGE", s.net.bridge(), "VXLAN", s.net.vxlan(), "VETH", overspan.VethName(s.key.Endpoint),
		"REMOTEMAC", s.net.mac(65).String(), "LOCALMAC", s.net.mac(2).String())
	for _, test := range []struct {
		command string
		want    Hint
	}{
		{"ip link set VXLAN mtu 1300", Hint{Dev: s.net.vxlan()}},
		{"ip link set BRIDGE address 02:00:00:00:00:01", Hint{Dev: s.net.bridge()}},
		{"ip link set VXLAN nomaster", Hint{Dev: s.net.vxlan()}},
		{"bridge fdb del REMOTEMAC dev VXLAN", Hint{Dev: s.net.vxlan()}},
		{"bridge fdb del LOCALMAC dev VETH master", Hint{Dev: overspan.VethName(s.key.Endpoint)}},
		{"ip neigh flush dev VXLAN nud permanent", Hint{Dev: s.net.vxlan()}},
		{"ip addr flush dev BRIDGE", Hint{Dev: s.net.bridge()}},
		{"ip link set VETH down; ip link set VETH name lost", Hint{Dev: overspan.VethName(s.key.Endpoint)}},
		{"ip link del BRIDGE", Hint{Dev: s.net.bridge()}},
		{"ip addr add 198.51.100.1/24 dev ul", Hint{Routes: true}},
		{"ip route add 10.8.0.0/16 dev ul", Hint{Routes: true}},
		{"iptables -F", Hint{Rules: true}},
	} {
		sh(t, expand.Replace(test.command))
		await(t, hints, test.want)
		drain(t, hints)
	}

	sh(t, "ip link add foreign type bridge; ip link set foreign mtu 1300; ip neigh add 192.0.2.9 lladdr 02:00:00:00:00:01 dev foreign; ip link del foreign")
	for _, got := range drain(t, hints) {
		if got.Dev != "" || got.All {
			t.Errorf("hint %+v at what others do", got)
		}
	}

	cancel()
	for range hints { // closed when the readers are gone
	}
}

// TestWatchLosesNothing lets a burst of changes meet a reader that is late: the
// hints are few, and the last state is hinted at.
func TestWatchLosesNothing(t *testing.T) {
	s := newTestSite(t)
	plan := s.want
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	hints := s.host.Watch(ctx)
	await(t, hints, Hint{All: true})
	s.net.addRemote(&plan, addr("192.0.2.2"), 1000, 20_000)
	converge(t, s.host, s.scope, plan)
	if all := drain(t, hints); len(all) > 20 {
		t.Errorf("%d hints for one burst", len(all))
	}
	sh(t, "bridge fdb del "+s.net.mac(1000).String()+" dev "+s.net.vxlan())
	await(t, hints, Hint{Dev: s.net.vxlan()})
}
