package kernel

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/overspan/overspan"
)

// publishing returns a chain that publishes a UDP port at all of the host's
// addresses, and leads to a container.
func publishing(name string, port uint16, to string) (ChainKey, Chain) {
	dst := netip.AddrPortFrom(netip.IPv4Unspecified(), port)
	flow := Flow{overspan.UDP, dst, netip.MustParseAddrPort(to)}
	return ChainKey{overspan.IPv4, "nat", name}, Chain{Rules: []Rule{{
		Text: fmt.Sprintf("-p udp --dport %d -j DNAT --to-destination %s", port, to), Flow: flow,
	}}}
}

func TestParseFlow(t *testing.T) {
	flow := func(protocol overspan.Protocol, dst, to string) Flow {
		return Flow{protocol, netip.MustParseAddrPort(dst), netip.MustParseAddrPort(to)}
	}
	for spec, want := range map[string]Flow{
		`-p tcp -m comment --comment "overspan:00" -m tcp --dport 8080 -j DNAT --to-destination 10.0.0.2:80`: flow(overspan.TCP, "0.0.0.0:8080", "10.0.0.2:80"),
		`-d 192.0.2.1/32 -p udp -m udp --dport 53 -j DNAT --to-destination 10.0.0.2:53`:                      flow(overspan.UDP, "192.0.2.1:53", "10.0.0.2:53"),
		`-d 2001:db8::1/128 -p sctp -m sctp --dport 1 -j DNAT --to-destination [fd00::2]:1`:                  flow(overspan.SCTP, "[2001:db8::1]:1", "[fd00::2]:1"),
		`-p tcp -m tcp --dport 8080 -j DNAT --to-destination [fd00::2]:80`:                                   flow(overspan.TCP, "[::]:8080", "[fd00::2]:80"),
		`-p tcp -m tcp --dport 8064:8127 -g OVERSPAN-TCP-8064-8127`:                                          {},
		`-m comment --comment "--dport 1 --to-destination 10.0.0.2:80" -j ACCEPT`:                            {},
		`-d x -p tcp --dport 1 -j DNAT --to-destination 10.0.0.2:80`:                                         {},
		`-j DNAT --to-destination`: {},
		``:                         {},
	} {
		if got := parseFlow(spec); got != want {
			t.Errorf("%s: %v; want %v", spec, got, want)
		}
	}
}

// TestDiffFlushesFlows: what is published anew, elsewhere or no more is flushed
// behind the rules; what stays is not.
func TestDiffFlushesFlows(t *testing.T) {
	state := func(chains map[string]string) State {
		s := State{Chains: map[ChainKey]Chain{}}
		for name, to := range chains {
			var port uint16
			fmt.Sscanf(name, "OVERSPAN-UDP-%d", &port)
			key, chain := publishing(name, port, to)
			s.Chains[key] = chain
		}
		return s
	}
	have := state(map[string]string{"OVERSPAN-UDP-1": "10.0.0.1:1", "OVERSPAN-UDP-2": "10.0.0.2:2", "OVERSPAN-UDP-3": "10.0.0.3:3"})
	want := state(map[string]string{"OVERSPAN-UDP-1": "10.0.0.1:1", "OVERSPAN-UDP-2": "10.0.0.9:2", "OVERSPAN-UDP-4": "10.0.0.4:4"})
	var got []string
	for _, op := range Diff(have, want) {
		got = append(got, op.String())
	}
	if diff := cmp.Diff([]string{
		"load ipv4 nat OVERSPAN-UDP-2 (1 rules), OVERSPAN-UDP-4 (1 rules)",
		"flush flows udp 0.0.0.0:2 but to 10.0.0.9:2, udp 0.0.0.0:3, udp 0.0.0.0:4 but to 10.0.0.4:4",
		"del chains ipv4 nat OVERSPAN-UDP-3",
	}, got); diff != "" {
		t.Errorf("ops (-want +got):\n%s", diff)
	}
	if ops := Diff(Apply(have, Diff(have, want)), want); len(ops) > 0 {
		t.Errorf("again: %v", ops)
	}
	have.Owed = map[Flow]struct{}{
		{Protocol: overspan.UDP, Dst: netip.MustParseAddrPort("0.0.0.0:1")}: {},
		{Protocol: overspan.UDP, Dst: netip.MustParseAddrPort("0.0.0.0:5")}: {},
	}
	if got := Diff(have, have); len(got) != 1 || got[0].String() != "flush flows udp 0.0.0.0:1 but to 10.0.0.1:1, udp 0.0.0.0:5" {
		t.Errorf("of an earlier failure: %v", got)
	}
	have.Partial = true
	for _, op := range Diff(have, want) {
		if flush, is := op.(FlushFlows); is && slices.ContainsFunc(flush.Flows, func(f Flow) bool { return !f.To.IsValid() }) {
			t.Errorf("of a state that is not whole: %s", op)
		}
	}
}

// TestDiffFlushesWhatIsReconnected: a port's rule may stand while the rules that
// lead to it are gone.
func TestDiffFlushesWhatIsReconnected(t *testing.T) {
	leaf, leads := publishing("OVERSPAN-UDP-0-63", 1, "10.0.0.1:1")
	far, elsewhere := publishing("OVERSPAN-UDP-64-127", 70, "10.0.0.2:70")
	branch, top := leaf, leaf
	branch.Name, top.Name = "OVERSPAN-UDP", "OVERSPAN-PORTS"
	want := State{Chains: map[ChainKey]Chain{
		leaf: leads, far: elsewhere,
		branch: {Rules: []Rule{{Text: "-p udp --dport 0:63 -g OVERSPAN-UDP-0-63"}, {Text: "-p udp --dport 64:127 -g OVERSPAN-UDP-64-127"}}},
		top:    {Hook: "PREROUTING", Rules: []Rule{{Text: "-p udp -g OVERSPAN-UDP"}}},
	}}
	first, second := "udp 0.0.0.0:1 but to 10.0.0.1:1", "udp 0.0.0.0:70 but to 10.0.0.2:70"
	for name, test := range map[string]struct {
		spoil func(*State)
		want  []string
	}{
		"nothing":          {func(*State) {}, nil},
		"the jump":         {func(s *State) { s.Chains[top] = Chain{Rules: s.Chains[top].Rules} }, []string{first, second}},
		"the first chain":  {func(s *State) { s.Chains[top] = Chain{Hook: "PREROUTING"} }, []string{first, second}},
		"a branch":         {func(s *State) { delete(s.Chains, branch) }, []string{first, second}},
		"half of a branch": {func(s *State) { s.Chains[branch] = Chain{Rules: s.Chains[branch].Rules[1:]} }, []string{first}},
		"a rule":           {func(s *State) { s.Chains[far] = Chain{} }, []string{second}},
	} {
		have := want.Clone()
		test.spoil(&have)
		var got []string
		for _, op := range Diff(have, want) {
			if flush, is := op.(FlushFlows); is {
				for _, f := range flush.Flows {
					got = append(got, f.String())
				}
			}
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("without %s (-want +got):\n%s", name, diff)
		}
	}
}

// TestHostOwesAFlushThatFails: what a flush could not do is read back until it is
// done.
func TestHostOwesAFlushThatFails(t *testing.T) {
	h := newTestHost(t)
	sh(t, "ip addr add 192.0.2.1/32 dev lo")
	key, chain := publishing("OVERSPAN-UDP-0-63", 53, "10.0.0.2:53")
	want := State{Chains: map[ChainKey]Chain{key: chain}}
	for n := 0; ; n++ {
		sh(t, "conntrack -I -p udp --timeout 600 -s 192.0.2.9 -d 192.0.2.1 --sport 4000 --dport 53 -r 10.0.0.1 -q 192.0.2.9 --reply-port-src 53 --reply-port-dst 4000")
		sends := failAt(h, n, false)
		err := h.Apply(t.Context(), []Op{FlushFlows{[]Flow{chain.Rules[0].Flow}}})
		done := sends() <= n
		failAt(h, -1, false)
		owed := read(t, h, Scope{Global: true}).Owed
		if (err != nil) != (len(owed) == 1) || (err != nil) == done {
			t.Errorf("send %d: %v, owed are %v", n, err, owed)
		}
		converge(t, h, Scope{Global: true}, want)
		if left := sh(t, "conntrack -L 2>/dev/null"); strings.Contains(left, "dport=53") {
			t.Errorf("send %d: there is still\n%s", n, left)
		}
		if done {
			if n < 3 {
				t.Errorf("a flush made %d sends", n)
			}
			return
		}
	}
}

// TestHostAsksForSinglePorts: of a conntrack that is full of other flows, those of
// one port alone are listed.
func TestHostAsksForSinglePorts(t *testing.T) {
	h := newTestHost(t)
	var batch strings.Builder
	for port := 1040; port < 1050; port++ {
		fmt.Fprintf(&batch, "conntrack -I -p udp --timeout 600 -s 192.0.2.9 -d 192.0.2.1 --sport 4000 --dport %[1]d -r 10.0.0.1 -q 192.0.2.9 --reply-port-src %[1]d --reply-port-dst 4000\n", port)
	}
	sh(t, batch.String())
	flow := Flow{Protocol: overspan.UDP, Dst: netip.MustParseAddrPort("192.0.2.1:1042")}
	for _, q := range flowQuestions([]Flow{flow}) {
		listed, err := h.netfilter.dump(q.dump)
		if err != nil || len(listed) != 1 {
			t.Errorf("listed %d entries, %v; want one", len(listed), err)
		}
	}
	many := make([]Flow, askedAlone+1)
	for i := range many {
		many[i] = flow
	}
	if questions := flowQuestions(many); len(questions) != 1 {
		t.Errorf("%d questions about %d flows", len(questions), len(many))
	}
}

// TestHostReadsSingleChains: the chains of a scope are read, and what they
// publish, and no others.
func TestHostReadsSingleChains(t *testing.T) {
	h := newTestHost(t)
	want := State{Chains: map[ChainKey]Chain{}}
	var scope Scope
	for i, port := range []uint16{1, 2} {
		key, chain := publishing(fmt.Sprintf("OVERSPAN-UDP-%d", port), port, "10.0.0.2:80")
		want.Chains[key] = chain
		if i == 0 {
			scope.Chains = append(scope.Chains, key)
		}
	}
	absent := ChainKey{overspan.IPv6, "nat", "OVERSPAN-UDP-1"}
	scope.Chains = append(scope.Chains, absent, ChainKey{overspan.IPv4, "nat", "OVERSPAN-UDP-9"})
	if got := read(t, h, scope); len(got.Chains) > 0 {
		t.Errorf("of an empty table: %v", got.Lines())
	}
	apply(t, h, Diff(State{}, want)...)
	got := read(t, h, scope)
	if !got.Equal(want.Within(scope)) || len(got.Chains) != 1 {
		t.Errorf("read %v", got.Lines())
	}
	for key, chain := range got.Chains {
		if f := chain.Rules[0].Flow; f != want.Chains[key].Rules[0].Flow {
			t.Errorf("%s publishes %v", key, f)
		}
	}
	whole := read(t, h, Scope{Global: true})
	if ops := Diff(whole, whole.Within(Scope{Global: true})); len(ops) > 0 || len(whole.flows()) != 2 {
		t.Errorf("of the whole: %v, %v", ops, whole.flows())
	}
}

// TestHostFlushesFlows: of conntrack's entries those go that lead elsewhere than
// a port's rule, and none of others.
func TestHostFlushesFlows(t *testing.T) {
	h := newTestHost(t)
	sh(t, "ip addr add 192.0.2.1/32 dev lo; ip -6 addr add 2001:db8::1/128 dev lo nodad")
	entry := func(protocol, dst string, port int, to string, toPort int) string {
		state := ""
		if protocol == "tcp" {
			state = "--state ESTABLISHED"
		}
		sh(t, fmt.Sprintf("conntrack -I -p %s --timeout 600 %s -s 192.0.2.9 -d %s --sport 4000 --dport %d -r %s -q 192.0.2.9 --reply-port-src %d --reply-port-dst 4000",
			protocol, state, dst, port, to, toPort))
		return fmt.Sprintf("%s %s:%d to %s:%d", protocol, dst, port, to, toPort)
	}
	gone := map[string]bool{
		entry("udp", "192.0.2.1", 53, "10.0.0.1", 53):        true,  // the container that was there before
		entry("udp", "127.0.0.1", 53, "127.0.0.1", 53):       true,  // began while the rule was missing
		entry("udp", "192.0.2.1", 54, "10.0.0.2", 5400):      false, // leads there already
		entry("udp", "192.0.2.1", 55, "10.0.0.3", 55):        true,  // published no more
		entry("udp", "198.51.100.1", 53, "198.51.100.1", 53): false, // passes through this host
		entry("tcp", "192.0.2.1", 53, "10.0.0.1", 53):        false, // another protocol
		entry("tcp", "192.0.2.1", 80, "10.0.0.1", 80):        true,  // published at one address
		entry("tcp", "127.0.0.1", 80, "10.0.0.4", 80):        false, // at which it is not
	}
	flow := func(protocol overspan.Protocol, dst, to string) Flow {
		f := Flow{Protocol: protocol, Dst: netip.MustParseAddrPort(dst)}
		if to != "" {
			f.To = netip.MustParseAddrPort(to)
		}
		return f
	}
	op := FlushFlows{[]Flow{
		flow(overspan.UDP, "0.0.0.0:53", "10.0.0.2:53"), flow(overspan.UDP, "0.0.0.0:54", "10.0.0.2:5400"),
		flow(overspan.UDP, "0.0.0.0:55", ""), flow(overspan.TCP, "192.0.2.1:80", "10.0.0.2:80"), flow(overspan.UDP, "[::]:53", ""),
	}}
	apply(t, h, op, op)
	left := sh(t, "conntrack -L 2>/dev/null")
	for name, want := range gone {
		var protocol, dst, to string
		var port, toPort int
		if _, err := fmt.Sscanf(strings.ReplaceAll(name, ":", " "), "%s %s %d to %s %d", &protocol, &dst, &port, &to, &toPort); err != nil {
			t.Fatal(err)
		}
		there := slices.ContainsFunc(strings.Split(left, "\n"), func(line string) bool {
			return strings.HasPrefix(line, protocol) && strings.Contains(line, fmt.Sprintf("dst=%s sport=4000 dport=%d ", dst, port)) &&
				strings.Contains(line, fmt.Sprintf("src=%s dst=192.0.2.9 sport=%d ", to, toPort))
		})
		if there == want {
			t.Errorf("%s: still there: %v", name, there)
		}
	}
	if t.Failed() {
		t.Logf("conntrack has:\n%s", left)
	}
}
