package kernel

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/overspan/overspan"
)

// TestHostInheritsFlowsToFlush: an agent that died between the rules and the flush
// leaves entries that lead elsewhere. The next one finds them, of what is published
// and of what is no more, and takes no others.
func TestHostInheritsFlowsToFlush(t *testing.T) {
	h := newTestHost(t)
	sh(t, "ip addr add 192.0.2.1/32 dev lo")
	key, chain := publishing("OVERSPAN-UDP-0-63", 53, "10.0.0.2:53")
	want := State{
		Chains: map[ChainKey]Chain{key: chain},
		Sets: map[string]AddrSet{"overspan-subnet4": {Family: overspan.IPv4, Subnets: true, Members: map[netip.Prefix]struct{}{
			netip.MustParsePrefix("10.0.0.0/24"): {},
		}}},
	}
	apply(t, h, Diff(State{}, want)...)
	entry := func(dst, port, to string) {
		sh(t, "conntrack -I -p udp --timeout 600 -s 192.0.2.9 -d "+dst+" --sport 4000 --dport "+port+" -r "+to+" -q 192.0.2.9 --reply-port-src "+port+" --reply-port-dst 4000")
	}
	entry("192.0.2.1", "53", "10.0.0.9")   // published, but elsewhere
	entry("192.0.2.1", "54", "10.0.0.9")   // published no more
	entry("192.0.2.1", "55", "192.0.2.77") // another's
	entry("192.0.2.1", "56", "192.0.2.1")  // the host's own
	entry("192.0.2.8", "57", "10.0.0.9")   // only passes through
	entry("127.0.0.1", "53", "10.0.0.2")   // as it should be

	next := newHostHere(t, h)
	ops := Diff(read(t, next, Scope{Global: true}), want)
	const flush = "flush flows udp 0.0.0.0:53 but to 10.0.0.2:53, udp 192.0.2.1:54"
	if len(ops) != 1 || ops[0].String() != flush {
		t.Fatalf("ops %v; want %s", ops, flush)
	}
	apply(t, next, ops...)
	left := sh(t, "conntrack -L 2>/dev/null")
	if n := strings.Count(left, "src=192.0.2.9"); n != 4 || strings.Contains(left, "dport=54") || strings.Contains(left, "dst=192.0.2.1 sport=4000 dport=53") {
		t.Errorf("left are\n%s", left)
	}
	for _, host := range []*Host{next, newHostHere(t, h)} {
		if ops := Diff(read(t, host, Scope{Global: true}), want); len(ops) > 0 {
			t.Errorf("afterwards: %v", ops)
		}
	}
}

// TestAFlushThatIsNotTriedIsOwed: a run that ends before it has not done it.
func TestAFlushThatIsNotTriedIsOwed(t *testing.T) {
	over, cancel := context.WithCancel(t.Context())
	cancel()
	_, chain := publishing("OVERSPAN-UDP-0-63", 53, "10.0.0.2:53")
	flow := chain.Rules[0].Flow
	for name, k := range map[string]interface {
		Apply(context.Context, []Op) error
		Read(context.Context, Scope) (State, error)
	}{"host": newTestHost(t), "fake": NewFake(Underlay{})} {
		if err := k.Apply(over, []Op{FlushFlows{[]Flow{flow}}}); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
		s, err := k.Read(t.Context(), Scope{Global: true})
		if _, owed := s.Owed[flow.key()]; err != nil || !owed {
			t.Errorf("%s: owed are %v, %v", name, s.Owed, err)
		}
	}
}
