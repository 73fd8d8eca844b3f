package nstest

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/kernel"
)

// Load makes the sets and chains of planned states in the namespace, all in one
// go: rules of one state may ask sets of another.
func (ns *Namespace) Load(states ...kernel.State) {
	ns.t.Helper()
	tables := map[overspan.Family]map[string][]string{overspan.IPv4: {}, overspan.IPv6: {}}
	for _, s := range states {
		ns.Input(sets(s), "ipset", "restore")
		byName := func(a, b kernel.ChainKey) int { return cmp.Compare(a.Name, b.Name) }
		for _, key := range slices.SortedFunc(maps.Keys(s.Chains), byName) {
			tables[key.Family][key.Table] = append(tables[key.Family][key.Table], chain(key.Name, s.Chains[key])...)
		}
	}
	for family, program := range map[overspan.Family]string{overspan.IPv4: "iptables-restore", overspan.IPv6: "ip6tables-restore"} {
		var text strings.Builder
		for table, lines := range tables[family] {
			// Chains are declared before any rule jumps to one.
			slices.SortStableFunc(lines, func(a, b string) int { return cmp.Compare(rank(a), rank(b)) })
			fmt.Fprintf(&text, "*%s\n%s\nCOMMIT\n", table, strings.Join(lines, "\n"))
		}
		ns.Input(text.String(), program, "--noflush", "-w")
	}
}

func sets(s kernel.State) string {
	var text strings.Builder
	for name, set := range s.Sets {
		family := "inet"
		if set.Family == overspan.IPv6 {
			family = "inet6"
		}
		fmt.Fprintf(&text, "create %s hash:ip family %s\n", name, family)
		for a := range set.Addrs {
			fmt.Fprintf(&text, "add %s %s\n", name, a)
		}
	}
	return text.String()
}

func chain(name string, c kernel.Chain) []string {
	lines := []string{":" + name + " - [0:0]"}
	if c.Hook != "" {
		lines = append(lines, "-I "+c.Hook+" -j "+name)
	}
	for _, r := range c.Rules {
		lines = append(lines, "-A "+name+" "+r.Text)
	}
	return lines
}

func rank(line string) int {
	if strings.HasPrefix(line, ":") {
		return 0
	}
	return 1
}
