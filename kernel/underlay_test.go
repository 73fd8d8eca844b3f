package kernel

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/overspan/overspan"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func TestUnderlay(t *testing.T) {
	h := newTestHost(t)
	sh(t, `
		ip link add ul mtu 1400 type bridge; ip link set ul up
		ip addr add 192.0.2.1/24 dev ul; ip addr add 192.0.2.9/24 dev ul
		ip addr add 2001:db8::1/64 dev ul nodad; ip addr add fe80::9/64 dev ul nodad
		ip link add bare type bridge`)
	whole := Underlay{Device: "ul", MTU: 1400, Addrs: []netip.Addr{addr("192.0.2.1"), addr("2001:db8::1")}}
	for _, test := range []struct {
		spec  string
		want  Underlay
		class error
	}{
		{spec: "ul", want: whole},
		{spec: "192.0.2.1", want: whole},
		{spec: "2001:db8::1", want: whole},
		{spec: "192.0.2.9", want: Underlay{Device: "ul", MTU: 1400, Addrs: []netip.Addr{addr("192.0.2.9"), addr("2001:db8::1")}}},
		{spec: "192.0.2.77", class: overspan.ErrNotFound},
		{spec: "nothere", class: overspan.ErrNotFound},
		{spec: "bare", class: overspan.ErrInvalid},
	} {
		got, err := h.Underlay(test.spec)
		if !errors.Is(err, test.class) {
			t.Errorf("Underlay(%s): %v, want %v", test.spec, err, test.class)
		}
		if diff := cmp.Diff(test.want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("Underlay(%s) (-want +got):\n%s", test.spec, diff)
		}
	}
}

func TestHostRoutes(t *testing.T) {
	s := newTestSite(t)
	converge(t, s.host, s.scope, s.want)
	sh(t, `
		ip route add default via 192.0.2.254; ip route add 0.0.0.0/1 via 192.0.2.254
		ip route add 10.8.0.0/16 via 192.0.2.254; ip route add 10.9.0.0/16 via 192.0.2.254 table 42
		ip route add unreachable 10.10.0.0/16
		ip addr add 198.51.100.7/32 dev lo; ip addr add 2001:db8::1/64 dev ul nodad
		ip route add fd55::/48 via 2001:db8::9; ip route add 224.0.0.0/4 dev ul`)
	got, err := s.host.HostRoutes()
	if err != nil {
		t.Fatal(err)
	}
	want := []netip.Prefix{
		prefix("10.8.0.0/16"), prefix("10.9.0.0/16"), prefix("10.10.0.0/16"), prefix("192.0.2.0/24"), prefix("198.51.100.7/32"),
		prefix("2001:db8::/64"), prefix("fd55::/48"),
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
		t.Errorf("HostRoutes (-want +got):\n%s", diff)
	}
}

func TestCheckSupport(t *testing.T) {
	h := newTestHost(t)
	if lacks := h.CheckSupport(t.Context()); len(lacks) > 0 {
		t.Errorf("the kernel that runs the tests lacks: %q", lacks)
	}
}
