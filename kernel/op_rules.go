package kernel

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/overspan/overspan"
)

// AddSet makes an empty set.
type AddSet struct {
	Name    string
	Family  overspan.Family
	Subnets bool // type hash:net, not hash:ip
}

func (o AddSet) String() string {
	text := fmt.Sprintf("add set %s family %s", o.Name, o.Family)
	if o.Subnets {
		text += " of subnets"
	}
	return text
}

func (o AddSet) apply(s *State) {
	put(&s.Sets, o.Name, AddrSet{Family: o.Family, Subnets: o.Subnets})
}

// DelSet destroys a set. Of an ipset the kernel refuses that while a rule refers
// to it.
type DelSet struct {
	Name string
}

func (o DelSet) String() string { return "del set " + o.Name }
func (o DelSet) apply(s *State) { delete(s.Sets, o.Name) }

// AddSetEntry adds an address or a subnet to a set.
type AddSetEntry struct {
	Set    string
	Member netip.Prefix
}

func (o AddSetEntry) String() string {
	return fmt.Sprintf("add set %s entry %s", o.Set, memberText(o.Member))
}

func (o AddSetEntry) apply(s *State) {
	set := s.Sets[o.Set]
	put(&set.Members, o.Member, struct{}{})
	put(&s.Sets, o.Set, set)
}

// DelSetEntry deletes an address or a subnet from a set.
type DelSetEntry struct {
	Set    string
	Member netip.Prefix
}

func (o DelSetEntry) String() string {
	return fmt.Sprintf("del set %s entry %s", o.Set, memberText(o.Member))
}

func (o DelSetEntry) apply(s *State) { delete(s.Sets[o.Set].Members, o.Member) }

// memberText returns a member of a set as ipset(8) prints it.
func memberText(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// AddChain makes a chain if it is absent and leaves its rules alone: for
// chains whose rules are the user's.
type AddChain struct {
	Key ChainKey
}

func (o AddChain) String() string { return "add chain " + o.Key.String() }

func (o AddChain) apply(s *State) {
	chain := s.Chains[o.Key]
	chain.Open = true
	put(&s.Chains, o.Key, chain)
}

// LoadChains makes or refills chains of one table, all at once: one
// iptables-restore of Render's text, together with the jumps from built-in chains
// that follow it, which are ops of their own. Chains maps their names to their
// rules, with Text.
type LoadChains struct {
	Family overspan.Family
	Table  string
	Chains map[string][]Rule
}

func (o LoadChains) String() string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(o.Chains)) {
		parts = append(parts, fmt.Sprintf("%s (%d rules)", name, len(o.Chains[name])))
	}
	return fmt.Sprintf("load %s %s %s", o.Family, o.Table, strings.Join(parts, ", "))
}

func (o LoadChains) apply(s *State) {
	for name, rules := range o.Chains {
		key := ChainKey{o.Family, o.Table, name}
		chain := s.Chains[key]
		chain.Open = false
		chain.Rules = nil
		for _, r := range rules {
			chain.Rules = append(chain.Rules, Rule{Hash: r.ID(name), Flow: r.Flow})
		}
		put(&s.Chains, key, chain)
	}
}

// AddJump makes the first rule of a built-in chain a jump to one of ours, and
// deletes jumps to it further down. A later one goes before it: several of ours
// may share a built-in chain, ahead of all foreign rules.
type AddJump struct {
	Key  ChainKey
	Hook string
}

func (o AddJump) String() string { return "add jump " + o.Key.String() + " from " + o.Hook }

func (o AddJump) apply(s *State) {
	chain := s.Chains[o.Key]
	chain.Hook = o.Hook
	put(&s.Chains, o.Key, chain)
}

// DelJump deletes every jump from a built-in chain to one of ours.
type DelJump struct {
	Key  ChainKey
	Hook string
}

func (o DelJump) String() string { return "del jump " + o.Key.String() + " from " + o.Hook }

func (o DelJump) apply(s *State) {
	if chain := s.Chains[o.Key]; chain.Hook == o.Hook {
		chain.Hook = ""
		put(&s.Chains, o.Key, chain)
	}
}

// DelChains empties chains of one table and deletes them. No jump from a
// built-in chain leads to them any more; they may refer to each other.
type DelChains struct {
	Family overspan.Family
	Table  string
	Names  []string
}

func (o DelChains) String() string {
	return fmt.Sprintf("del chains %s %s %s", o.Family, o.Table, strings.Join(o.Names, ", "))
}

func (o DelChains) apply(s *State) {
	for _, name := range o.Names {
		delete(s.Chains, ChainKey{o.Family, o.Table, name})
	}
}

// FlushFlows makes conntrack forget where packets to published ports went,
// unless that is where they are to go now: it remembers for as long as a sender
// goes on, whatever the rules have become. A Flow without To is published no
// more. What conntrack holds is no part of a State, since every packet changes
// it: Diff puts this op behind the change of a rule.
type FlushFlows struct {
	Flows []Flow // sorted
}

func (o FlushFlows) String() string {
	var parts []string
	for _, f := range o.Flows {
		parts = append(parts, f.String())
	}
	return "flush flows " + strings.Join(parts, ", ")
}

func (o FlushFlows) apply(s *State) {
	for _, f := range o.Flows {
		delete(s.Owed, f.key())
	}
}

// String returns "tcp 0.0.0.0:8080 but to 10.0.0.2:80".
func (f Flow) String() string {
	text := string(f.Protocol) + " " + f.Dst.String()
	if f.To.IsValid() {
		text += " but to " + f.To.String()
	}
	return text
}

// DelTable deletes a packet filter table that holds nothing. One that is in use
// by then stays.
type DelTable struct {
	Table TableKey
}

func (o DelTable) String() string { return "del table " + o.Table.String() }
func (o DelTable) apply(s *State) { delete(s.Tables, o.Table) }
func (k TableKey) String() string { return string(k.Family) + " " + k.Name }

// String returns the key as "ipv4 filter OVERSPAN-FORWARD".
func (k ChainKey) String() string { return string(k.Family) + " " + k.Table + " " + k.Name }
