package kernel

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/overspan/overspan"
)

// emptied makes a table and leaves it as iptables does: with a base chain.
const emptied = "-N X; %[1]s -A INPUT -j X; %[1]s -D INPUT -j X; %[1]s -X X"

func leaveTable(t testing.TB, command string) {
	t.Helper()
	sh(t, command+" "+strings.ReplaceAll(emptied, "%[1]s", command))
}

func TestEmptyTablesGo(t *testing.T) {
	h := newTestHost(t)
	scope := Scope{Tables: true}
	leaveTable(t, "iptables -t nat")
	leaveTable(t, "ip6tables -t mangle")
	// Whoever has set a policy, or holds a rule, or is no table of iptables.
	sh(t, "iptables -P FORWARD DROP; iptables -t raw -A PREROUTING -j ACCEPT; ip6tables -t raw -N FOREIGN; nft add table ip other; nft add table inet nat")
	tables := func() string { return sh(t, "nft list tables") }
	want := State{Tables: map[TableKey]struct{}{{overspan.IPv4, "nat"}: {}, {overspan.IPv6, "mangle"}: {}}}
	if diff := cmp.Diff(want.Lines(), read(t, h, scope).Lines()); diff != "" {
		t.Fatalf("tables that hold nothing (-want +got):\n%s", diff)
	}
	before := tables()
	converge(t, h, scope, State{})
	gone := strings.NewReplacer("table ip nat\n", "", "table ip6 mangle\n", "").Replace(before)
	if diff := cmp.Diff(gone, tables()); diff != "" {
		t.Errorf("tables (-want +got):\n%s", diff)
	}
	apply(t, h, DelTable{TableKey{overspan.IPv4, "nat"}}) // is gone already
}

// TestTableInUseStays: between the look and the deletion somebody puts a rule
// into the table.
func TestTableInUseStays(t *testing.T) {
	h := newTestHost(t)
	leaveTable(t, "iptables -t nat")
	ops := Diff(read(t, h, Scope{Tables: true}), State{})
	sh(t, "iptables -t nat -A INPUT -j ACCEPT")
	apply(t, h, ops...)
	if rules := sh(t, "iptables-save -t nat"); !strings.Contains(rules, "-A INPUT -j ACCEPT") {
		t.Errorf("somebody's rule is gone:\n%s", rules)
	}
}
