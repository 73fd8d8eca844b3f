package kernel

import (
	"context"
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/overspan/overspan"
)

var update = flag.Bool("update", false, "write the golden files")

const (
	testNetwork  overspan.NetworkID  = "6b1d0c2f9e8a77415c3d2e1f0a9b8c7d6e5f4a3b2c1d0e9f8a7b6c5d4e3f2a1b"
	testEndpoint overspan.EndpointID = "e4c19a7b3d20586f1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f7081"
)

const testNetns = "/run/netns/web1"

func testVXLAN() string { return overspan.VXLANName(testNetwork) }
func web1Veth() string  { return overspan.VethName(testEndpoint) }

func web1Key(netns string) EndpointKey {
	return EndpointKey{Network: testNetwork, Endpoint: testEndpoint, Netns: netns}
}

// joined is a node that has just become a member of a network: one block, of
// two slots, lies on another node.
func joined() State {
	bridge, vxlan := overspan.BridgeName(testNetwork), testVXLAN()
	s := State{
		Links: map[string]Link{
			bridge: {Kind: KindBridge, Alias: overspan.NetworkAlias(testNetwork), MAC: mac(1), MTU: 1450, Up: true},
			vxlan: {
				Kind: KindVXLAN, Alias: overspan.NetworkAlias(testNetwork), MAC: overspan.MAC{6, 0, 0, 0, 0, 1}, MTU: 1450, Up: true,
				VXLAN:  VXLAN{VNI: 4097, Port: 4789, Local: addr("10.99.0.1"), Proxy: true, AddrGenNone: true},
				Master: bridge, Port: Port{Flood: true, Hairpin: true},
			},
		},
		Addrs:   map[Addr]struct{}{{bridge, netip.MustParsePrefix("10.0.0.1/24")}: {}},
		Sysctls: map[string]string{"net/ipv4/ip_forward": "1", "net/ipv4/conf/" + bridge + "/arp_ignore": "1"},
		Sets:    map[string]AddrSet{"overspan-vteps4": {Family: overspan.IPv4, Members: map[netip.Prefix]struct{}{Single(addr("10.99.0.2")): {}}}},
		Chains: map[ChainKey]Chain{
			{overspan.IPv4, "filter", "OVERSPAN-USER"}: {Open: true},
			{overspan.IPv4, "filter", "OVERSPAN-FORWARD"}: {Hook: "FORWARD", Rules: []Rule{
				{Text: "-j OVERSPAN-USER"}, {Text: "-i " + bridge + " -o " + bridge + " -j ACCEPT"},
			}},
			{overspan.IPv4, "raw", "OVERSPAN-RAW"}: {Hook: "PREROUTING", Rules: []Rule{
				{Text: "-p udp --dport 4789 -m set --match-set overspan-vteps4 src -j RETURN"}, {Text: "-p udp --dport 4789 -j DROP"},
			}},
		},
	}
	return remoteSlots(s, addr("10.99.0.2"), 64, 65)
}

// remoteSlots adds slots that lie on the node with a VTEP.
func remoteSlots(s State, vtep netip.Addr, slots ...byte) State {
	for _, slot := range slots {
		put(&s.FDB, FDBKey{testVXLAN(), mac(slot)}, Dest{VTEP: vtep})
		put(&s.Neighs, NeighKey{testVXLAN(), netip.AddrFrom4([4]byte{10, 0, 0, slot})}, LLAddr{MAC: mac(slot)})
	}
	return s
}

// attached adds an endpoint of this node.
func attached(s State, netns string) State {
	put(&s.Links, web1Veth(), Link{
		Kind: KindVeth, Alias: overspan.EndpointAlias(testNetwork, testEndpoint), MTU: 1450, Up: true,
		Master: overspan.BridgeName(testNetwork), Port: Port{Hairpin: true},
	})
	put(&s.Insides, web1Veth(), Inside{
		Netns: netns, Name: "eth0", MAC: mac(2), MTU: 1450, Up: true,
		Addrs:  []netip.Prefix{netip.MustParsePrefix("10.0.0.2/24")},
		Routes: []Route{{netip.MustParsePrefix("0.0.0.0/0"), addr("10.0.0.1"), RouteMetric("eth0", overspan.IPv4)}},
	})
	put(&s.Statics, FDBKey{web1Veth(), mac(2)}, struct{}{})
	return s
}

// changed gives the VXLAN device another MAC, and all links another MTU.
func changed(s State) State {
	for name, l := range s.Links {
		l.MTU = 1400
		if l.Kind == KindVXLAN {
			l.MAC = overspan.MAC{6, 0, 0, 0, 0, 2}
		}
		s.Links[name] = l
	}
	for veth, i := range s.Insides {
		i.MTU = 1400
		s.Insides[veth] = i
	}
	return s
}

// moved gives the node another underlay address.
func moved(s State) State {
	l := s.Links[testVXLAN()]
	l.VXLAN.Local = addr("10.99.0.9")
	s.Links[testVXLAN()] = l
	return s
}

// A chapter is a state on the way of a node through its life in a network.
type chapter struct {
	title string
	want  State
}

func story(netns string) []chapter {
	second, third := addr("10.99.0.2"), addr("10.99.0.3")
	return []chapter{
		{"the node joins a network", joined()},
		{"a container is attached", attached(joined(), netns)},
		{"a block appears on a third node", remoteSlots(attached(joined(), netns), third, 128, 129)},
		{"one slot of it moves to the second node", remoteSlots(remoteSlots(attached(joined(), netns), third, 128), second, 129)},
		{"the third node is removed", remoteSlots(attached(joined(), netns), second, 129)},
		{"the VXLAN device gets another MAC, and all an MTU of 1400", changed(remoteSlots(attached(joined(), netns), second, 129))},
		{"the underlay address changes: the device is made anew", moved(changed(attached(joined(), netns)))},
		{"the container is detached", moved(changed(joined()))},
		{"the node leaves", State{Sysctls: map[string]string{"net/ipv4/ip_forward": "1"}}},
	}
}

// TestStory shows the ops of a node's life in a network, and what its kernel
// holds when a container has been attached.
func TestStory(t *testing.T) {
	var b strings.Builder
	now := State{}
	for i, c := range story(testNetns) {
		ops := Diff(now, c.want)
		b.WriteString("# " + c.title + "\n" + texts(ops) + "\n\n")
		now = Apply(now, ops)
		if i == 1 {
			golden(t, "attached.state", strings.Join(now.Lines(), "\n")+"\n")
		}
	}
	golden(t, "story.ops", b.String())
}

// A conformer is what a Fake and a Host have in common.
type conformer interface {
	Read(context.Context, Scope) (State, error)
	Apply(context.Context, []Op) error
	Retire(context.Context) error
	Netns(path string) (overspan.NetnsID, error)
	Interfaces(path string) ([]string, error)
}

func TestConformance(t *testing.T) {
	t.Run("fake", func(t *testing.T) {
		f := NewFake(Underlay{})
		f.MakeNetns(testNetns)
		testConformance(t, f, testNetns)
	})
	t.Run("host", func(t *testing.T) {
		h := newTestHost(t)
		testConformance(t, h, newTestNetns(t, h, "web1"))
	})
}

// testConformance leads a kernel through the story. Namespaces are none of it.
func testConformance(t *testing.T, k conformer, netns string) {
	scope := Scope{All: true, Endpoints: []EndpointKey{web1Key(netns)}}
	for path := range joined().Sysctls {
		scope.Sysctls = append(scope.Sysctls, path)
	}
	sees := func() State {
		t.Helper()
		s, err := k.Read(t.Context(), scope)
		if err != nil {
			t.Fatal(err)
		}
		s.Netns = nil
		return s
	}
	for _, c := range story(netns) {
		ops := Diff(sees(), c.want)
		if err := k.Apply(t.Context(), ops); err != nil {
			t.Fatalf("%s: %v", c.title, err)
		}
		if drift := Diff(sees(), c.want); len(drift) != 0 {
			t.Fatalf("%s: drift:\n%s\nafter:\n%s", c.title, texts(drift), texts(ops))
		}
		if err := k.Apply(t.Context(), ops); err != nil {
			t.Errorf("%s, once more: %v", c.title, err)
		}
		wantInterfaces(t, k, netns, len(c.want.Insides) > 0)
	}
	if err := k.Retire(t.Context()); err != nil || len(sees().Doomed) != 0 {
		t.Errorf("Retire: %v, doomed: %v", err, sees().Doomed)
	}
	if _, err := k.Netns(netns + "-other"); !errors.Is(err, overspan.ErrNotFound) {
		t.Errorf("Netns of nothing: %v, want ErrNotFound", err)
	}
}

func wantInterfaces(t *testing.T, k conformer, netns string, attached bool) {
	t.Helper()
	want := []string{"lo"}
	if attached {
		want = []string{"eth0", "lo"}
	}
	got, err := k.Interfaces(netns)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("interfaces: %v (-want +got):\n%s", err, diff)
	}
}

func TestRenderLoad(t *testing.T) {
	var b strings.Builder
	for _, op := range Diff(State{}, joined()) {
		if load, ok := op.(LoadChains); ok {
			b.WriteString("# " + load.String() + "\n" + load.Render())
		}
	}
	golden(t, "rules.restore", b.String())
}

// golden compares got with a file under testdata, or writes it there.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got), go test -update writes it:\n%s", path, diff)
	}
}
