package overspan_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/overspan/overspan"
)

func TestResolverWithin(t *testing.T) {
	const host = "# stub\nnameserver 127.0.0.53\n nameserver\t192.0.2.53\nnameserver\nnameserver x\nsearch example.org\noptions edns0 ndots:2\n"
	gateways := []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}
	servers := []netip.Addr{netip.MustParseAddr("198.51.100.1")}
	for _, tt := range []struct {
		name     string
		host     string
		gateways []netip.Addr
		wanted   overspan.Resolver
		want     string
	}{
		{"nothing is known", "", nil, overspan.Resolver{}, ""},
		{"the gateways answer", host, gateways, overspan.Resolver{}, "nameserver 10.0.0.1\nnameserver fd00::1\nsearch example.org\noptions edns0 ndots:0\n"},
		{"the gateways ask the user's servers", host, gateways[:1], overspan.Resolver{Servers: servers}, "nameserver 10.0.0.1\nsearch example.org\noptions edns0 ndots:0\n"},
		{"the user has the last word", host, gateways[:1], overspan.Resolver{Search: []string{"a", "b"}, Options: []string{"ndots:1"}}, "nameserver 10.0.0.1\nsearch a b\noptions ndots:1\n"},
		{"no search", host, gateways[:1], overspan.Resolver{Search: []string{"."}}, "nameserver 10.0.0.1\noptions edns0 ndots:0\n"},
		{"no network", host, nil, overspan.Resolver{}, "nameserver 192.0.2.53\nsearch example.org\noptions edns0 ndots:2\n"},
		{"no network, the user's servers", host, nil, overspan.Resolver{Servers: servers}, "nameserver 198.51.100.1\nsearch example.org\noptions edns0 ndots:2\n"},
		{"no more servers than are read", "", append(gateways, append(servers, gateways...)...), overspan.Resolver{}, "nameserver 10.0.0.1\nnameserver fd00::1\nnameserver 198.51.100.1\noptions ndots:0\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, overspan.ParseResolver(tt.host).Within(tt.gateways, tt.wanted).String()); diff != "" {
				t.Errorf("resolv.conf (-want +got):\n%s", diff)
			}
		})
	}
}
