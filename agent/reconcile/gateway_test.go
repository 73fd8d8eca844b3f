package reconcile

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overspan/overspan"
)

// homes is the networks that a sandbox may be in: dual has both families, in is
// internal.
func homes() map[overspan.NetworkID]*overspan.Network {
	out := map[overspan.NetworkID]*overspan.Network{}
	for i, name := range []string{"four", "dual", "in", "six"} {
		n := &overspan.Network{ID: overspan.NetworkID(name), Name: name, Internal: name == "in"}
		if name != "six" {
			n.IPv4 = overspan.Subnet{Prefix: netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/24", i)), Gateway: netip.MustParseAddr(fmt.Sprintf("10.%d.0.1", i))}
		}
		if name == "six" || name == "dual" {
			n.IPv6 = overspan.Subnet{Prefix: netip.MustParsePrefix(fmt.Sprintf("fd00:%d::/64", i)), Gateway: netip.MustParseAddr(fmt.Sprintf("fd00:%d::1", i))}
		}
		out[n.ID] = n
	}
	return out
}

// home is an attachment of sandbox s to a network, made at some second.
func home(network string, second int, priority int32) overspan.Attachment {
	n := homes()[overspan.NetworkID(network)]
	e := overspan.Endpoint{ID: overspan.EndpointID(network), Created: time.Unix(int64(second), 0), IPv4: n.IPv4.Addr(2), IPv6: n.IPv6.Addr(2)}
	e.Network = overspan.NetworkID(network)
	return overspan.Attachment{Endpoint: e, Sandbox: "s", Committed: true, GatewayPriority: priority}
}

func TestGatewayOf(t *testing.T) {
	pending := func(a overspan.Attachment) overspan.Attachment { a.Committed = false; return a }
	for _, test := range []struct {
		name   string
		homes  []overspan.Attachment
		v4, v6 overspan.EndpointID
	}{
		{"the oldest", []overspan.Attachment{home("four", 2, 0), home("dual", 1, 0)}, "dual", "dual"},
		{"each family by itself", []overspan.Attachment{home("four", 1, 0), home("dual", 2, 0), home("six", 3, 1)}, "four", "six"},
		{"the highest priority", []overspan.Attachment{home("four", 1, 0), home("dual", 2, 1)}, "dual", "dual"},
		{"a negative one is the last", []overspan.Attachment{home("four", 1, -1), home("dual", 2, 0)}, "dual", "dual"},
		{"never an internal network", []overspan.Attachment{home("in", 1, 9), home("four", 2, -9)}, "four", ""},
		{"nothing but internal ones", []overspan.Attachment{home("in", 1, 9)}, "", ""},
		{"not before it works", []overspan.Attachment{home("four", 1, 0), pending(home("dual", 2, 9))}, "four", "dual"},
		{"unless nothing else is there", []overspan.Attachment{home("in", 1, 0), pending(home("four", 2, 0))}, "four", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			works := func(a *overspan.Attachment) bool { return a.Committed }
			var here []*overspan.Attachment
			for _, a := range test.homes {
				here = append(here, &a)
			}
			want := Gateway{}
			for f, id := range map[overspan.Family]overspan.EndpointID{overspan.IPv4: test.v4, overspan.IPv6: test.v6} {
				if id != "" {
					want[f] = id
				}
			}
			for range 2 {
				if diff := cmp.Diff(want, GatewayOf(here, homes(), works)); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				slices.Reverse(here)
			}
		})
	}
}
