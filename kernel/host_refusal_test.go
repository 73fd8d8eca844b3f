package kernel

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/overspan/overspan"
	"golang.org/x/sys/unix"
)

// TestRefusals tries what the kernel or a foreign object forbids: the error
// names what is in the way, and nothing is left behind.
func TestRefusals(t *testing.T) {
	s := newTestSite(t)
	apply(t, s.host, Diff(State{}, State{Netns: s.want.Netns})...)
	bridge, vxlan := s.want.Links[s.net.bridge()], s.want.Links[s.net.vxlan()]
	vxlan.Master, vxlan.Port = "", Port{}
	name := overspan.VethName(s.key.Endpoint)
	veth, inside := s.want.Links[name], s.want.Insides[name]
	veth.Master, veth.Port = "", Port{}
	other := s.key
	other.Endpoint = "ffffffffffff"

	for _, test := range []struct {
		name  string
		setup string // before
		op    Op
		class error
		text  string
		left  string // what may be there afterwards
	}{
		{
			name: "foreign bridge", setup: "ip link add osb-0000000007 type bridge",
			op: AddLink{Name: s.net.bridge(), Link: bridge}, class: overspan.ErrExists,
			text: "osb-0000000007 exists and is not ours (no overspan alias)", left: "osb-0000000007",
		},
		{
			name: "foreign link changed", setup: "ip link add osb-0000000007 type bridge",
			op: SetLink{Name: s.net.bridge(), Want: bridge}, class: overspan.ErrExists,
			text: "is not ours", left: "osb-0000000007",
		},
		{
			name: "foreign link deleted", setup: "ip link add osb-0000000007 type bridge",
			op: DelLink{s.net.bridge()}, class: overspan.ErrExists, text: "is not ours", left: "osb-0000000007",
		},
		{
			name: "entry on a foreign link", setup: "ip link add osx-0000000007 type bridge",
			op:    SetFDB{Key: FDBKey{"osx-0000000007", s.net.mac(9)}, Dst: netip.MustParseAddr("192.0.2.2")},
			class: overspan.ErrExists, text: "is not ours", left: "osx-0000000007",
		},
		{
			name: "VNI taken", setup: "ip link add vx type vxlan id 7 dstport 4789",
			op: AddLink{Name: s.net.vxlan(), Link: vxlan}, class: overspan.ErrInUse,
			text: "VNI 7 is in use by the foreign device vx", left: "vx",
		},
		{
			name: "port taken by metadata mode", setup: "ip link add vx type vxlan external dstport 4789; ip link set vx up",
			op: AddLink{Name: s.net.vxlan(), Link: vxlan}, class: overspan.ErrInUse,
			text: "UDP port 4789 is in use by the foreign device vx", left: "vx",
		},
		{
			name: "port taken by gbp mode", setup: "ip link add vx type vxlan id 8 dstport 4789 gbp; ip link set vx up",
			op: AddLink{Name: s.net.vxlan(), Link: vxlan}, class: overspan.ErrInUse,
			text: "UDP port 4789 is in use by the foreign device vx", left: "vx",
		},
		{
			name: "no bridge", op: AddLink{Name: s.net.vxlan(), Link: s.want.Links[s.net.vxlan()]},
			class: unix.ENODEV, text: "look up bridge " + s.net.bridge(),
		},
		{
			name: "interface name taken", setup: "nsenter --net=PIN ip link add eth0 type bridge",
			op: AddLink{Name: name, Link: veth, Inside: &inside}, class: overspan.ErrExists,
			text: "interface eth0 exists in " + s.netns,
		},
		{
			name: "no namespace", op: AddLink{Name: name, Link: veth, Inside: &Inside{Netns: "/nowhere"}},
			class: overspan.ErrNotFound, text: "network namespace /nowhere not found",
		},
		{
			name: "half-way", op: AddLink{Name: name, Link: veth, Inside: withRoute(inside, "10.1.1.1")},
			class: unix.ENETUNREACH, text: "Nexthop has invalid gateway",
		},
		{
			name: "alias too long", op: AddLink{Name: s.net.bridge(), Link: withAlias(bridge, strings.Repeat("x", 300))},
			class: unix.ERANGE, text: "",
		},
		{
			name: "set of another type", setup: "ipset create overspan-vtep4 hash:net",
			op: AddSet{Name: "overspan-vtep4", Family: overspan.IPv4}, class: overspan.ErrExists, text: "overspan-vtep4 exists with another type",
		},
		{
			name: "set in use", setup: "iptables -I INPUT -m set --match-set overspan-vtep4 src",
			op: DelSet{"overspan-vtep4"}, class: overspan.ErrInUse, text: "overspan-vtep4 is in use by a rule",
		},
		{
			name: "bad rule",
			op:   LoadChains{overspan.IPv4, "filter", map[string][]Rule{"OVERSPAN-X": {{Text: "-j NOWHERE"}}}}, text: "iptables-restore",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			enter(t, s.host)
			sh(t, strings.ReplaceAll(test.setup, "PIN", s.netns))
			err := s.host.Apply(t.Context(), []Op{test.op})
			if err == nil || test.class != nil && !errors.Is(err, test.class) || !strings.Contains(err.Error(), test.text) {
				t.Errorf("Apply: %v, want %v: %s", err, test.class, test.text)
			}
			if test.left != "" {
				sh(t, "ip link del "+test.left)
			}
			shIn(t, s.netns, "ip link del eth0 2>/dev/null || true")
			if out := sh(t, "ip -br link | grep -v -e ^lo -e ^ul || true"); out != "" {
				t.Errorf("left behind:\n%s", out)
			}
		})
	}
}

func withRoute(in Inside, via string) *Inside {
	in.Routes = []Route{{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr(via)}}
	return &in
}

func withAlias(l Link, alias string) Link {
	l.Alias = alias
	return l
}

// TestFailureEndsItsBranch lets one device of two fail: what hangs on it is
// skipped without a word, the rest is done.
func TestFailureEndsItsBranch(t *testing.T) {
	s := newTestSite(t)
	sh(t, "ip link add osx-0000000007 type bridge")
	err := s.host.Apply(t.Context(), Diff(State{}, s.want))
	if err == nil || strings.Count(err.Error(), "\n") != 0 || !errors.Is(err, overspan.ErrExists) {
		t.Errorf("Apply: %v, want the foreign device alone", err)
	}
	sh(t, "ip link del osx-0000000007")
	converge(t, s.host, s.scope, s.want)
}

// TestFailedEntries puts bad entries among good ones: all good ones are
// written, wherever in a pack they travel.
func TestFailedEntries(t *testing.T) {
	s := newTestSite(t)
	converge(t, s.host, s.scope, s.want)
	var ops []Op
	const good = 2000
	for slot := overspan.Slot(1000); slot < 1000+good; slot++ {
		ops = append(ops, SetFDB{Key: FDBKey{s.net.vxlan(), s.net.mac(slot)}, Dst: netip.MustParseAddr("192.0.2.2")})
		if slot%100 == 0 {
			// A VTEP of the other family.
			ops = append(ops, SetFDB{Key: FDBKey{s.net.vxlan(), s.net.mac(slot)}, Dst: netip.MustParseAddr("2001:db8::1")})
		}
	}
	err := s.host.Apply(t.Context(), ops)
	if err == nil || !strings.Contains(err.Error(), "17 more") || !strings.Contains(err.Error(), "replace fdb") && !strings.Contains(err.Error(), "add fdb") {
		t.Errorf("Apply: %v", err)
	}
	if got := len(read(t, s.host, s.scope).FDB); got != good+len(s.want.FDB) {
		t.Errorf("%d entries, want %d", got, good+len(s.want.FDB))
	}
}

func TestApplyStopsWithItsContext(t *testing.T) {
	s := newTestSite(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.host.Apply(ctx, Diff(State{}, s.want)); !errors.Is(err, context.Canceled) {
		t.Errorf("Apply: %v", err)
	}
	if _, err := s.host.Read(ctx, s.scope); !errors.Is(err, context.Canceled) {
		t.Errorf("Read: %v", err)
	}
}

// TestPartialRead breaks one part of a read: what can be read is read.
func TestPartialRead(t *testing.T) {
	s := newTestSite(t)
	converge(t, s.host, s.scope, s.want)
	unix.Close(s.host.netfilter.fd)
	got, err := s.host.Read(t.Context(), s.scope)
	if err == nil || !got.Partial {
		t.Errorf("Read: partial %v, error %v", got.Partial, err)
	}
	if len(got.Links) != len(s.want.Links) || len(got.Neighs) != len(s.want.Neighs) {
		t.Errorf("Read left out what could be read:\n%s", strings.Join(got.Lines(), "\n"))
	}
	if ops := Diff(got, State{}); len(ops) > 0 {
		t.Errorf("a partial read leads to:\n%s", texts(ops))
	}
}

// TestRetireSparesOthers puts a foreign link into the doomed group.
func TestRetireSparesOthers(t *testing.T) {
	s := newTestSite(t)
	converge(t, s.host, s.scope, s.want)
	sh(t, "ip link add foreign group 1466 type bridge")
	apply(t, s.host, DoomLink{overspan.VethName(s.key.Endpoint)})
	if got := read(t, s.host, s.scope).Doomed; len(got) != 1 {
		t.Errorf("doomed: %v, want ours alone", got)
	}
	if err := s.host.Retire(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := read(t, s.host, s.scope).Doomed; len(got) != 0 {
		t.Errorf("doomed after Retire: %v", got)
	}
	sh(t, "ip link show foreign")
}

// TestReconnectBeforeRetiring attaches a container again under the name that its
// doomed interface still bears.
func TestReconnectBeforeRetiring(t *testing.T) {
	s := newTestSite(t)
	converge(t, s.host, s.scope, s.want)
	apply(t, s.host, DoomLink{overspan.VethName(s.key.Endpoint)})
	names, err := s.host.Interfaces(s.netns)
	if err != nil || len(names) != 1 || names[0] != "lo" {
		t.Fatalf("Interfaces = %v, %v, want lo alone", names, err)
	}
	again := s.net.plan(netip.MustParseAddr("192.0.2.1"))
	key := s.net.addEndpoint(&again, 3, s.netns)
	converge(t, s.host, Scope{Networks: []overspan.NetworkID{s.net.id}, Endpoints: []EndpointKey{key}}, again)
}

// TestMakerDied leaves a link as an agent does that dies before it has marked
// the link as its own.
func TestMakerDied(t *testing.T) {
	s := newTestSite(t)
	apply(t, s.host, Diff(State{}, State{Netns: s.want.Netns})...)
	sh(t, "ip link add osb-0000000007 group 1467 type bridge; ip link add osb-0000000099 group 1467 type bridge")
	converge(t, s.host, s.scope, s.want)
	if err := s.host.Retire(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := read(t, s.host, s.scope).Doomed; len(got) != 0 {
		t.Errorf("left behind: %v", got)
	}
	converge(t, s.host, s.scope, s.want)
}
