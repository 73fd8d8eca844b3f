package ipam

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/overspan/overspan"
	"pgregory.net/rapid"
)

// anyNetwork draws a network that is small enough to count its slots one by one.
func anyNetwork(t *rapid.T) *overspan.Network {
	n := &overspan.Network{ID: "net", Name: "demo"}
	family := rapid.SampledFrom([]string{"ipv4", "ipv6", "dual"}).Draw(t, "family")
	if family != "ipv6" {
		n.IPv4 = anySubnet(t, "10.20.0.0", 24, 30)
	}
	if family != "ipv4" {
		n.IPv6 = anySubnet(t, "fd00:20::", 119, 126)
	}
	return n
}

func anySubnet(t *rapid.T, base string, short, long int) overspan.Subnet {
	s := overspan.Subnet{Prefix: netip.PrefixFrom(addr(base), rapid.IntRange(short, long).Draw(t, "bits"))}
	slots := uint64(1) << (s.Prefix.Addr().BitLen() - s.Prefix.Bits())
	s.Aux = map[string]netip.Addr{}
	for _, name := range rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z]`), 0, 6, rapid.ID).Draw(t, "aux") {
		s.Aux[name] = s.Addr(overspan.Slot(rapid.Uint64Range(0, slots-1).Draw(t, "aux slot")))
	}
	s.Gateway = s.Addr(overspan.Slot(rapid.Uint64Range(1, slots-2).Draw(t, "gateway slot")))
	if rapid.Bool().Draw(t, "ranged") {
		in := s.Addr(overspan.Slot(rapid.Uint64Range(0, slots-1).Draw(t, "range slot")))
		s.Range = netip.PrefixFrom(in, rapid.IntRange(s.Prefix.Bits(), in.BitLen()).Draw(t, "range bits")).Masked()
	}
	return s
}

// lendable is what space stands for, slot by slot.
func lendable(n *overspan.Network, slot overspan.Slot) bool {
	for _, s := range []overspan.Subnet{n.IPv4, n.IPv6} {
		if s.IsValid() && !s.Addr(slot).IsValid() || s.Range.IsValid() && !s.Range.Contains(s.Addr(slot)) {
			return false
		}
	}
	return n.Reserved(slot) == ""
}

// anyBlock draws a block among the slots of small networks.
func anyBlock(t *rapid.T) overspan.Range {
	size := rapid.SampledFrom(overspan.BlockSizes()).Draw(t, "size")
	return overspan.BlockAt(overspan.Slot(rapid.Uint64Range(0, 511).Draw(t, "slot")), size)
}

func TestSpaceLendsWhatTheNetworkDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := anyNetwork(t)
		sp := spaceOf(n)
		r := anyBlock(t)
		var count uint64
		for s := range overspan.Slot(1024) {
			if got, want := sp.lends(s), lendable(n, s); got != want {
				t.Fatalf("slot %d: lends %t, want %t", s, got, want)
			}
			if r.Contains(s) && lendable(n, s) {
				count++
			}
		}
		if got := sp.count(r); got != count {
			t.Fatalf("count of %s: %d, want %d", r, got, count)
		}
	})
}

// TestPlaceFindsEveryBlock compares the search between the gaps with a walk
// over all blocks of the size.
func TestPlaceFindsEveryBlock(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sp := spaceOf(anyNetwork(t))
		taken := rapid.SliceOfN(rapid.Custom(anyBlock), 0, 20).Draw(t, "taken")
		size := rapid.SampledFrom(overspan.BlockSizes()).Draw(t, "size")

		var want, got []overspan.Range
		for first := overspan.Slot(0); first < 512; first += overspan.Slot(size) {
			r := overspan.Range{First: first, Size: size}
			clear := intersect(r, sp.window) == r && sp.count(r) > 0
			for _, b := range taken {
				clear = clear && !b.Overlaps(r)
			}
			if clear {
				want = append(want, r)
			}
		}
		gaps := sp.unclaimed(append(sp.barren(size), taken...))
		for i := range want {
			block, ok := place(gaps, size, uint64(i+len(want))) // modulo how many there are
			if !ok {
				break
			}
			got = append(got, block)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("blocks of %d (-want +got):\n%s", size, diff)
		}
		if _, ok := place(gaps, size, 0); ok != (len(want) > 0) {
			t.Fatalf("place found %t among %d", ok, len(want))
		}
	})
}

func TestHugeSpaces(t *testing.T) {
	for _, tc := range []struct {
		name   string
		spec   Spec
		window overspan.Range
		count  uint64
	}{
		{
			name: "all of a /8", spec: Spec{Subnets: []string{"10.0.0.0/8"}},
			window: overspan.Range{Size: 1 << 24}, count: 1<<24 - 3,
		},
		{
			name: "the lower 32 bits of a /64", spec: Spec{Subnets: []string{"fd00::/64"}, NoIPv4: true},
			window: overspan.Range{Size: 1 << 32}, count: 1<<32 - 2,
		},
		{
			name: "what the families share", spec: Spec{Subnets: []string{"fd00::/48", "10.1.0.0/16"}},
			window: overspan.Range{Size: 1 << 16}, count: 1<<16 - 3,
		},
		{
			name:   "what the ranges share",
			spec:   Spec{Subnets: []string{"fd00::/64", "10.1.0.0/16"}, Ranges: []string{"10.1.128.0/17", "fd00::c000/115"}},
			window: overspan.Range{First: 0xc000, Size: 1 << 13}, count: 1 << 13,
		},
		{
			name:   "a range that reaches beyond the lower 32 bits",
			spec:   Spec{Subnets: []string{"fd00::/32"}, Ranges: []string{"fd00::/48"}, NoIPv4: true},
			window: overspan.Range{Size: 1 << 32}, count: 1<<32 - 2,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			sp := spaceOf(network(t, tc.spec))
			if sp.window != tc.window || sp.count(sp.window) != tc.count {
				t.Errorf("window %+v lends %d, want %+v and %d", sp.window, sp.count(sp.window), tc.window, tc.count)
			}
		})
	}
}

func TestBlockSize(t *testing.T) {
	for free, want := range map[uint64]uint64{0: 1, 1: 1, 31: 1, 32: 2, 125: 4, 253: 8, 1023: 32, 1024: 64, 1 << 32: 64} {
		if got := blockSize(free); got != want {
			t.Errorf("%d free: blocks of %d, want %d", free, got, want)
		}
	}
}
