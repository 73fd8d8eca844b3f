package kernel

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/overspan/overspan"
	"golang.org/x/sys/unix"
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
		{"iptables -t nat -N OTHER", Hint{Rules: true}},
		{"sysctl -qw net.ipv4.ip_forward=1", Hint{Forwarding: true}},
		{"sysctl -qw net.ipv6.conf.all.forwarding=1", Hint{Forwarding: true}},
	} {
		sh(t, expand.Replace(test.command))
		await(t, hints, test.want)
		drain(t, hints)
	}

	sh(t, "ip link add foreign type bridge")
	await(t, hints, Hint{Links: true})
	sh(t, "ip link set foreign mtu 1300; ip neigh add 192.0.2.9 lladdr 02:00:00:00:00:01 dev foreign; ip link del foreign; nft add table inet fw; nft add chain inet fw c; iptables -t mangle -N FOREIGN")
	for _, got := range drain(t, hints) {
		if got.Dev != "" || got.All || got.Rules {
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
	converge(t, s.host, s.scope, s.want)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	hints := s.host.Watch(ctx)
	await(t, hints, Hint{All: true})
	const burst = 20_000
	sh(t, fmt.Sprintf("seq 1 %d", burst)+` | awk '{printf "fdb add 02:00:00:00:%02x:%02x dev `+s.net.vxlan()+` dst 192.0.2.2\n", $1/256, $1%256}' | bridge -batch -`)
	// How few depends on who is faster, who reads the events or who reads the hints.
	if all := drain(t, hints); len(all) > burst/20 {
		t.Errorf("%d hints for a burst of %d", len(all), burst)
	}
	sh(t, "bridge fdb del "+s.net.mac(65).String()+" dev "+s.net.vxlan())
	await(t, hints, Hint{Dev: s.net.vxlan()})
}

// TestWatchHearsNoEcho: forwarding entries that this Host writes are no news to
// it. What others make of them at once is.
func TestWatchHearsNoEcho(t *testing.T) {
	s := newTestSite(t)
	converge(t, s.host, s.scope, s.want)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	hints := s.host.Watch(ctx)
	await(t, hints, Hint{All: true})
	drain(t, hints)

	more := s.want.Clone()
	s.net.addRemote(&more, addr("192.0.2.2"), 1000, 64)
	moved := more.Clone()
	s.net.addRemote(&moved, addr("192.0.2.3"), 1000, 64)
	key := FDBKey{overspan.VethName(s.key.Endpoint), s.net.mac(2)}
	for _, ops := range [][]Op{
		Diff(s.want, more), Diff(more, moved), Diff(moved, s.want), {DelStatic{key}}, {AddStatic{key}},
	} {
		apply(t, s.host, ops...)
		if all := drain(t, hints); len(all) > 0 {
			t.Errorf("hints %+v at %d ops like %s", all, len(ops), ops[0])
		}
	}

	// Nor are the rules that its own tools load; who else changes some is heard.
	key4, chain := publishing("OVERSPAN-UDP-0-63", 53, "10.0.0.2:53")
	apply(t, s.host, Diff(State{}, State{Chains: map[ChainKey]Chain{key4: chain}})...)
	if all := drain(t, hints); len(all) > 0 {
		t.Errorf("hints %+v at rules of its own", all)
	}
	sh(t, "iptables -t nat -F OVERSPAN-UDP-0-63")
	await(t, hints, Hint{Rules: true})

	apply(t, s.host, Diff(s.want, more)...)
	sh(t, "bridge fdb replace "+s.net.mac(1000).String()+" dev "+s.net.vxlan()+" dst 192.0.2.3")
	await(t, hints, Hint{Dev: s.net.vxlan()})
}

// stalledEvents takes no event before it is released.
type stalledEvents struct {
	begun   chan struct{} // sent to by each subscription
	release chan struct{}
}

func (s stalledEvents) restart() error {
	s.begun <- struct{}{}
	return nil
}

func (s stalledEvents) event(uint16, uint32, []byte) { <-s.release }
func (s stalledEvents) idle()                        {}

// TestWatchOverflows floods a watcher that does not read: the kernel cuts it
// off, and it subscribes again.
func TestWatchOverflows(t *testing.T) {
	h := newTestHost(t)
	sh(t, "ip link add foreign type bridge; ip link set foreign up")
	ctx, cancel := context.WithCancel(t.Context())
	s := stalledEvents{begun: make(chan struct{}), release: make(chan struct{})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.watchFamily(ctx, unix.NETLINK_ROUTE, rtGroups(), s)
	}()
	<-s.begun
	// Twice the queue, which the kernel makes twice as large as it is asked.
	sh(t, `seq 1 50000 | awk '{m=sprintf("02:00:00:00:%02x:%02x",$1/256,$1%256); print "fdb add " m " dev foreign self permanent"; print "fdb del " m " dev foreign self"}' | bridge -batch -`)
	close(s.release)
	select {
	case <-s.begun:
	case <-time.After(20 * time.Second):
		t.Error("the watcher did not subscribe again")
	}
	cancel()
	<-done
}
