package daemon

import (
	"fmt"

	"github.com/overspan/overspan"
)

// setupWarnings tells where this node asks for what the cluster was not set up with.
func setupWarnings(wish, has overspan.Meta) []string {
	if has == (overspan.Meta{}) {
		return nil // nobody has set it up yet
	}
	var out []string
	warn := func(flag string, wish, has fmt.Stringer) {
		out = append(out, fmt.Sprintf("--%s %s has no effect: the cluster was set up with %s, and keeps it; take the flag off this node, or give it that value", flag, wish, has))
	}
	for _, pool := range []struct {
		flag      string
		wish, has overspan.Pool
	}{
		{"overlay-pool", wish.Pools.Overlay, has.Pools.Overlay},
		{"bridge-pool", wish.Pools.Bridge, has.Pools.Bridge},
		{"ipv6-pool", wish.Pools.IPv6, has.Pools.IPv6},
	} {
		if pool.wish != (overspan.Pool{}) && pool.wish != pool.has {
			warn(pool.flag, pool.wish, pool.has)
		}
	}
	if wish.VNIs != (overspan.VNIRange{}) && wish.VNIs != has.VNIs {
		warn("vni-range", wish.VNIs, has.VNIs)
	}
	return out
}
