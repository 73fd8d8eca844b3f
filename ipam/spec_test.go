package ipam

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/overspan/overspan"
)

func prefix(s string) netip.Prefix {
	if s == "" {
		return netip.Prefix{}
	}
	return netip.MustParsePrefix(s)
}

// plain compares netip's values as what they print.
func plain() cmp.Options {
	return cmp.Options{
		cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	}
}

func TestParseSpec(t *testing.T) {
	for _, tc := range []struct {
		name string
		spec Spec
		want Plan
	}{
		{
			name: "nothing but a name", spec: Spec{},
			want: Plan{Driver: overspan.DriverBridge, AutoIPv4: true},
		},
		{
			name: "automatic dual stack", spec: Spec{Driver: "overlay", IPv6: true},
			want: Plan{Driver: overspan.DriverOverlay, AutoIPv4: true, AutoIPv6: true},
		},
		{
			name: "automatic IPv6 alone", spec: Spec{IPv6: true, NoIPv4: true},
			want: Plan{Driver: overspan.DriverBridge, AutoIPv6: true},
		},
		{
			name: "an IPv6 subnet brings an automatic IPv4 one", spec: Spec{Subnets: []string{"fd00:1::/64"}},
			want: Plan{
				Driver: overspan.DriverBridge, AutoIPv4: true,
				IPv6: overspan.Subnet{Prefix: prefix("fd00:1::/64"), Gateway: addr("fd00:1::1")},
			},
		},
		{
			name: "each word belongs to the subnet that it lies in",
			spec: Spec{
				Subnets:  []string{"fd00:1::/64", "10.20.0.0/24"},
				Gateways: []string{"fd00:1::fe", "10.20.0.254"},
				Ranges:   []string{"10.20.0.128/25"},
				Aux:      map[string]string{"rtr": "10.20.0.129", "rtr6": "fd00:1::81"},
			},
			want: Plan{
				Driver: overspan.DriverBridge,
				IPv4: overspan.Subnet{
					Prefix: prefix("10.20.0.0/24"), Gateway: addr("10.20.0.254"), Range: prefix("10.20.0.128/25"),
					Aux: map[string]netip.Addr{"rtr": addr("10.20.0.129")},
				},
				IPv6: overspan.Subnet{
					Prefix: prefix("fd00:1::/64"), Gateway: addr("fd00:1::fe"),
					Aux: map[string]netip.Addr{"rtr6": addr("fd00:1::81")},
				},
			},
		},
		{
			name: "the gateway makes way for auxiliary addresses",
			spec: Spec{Subnets: []string{"10.20.0.0/29"}, Aux: map[string]string{"a": "10.20.0.1", "b": "10.20.0.2"}},
			want: Plan{
				Driver: overspan.DriverBridge,
				IPv4: overspan.Subnet{
					Prefix: prefix("10.20.0.0/29"), Gateway: addr("10.20.0.3"),
					Aux: map[string]netip.Addr{"a": addr("10.20.0.1"), "b": addr("10.20.0.2")},
				},
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.spec.Name, tc.want.Name = "demo", "demo"
			got, err := ParseSpec(tc.spec)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got, plain()); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseSpecRefuses(t *testing.T) {
	one := []string{"10.20.0.0/24"}
	for _, tc := range []struct {
		text string // part of the error's
		spec Spec
	}{
		{`invalid network name "-x"`, Spec{Name: "-x"}},
		{`unknown driver "macvlan": use overlay or bridge`, Spec{Driver: "macvlan"}},
		{"driver host has only its predefined network", Spec{Driver: "host"}},
		{`invalid subnet "ten"`, Spec{Subnets: []string{"ten"}}},
		{`invalid subnet "10.0.0.0"`, Spec{Subnets: []string{"10.0.0.0"}}},
		{`invalid subnet "fe80::%eth0/64"`, Spec{Subnets: []string{"fe80::%eth0/64"}}},
		{"invalid subnet 10.20.0.1/24: host bits are set; did you mean 10.20.0.0/24?", Spec{Subnets: []string{"10.20.0.1/24"}}},
		{"subnet 10.20.0.0/31 is too small: the longest prefix is /30", Spec{Subnets: []string{"10.20.0.0/31"}}},
		{"subnet fd00::/127 is too small: the longest prefix is /126", Spec{Subnets: []string{"fd00::/127"}}},
		{"subnet 224.0.0.0/24 cannot be used: 224.0.0.0/4 are multicast addresses", Spec{Subnets: []string{"224.0.0.0/24"}}},
		{"127.0.0.0/8 are loopback addresses", Spec{Subnets: []string{"126.0.0.0/7"}}},
		{"link-local", Spec{Subnets: []string{"169.254.1.0/24"}}},
		{"link-local", Spec{Subnets: []string{"fe80::/64"}}},
		{"multicast", Spec{Subnets: []string{"ff05::/64"}}},
		{"IPv4-mapped", Spec{Subnets: []string{"::ffff:10.0.0.0/120"}}},
		{"cannot be used", Spec{Subnets: []string{"0.0.0.0/0"}}},
		{"cannot be used", Spec{Subnets: []string{"::/0"}}},
		{"subnets 10.20.0.0/24 and 10.21.0.0/24 are of one family", Spec{Subnets: []string{"10.20.0.0/24", "10.21.0.0/24"}}},
		{"subnet 10.20.0.0/24 is given for a network without IPv4", Spec{Subnets: one, NoIPv4: true}},
		{"network demo would have neither IPv4 nor IPv6", Spec{NoIPv4: true}},
		{`invalid gateway "10.20.0"`, Spec{Subnets: one, Gateways: []string{"10.20.0"}}},
		{"gateway 10.20.1.1 is not in subnet 10.20.0.0/24", Spec{Subnets: one, Gateways: []string{"10.20.1.1"}}},
		{"gateway fd00::1 is in none of the network's subnets", Spec{Subnets: one, Gateways: []string{"fd00::1"}}},
		{"gateway 10.20.0.1 is in none of the network's subnets", Spec{Gateways: []string{"10.20.0.1"}}},
		{"gateways 10.20.0.1 and 10.20.0.2 both lie in subnet 10.20.0.0/24", Spec{Subnets: one, Gateways: []string{"10.20.0.1", "10.20.0.2"}}},
		{"gateway 10.20.0.0 is the network address of subnet 10.20.0.0/24", Spec{Subnets: one, Gateways: []string{"10.20.0.0"}}},
		{"gateway 10.20.0.255 is the broadcast address of subnet 10.20.0.0/24", Spec{Subnets: one, Gateways: []string{"10.20.0.255"}}},
		{`gateway 10.20.0.9 is the auxiliary address "rtr" of subnet`, Spec{Subnets: one, Gateways: []string{"10.20.0.9"}, Aux: map[string]string{"rtr": "10.20.0.9"}}},
		{"has no address left for a gateway", Spec{Subnets: []string{"10.20.0.0/30"}, Aux: map[string]string{"a": "10.20.0.1", "b": "10.20.0.2"}}},
		{`invalid ip range "10.20.0.128-10.20.0.200"`, Spec{Subnets: one, Ranges: []string{"10.20.0.128-10.20.0.200"}}},
		{"invalid ip range 10.20.0.129/25: host bits are set", Spec{Subnets: one, Ranges: []string{"10.20.0.129/25"}}},
		{"ip range 10.20.0.0/16 is larger than its subnet 10.20.0.0/24", Spec{Subnets: one, Ranges: []string{"10.20.0.0/16"}}},
		{"ip range 10.21.0.0/25 is not in subnet", Spec{Subnets: one, Ranges: []string{"10.21.0.0/25"}}},
		{"ip ranges 10.20.0.0/25 and 10.20.0.128/25 both lie in", Spec{Subnets: one, Ranges: []string{"10.20.0.0/25", "10.20.0.128/25"}}},
		{"10.20.0.0/31 has no address to lend: all are reserved", Spec{Subnets: one, Ranges: []string{"10.20.0.0/31"}}},
		{"fd00:0:0:1::/64 has no address to lend: all are reserved, or lie 2^32 or more above", Spec{Subnets: []string{"fd00::/48"}, Ranges: []string{"fd00:0:0:1::/64"}, NoIPv4: true}},
		{"10.20.0.0/25, fd00::80/121 has no address to lend: an endpoint has the same offset", Spec{Subnets: []string{"10.20.0.0/24", "fd00::/64"}, Ranges: []string{"10.20.0.0/25", "fd00::80/121"}}},
		{`invalid auxiliary address "10.20.0.300"`, Spec{Subnets: one, Aux: map[string]string{"rtr": "10.20.0.300"}}},
		{`invalid auxiliary address name ""`, Spec{Subnets: one, Aux: map[string]string{"": "10.20.0.3"}}},
		{"auxiliary address 10.20.1.3 is not in subnet", Spec{Subnets: one, Aux: map[string]string{"rtr": "10.20.1.3"}}},
		{`auxiliary addresses "a" and "b" are both 10.20.0.3`, Spec{Subnets: one, Aux: map[string]string{"a": "10.20.0.3", "b": "10.20.0.3"}}},
	} {
		t.Run(tc.text, func(t *testing.T) {
			if tc.spec.Name == "" {
				tc.spec.Name = "demo"
			}
			_, err := ParseSpec(tc.spec)
			if !errors.Is(err, overspan.ErrInvalid) || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// FuzzParseSpec proves that whatever is accepted makes sense.
func FuzzParseSpec(f *testing.F) {
	f.Add("overlay", "10.20.0.0/24", "10.20.0.254", "10.20.0.128/25", "10.20.0.129", true, false)
	f.Add("", "fd00::/64", "", "fd00::/120", "fd00::1", false, true)
	f.Add("bridge", "::ffff:10.0.0.0/120", "::ffff:10.0.0.1", "", "", false, false)
	f.Add("host", "0.0.0.0/0", "1.2.3.4", "fe80::%1/64", "::", true, true)
	f.Fuzz(func(t *testing.T, driver, subnet, gateway, ipRange, aux string, ipv6, noIPv4 bool) {
		given := func(s string) []string {
			if s == "" {
				return nil
			}
			return []string{s}
		}
		spec := Spec{
			Name: "demo", Driver: driver, Subnets: given(subnet), Gateways: given(gateway),
			Ranges: given(ipRange), IPv6: ipv6, NoIPv4: noIPv4,
		}
		if aux != "" {
			spec.Aux = map[string]string{"aux": aux}
		}
		p, err := ParseSpec(spec)
		if err != nil {
			if !errors.Is(err, overspan.ErrInvalid) {
				t.Fatalf("error without its class: %v", err)
			}
			return
		}
		for _, s := range []overspan.Subnet{p.IPv4, p.IPv6} {
			if !s.IsValid() {
				continue
			}
			if !s.Prefix.Contains(s.Gateway) || s.Prefix != s.Prefix.Masked() {
				t.Errorf("subnet %s has gateway %s", s.Prefix, s.Gateway)
			}
			if s.Range.IsValid() && (!s.Prefix.Contains(s.Range.Addr()) || s.Range.Bits() < s.Prefix.Bits()) {
				t.Errorf("subnet %s has range %s", s.Prefix, s.Range)
			}
			for _, a := range s.Aux {
				if !s.Prefix.Contains(a) || a == s.Gateway {
					t.Errorf("subnet %s has gateway %s and auxiliary address %s", s.Prefix, s.Gateway, a)
				}
			}
		}
		if !p.IPv4.IsValid() && !p.IPv6.IsValid() && !p.AutoIPv4 && !p.AutoIPv6 {
			t.Error("a plan without addresses")
		}
	})
}
