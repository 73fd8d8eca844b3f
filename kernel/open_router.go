package kernel

import (
	"context"
	"slices"
	"strings"

	"github.com/overspan/overspan"
)

// OpenRouter returns the families that this host forwards for everybody: its
// FORWARD chains, in both flavours of iptables, drop nothing but what somebody
// has thought of. What firewalls do that speak nftables themselves is not known.
func (h *Host) OpenRouter(ctx context.Context) ([]overspan.Family, error) {
	var open []overspan.Family
	for _, family := range []overspan.Family{overspan.IPv4, overspan.IPv6} {
		path := ForwardIPv4
		if family == overspan.IPv6 {
			path = ForwardIPv6
		}
		settings, err := h.readSysctls([]string{path})
		if err != nil {
			return nil, err
		}
		tool := h.rules[family]
		if settings[path] != "1" || tool == nil {
			continue
		}
		ours, err := h.readTable(ctx, tool, "filter")
		if err != nil {
			return nil, err
		}
		_, other, err := h.otherFilter(ctx, family)
		if err != nil {
			return nil, err
		}
		if ours.passesAll() && other.passesAll() {
			open = append(open, family)
		}
	}
	return open, nil
}

// passesAll reports whether a table lets pass the host what no rule of it knows:
// FORWARD has neither a policy of DROP nor a rule without a condition that drops.
func (t savedTable) passesAll() bool {
	return t.policies["FORWARD"] != "DROP" && !slices.ContainsFunc(t.rules["FORWARD"], func(spec string) bool {
		words := strings.Fields(quoted.ReplaceAllString(spec, "TEXT"))
		if len(words) > 4 && words[0] == "-m" && words[1] == "comment" {
			words = words[4:] // "-m comment --comment TEXT"
		}
		return len(words) > 1 && words[0] == "-j" && (words[1] == "DROP" || words[1] == "REJECT")
	})
}
