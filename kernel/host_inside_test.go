package kernel

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/overspan/overspan"
)

// A twoHomed is a container with two networks of a host, eth0 and eth1; a plan
// says by which of them it leaves.
type twoHomed struct {
	host  *Host
	netns string
	veths [2]string
	scope Scope
	state State
}

func newTwoHomed(t *testing.T) *twoHomed {
	t.Helper()
	h := newTestHost(t)
	sh(t, "ip link add ul type bridge; ip addr add 192.0.2.1/24 dev ul; ip link set ul up")
	s := &twoHomed{host: h, netns: newTestNetns(t, h, "c1")}
	put(&s.state.Netns, s.netns, struct{}{})
	s.scope.All = true
	for i := range s.veths {
		n := newTestNet(uint32(7 + i))
		s.state.Add(n.plan(addr("192.0.2.1")))
		key := n.addEndpoint(&s.state, 2, s.netns)
		s.scope.Endpoints = append(s.scope.Endpoints, key)
		s.veths[i] = overspan.VethName(key.Endpoint)
		edit(s.state.Insides, s.veths[i], func(in *Inside) { in.call(fmt.Sprintf("eth%d", i)) })
	}
	return s
}

// by plans that the container leaves by one of its interfaces.
func (s *twoHomed) by(chosen int) State {
	want := s.state.Clone()
	edit(want.Insides, s.veths[1-chosen], func(in *Inside) { in.Routes = nil })
	return want
}

// without takes a veth out of a plan.
func (s *twoHomed) without(want State, gone int) State {
	want = want.Clone()
	want.dropLink(s.veths[gone])
	return want
}

// walk applies what leads to a plan, op by op; the container must have its
// default routes after each.
func (s *twoHomed) walk(t *testing.T, name string, want State) {
	t.Helper()
	for _, op := range Diff(read(t, s.host, s.scope), want) {
		apply(t, s.host, op)
		for _, family := range []string{"-4", "-6"} {
			if shIn(t, s.netns, "ip "+family+" route show default") == "" {
				t.Errorf("%s: no default route (%s) after: %s", name, family, op)
			}
		}
	}
	for _, family := range []string{"-4", "-6"} {
		if got := shIn(t, s.netns, "ip "+family+" route show default"); strings.Count(got, "default") != 1 {
			t.Errorf("%s: default routes (%s):\n%s", name, family, got)
		}
	}
	if rest := Diff(read(t, s.host, s.scope), want); len(rest) > 0 {
		t.Errorf("%s: left:\n%s", name, texts(rest))
	}
}

// TestDefaultRouteMovesWithoutAGap: whichever of two interfaces it leaves, and
// whether that stays or goes.
func TestDefaultRouteMovesWithoutAGap(t *testing.T) {
	s := newTwoHomed(t)
	converge(t, s.host, s.scope, s.by(0))
	s.walk(t, "to eth1", s.by(1))
	s.walk(t, "to eth0", s.by(0))
	s.walk(t, "eth0 goes", s.without(s.by(1), 0))
	s.walk(t, "a better eth0 comes, not on its bridge yet", s.by(1))
	s.walk(t, "and is chosen", s.by(0))
	s.walk(t, "eth1 goes", s.without(s.by(0), 1))
}

// TestForeignDefaultRouteStays has a container that has a way out of its own, as
// ip-route(8) adds one: it stays when ours comes, moves and goes.
func TestForeignDefaultRouteStays(t *testing.T) {
	s := newTwoHomed(t)
	shIn(t, s.netns, `ip link add own type bridge; ip addr add 10.5.0.2/24 dev own; ip addr add fd05::2/64 dev own nodad; ip link set own up
		ip route add default via 10.5.0.1; ip -6 route add default via fd05::1; ip -6 route add default via fd05::3 metric 1`)
	foreign := func() string {
		return shIn(t, s.netns, "ip route show default dev own; ip -6 route show default dev own")
	}
	before := foreign()
	for _, step := range []struct {
		name string
		want State
		ours int
	}{
		{"attached", s.by(0), 2},
		{"moved", s.by(1), 2},
		{"moved back", s.by(0), 2},
		{"one detached", s.without(s.by(0), 1), 2},
		{"both detached", s.without(s.without(s.by(0), 1), 0), 0},
	} {
		converge(t, s.host, s.scope, step.want)
		if err := s.host.Retire(t.Context()); err != nil {
			t.Fatal(err)
		}
		if after := foreign(); after != before {
			t.Errorf("%s: the container's own routes were\n%sand are\n%s", step.name, before, after)
		}
		if all := shIn(t, s.netns, "ip route show default; ip -6 route show default"); strings.Count(all, "proto 91") != step.ours {
			t.Errorf("%s: want %d of ours among\n%s", step.name, step.ours, all)
		}
	}
}

// TestRoutesOfAnEarlierVersion have the metrics that others' have: ours are put in
// their place.
func TestRoutesOfAnEarlierVersion(t *testing.T) {
	s := newTestSite(t)
	veth := overspan.VethName(s.key.Endpoint)
	earlier := s.want.Clone()
	edit(earlier.Insides, veth, func(in *Inside) {
		in.Routes = slices.Clone(in.Routes)
		in.Routes[0].Metric, in.Routes[1].Metric = 0, 1024
	})
	converge(t, s.host, s.scope, earlier)
	converge(t, s.host, s.scope, s.want)
}

func TestSysctlsOfAContainersEnd(t *testing.T) {
	s := newTestSite(t)
	veth := overspan.VethName(s.key.Endpoint)
	wanting := func(sysctls ...Sysctl) State {
		want := s.want.Clone()
		edit(want.Insides, veth, func(in *Inside) { in.Sysctls = sysctls })
		s.scope = s.scope.WithSysctls(want)
		return want
	}
	want := wanting(Sysctl{"net/ipv4/conf/eth0/log_martians", "1"}, Sysctl{"net/ipv6/conf/eth0/accept_ra", "0"})
	converge(t, s.host, s.scope, want)

	for _, drift := range []string{"sysctl -qw net.ipv6.conf.eth0.accept_ra=1", "ip link set eth0 down; ip link set eth0 name ethX up"} {
		shIn(t, s.netns, drift)
		ops := Diff(read(t, s.host, s.scope), want)
		if got := strings.Join(told(ops...), "\n"); len(ops) != 1 || !strings.Contains(got, "eth") {
			t.Errorf("%s is told as %q", drift, got)
		}
		converge(t, s.host, s.scope, want)
	}

	for _, refused := range []struct {
		sysctl Sysctl
		text   string
	}{
		{Sysctl{"net/ipv4/conf/eth0/no_such", "1"}, "this kernel has none of that name"},
		{Sysctl{"net/ipv4/conf/eth0/promote_secondaries", "99999999999"}, "the kernel does not take 99999999999"},
		{Sysctl{"net/ipv6/neigh/eth0/locktime", "-5"}, "the kernel makes"},
	} {
		want := wanting(refused.sysctl)
		err := s.host.Apply(t.Context(), Diff(read(t, s.host, s.scope), want))
		if !errors.Is(err, overspan.ErrInvalid) || !strings.Contains(err.Error(), refused.text) {
			t.Errorf("%s: %v, want: %s", refused.sysctl, err, refused.text)
		}
		if not := (*SysctlError)(nil); !errors.As(err, &not) || not.Sysctl != refused.sysctl {
			t.Errorf("%s: %v does not tell which setting it is", refused.sysctl, err)
		}
	}
}
