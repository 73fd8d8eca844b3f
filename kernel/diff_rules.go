package kernel

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/overspan/overspan"
)

// addSets makes and fills sets, before the rules that refer to them. Entries
// that are too many go after the rules have been loaded.
func (d *differ) addSets() {
	for _, name := range slices.Sorted(maps.Keys(d.want.Sets)) {
		want := d.want.Sets[name]
		have, there := d.have.Sets[name]
		if there && (have.Family != want.Family || have.Subnets != want.Subnets) {
			d.do(DelSet{name})
			there = false
		}
		if !there {
			d.do(AddSet{name, want.Family, want.Subnets})
		}
		for _, a := range missing(d.have.Sets[name].Members, want.Members, netip.Prefix.Compare) {
			d.do(AddSetEntry{name, a})
		}
	}
}

func (d *differ) delSets() {
	for _, name := range slices.Sorted(maps.Keys(d.have.Sets)) {
		want, wanted := d.want.Sets[name]
		if !wanted {
			d.do(DelSet{name})
			continue
		}
		for _, a := range stale(d.have.Sets[name].Members, want.Members, netip.Prefix.Compare) {
			d.do(DelSetEntry{name, a})
		}
	}
}

// A table is one iptables table of one family.
type table struct {
	family overspan.Family
	name   string
}

func compareTables(a, b table) int {
	return cmp.Or(strings.Compare(string(a.family), string(b.family)), strings.Compare(a.name, b.name))
}

func compareChainKeys(a, b ChainKey) int {
	return cmp.Or(compareTables(a.table(), b.table()), strings.Compare(a.Name, b.Name))
}

func (k ChainKey) table() table { return table{k.Family, k.Table} }

// setChains makes the users' chains, and then, table by table, loads what differs
// of ours and lets packets in by the jumps: Host does each table in one step.
func (d *differ) setChains() {
	keys := slices.SortedFunc(maps.Keys(d.want.Chains), compareChainKeys)
	loads := make(map[table]map[string][]Rule)
	for _, key := range keys {
		want := d.want.Chains[key]
		have, there := d.have.Chains[key]
		switch {
		case want.Open && !there:
			d.do(AddChain{key})
		case want.Open:
		case !there || !slices.Equal(have.ids(key.Name), want.ids(key.Name)):
			if loads[key.table()] == nil {
				loads[key.table()] = make(map[string][]Rule)
			}
			loads[key.table()][key.Name] = want.Rules
		}
	}
	for i, key := range keys {
		if t := key.table(); loads[t] != nil && (i == 0 || keys[i-1].table() != t) {
			d.do(LoadChains{t.family, t.name, loads[t]})
		}
		d.setJump(key)
	}
}

// setJump has at most one op for a chain: a new jump takes the place of all others.
func (d *differ) setJump(key ChainKey) {
	switch have, want := d.have.Chains[key].Hook, d.want.Chains[key].Hook; {
	case have == want:
	case want != "":
		d.do(AddJump{key, want})
	default:
		d.do(DelJump{key, have})
	}
}

// flushFlows comes after the rules, so that flows begun before they were loaded
// are flushed too. It flushes ports whose target changed, ports published no more,
// ports whose chain was unreachable because a rule or jump to it was missing, and
// those that an earlier flush failed for.
func (d *differ) flushFlows(had State) {
	before, now := had.flows(), d.want.flows()
	changed := make(map[Flow]netip.AddrPort)
	for f, to := range now {
		if was, is := before[f]; !is || was != to {
			changed[f] = to
		}
	}
	for f := range before {
		if _, still := now[f]; !still {
			changed[f] = netip.AddrPort{}
		}
	}
	for f := range d.want.flowsOf(d.want.reconnected(had)) {
		changed[f] = now[f]
	}
	for f := range had.Owed {
		// Of what is not known to be published no more, nothing is cut off.
		if to, still := now[f]; still || !d.partial {
			changed[f] = to
		}
	}
	if len(changed) == 0 {
		return
	}
	var flows []Flow
	for f, to := range changed {
		flows = append(flows, Flow{f.Protocol, f.Dst, to})
	}
	slices.SortFunc(flows, compareFlows)
	d.do(FlushFlows{flows})
}

// reconnected returns the chains that something leads to now and did not before,
// and all that these lead to.
func (s State) reconnected(had State) map[ChainKey]struct{} {
	out := make(map[ChainKey]struct{})
	var add func(ChainKey)
	add = func(key ChainKey) {
		chain, there := s.Chains[key]
		if _, known := out[key]; known || !there {
			return
		}
		out[key] = struct{}{}
		for _, r := range chain.Rules {
			if to := r.target(); to != "" {
				add(ChainKey{key.Family, key.Table, to})
			}
		}
	}
	for key, chain := range s.Chains {
		if key.Table != "nat" {
			continue // nothing is published elsewhere
		}
		was := had.Chains[key]
		if chain.Hook != was.Hook {
			add(key)
		}
		ids := was.ids(key.Name)
		for _, r := range chain.Rules {
			if r.Flow.Protocol == "" && !slices.Contains(ids, r.ID(key.Name)) {
				add(ChainKey{key.Family, key.Table, r.target()})
			}
		}
	}
	return out
}

// target returns the chain that a planned rule leads to, or what else becomes of
// what it matches; "" of one that was read back.
func (r Rule) target() string {
	words := strings.Fields(r.Text)
	for i, w := range words[:max(0, len(words)-1)] {
		if w == "-g" || w == "-j" {
			return words[i+1]
		}
	}
	return ""
}

// flowsOf returns the flows of some chains, without To.
func (s State) flowsOf(chains map[ChainKey]struct{}) map[Flow]struct{} {
	out := make(map[Flow]struct{})
	for key := range chains {
		for _, r := range s.Chains[key].Rules {
			if r.Flow.Protocol != "" {
				out[r.Flow.key()] = struct{}{}
			}
		}
	}
	return out
}

// flows returns where each published port leads. The keys have no To.
func (s State) flows() map[Flow]netip.AddrPort {
	out := make(map[Flow]netip.AddrPort)
	for _, c := range s.Chains {
		for _, r := range c.Rules {
			if r.Flow.Protocol != "" {
				out[r.Flow.key()] = r.Flow.To
			}
		}
	}
	return out
}

func compareFlows(a, b Flow) int {
	return cmp.Or(strings.Compare(string(a.Protocol), string(b.Protocol)), a.Dst.Compare(b.Dst), a.To.Compare(b.To))
}

// delTables deletes empty tables. None is ever made: they come with the first
// chain in them.
func (d *differ) delTables() {
	for _, t := range stale(d.have.Tables, d.want.Tables, compareTableKeys) {
		d.do(DelTable{t})
	}
}

func compareTableKeys(a, b TableKey) int {
	return compareTables(table{a.Family, a.Name}, table{b.Family, b.Name})
}

func (d *differ) delChains() {
	gone := make(map[table][]string)
	for _, key := range stale(d.have.Chains, d.want.Chains, compareChainKeys) {
		if hook := d.have.Chains[key].Hook; hook != "" {
			d.do(DelJump{key, hook})
		}
		gone[key.table()] = append(gone[key.table()], key.Name)
	}
	for _, t := range slices.SortedFunc(maps.Keys(gone), compareTables) {
		d.do(DelChains{t.family, t.name, gone[t]})
	}
}
