package kernel

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/overspan/overspan"
)

var errTest = errors.New("as the test asked")

func newTestFake(t *testing.T) (f *Fake, want State, scope Scope) {
	t.Helper()
	f = NewFake(Underlay{Device: "eth0", MTU: 1500})
	f.MakeNetns(testNetns)
	want = attached(joined(), testNetns)
	if err := f.Apply(t.Context(), Diff(State{}, want)); err != nil {
		t.Fatal(err)
	}
	scope = Scope{All: true, Endpoints: []EndpointKey{web1Key(testNetns)}}
	for path := range want.Sysctls {
		scope.Sysctls = append(scope.Sysctls, path)
	}
	return f, want, scope
}

func TestFakeHoldsWhatWasApplied(t *testing.T) {
	f, want, scope := newTestFake(t)
	have, err := f.Read(t.Context(), scope)
	if err != nil {
		t.Fatal(err)
	}
	if ops := Diff(have, want); len(ops) != 0 {
		t.Errorf("drift: %s", texts(ops))
	}
	names, err := f.Interfaces(testNetns)
	if diff := cmp.Diff([]string{"eth0", "lo"}, names); diff != "" || err != nil {
		t.Errorf("interfaces, %v (-want +got):\n%s", err, diff)
	}
}

func TestFakeSkipsWhatBuildsOnAFailedOp(t *testing.T) {
	f := NewFake(Underlay{})
	f.MakeNetns(testNetns)
	f.FailNext("add link osx-", errTest)
	err := f.Apply(t.Context(), Diff(State{}, attached(joined(), testNetns)))
	if !errors.Is(err, errTest) || strings.Count(err.Error(), "\n") != 0 {
		t.Errorf("Apply = %v, want one error, the test's", err)
	}
	var kinds []LinkKind
	for _, l := range f.State().Links {
		kinds = append(kinds, l.Kind)
	}
	slices.Sort(kinds)
	if diff := cmp.Diff([]LinkKind{KindBridge, KindVeth}, kinds); diff != "" {
		t.Errorf("links (-want +got):\n%s", diff)
	}
	if n := len(f.State().FDB); n != 0 {
		t.Errorf("%d fdb entries on a link that is not there", n)
	}
	if err := f.Apply(t.Context(), Diff(f.State(), attached(joined(), testNetns))); err != nil {
		t.Errorf("the next pass: %v", err)
	}
}

func TestFakeReadFails(t *testing.T) {
	f, _, scope := newTestFake(t)
	f.FailNext("read", errTest)
	have, err := f.Read(t.Context(), scope)
	if !errors.Is(err, errTest) || !have.Partial {
		t.Errorf("Read = partial %t, %v", have.Partial, err)
	}
	if _, err := f.Read(t.Context(), scope); err != nil {
		t.Errorf("second Read = %v", err)
	}
}

func TestFakeRefusesAVethWithoutNamespace(t *testing.T) {
	f := NewFake(Underlay{})
	err := f.Apply(t.Context(), Diff(State{}, attached(joined(), testNetns)))
	if !errors.Is(err, overspan.ErrNotFound) {
		t.Errorf("Apply = %v, want ErrNotFound", err)
	}
}

func TestFakeEndOfANamespaceTakesTheVethAlong(t *testing.T) {
	f, want, scope := newTestFake(t)
	f.LoseNetns(testNetns)
	have, err := f.Read(t.Context(), scope)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := have.Links[web1Veth()]; ok || len(have.Statics) != 0 {
		t.Error("the veth or its static entry is still there")
	}
	if len(Diff(have, want)) == 0 {
		t.Error("no drift")
	}
	if _, err := f.Netns(testNetns); !errors.Is(err, overspan.ErrNotFound) {
		t.Errorf("Netns = %v, want ErrNotFound", err)
	}
}

func TestFakeHintsAtMutations(t *testing.T) {
	f, _, _ := newTestFake(t)
	ctx, cancel := context.WithCancel(t.Context())
	hints := f.Watch(ctx)
	expect := func(want Hint) {
		t.Helper()
		select {
		case got := <-hints:
			if got != want {
				t.Errorf("hint %+v, want %+v", got, want)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("no hint, want %+v", want)
		}
	}
	expect(Hint{All: true})
	f.Mutate(func(s *State) { *s = Apply(*s, []Op{DelLink{testVXLAN()}}) })
	expect(Hint{Dev: testVXLAN()})
	f.Mutate(func(s *State) { s.Chains = nil })
	expect(Hint{Rules: true})
	cancel()
	if h, ok := <-hints; ok {
		t.Errorf("hint %+v after the end", h)
	}
}

func TestFakeRetire(t *testing.T) {
	f, want, _ := newTestFake(t)
	if err := f.Apply(t.Context(), []Op{DoomLink{web1Veth()}}); err != nil {
		t.Fatal(err)
	}
	if _, ok := f.State().Doomed[web1Veth()]; !ok {
		t.Fatal("not doomed")
	}
	again := f.State().Clone()
	if err := f.Apply(t.Context(), Diff(again, want)); err != nil {
		t.Errorf("wanted again: %v", err)
	}
	if err := f.Retire(t.Context()); err != nil || len(f.State().Doomed) != 0 {
		t.Errorf("Retire = %v, doomed %v", err, f.State().Doomed)
	}
}

// TestFakeRefusesWhatAKernelRefuses on a node with one container.
func TestFakeRefusesWhatAKernelRefuses(t *testing.T) {
	bridge := overspan.BridgeName(testNetwork)
	forward := ChainKey{overspan.IPv4, "filter", "OVERSPAN-FORWARD"}
	tests := []struct {
		name string
		op   Op
		err  error
	}{
		{"a link of another kind has the name", AddLink{Name: testVXLAN(), Link: Link{Kind: KindBridge}}, errFileExists},
		{"a link that is there as wanted", AddLink{Name: bridge, Link: Link{Kind: KindBridge, MTU: 1450}}, nil},
		{"the VNI is taken", AddLink{Name: "osx-0000000000", Link: Link{Kind: KindVXLAN, VXLAN: VXLAN{VNI: 4097, Port: 4789}}}, errFileExists},
		{"the container has such an interface", vethInto("/run/netns/web2", "wg0"), errFileExists},
		{"and got it from us", vethInto(testNetns, "eth0"), errFileExists},
		{"a free name", vethInto("/run/netns/web2", "eth0"), nil},
		{"a veth without an inside", AddLink{Name: "osv-0000000000", Link: Link{Kind: KindVeth}}, overspan.ErrInvalid},
		{"the master is not there", SetLink{Name: web1Veth(), Want: Link{Kind: KindVeth, Master: "osb-0000000000"}}, errNoSuchDevice},
		{"the link is not there", SetLink{Name: "osv-0000000000", Want: Link{Kind: KindVeth}}, errNoSuchDevice},
		{"an address where no bridge is", AddAddr{Addr{Dev: web1Veth()}}, errNoSuchDevice},
		{"a static entry where no port is", AddStatic{FDBKey{Dev: bridge}}, errNoSuchDevice},
		{"a setting of no device", SetSysctl{Path: "net/ipv4/conf/osb-0000000000/arp_ignore"}, errNoSuchEntry},
		{"an entry of the other family", AddSetEntry{"overspan-vteps4", Single(addr("fd00::1"))}, errNoSuchEntry},
		{"a set of the other family", AddSet{Name: "overspan-vteps4", Family: overspan.IPv6}, errFileExists},
		{"a set of another type", AddSet{Name: "overspan-vteps4", Family: overspan.IPv4, Subnets: true}, errFileExists},
		{"a jump to nowhere", AddJump{Key: ChainKey{Name: "OVERSPAN-NONE"}, Hook: "FORWARD"}, errNoSuchEntry},
		{"a chain that is jumped to", DelChains{forward.Family, forward.Table, []string{forward.Name}}, errBusy},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, _, _ := newTestFake(t)
			f.MakeNetns("/run/netns/web2", "wg0")
			if err := f.Apply(t.Context(), []Op{tt.op}); !errors.Is(err, tt.err) {
				t.Errorf("%s: %v, want %v", tt.op, err, tt.err)
			}
		})
	}
}

func vethInto(netns, name string) AddLink {
	return AddLink{Name: "osv-0000000000", Link: Link{Kind: KindVeth}, Inside: &Inside{Netns: netns, Name: name}}
}

func TestFakeUnderlay(t *testing.T) {
	u := Underlay{Device: "eth0", MTU: 1500, Addrs: []netip.Addr{addr("10.99.0.1")}}
	f := NewFake(u, netip.MustParsePrefix("10.99.0.0/24"))
	for _, spec := range []string{"eth0", "10.99.0.1"} {
		if got, err := f.Underlay(spec); err != nil || got.Device != u.Device {
			t.Errorf("Underlay(%s) = %+v, %v", spec, got, err)
		}
	}
	if _, err := f.Underlay("10.99.0.2"); !errors.Is(err, overspan.ErrNotFound) {
		t.Errorf("another's address: %v, want ErrNotFound", err)
	}
	if routes, err := f.HostRoutes(); err != nil || len(routes) != 1 {
		t.Errorf("HostRoutes = %v, %v", routes, err)
	}
}
