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
	have.Partial = true
	for _, op := range Diff(have, want) {
		if flush, is := op.(FlushFlows); is && slices.ContainsFunc(flush.Flows, func(f Flow) bool { return !f.To.IsValid() }) {
			t.Errorf("of a state that is not whole: %s", op)
		}
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
