package kernel

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// Lines returns the state as sorted text, one line for each thing in it. States
// that differ have different lines.
func (s State) Lines() []string {
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if s.Partial {
		add("partial")
	}
	if s.NoIPv6 {
		add("no IPv6")
	}
	for path := range s.Netns {
		add("netns %s", path)
	}
	for name, l := range s.Links {
		add("link %s %s alias %s", name, l.text(), l.Alias)
	}
	for veth, i := range s.Insides {
		add("inside %s %s", veth, i.text())
	}
	for a := range s.Addrs {
		add("addr %s", a)
	}
	for k, dst := range s.FDB {
		add("fdb %s %s", k, dst.text())
	}
	for k := range s.Statics {
		add("fdb %s master static", k)
	}
	for k, to := range s.Neighs {
		add("neigh %s", k.text(to))
	}
	for path, value := range s.Sysctls {
		add("sysctl %s %s", path, value)
	}
	for dev, p := range s.Programs {
		add("program %s %s", dev, p.text())
	}
	for t := range s.Tables {
		add("table %s", t)
	}
	for name := range s.Doomed {
		add("doomed %s", name)
	}
	out = append(out, s.ruleLines()...)
	slices.Sort(out)
	return out
}

func (s State) ruleLines() []string {
	var out []string
	for name, set := range s.Sets {
		words := []string{"set", name, "family", string(set.Family)}
		if set.Subnets {
			words = append(words, "of subnets")
		}
		for _, p := range slices.SortedFunc(maps.Keys(set.Members), netip.Prefix.Compare) {
			words = append(words, memberText(p))
		}
		out = append(out, strings.Join(words, " "))
	}
	for key, c := range s.Chains {
		head := "chain " + key.String()
		line := head
		if c.Hook != "" {
			line += " from " + c.Hook
		}
		if c.Open {
			line += " open"
		}
		out = append(out, line)
		for i, r := range c.Rules {
			out = append(out, fmt.Sprintf("%s rule %03d %s", head, i+1, strings.TrimSpace(r.ID(key.Name)+" "+r.Text)))
		}
	}
	return out
}
