package kernel

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/overspan/overspan"
)

// TestDiffCases are decisions that no property shows.
func TestDiffCases(t *testing.T) {
	here := attached(joined(), testNetns)
	veth, vxlan, bridge := web1Veth(), testVXLAN(), overspan.BridgeName(testNetwork)
	tests := []struct {
		name       string
		have, want func(*State) // what they change in a node with one container
		ops        []string     // first words of the ops
	}{
		{
			name: "the inside was not read",
			have: func(s *State) { s.Insides = nil },
		},
		{
			name: "the kernel chose a MAC for the host end",
			have: func(s *State) { edit(s.Links, veth, func(l *Link) { l.MAC = overspan.MAC{0xce, 1} }) },
		},
		{
			name: "the container's interface is gone, or elsewhere",
			have: func(s *State) { s.Insides[veth] = Inside{Netns: testNetns, Missing: true} },
			ops:  []string{"del link osv-", "add link osv-", "set link osv-", "add fdb"},
		},
		{
			name: "the host end was taken away",
			have: func(s *State) { delete(s.Links, veth); delete(s.Insides, veth); clear(s.Statics) },
			ops:  []string{"add link osv-", "set link osv-", "add fdb"},
		},
		{
			name: "a veth with the name waits to be retired",
			have: func(s *State) { *s = Apply(*s, []Op{DoomLink{veth}}) },
			ops:  []string{"retire osv-", "add link osv-", "set link osv-", "add fdb"},
		},
		{
			name: "the port was taken off its bridge",
			have: func(s *State) {
				edit(s.Links, veth, func(l *Link) { l.Master, l.Port = "", Port{} })
				clear(s.Statics)
			},
			ops: []string{"set link osv-", "add fdb"},
		},
		{
			name: "the bridge was deleted",
			have: func(s *State) { *s = Apply(*s, []Op{DelLink{bridge}}) },
			ops:  []string{"add link osb-", "set link osx-", "set sysctl", "add addr", "set link osv-", "add fdb"},
		},
		{
			name: "the VXLAN device is another's by its VNI",
			have: func(s *State) {
				s.Links["osx-0000000000"] = s.Links[vxlan]
				*s = Apply(*s, []Op{DelLink{vxlan}})
			},
			ops: []string{"del link osx-0000000000", "add link osx-", "add fdb", "add fdb", "add neigh", "add neigh"},
		},
		{
			name: "a link that is to go holds the container's interface name",
			have: func(s *State) {
				s.Links["osv-0000000000"], s.Insides["osv-0000000000"] = s.Links[veth], s.Insides[veth]
				*s = Apply(*s, []Op{DelLink{veth}})
			},
			ops: []string{"del link osv-0000000000", "add link osv-", "set link osv-", "add fdb"},
		},
		{
			name: "a route leads through another interface: added there, on its bridge, before it goes here",
			have: func(s *State) {
				other := s.Links[veth]
				other.Master, other.Port = "", Port{}
				s.Links["osv-0000000000"], s.Insides["osv-0000000000"] = other, s.Insides[veth]
				edit(s.Insides, "osv-0000000000", func(in *Inside) { in.Name, in.Routes = "eth1", nil })
			},
			want: func(s *State) {
				s.Links["osv-0000000000"], s.Insides["osv-0000000000"] = s.Links[veth], s.Insides[veth]
				edit(s.Insides, "osv-0000000000", func(in *Inside) { in.Name = "eth1" })
				edit(s.Insides, veth, func(in *Inside) { in.Routes = nil })
			},
			ops: []string{"set link osv-0000000000 master", "set inside osv-0000000000", "set inside " + veth},
		},
		{
			name: "a deleted address takes the others of its subnet along",
			have: func(s *State) { put(&s.Addrs, Addr{bridge, netip.MustParsePrefix("10.0.0.3/24")}, struct{}{}) },
			ops:  []string{"del addr 10.0.0.3/24", "add addr 10.0.0.1/24"},
		},
		{
			name: "a slot comes to this node: the VXLAN device is silent before the veth is a port",
			have: func(s *State) {
				*s = Apply(*s, []Op{DoomLink{veth}})
				s.Doomed = nil
				*s = remoteSlots(*s, addr("10.99.0.2"), 2)
			},
			ops: []string{"del fdb", "del neigh", "add link osv-", "set link osv-", "add fdb"},
		},
		{
			name: "forwarding is switched on after accept_ra",
			want: func(s *State) {
				s.Sysctls["net/ipv6/conf/all/forwarding"] = "1"
				s.Sysctls["net/ipv6/conf/eth0/accept_ra"] = "2"
			},
			ops: []string{"set sysctl net/ipv6/conf/eth0/accept_ra 2", "set sysctl net/ipv6/conf/all/forwarding 1"},
		},
		{
			name: "a user's rules are nobody's business",
			have: func(s *State) {
				s.Chains[ChainKey{overspan.IPv4, "filter", "OVERSPAN-USER"}] = Chain{Rules: []Rule{{}, {}}}
			},
		},
		{
			name: "a rule was deleted, a jump as well",
			have: func(s *State) {
				edit(s.Chains, ChainKey{overspan.IPv4, "raw", "OVERSPAN-RAW"}, func(c *Chain) { c.Rules, c.Hook = c.Rules[1:], "" })
			},
			ops: []string{"load ipv4 raw OVERSPAN-RAW", "add jump ipv4 raw OVERSPAN-RAW from PREROUTING"},
		},
		{
			name: "partial: a chain that would lose a rule is left alone",
			want: func(s *State) {
				s.Partial = true
				edit(s.Chains, ChainKey{overspan.IPv4, "raw", "OVERSPAN-RAW"}, func(c *Chain) { c.Rules = c.Rules[1:] })
			},
		},
		{
			name: "partial: a MAC is corrected, and what that drops is added again",
			have: func(s *State) { edit(s.Links, vxlan, func(l *Link) { l.MAC[5]++ }) },
			want: func(s *State) { s.Partial, s.Neighs = true, nil },
			ops:  []string{"set link osx-", "add neigh", "add neigh"},
		},
		{
			name: "partial: a port that leaves its bridge leaves its entry behind",
			want: func(s *State) {
				s.Partial = true
				edit(s.Links, veth, func(l *Link) { l.Master, l.Port = "", Port{} })
				clear(s.Statics)
			},
			ops: []string{"set link osv-"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			have, want := here.Clone(), here.Clone()
			if tt.have != nil {
				tt.have(&have)
			}
			if tt.want != nil {
				tt.want(&want)
			}
			var got []string
			for _, op := range Diff(have, want) {
				got = append(got, op.String())
			}
			if !slices.EqualFunc(got, tt.ops, strings.HasPrefix) {
				t.Errorf("(-want +got):\n%s", cmp.Diff(tt.ops, got))
			}
		})
	}
}

// edit changes a value of a map.
func edit[K comparable, V any](m map[K]V, key K, change func(*V)) {
	v := m[key]
	change(&v)
	m[key] = v
}

func TestWithin(t *testing.T) {
	s := attached(joined(), testNetns)
	const other = overspan.NetworkID("ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff")
	otherBridge := overspan.BridgeName(other)
	s.Links[otherBridge] = Link{Kind: KindBridge, Alias: overspan.NetworkAlias(other), MTU: 1500}
	s.Addrs[Addr{otherBridge, netip.MustParsePrefix("10.1.0.1/24")}] = struct{}{}
	tests := []struct {
		name  string
		scope Scope
		want  []string // first words of the lines, each once
	}{
		{"nothing", Scope{}, nil},
		{"all", Scope{All: true}, []string{"addr 10.0.0.1/24", "addr 10.1.0.1/24", "chain", "fdb", "link osb-6", "link osb-f", "link osv-", "link osx-", "neigh", "set"}},
		{"what belongs to no network", Scope{Global: true, Sysctls: []string{"net/ipv4/ip_forward"}}, []string{"chain", "set", "sysctl net/ipv4/ip_forward"}},
		{"one network", Scope{Networks: []overspan.NetworkID{testNetwork}}, []string{"addr 10.0.0.1/24", "fdb", "link osb-6", "link osv-", "link osx-", "neigh"}},
		{"the other network", Scope{Networks: []overspan.NetworkID{other}}, []string{"addr 10.1.0.1/24", "link osb-f"}},
		{"one endpoint", Scope{Endpoints: []EndpointKey{web1Key(testNetns)}}, []string{"fdb 02:42:0a:00:00:02 dev osv-", "inside osv-", "link osv-"}},
		{"single entries", Scope{
			FDB:    []FDBKey{slices.SortedFunc(maps.Keys(s.FDB), compareFDBKeys)[0], {Dev: "osx-none"}},
			Neighs: []NeighKey{slices.SortedFunc(maps.Keys(s.Neighs), compareNeighKeys)[0]},
		}, []string{"fdb", "neigh"}},
		{"one endpoint from outside", Scope{Endpoints: []EndpointKey{web1Key("")}}, []string{"fdb 02:42:0a:00:00:02 dev osv-", "link osv-"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			seen := make(map[string]struct{})
			for _, line := range s.Within(tt.scope).Lines() {
				i := slices.IndexFunc(tt.want, func(words string) bool { return strings.HasPrefix(line, words) })
				if i < 0 {
					t.Errorf("line %q", line)
					continue
				}
				seen[tt.want[i]] = struct{}{}
			}
			if diff := cmp.Diff(tt.want, slices.Sorted(maps.Keys(seen))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestAddMergesSetsAndSharesNothing(t *testing.T) {
	set := func(addrs ...string) State {
		s := AddrSet{Family: overspan.IPv4}
		for _, a := range addrs {
			put(&s.Members, Single(addr(a)), struct{}{})
		}
		return State{Sets: map[string]AddrSet{"vteps": s}}
	}
	var sum State
	first, second := set("10.0.0.1"), set("10.0.0.2")
	second.Partial = true
	sum.Add(first)
	sum.Add(second)
	want := set("10.0.0.1", "10.0.0.2")
	want.Partial = true
	if !sum.Equal(want) {
		t.Errorf("(-want +got):\n%s", cmp.Diff(want.Lines(), sum.Lines()))
	}
	if !first.Equal(set("10.0.0.1")) {
		t.Errorf("the first was changed: %s", first.Lines())
	}
}
