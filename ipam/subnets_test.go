package ipam

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/overspan/overspan"
	"pgregory.net/rapid"
)

func pools() overspan.Pools {
	return overspan.Pools{
		Overlay: overspan.Pool{Prefix: prefix("10.0.0.0/8"), Bits: 24},
		Bridge:  overspan.Pool{Prefix: prefix("172.16.0.0/12"), Bits: 24},
		IPv6:    overspan.Pool{Prefix: prefix("fd12:3456:789a::/48"), Bits: 64},
	}
}

func TestChoose(t *testing.T) {
	for _, tc := range []struct {
		name  string
		pool  overspan.Pool
		taken []string
		want  string
	}{
		{"an empty pool", pools().Overlay, nil, "10.0.0.0/24"},
		{"beside others", pools().Overlay, []string{"10.0.1.0/24", "10.0.0.0/24"}, "10.0.2.0/24"},
		{"the lowest gap", pools().Overlay, []string{"10.0.0.0/24", "10.0.2.0/24"}, "10.0.1.0/24"},
		{"past a larger one", pools().Overlay, []string{"10.0.0.0/10", "10.0.5.0/24"}, "10.64.0.0/24"},
		{"past the second of two small ones", pools().Overlay, []string{"10.0.0.7/32", "10.0.1.128/30"}, "10.0.2.0/24"},
		{"past one that begins before the pool", overspan.Pool{Prefix: prefix("10.1.0.0/16"), Bits: 24}, []string{"10.0.0.0/15"}, ""},
		{"what lies elsewhere does not matter", pools().Overlay, []string{"192.168.0.0/16", "fd00::/8"}, "10.0.0.0/24"},
		{"the last of all", overspan.Pool{Prefix: prefix("10.255.255.0/24"), Bits: 25}, []string{"10.255.255.0/25"}, "10.255.255.128/25"},
		{"none", overspan.Pool{Prefix: prefix("10.0.0.0/30"), Bits: 30}, []string{"10.0.0.0/24"}, ""},
		{"IPv6", pools().IPv6, []string{"fd12:3456:789a::/63"}, "fd12:3456:789a:2::/64"},
		{"up to the end of all addresses", overspan.Pool{Prefix: prefix("fdff::/16"), Bits: 17}, []string{"fdff::/17", "fdff:8000::/17"}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var taken []Taken
			for _, p := range tc.taken {
				taken = append(taken, Taken{Prefix: prefix(p), By: "network " + p})
			}
			got, err := Choose(tc.pool, taken)
			if got != prefix(tc.want) {
				t.Errorf("got %s, %v, want %s", got, err, tc.want)
			}
			if tc.want == "" && (!errors.Is(err, overspan.ErrExhausted) || !strings.Contains(err.Error(), "network "+tc.taken[0])) {
				t.Errorf("got %v, want an error that says what holds the pool", err)
			}
		})
	}
}

// TestChooseIsTheLowest compares the choice with a walk over the whole pool.
func TestChooseIsTheLowest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pool := overspan.Pool{Prefix: prefix("10.1.0.0/16"), Bits: rapid.IntRange(16, 22).Draw(t, "bits")}
		taken := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Taken {
			var raw [4]byte
			binary.BigEndian.PutUint32(raw[:], 10<<24|1<<16|rapid.Uint32Range(0, 1<<16-1).Draw(t, "host"))
			return Taken{Prefix: netip.PrefixFrom(netip.AddrFrom4(raw), rapid.IntRange(15, 32).Draw(t, "length"))}
		}), 0, 60).Draw(t, "taken")

		var want netip.Prefix
		for p := netip.PrefixFrom(pool.Prefix.Addr(), pool.Bits); pool.Prefix.Contains(p.Addr()); p = netip.PrefixFrom(lastAddr(p).Next(), pool.Bits) {
			if Conflict(p, taken) == nil {
				want = p
				break
			}
		}
		if got, err := Choose(pool, taken); got != want || (err == nil) != want.IsValid() {
			t.Fatalf("got %s, %v, want %s", got, err, want)
		}
	})
}

func TestCheckPool(t *testing.T) {
	for text, pool := range map[string]overspan.Pool{
		"invalid address pool invalid Prefix":                     {},
		"invalid address pool 10.0.0.1/8: want a prefix":          {Prefix: prefix("10.0.0.1/8"), Bits: 24},
		"invalid address pool 10.0.0.0/8: no subnet of /7":        {Prefix: prefix("10.0.0.0/8"), Bits: 7},
		"address pool 10.0.0.0/8: subnet 10.0.0.0/31":             {Prefix: prefix("10.0.0.0/8"), Bits: 31},
		"address pool fd00::/8: subnet fd00::/999":                {Prefix: prefix("fd00::/8"), Bits: 999},
		"address pool 126.0.0.0/7 cannot be used: 127.0.0.0/8 ar": {Prefix: prefix("126.0.0.0/7"), Bits: 24},
	} {
		if err := CheckPool(pool); !errors.Is(err, overspan.ErrInvalid) || !strings.Contains(err.Error(), text) {
			t.Errorf("pool %s of /%d: got %v, want %q", pool.Prefix, pool.Bits, err, text)
		}
	}
	for _, pool := range []overspan.Pool{pools().Overlay, pools().Bridge, pools().IPv6} {
		if err := CheckPool(pool); err != nil {
			t.Error(err)
		}
	}
}

func TestSettle(t *testing.T) {
	taken := []Taken{
		{Prefix: prefix("10.0.0.0/24"), By: "network one"},
		{Prefix: prefix("172.16.0.0/16"), By: "a route of node h2"},
	}
	for _, tc := range []struct {
		name  string
		spec  Spec
		v4    overspan.Subnet
		v6    overspan.Subnet
		class error
		text  string
	}{
		{
			name: "an overlay", spec: Spec{Driver: "overlay"},
			v4: overspan.Subnet{Prefix: prefix("10.0.1.0/24"), Gateway: addr("10.0.1.1")},
		},
		{
			name: "a bridge keeps off a host's route", spec: Spec{Driver: "bridge"},
			v4: overspan.Subnet{Prefix: prefix("172.17.0.0/24"), Gateway: addr("172.17.0.1")},
		},
		{
			name: "both families", spec: Spec{Driver: "overlay", IPv6: true, Subnets: []string{"10.3.0.0/16"}},
			v4: overspan.Subnet{Prefix: prefix("10.3.0.0/16"), Gateway: addr("10.3.0.1")},
			v6: overspan.Subnet{Prefix: prefix("fd12:3456:789a::/64"), Gateway: addr("fd12:3456:789a::1")},
		},
		{
			name: "an overlap is named", spec: Spec{Driver: "overlay", Subnets: []string{"10.0.0.0/25"}},
			class: overspan.ErrInUse, text: "subnet 10.0.0.0/25 overlaps 10.0.0.0/24 of network one: choose another subnet",
		},
		{
			name: "so is a route", spec: Spec{Driver: "overlay", Subnets: []string{"172.16.5.0/24"}},
			class: overspan.ErrInUse, text: "overlaps 172.16.0.0/16 of a route of node h2",
		},
		{
			name: "a range beyond what the automatic family has", spec: Spec{Subnets: []string{"fd00::/64"}, Ranges: []string{"fd00::1:0/112"}},
			class: overspan.ErrInvalid, text: "has no address to lend",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.spec.Name = "demo"
			p, err := ParseSpec(tc.spec)
			if err != nil {
				t.Fatal(err)
			}
			v4, v6, err := p.Settle(pools(), taken)
			if tc.class != nil {
				if !errors.Is(err, tc.class) || !strings.Contains(err.Error(), tc.text) {
					t.Errorf("got %v, want %q", err, tc.text)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]overspan.Subnet{tc.v4, tc.v6}, []overspan.Subnet{v4, v6}, plain()); diff != "" {
				t.Errorf("subnets (-want +got):\n%s", diff)
			}
		})
	}
}

func BenchmarkChoose(b *testing.B) {
	for _, n := range []int{10, 1000, 10_000} {
		taken := make([]Taken, n)
		for i := range taken {
			taken[i] = Taken{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)}
		}
		b.Run(fmt.Sprintf("taken=%d", n), func(b *testing.B) {
			for b.Loop() {
				if _, err := Choose(pools().Overlay, taken); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
