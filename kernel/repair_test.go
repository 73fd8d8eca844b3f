package kernel

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/overspan/overspan"
)

// told is what an operator is told of ops, one line each.
func told(ops ...Op) []string {
	var lines []string
	for _, r := range Repairs(ops) {
		lines = append(lines, r.Kind+" "+r.Verb()+": "+r.String())
	}
	return lines
}

func TestRepairsInWords(t *testing.T) {
	n := newTestNet(7)
	want := n.plan(netip.MustParseAddr("192.0.2.1"))
	vxlan := want.Links[n.vxlan()]
	spoilt := vxlan
	spoilt.Up, spoilt.MTU, spoilt.Master, spoilt.Port = false, 1300, "", Port{}
	fdb, ip := FDBKey{n.vxlan(), n.mac(65)}, netip.MustParseAddr("10.77.0.65")
	here, there := netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.9")
	in := Inside{Netns: "/run/netns/web", Name: "eth0", MTU: 1400, Up: true, Addrs: []netip.Prefix{netip.MustParsePrefix("10.77.0.2/16")}}
	down := in
	down.Up, down.Addrs = false, nil
	forward := ChainKey{overspan.IPv4, "filter", "OVERSPAN-FORWARD"}
	var flushed []Op
	for slot := overspan.Slot(64); slot < 128; slot++ {
		flushed = append(flushed, SetNeigh{Key: NeighKey{n.vxlan(), n.v4.Addr(slot)}, MAC: n.mac(slot)})
	}
	got := told(append(flushed,
		SetLink{Name: n.vxlan(), Have: spoilt, Want: vxlan},
		DelLink{n.vxlan()}, AddLink{Name: n.vxlan(), Link: vxlan}, AddLink{Name: n.bridge(), Link: want.Links[n.bridge()]},
		DoomLink{"osv-0000000099"},
		SetFDB{Key: fdb, Dst: here}, SetFDB{Key: fdb, Dst: here, Was: Dest{VTEP: there}}, DelFDB{fdb, Dest{VTEP: there}},
		SetNeigh{Key: NeighKey{n.vxlan(), ip}, MAC: n.mac(65), Was: LLAddr{MAC: n.mac(9)}},
		AddStatic{fdb},
		AddAddr{Addr{n.bridge(), netip.MustParsePrefix("10.77.0.1/16")}},
		SetInside{"osv-0000000001", down, in},
		SetSysctl{"net/ipv4/conf/osb-0000000007/arp_ignore", "1", "0"},
		AddSetEntry{"overspan-vtep4", Single(here)},
		LoadChains{overspan.IPv4, "filter", map[string][]Rule{forward.Name: nil}},
		AddJump{forward, "FORWARD"},
	)...)
	if diff := cmp.Diff([]string{
		"neighbour added: 64 neighbours on osx-0000000007 missing → added",
		"link set: osx-0000000007 mtu 1300 → 1400, down → up, master none → osb-0000000007",
		"link set: osx-0000000007 made otherwise → made anew",
		"link added: osb-0000000007 missing → made",
		"link deleted: osv-0000000099 not wanted → deleted",
		"fdb added: fdb 02:42:0a:4d:00:41 on osx-0000000007 dst 192.0.2.2 missing → added",
		"fdb set: fdb 02:42:0a:4d:00:41 on osx-0000000007 dst 192.0.2.9 → 192.0.2.2",
		"fdb deleted: fdb 02:42:0a:4d:00:41 on osx-0000000007 dst 192.0.2.9 not wanted → deleted",
		"neighbour set: neighbour 10.77.0.65 on osx-0000000007 lladdr 02:42:0a:4d:00:09 → 02:42:0a:4d:00:41",
		"static added: static bridge entry 02:42:0a:4d:00:41 on osx-0000000007 missing → added",
		"address added: address 10.77.0.1/16 on osb-0000000007 missing → added",
		"inside set: eth0 in /run/netns/web (osv-0000000001) down → up, address 10.77.0.2/16 missing → added",
		"sysctl set: sysctl net/ipv4/conf/osb-0000000007/arp_ignore 0 → 1",
		"set entry added: ipset overspan-vtep4 entry 192.0.2.2 missing → added",
		"chain set: chain ipv4 filter OVERSPAN-FORWARD missing or changed → loaded",
		"jump set: jump from FORWARD to ipv4 filter OVERSPAN-FORWARD missing or not first → first",
	}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestEveryOpHasWords draws plans: whatever leads from one to another can be
// told, and every op is counted once.
func TestEveryOpHasWords(t *testing.T) {
	for seed := range 50 {
		a, b := genWant().Example(seed), genWant().Example(seed+1000)
		ops := Diff(a, b)
		count, made := 0, 0
		for _, r := range Repairs(ops) {
			if r.Kind == "" || r.Kind == "other" || r.Object == "" || r.Change == "" || strings.Contains(r.String(), "  ") {
				t.Errorf("seed %d: told as %+v", seed, r)
			}
			if r.Change == "made otherwise → made anew" {
				made++
			}
			count += r.Count
		}
		if count+made != len(ops) {
			t.Errorf("seed %d: %d ops are told as %d, %d of them made anew", seed, len(ops), count, made)
		}
	}
}

func TestWithout(t *testing.T) {
	n := newTestNet(7)
	ops := Diff(State{}, n.plan(netip.MustParseAddr("192.0.2.1")))
	left := texts(Without(ops, func(op Op) bool {
		o, ok := op.(AddLink)
		return ok && o.Name == n.vxlan()
	}))
	if strings.Contains(left, n.vxlan()) || !strings.Contains(left, n.bridge()) {
		t.Errorf("left are:\n%s", left)
	}
}

// TestApplyTellsWhatFailed: what failed and what was left out for it make up
// what was not carried out.
func TestApplyTellsWhatFailed(t *testing.T) {
	s := newTestSite(t)
	sh(t, "ip link add osx-0000000007 type bridge")
	ops := Diff(State{}, s.want)
	var failed *ApplyError
	if err := s.host.Apply(t.Context(), ops); !errors.As(err, &failed) || len(failed.Failed) != 1 {
		t.Fatalf("Apply: %v", err)
	}
	if o, ok := failed.Failed[0].Op.(AddLink); !ok || o.Name != s.net.vxlan() {
		t.Errorf("failed is %s", failed.Failed[0].Op)
	}
	sh(t, "ip link del osx-0000000007")
	left := texts(Diff(read(t, s.host, s.scope), s.want))
	for _, op := range failed.Skipped {
		if !strings.Contains(left, op.String()) {
			t.Errorf("skipped is %s, which is done", op)
		}
	}
	if want := texts(append([]Op{failed.Failed[0].Op}, failed.Skipped...)); len(left) != len(want) {
		t.Errorf("left are:\n%s\ntold as failed and skipped:\n%s", left, want)
	}
}
