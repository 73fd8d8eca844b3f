package daemon

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/kernel"
)

func TestBecameRouter(t *testing.T) {
	const start, middle = "this host has become a router that lets everybody pass (", "): networks need forwarding, and its FORWARD chain accepts what it does not know; unless others rely on that: "
	const drop4, drop6 = "iptables -P FORWARD DROP", "ip6tables -P FORWARD DROP"
	both := []overspan.Family{overspan.IPv4, overspan.IPv6}
	for _, tt := range []struct {
		name string
		was  map[string]string
		open []overspan.Family
		want []string
	}{
		{name: "no router"},
		{name: "rules keep it to our networks", was: map[string]string{kernel.ForwardIPv4: "0"}},
		{name: "a router before", open: both},
		{"a router of IPv4 before", map[string]string{kernel.ForwardIPv6: "0"}, both, []string{start + "ipv6" + middle + drop6}},
		{"by us", map[string]string{kernel.ForwardIPv4: "0", kernel.ForwardIPv6: "0"}, both, []string{start + "ipv4, ipv6" + middle + drop4 + "; " + drop6}},
	} {
		got := becameRouter(tt.was, tt.open)
		if diff := cmp.Diff(tt.want, got); diff != "" || strings.Contains(strings.Join(got, ""), "\n") {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}
