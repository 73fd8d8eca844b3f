package daemon

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/overspan/overspan"
)

func TestUnderlayFamily(t *testing.T) {
	four, six := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	for _, tt := range []struct {
		name  string
		vteps [][]netip.Addr
		want  overspan.Family
	}{
		{"all have both", [][]netip.Addr{{four, six}, {four, six}}, overspan.IPv4},
		{"one has IPv4 alone", [][]netip.Addr{{four, six}, {four}}, overspan.IPv4},
		{"one has IPv6 alone", [][]netip.Addr{{four, six}, {six}}, overspan.IPv6},
		{"no family is on all", [][]netip.Addr{{four}, {four, six}, {six}}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			nodes := map[overspan.NodeID]*overspan.Node{}
			for i, vteps := range tt.vteps {
				name := string(rune('a' + i))
				nodes[overspan.NodeID(name)] = &overspan.Node{Name: "host-" + name, VTEPs: vteps}
			}
			got, err := underlayFamily(nodes)
			if got != tt.want || (err != nil) != (tt.want == "") {
				t.Errorf("family %q, error %v; want %q", got, err, tt.want)
			}
			if tt.want == "" && (!errors.Is(err, overspan.ErrInvalid) || !strings.Contains(err.Error(), "nodes host-c and host-a")) {
				t.Errorf("error %v does not name the nodes", err)
			}
		})
	}
}
