package kernel

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"github.com/overspan/overspan"
)

// flavours are what iptables comes in, as in the names of its programs and as
// its version says. The kernel asks both, and a packet needs the consent of
// both: what one accepts the other may still drop.
var flavours = []struct{ name, version string }{{"legacy", "legacy"}, {"nft", "nf_tables"}}

// obstacles names what the rules that are not of our flavour of iptables would
// do to traffic of ours.
func (h *Host) obstacles(ctx context.Context) []string {
	var out []string
	for _, family := range []overspan.Family{overspan.IPv4, overspan.IPv6} {
		if h.rules[family] == nil {
			continue
		}
		command, table, err := h.otherFilter(ctx, family)
		if err != nil {
			out = append(out, err.Error())
		}
		for _, what := range table.dropping() {
			out = append(out, fmt.Sprintf("%s drops traffic of containers, whatever our rules, of the other flavour, accept: %s; take that back, or move it to the other flavour", command, what))
		}
	}
	return out
}

// otherFilter returns the table filter in the flavour that is not ours, and what
// that flavour's iptables is called. Where it is not installed, nobody has made
// any rules with it.
func (h *Host) otherFilter(ctx context.Context, family overspan.Family) (command string, table savedTable, err error) {
	ours := h.rules[family]
	version, err := h.run(ctx, nil, ours.save, "--version")
	if err != nil {
		return "", savedTable{}, fmt.Errorf("the flavour of %s is not known: %w", ours.save, err)
	}
	for _, f := range flavours {
		if strings.Contains(string(version), f.version) {
			continue
		}
		command = "iptables-" + f.name
		if family == overspan.IPv6 {
			command = "ip6tables-" + f.name
		}
		save, err := exec.LookPath(command + "-save")
		if err != nil {
			return command, savedTable{}, nil
		}
		// Without naming a table: that would make the legacy flavour load it.
		text, err := h.run(ctx, nil, save)
		if err != nil {
			return command, savedTable{}, fmt.Errorf("the rules of the %s flavour of iptables cannot be read: %w", f.name, err)
		}
		return command, parseTables(string(text))["filter"], nil
	}
	return "", savedTable{}, nil
}

// dropping returns the policies and rules of the table's built-in chains that
// drop packets which pass the host, or come to it.
func (t savedTable) dropping() []string {
	var out []string
	for _, chain := range []string{"INPUT", "FORWARD"} {
		if t.policies[chain] == "DROP" {
			out = append(out, "-P "+chain+" DROP")
		}
		for _, spec := range t.rules[chain] {
			words := strings.Fields(quoted.ReplaceAllString(spec, "TEXT"))
			if at := slices.Index(words, "-j"); at >= 0 && at+1 < len(words) && (words[at+1] == "DROP" || words[at+1] == "REJECT") {
				out = append(out, "-A "+chain+" "+spec)
			}
		}
	}
	return out
}
