package overlay

import "github.com/overspan/overspan"

// What a frame grows by on the underlay, in bytes: the outer IP header, UDP 8,
// VXLAN 8, and the inner Ethernet header 14.
const (
	overhead4 = 20 + 8 + 8 + 14
	overhead6 = 40 + 8 + 8 + 14
)

// MTU returns the largest MTU, in bytes, that an overlay network can have on an
// underlay of a given one whose VTEPs are of family f.
func MTU(underlay int, f overspan.Family) int {
	if f == overspan.IPv6 {
		return underlay - overhead6
	}
	return underlay - overhead4
}
