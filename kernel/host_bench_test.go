package kernel

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/overspan/overspan"
)

// BenchmarkAttach measures what an attach costs in the kernel, beside the floor:
// a veth made, moved, addressed and set up by plain netlink calls.
func BenchmarkAttach(b *testing.B) {
	b.Run("floor", benchmarkFloor)
	b.Run("host", benchmarkAttach)
}

func benchmarkFloor(b *testing.B) {
	h := newTestHost(b)
	path := newTestNetns(b, h, "c")
	ns, err := netns.GetFromPath(path)
	if err != nil {
		b.Fatal(err)
	}
	defer ns.Close()
	host, err := netlink.NewHandle()
	if err != nil {
		b.Fatal(err)
	}
	inside, err := netlink.NewHandleAt(ns)
	if err != nil {
		b.Fatal(err)
	}
	addr := &netlink.Addr{IPNet: netlink.NewIPNet([]byte{10, 9, 0, 2})}
	for b.Loop() {
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "floor"}, PeerName: "floor-peer"}
		err := host.LinkAdd(veth)
		if err != nil {
			b.Fatal(err)
		}
		peer, err := host.LinkByName("floor-peer")
		if err != nil {
			b.Fatal(err)
		}
		for _, step := range []func() error{
			func() error { return host.LinkSetNsFd(peer, int(ns)) },
			func() error { return inside.AddrAdd(peer, addr) },
			func() error { return inside.LinkSetUp(peer) },
			func() error { return host.LinkSetUp(veth) },
		} {
			if err := step(); err != nil {
				b.Fatal(err)
			}
		}
		b.StopTimer()
		if err := host.LinkDel(veth); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

func benchmarkAttach(b *testing.B) {
	h := newTestHost(b)
	sh(b, "ip link add ul type bridge; ip addr add 192.0.2.1/24 dev ul; ip link set ul up")
	n := newTestNet(7)
	base := n.plan(netip.MustParseAddr("192.0.2.1"))
	apply(b, h, Diff(State{}, base)...)
	path := newTestNetns(b, h, "c")
	all := base.Clone()
	key := n.addEndpoint(&all, 2, path)
	veth := overspan.VethName(key.Endpoint)
	want := State{
		Links:    map[string]Link{veth: all.Links[veth]},
		Insides:  all.Insides,
		Statics:  all.Statics,
		Programs: map[string]Program{veth: all.Programs[veth]},
	}
	for b.Loop() {
		have := read(b, h, Scope{Endpoints: []EndpointKey{key}})
		apply(b, h, Diff(have, want)...)
		b.StopTimer()
		apply(b, h, DelLink{veth})
		b.StartTimer()
	}
}

// BenchmarkDetach measures what a detach costs its caller.
func BenchmarkDetach(b *testing.B) {
	h := newTestHost(b)
	sh(b, "ip link add ul type bridge; ip addr add 192.0.2.1/24 dev ul; ip link set ul up")
	n := newTestNet(7)
	want := n.plan(netip.MustParseAddr("192.0.2.1"))
	path := newTestNetns(b, h, "c")
	key := n.addEndpoint(&want, 2, path)
	put(&want.Netns, path, struct{}{})
	for b.Loop() {
		b.StopTimer()
		apply(b, h, Diff(read(b, h, Scope{All: true}), want)...)
		b.StartTimer()
		apply(b, h, DoomLink{overspan.VethName(key.Endpoint)})
	}
}

// BenchmarkEntries measures writing and reading the forwarding state of whole
// blocks: per slot one FDB entry and two neighbours.
func BenchmarkEntries(b *testing.B) {
	for _, size := range []int{10_000, 50_000} {
		b.Run(fmt.Sprintf("slots=%d", size), func(b *testing.B) {
			h := newTestHost(b)
			sh(b, "ip link add ul type bridge; ip addr add 192.0.2.1/24 dev ul; ip link set ul up")
			n := newTestNet(7)
			base := n.plan(netip.MustParseAddr("192.0.2.1"))
			apply(b, h, Diff(State{}, base)...)
			want := base.Clone()
			n.addRemote(&want, netip.MustParseAddr("192.0.2.2"), 64, size)
			scope := Scope{Networks: []overspan.NetworkID{n.id}}
			add, remove := Diff(base, want), Diff(want, base)
			var full State
			b.Run("write", func(b *testing.B) {
				for b.Loop() {
					b.StopTimer()
					apply(b, h, remove...)
					b.StartTimer()
					apply(b, h, add...)
				}
			})
			b.Run("read", func(b *testing.B) {
				for b.Loop() {
					full = read(b, h, scope)
				}
			})
			b.Run("read/block", func(b *testing.B) {
				part := blockOf(want)
				for b.Loop() {
					read(b, h, part)
				}
			})
			if len(full.Neighs) != 2*size {
				b.Errorf("read %d neighbours, want %d", len(full.Neighs), 2*size)
			}
		})
	}
}

// blockOf names as many entries as the slots of one block have.
func blockOf(s State) (sc Scope) {
	for key := range s.FDB {
		if len(sc.FDB) < overspan.MaxBlockSize {
			sc.FDB = append(sc.FDB, key)
		}
	}
	for key := range s.Neighs {
		if len(sc.Neighs) < 2*overspan.MaxBlockSize {
			sc.Neighs = append(sc.Neighs, key)
		}
	}
	return sc
}
