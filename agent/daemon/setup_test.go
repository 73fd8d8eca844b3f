package daemon

import (
	"maps"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/ipam"
	"github.com/overspan/overspan/store"
)

// TestFirstAgentSetsTheClusterUp has subnets and VNIs come from what the first agent
// was told, after it has gone as well, and another that is told otherwise say so.
func TestFirstAgentSetsTheClusterUp(t *testing.T) {
	c := &testCluster{t: t, etcd: store.NewMemory(1)}
	pool := func(prefix string, bits int) overspan.Pool {
		return overspan.Pool{Prefix: netip.MustParsePrefix(prefix), Bits: bits}
	}
	setup := overspan.Meta{
		Pools: overspan.Pools{Overlay: pool("10.128.0.0/9", 22), Bridge: pool("172.24.0.0/14", 25), IPv6: pool("fd12:3456:789a::/48", 64)},
		VNIs:  overspan.VNIRange{First: 4096, Last: 4097},
	}
	h1 := c.addWith(func(cfg *Config) { cfg.Setup = setup })
	h2 := c.addWith(func(cfg *Config) {
		cfg.Setup.Pools.Overlay = pool("10.0.0.0/8", 24)
		cfg.Setup.Pools.IPv6 = setup.Pools.IPv6
		cfg.Setup.VNIs = overspan.VNIRange{First: 1, Last: 2}
	})
	vnis := map[uint32]bool{}
	for _, tt := range []struct{ name, ipv4, ipv6 string }{
		{"demo", "10.128.0.0/22", "fd12:3456:789a::/64"},
		{"more", "10.128.4.0/22", "fd12:3456:789a:1::/64"},
	} {
		n := h2.create(CreateRequest{Spec: ipam.Spec{Name: tt.name, IPv6: true}})
		if n.IPv4.Prefix.String() != tt.ipv4 || n.IPv6.Prefix.String() != tt.ipv6 {
			t.Errorf("network %s has %s and %s, want %s and %s", n.Name, n.IPv4.Prefix, n.IPv6.Prefix, tt.ipv4, tt.ipv6)
		}
		vnis[n.VNI] = true
	}
	if want := map[uint32]bool{4096: true, 4097: true}; !maps.Equal(vnis, want) {
		t.Errorf("networks have the VNIs %v, want %v", vnis, want)
	}
	if _, err := h2.CreateNetwork(t.Context(), CreateRequest{Spec: ipam.Spec{Name: "third", Driver: "overlay"}}); err == nil {
		t.Error("a third network has a VNI, of a range of two")
	}
	if n, err := h1.CreateNetwork(t.Context(), CreateRequest{Spec: ipam.Spec{Name: "own", Driver: "bridge"}}); err != nil || n.IPv4.Prefix.String() != "172.24.0.0/25" {
		t.Errorf("a bridge has %+v, %v", n, err)
	}
	h1.stop()
	h1.start()
	if diff := cmp.Diff([]string(nil), setupWarnings(h1.cfg.Setup, h1.Snapshot().Meta)); diff != "" {
		t.Errorf("warnings of h1 (-want +got):\n%s", diff)
	}
	want := []string{
		"--overlay-pool base=10.0.0.0/8,size=24 has no effect: the cluster was set up with base=10.128.0.0/9,size=22, and keeps it; take the flag off this node, or give it that value",
		"--vni-range 1-2 has no effect: the cluster was set up with 4096-4097, and keeps it; take the flag off this node, or give it that value",
	}
	if diff := cmp.Diff(want, setupWarnings(h2.cfg.Setup, h2.Snapshot().Meta)); diff != "" {
		t.Errorf("warnings of h2 (-want +got):\n%s", diff)
	}
}
