package kernel

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// rulePrefix begins the comment of every rule of ours; the rule's ID follows.
const rulePrefix = "overspan:"

// ID returns what identifies the rule in a chain's kernel form: its Hash, or 16
// hex digits made from its chain's name and its Text where it has none yet.
// Where it stands in the chain is no part of it: lists of IDs are compared.
func (r Rule) ID(chain string) string {
	if r.Hash != "" {
		return r.Hash
	}
	sum := sha256.Sum256([]byte(chain + "\n" + r.Text))
	return hex.EncodeToString(sum[:8])
}

// ids returns the rules' IDs in order.
func (c Chain) ids(name string) []string {
	ids := make([]string, len(c.Rules))
	for i, r := range c.Rules {
		ids[i] = r.ID(name)
	}
	return ids
}

// Render returns the text for iptables-restore --noflush -w that makes or
// refills the chains. Declaring a chain empties it, all in one atomic step;
// other chains of the table are not touched.
func (o LoadChains) Render() string { return renderTable(o.Table, o.lines()) }

// renderTable returns the text for iptables-restore that changes one table.
func renderTable(name string, lines []string) string {
	return "*" + name + "\n" + strings.Join(lines, "\n") + "\nCOMMIT\n"
}

func (o LoadChains) lines() (lines []string) {
	names := slices.Sorted(maps.Keys(o.Chains))
	for _, name := range names {
		lines = append(lines, fmt.Sprintf(":%s - [0:0]", name))
	}
	for _, name := range names {
		for _, r := range o.Chains[name] {
			lines = append(lines, fmt.Sprintf("-A %s -m comment --comment %q %s", name, rulePrefix+r.ID(name), r.Text))
		}
	}
	return lines
}
