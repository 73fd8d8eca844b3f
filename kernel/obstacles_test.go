package kernel

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// legacyFirst has the legacy flavour of iptables be the default one until the
// test ends, as an administrator could have made it.
func legacyFirst(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"iptables", "ip6tables"} {
		for _, what := range []string{"", "-save", "-restore"} {
			if err := os.Symlink("/usr/sbin/xtables-legacy-multi", filepath.Join(dir, name+what)); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func TestDropping(t *testing.T) {
	table := parseTables(`*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT DROP [0:0]
:OTHER - [0:0]
-A INPUT -p tcp -m comment --comment "not -j DROP" -j ACCEPT
-A INPUT -i eth1 -j REJECT --reject-with icmp-port-unreachable
-A FORWARD -j OTHER
-A FORWARD -s 192.0.2.0/24 -j DROP
-A OTHER -j DROP
COMMIT
`)["filter"]
	want := []string{
		"-A INPUT -i eth1 -j REJECT --reject-with icmp-port-unreachable",
		"-P FORWARD DROP",
		"-A FORWARD -s 192.0.2.0/24 -j DROP",
	}
	if diff := cmp.Diff(want, table.dropping()); diff != "" {
		t.Errorf("dropping (-want +got):\n%s", diff)
	}
}

// TestOtherFlavour: rules of the flavour that is not ours are named, in either
// case.
func TestOtherFlavour(t *testing.T) {
	const after = " drops traffic of containers, whatever our rules, of the other flavour, accept: "
	const hint = "; take that back, or move it to the other flavour"
	check := func(t *testing.T, h *Host, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, h.CheckSupport(t.Context())); diff != "" {
			t.Errorf("CheckSupport (-want +got):\n%s", diff)
		}
	}
	t.Run("nft", func(t *testing.T) {
		h := newTestHost(t)
		sh(t, "iptables-nft -P FORWARD DROP; iptables-nft -A INPUT -j DROP") // ours decide before them
		check(t, h)
		sh(t, "iptables-legacy -P FORWARD DROP; ip6tables-legacy -A INPUT -p udp -j DROP")
		check(t, h, "iptables-legacy"+after+"-P FORWARD DROP"+hint, "ip6tables-legacy"+after+"-A INPUT -p udp -j DROP"+hint)
	})
	t.Run("legacy", func(t *testing.T) {
		legacyFirst(t)
		h := newTestHost(t)
		sh(t, "iptables-legacy -P FORWARD DROP; iptables-nft -A FORWARD -j REJECT")
		check(t, h, "iptables-nft"+after+"-A FORWARD -j REJECT --reject-with icmp-port-unreachable"+hint)
	})
}

// TestLegacyRepair brings a network to a host of the legacy flavour, and puts
// right what others do there.
func TestLegacyRepair(t *testing.T) {
	legacyFirst(t)
	s := newTestSite(t)
	converge(t, s.host, s.scope, s.want)
	for _, spoil := range []string{
		"for t in filter nat raw; do iptables-legacy -t $t -F; ip6tables-legacy -t $t -F; done",
		"iptables-legacy -t nat -I POSTROUTING -j ACCEPT",
	} {
		sh(t, spoil)
		if len(Diff(read(t, s.host, s.scope), s.want)) == 0 {
			t.Errorf("%s is not seen", spoil)
		}
		converge(t, s.host, s.scope, s.want)
	}
	if rules := sh(t, "nft list ruleset"); rules != "" {
		t.Errorf("beside the legacy flavour there is:\n%s", rules)
	}
	converge(t, s.host, s.scope, State{Netns: s.want.Netns})
}
