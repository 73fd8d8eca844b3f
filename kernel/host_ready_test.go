package kernel

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/overspan/overspan"
)

// TestNewAddressReceivesAtOnce: the kernel finishes an IPv6 address by and by;
// an attach must not return before it has.
func TestNewAddressReceivesAtOnce(t *testing.T) {
	h := newTestHost(t)
	path := newTestNetns(t, h, "c1")
	ns, err := openNetns(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	c, err := dialIn(ns)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	for i := range 40 {
		addr := netip.MustParseAddr(fmt.Sprintf("fd00::%x", i+2))
		name := fmt.Sprintf("osv-%010x", i)
		apply(t, h, AddLink{
			Name:   name,
			Link:   Link{Kind: KindVeth, Alias: overspan.AliasPrefix + "n/" + name, MTU: 1450, Up: true},
			Inside: &Inside{Netns: path, Name: fmt.Sprintf("eth%d", i), MAC: overspan.MAC{2, 0, 0, 0, 0, byte(i)}, MTU: 1450, Up: true, Addrs: []netip.Prefix{netip.PrefixFrom(addr, 64)}},
		})
		if local, err := c.isLocal(addr); err != nil || !local {
			t.Fatalf("address %d is not received when its attach returns: %v", i, err)
		}
	}
}
