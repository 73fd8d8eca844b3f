package kernel

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/overspan/overspan"
	"github.com/vishvananda/netns"
)

// newTestHost returns the Host of a fresh network namespace. The test's thread
// is in it, too, so that commands run there.
func newTestHost(t testing.TB) *Host {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("kernel tests need root: run them as root or inside unshare -Urnm")
	}
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	if _, err := netns.New(); err != nil {
		t.Fatal(err)
	}
	h, err := NewHost(HostConfig{NetnsDir: filepath.Join(t.TempDir(), "netns")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	sh(t, "ip link set lo up")
	return h
}

// enter takes the thread of a subtest into the host's namespace.
func enter(t testing.TB, h *Host) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	if err := netns.Set(h.ns); err != nil {
		t.Fatal(err)
	}
}

// newTestNetns pins a namespace for the time of the test.
func newTestNetns(t testing.TB, h *Host, name string) string {
	t.Helper()
	path := filepath.Join(h.config.NetnsDir, name)
	if err := h.Apply(t.Context(), []Op{AddNetns{path}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.delPin(path); err != nil {
			t.Error(err)
		}
	})
	return path
}

// sh runs a command in the host's namespace and returns its output.
func sh(t testing.TB, command string) string {
	t.Helper()
	out, err := exec.Command("sh", "-ec", command).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return string(out)
}

// shIn runs a command in the namespace at path.
func shIn(t testing.TB, path, command string) string {
	t.Helper()
	return sh(t, "nsenter --net="+path+" sh -ec '"+command+"'")
}

func apply(t testing.TB, h *Host, ops ...Op) {
	t.Helper()
	if err := h.Apply(t.Context(), ops); err != nil {
		t.Fatalf("Apply: %v", err)
	}
}

func read(t testing.TB, h *Host, scope Scope) State {
	t.Helper()
	s, err := h.Read(t.Context(), scope)
	if err != nil {
		t.Fatalf("Read: %v", err)
	}
	return s
}

// testNet is a network by hand: what the planners would want of one node.
type testNet struct {
	id   overspan.NetworkID
	vni  uint32
	port uint16
	v4   overspan.Subnet
	v6   overspan.Subnet
}

func newTestNet(vni uint32) testNet {
	return testNet{
		id:   overspan.NetworkID(fmt.Sprintf("%010x", vni) + strings.Repeat("a", 54)),
		vni:  vni,
		port: 4789,
		v4:   overspan.Subnet{Prefix: netip.MustParsePrefix("10.77.0.0/16"), Gateway: netip.MustParseAddr("10.77.0.1")},
		v6:   overspan.Subnet{Prefix: netip.MustParsePrefix("fd77::/64"), Gateway: netip.MustParseAddr("fd77::1")},
	}
}

func (n testNet) noun() *overspan.Network {
	return &overspan.Network{ID: n.id, Driver: overspan.DriverOverlay, IPv4: n.v4, IPv6: n.v6, VNI: n.vni, MTU: 1400}
}

func (n testNet) bridge() string { return overspan.BridgeName(n.id) }
func (n testNet) vxlan() string  { return overspan.VXLANName(n.id) }

func (n testNet) mac(slot overspan.Slot) overspan.MAC { return n.noun().MAC(slot) }

// plan is bridge, VXLAN device and gateway on the node with an underlay
// address.
func (n testNet) plan(local netip.Addr) State {
	var s State
	put(&s.Links, n.bridge(), Link{
		Kind: KindBridge, Alias: overspan.NetworkAlias(n.id), MAC: n.noun().GatewayMAC(), MTU: 1400, Up: true,
	})
	put(&s.Links, n.vxlan(), Link{
		Kind: KindVXLAN, Alias: overspan.NetworkAlias(n.id), MAC: overspan.MAC{2, 1, 2, 3, 4, byte(n.vni)}, MTU: 1400, Up: true,
		Master: n.bridge(), Port: Port{Flood: true, Hairpin: true},
		VXLAN: VXLAN{VNI: n.vni, Port: n.port, Local: local, Proxy: true, AddrGenNone: true},
	})
	put(&s.Programs, n.vxlan(), Program{Kind: ProgramTunnel, Bridge: n.bridge(), VNI: n.vni, Open: true, Attached: true})
	put(&s.Addrs, Addr{n.bridge(), netip.PrefixFrom(n.v4.Gateway, 16)}, struct{}{})
	put(&s.Addrs, Addr{n.bridge(), netip.PrefixFrom(n.v6.Gateway, 64)}, struct{}{})
	return s
}

// addRemote plans the forwarding state of slots that live behind a VTEP.
func (n testNet) addRemote(s *State, vtep netip.Addr, first overspan.Slot, count int) {
	for slot := first; slot < first+overspan.Slot(count); slot++ {
		put(&s.FDB, FDBKey{n.vxlan(), n.mac(slot)}, Dest{VTEP: vtep})
		put(&s.Neighs, NeighKey{n.vxlan(), n.v4.Addr(slot)}, LLAddr{MAC: n.mac(slot)})
		put(&s.Neighs, NeighKey{n.vxlan(), n.v6.Addr(slot)}, LLAddr{MAC: n.mac(slot)})
	}
}

// addShortcut plans what takes packets out of the tunnel at the device ul, where
// this node has an address and one other node sends from another.
func (n testNet) addShortcut(s *State, own, other netip.Addr) {
	put(&s.Programs, "ul", Program{Kind: ProgramUnderlay, IPv4: own, Port: n.port, Open: true, Attached: true})
	put(&s.Sets, UnderlayVTEPs, AddrSet{Family: overspan.IPv4, Members: map[netip.Prefix]struct{}{Single(own): {}, Single(other): {}}})
}

// addEndpoint plans a veth, and returns the key that finds it.
func (n testNet) addEndpoint(s *State, slot overspan.Slot, path string) EndpointKey {
	id := overspan.EndpointID(fmt.Sprintf("%05x%05x", n.vni, slot) + strings.Repeat("e", 54))
	veth := overspan.VethName(id)
	put(&s.Links, veth, Link{
		Kind: KindVeth, Alias: overspan.EndpointAlias(n.id, id), MTU: 1400, Up: true, Master: n.bridge(), Port: Port{Hairpin: true},
	})
	put(&s.Statics, FDBKey{veth, n.mac(slot)}, struct{}{})
	put(&s.Programs, veth, Program{
		Kind: ProgramPort, Bridge: n.bridge(), MAC: n.mac(slot), IPv4: n.v4.Addr(slot), IPv6: n.v6.Addr(slot),
		Gateway: n.noun().GatewayMAC(), Open: true, Attached: true,
	})
	put(&s.Insides, veth, Inside{
		Netns: path, Name: "eth0", MAC: n.mac(slot), MTU: 1400, Up: true,
		Addrs: []netip.Prefix{netip.PrefixFrom(n.v4.Addr(slot), 16), netip.PrefixFrom(n.v6.Addr(slot), 64)},
		Routes: []Route{
			{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: n.v4.Gateway, Metric: RouteMetric("eth0", overspan.IPv4)},
			{Dst: netip.MustParsePrefix("::/0"), Via: n.v6.Gateway, Metric: RouteMetric("eth0", overspan.IPv6)},
		},
	})
	return EndpointKey{Network: n.id, Endpoint: id, Netns: path}
}

// call gives a container's end a name, and its routes the metrics that go with it.
func (i *Inside) call(name string) {
	i.Name, i.Routes = name, slices.Clone(i.Routes)
	for at, r := range i.Routes {
		i.Routes[at].Metric = RouteMetric(name, overspan.FamilyOf(r.Via))
	}
}

// converge leads the kernel to want and checks that it got there.
func converge(t testing.TB, h *Host, scope Scope, want State) {
	t.Helper()
	ops := Diff(read(t, h, scope), want)
	if err := h.Apply(t.Context(), ops); err != nil {
		t.Fatalf("Apply: %v\nops:\n%s", err, texts(ops))
	}
	have := read(t, h, scope)
	if rest := Diff(have, want); len(rest) > 0 {
		t.Fatalf("drift after Apply:\n%s\nafter ops:\n%s", texts(rest), texts(ops))
	}
	have.Doomed = nil
	if diff := cmp.Diff(closed(asRead(want.Clone())).Lines(), have.Lines()); diff != "" {
		t.Fatalf("Read after Apply (-want +got):\n%s", diff)
	}
}

func TestConverge(t *testing.T) {
	h := newTestHost(t)
	sh(t, "ip link add ul type bridge; ip addr add 192.0.2.1/24 dev ul; ip link set ul up")
	n := newTestNet(7)
	path := newTestNetns(t, h, "c1")
	want := n.plan(netip.MustParseAddr("192.0.2.1"))
	n.addRemote(&want, netip.MustParseAddr("192.0.2.2"), 64, 64)
	key := n.addEndpoint(&want, 2, path)
	put(&want.Netns, path, struct{}{})
	scope := Scope{All: true, Endpoints: []EndpointKey{key}}
	converge(t, h, scope, want)

	scope = Scope{Networks: []overspan.NetworkID{n.id}, Endpoints: []EndpointKey{key}}
	want.Netns = nil
	if diff := cmp.Diff(want.Lines(), read(t, h, scope).Lines()); diff != "" {
		t.Errorf("Read of the network (-want +got):\n%s", diff)
	}
	converge(t, h, Scope{All: true}, State{Netns: map[string]struct{}{path: {}}})
	if err := h.Retire(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out := sh(t, "ip -br link"); strings.Contains(out, "os") {
		t.Errorf("links left:\n%s", out)
	}
}
