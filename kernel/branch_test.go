package kernel

import (
	"testing"

	"github.com/overspan/overspan"
)

func TestBrokenBranches(t *testing.T) {
	const bridge, vxlan, veth = "osb-1", "osx-1", "osv-1"
	forward := ChainKey{overspan.IPv4, "filter", "OVERSPAN-FORWARD"}
	fdb, neigh := FDBKey{vxlan, mac(2)}, NeighKey{vxlan, addr("10.0.0.2")}
	tests := []struct {
		failed, next Op
		blocked      bool
	}{
		{AddNetns{"/run/n"}, AddLink{Name: veth, Inside: &Inside{Netns: "/run/n"}}, true},
		{AddNetns{"/run/n"}, AddLink{Name: veth, Inside: &Inside{Netns: "/run/o"}}, false},
		{AddLink{Name: bridge}, AddLink{Name: vxlan, Link: Link{Master: bridge}}, true},
		{AddLink{Name: bridge}, SetLink{Name: veth, Want: Link{Master: bridge}}, true},
		{AddLink{Name: bridge}, AddAddr{Addr{Dev: bridge}}, true},
		{AddLink{Name: bridge}, SetSysctl{Path: "net/ipv4/conf/" + bridge + "/arp_ignore"}, true},
		{AddLink{Name: bridge}, SetSysctl{Path: "net/ipv4/ip_forward"}, false},
		{AddLink{Name: vxlan}, SetFDB{Key: fdb}, true},
		{AddLink{Name: vxlan}, SetNeigh{Key: neigh}, true},
		{AddLink{Name: vxlan}, AddAddr{Addr{Dev: bridge}}, false},
		{AddLink{Name: veth}, AddStatic{FDBKey{Dev: veth}}, true},
		{DelLink{vxlan}, AddLink{Name: vxlan}, true},
		{Retire{[]string{veth}}, AddLink{Name: veth}, true},
		{AddSet{Name: "vteps"}, AddSetEntry{Set: "vteps"}, true},
		{DelSet{"vteps"}, AddSet{Name: "vteps"}, true},
		{AddChain{forward}, AddJump{Key: forward}, true},
		{LoadChains{forward.Family, forward.Table, map[string][]Rule{forward.Name: nil}}, AddJump{Key: forward}, true},
		{SetFDB{Key: fdb}, SetFDB{Key: fdb}, false},
		{AddLink{Name: bridge}, DelLink{bridge}, false},
	}
	for _, tt := range tests {
		failed := broken{}
		failed.add(tt.failed)
		if got := failed.blocks(tt.next); got != tt.blocked {
			t.Errorf("after %q failed, %q is blocked: %t, want %t", tt.failed, tt.next, got, tt.blocked)
		}
	}
}
