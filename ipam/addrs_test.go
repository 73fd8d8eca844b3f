package ipam

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/overspan/overspan"
)

func TestDualStackLeases(t *testing.T) {
	wide := Spec{Subnets: []string{"10.0.0.0/24", "fd00::/64"}}    // more IPv6 than IPv4
	narrow := Spec{Subnets: []string{"10.0.0.0/24", "fd00::/122"}} // more IPv4 than IPv6
	for _, tc := range []struct {
		name   string
		spec   Spec
		want   Addrs
		v4, v6 string
		slots  []overspan.Slot
		blocks []string
		text   string
	}{
		{name: "any", spec: wide, v4: "10.0.0.2", v6: "fd00::2", slots: []overspan.Slot{2}, blocks: []string{"0+8"}},
		{
			name: "by IPv4", spec: wide, want: Addrs{IPv4: addr("10.0.0.9")},
			v4: "10.0.0.9", v6: "fd00::9", slots: []overspan.Slot{9}, blocks: []string{"9+1"},
		},
		{
			name: "by IPv6", spec: wide, want: Addrs{IPv6: addr("fd00::9")},
			v4: "10.0.0.9", v6: "fd00::9", slots: []overspan.Slot{9}, blocks: []string{"9+1"},
		},
		{
			name: "by a pair", spec: wide, want: Addrs{IPv4: addr("10.0.0.9"), IPv6: addr("fd00::9")},
			v4: "10.0.0.9", v6: "fd00::9", slots: []overspan.Slot{9}, blocks: []string{"9+1"},
		},
		{
			name: "by two that are no pair", spec: wide, want: Addrs{IPv4: addr("10.0.0.9"), IPv6: addr("fd00::8")},
			v4: "10.0.0.9", v6: "fd00::8", slots: []overspan.Slot{9, 8}, blocks: []string{"9+1", "8+1"},
		},
		{
			name: "by an IPv6 address without an IPv4 one", spec: wide, want: Addrs{IPv6: addr("fd00::1:0:0:1")},
			v4: "10.0.0.2", v6: "fd00::1:0:0:1", slots: []overspan.Slot{2, 1<<48 + 1}, blocks: []string{"0+8", "281474976710657+1"},
		},
		{
			name: "by an IPv4 address without an IPv6 one", spec: narrow, want: Addrs{IPv4: addr("10.0.0.200")},
			v4: "10.0.0.200", v6: "fd00::2", slots: []overspan.Slot{200, 2}, blocks: []string{"200+1", "2+2"},
		},
		{
			name: "by two in one block", spec: Spec{Subnets: narrow.Subnets, Aux: map[string]string{"held": "10.0.0.20"}},
			want: Addrs{IPv4: addr("10.0.0.17"), IPv6: addr("fd00::12")},
			v4:   "10.0.0.17", v6: "fd00::12", slots: []overspan.Slot{17, 18}, blocks: []string{"16+4"},
		},
		{
			name: "of the wrong family", spec: wide, want: Addrs{IPv4: addr("fd00::9")},
			text: "fd00::9 is not an IPv4 address",
		},
		{
			name: "of the other wrong family", spec: wide, want: Addrs{IPv6: addr("10.0.0.9")},
			text: "10.0.0.9 is not an IPv6 address",
		},
		{
			name: "the second of two is reserved", spec: wide, want: Addrs{IPv4: addr("10.0.0.9"), IPv6: addr("fd00::ff")},
			text: "address fd00::ff cannot be lent: 10.0.0.255, which goes with it, is the broadcast address",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t, network(t, tc.spec), "h1")
			if tc.spec.Aux != nil {
				c.give(t, "16+4", "h1")
			}
			lease, err := c.members["h1"].attach(t.Context(), tc.want)
			if tc.text != "" {
				if !errors.Is(err, overspan.ErrInvalid) || !strings.Contains(err.Error(), tc.text) {
					t.Errorf("got %v, want %q", err, tc.text)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if lease.IPv4 != addr(tc.v4) || lease.IPv6 != addr(tc.v6) {
				t.Errorf("got %s and %s, want %s and %s", lease.IPv4, lease.IPv6, tc.v4, tc.v6)
			}
			var blocks []overspan.Range
			for _, text := range tc.blocks {
				blocks = append(blocks, block(t, text, "h1").Range)
			}
			got := []overspan.Range{}
			for _, b := range lease.Blocks {
				got = append(got, b.Range)
			}
			if diff := cmp.Diff(tc.slots, lease.Slots) + cmp.Diff(blocks, got); diff != "" {
				t.Errorf("slots and blocks (-want +got):\n%s", diff)
			}
		})
	}
}

// TestSecondSlotRefused leaves nothing behind of the first.
func TestSecondSlotRefused(t *testing.T) {
	c := newCluster(t, network(t, Spec{Subnets: []string{"10.0.0.0/24", "fd00::/64"}}), "h1")
	h1 := c.members["h1"]
	if _, err := h1.attach(t.Context(), Addrs{IPv6: addr("fd00::8")}); err != nil {
		t.Fatal(err)
	}
	if _, err := h1.attach(t.Context(), Addrs{IPv4: addr("10.0.0.9"), IPv6: addr("fd00::8")}); !errors.Is(err, overspan.ErrInUse) {
		t.Fatalf("got %v, want %v", err, overspan.ErrInUse)
	}
	if _, err := h1.attach(t.Context(), Addrs{IPv4: addr("10.0.0.9")}); err != nil {
		t.Errorf("the first address is lost: %v", err)
	}
}
