package kernel

import (
	"slices"
	"testing"

	"github.com/overspan/overspan"
)

func TestPassesAll(t *testing.T) {
	for _, tt := range []struct {
		name, table string
		want        bool
	}{
		{"nothing", "", true},
		{"what somebody thought of", `:FORWARD ACCEPT [0:0]
-A FORWARD -j OVERSPAN-FORWARD
-A FORWARD -s 192.0.2.0/24 -j DROP
-A FORWARD -m comment --comment "never -j DROP" -j ACCEPT
-A INPUT -j DROP
`, true},
		{"a policy", ":FORWARD DROP [0:0]\n", false},
		{"a last rule", ":FORWARD ACCEPT [0:0]\n-A FORWARD -j REJECT --reject-with icmp-host-prohibited\n", false},
		{"a last rule with a comment", ":FORWARD ACCEPT [0:0]\n-A FORWARD -m comment --comment \"the rest\" -j DROP\n", false},
		{"a comment of one word", ":FORWARD ACCEPT [0:0]\n-A FORWARD -m comment --comment rest -j DROP\n", false},
	} {
		if got := parseTables("*filter\n" + tt.table)["filter"].passesAll(); got != tt.want {
			t.Errorf("%s: %t; want %t", tt.name, got, tt.want)
		}
	}
}

func TestOpenRouter(t *testing.T) {
	h := newTestHost(t)
	for _, step := range []struct {
		do   string
		want []overspan.Family
	}{
		{"true", nil},
		{"sysctl -qw net.ipv4.ip_forward=1", []overspan.Family{overspan.IPv4}},
		{"sysctl -qw net.ipv6.conf.all.forwarding=1", []overspan.Family{overspan.IPv4, overspan.IPv6}},
		{"iptables -P FORWARD DROP", []overspan.Family{overspan.IPv6}},
		{"ip6tables-legacy -A FORWARD -j DROP", nil},
		{"iptables -P FORWARD ACCEPT", []overspan.Family{overspan.IPv4}},
	} {
		sh(t, step.do)
		got, err := h.OpenRouter(t.Context())
		if err != nil || !slices.Equal(got, step.want) {
			t.Errorf("after %s: %v, %v; want %v", step.do, got, err, step.want)
		}
	}
}
