package kernel

import (
	"net/netip"
	"testing"

	"github.com/overspan/overspan"
	"golang.org/x/sys/unix"
)

// TestEchoes has entries announced after this Host wrote one of them.
func TestEchoes(t *testing.T) {
	ours, others := overspan.MAC{2, 66, 10, 0, 0, 1}, overspan.MAC{2, 66, 10, 0, 0, 2}
	dst, elsewhere := netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3")
	announced := entry{index: 4, family: unix.AF_BRIDGE, mac: ours, dst: dst, state: nudNoARP, flags: unix.NTF_SELF}
	for name, test := range map[string]struct {
		kind   uint16
		change func(*entry)
		echo   bool
	}{
		"as it was written":             {unix.RTM_NEWNEIGH, func(*entry) {}, true},
		"once more, as old kernels do":  {unix.RTM_NEWNEIGH, func(e *entry) { e.dst = netip.Addr{} }, true},
		"leading elsewhere":             {unix.RTM_NEWNEIGH, func(e *entry) { e.dst = elsewhere }, false},
		"that will age":                 {unix.RTM_NEWNEIGH, func(e *entry) { e.state = unix.NUD_REACHABLE }, false},
		"leading to another port":       {unix.RTM_NEWNEIGH, func(e *entry) { e.add("port %d", 9999) }, false},
		"deleted":                       {unix.RTM_DELNEIGH, func(*entry) {}, false},
		"of another station":            {unix.RTM_NEWNEIGH, func(e *entry) { e.mac = others }, false},
		"of another device":             {unix.RTM_NEWNEIGH, func(e *entry) { e.index = 5 }, false},
		"of the bridge behind the port": {unix.RTM_NEWNEIGH, func(e *entry) { e.bridge = true }, false},
	} {
		var own echoes
		own.expect(4, SetFDB{Key: FDBKey{"osx-0000000007", ours}, Dst: dst})
		got := announced
		test.change(&got)
		if echo := own.hears(test.kind, got); echo != test.echo {
			t.Errorf("an entry %s: taken for an echo: %v", name, echo)
		}
	}
}

// TestGenerations has changes heard of before, while and after tools of ours run.
func TestGenerations(t *testing.T) {
	told := map[uint32]bool{}
	hear := func(g *generations, numbers ...uint32) {
		for _, n := range numbers {
			g.heard(n, func() { told[n] = true })
		}
	}
	for name, tt := range map[string]struct {
		story func(*generations)
		told  []uint32
	}{
		"of others": {func(g *generations) { hear(g, 1, 2) }, []uint32{1, 2}},
		"ours, heard when the tool has ended": {func(g *generations) {
			g.begin()
			g.end(4, 5)
			hear(g, 5, 6)
		}, []uint32{6}},
		"ours, heard while it runs": {func(g *generations) {
			g.begin()
			hear(g, 5)
			g.end(4, 5)
		}, nil},
		"others' while a tool runs": {func(g *generations) {
			g.begin()
			hear(g, 5, 6)
			g.end(4, 6)
		}, []uint32{5, 6}},
		"others' before a tool of two that changes something": {func(g *generations) {
			g.begin()
			g.begin()
			hear(g, 5)
			g.end(5, 6)
			hear(g, 6)
			g.end(6, 6)
		}, []uint32{5}},
		"a tool that changes nothing": {func(g *generations) {
			g.begin()
			g.end(6, 6)
			hear(g, 6, 7)
		}, []uint32{6, 7}},
	} {
		t.Run(name, func(t *testing.T) {
			clear(told)
			tt.story(&generations{})
			for n := range uint32(8) {
				want := false
				for _, w := range tt.told {
					want = want || w == n
				}
				if told[n] != want {
					t.Errorf("generation %d told of: %v", n, told[n])
				}
			}
		})
	}
}
