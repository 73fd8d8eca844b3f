package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/overspan/overspan/e2e/lab"
)

// Scenario 14: "IPv6-only and dual-stack overlays, over IPv4 and over IPv6
// underlays: full mesh, ND answered locally."
func TestScenario14_Families(t *testing.T) {
	t.Parallel()
	underlays := map[string]lab.Underlay{"ipv4": lab.UnderlayIPv4, "ipv6": lab.UnderlayIPv6, "dual": lab.UnderlayDual}
	networks := map[string][]string{
		"six":  {"--ipv6", "--ipv4=false", "six"},
		"both": {"--ipv6", "both"},
		"four": {"four"},
	}
	families := map[string]int{"six": 1, "both": 2, "four": 1}
	for underlay, kind := range underlays {
		t.Run("underlay="+underlay, func(t *testing.T) {
			c := start(t, lab.Options{Nodes: 3, Underlay: kind})
			captures := c.capture()
			for name, args := range networks {
				c.create(c.Nodes[0], args...)
				var boxes []*lab.Sandbox
				for _, n := range c.Nodes {
					box := c.attach(n, name, name+"-"+n.Name)
					if addrs, err := box.Addrs(eth0); err != nil || len(addrs) != families[name] {
						t.Errorf("%s on %s has the addresses %v, %v; want %d", box.Name, n.Name, addrs, err, families[name])
					}
					boxes = append(boxes, box)
				}
				c.mesh(boxes...)
			}
			for n, capture := range captures {
				capture.Stop()
				asked := capture.Frames(func(frame []byte) bool {
					inner, _, ok := lab.InVXLAN(frame, vxlanPort)
					return ok && (isStorm(inner) || lab.EtherType(inner) == unix.ETH_P_ARP)
				})
				if len(asked) > 0 {
					t.Errorf("on the underlay of %s passed %d ARP, ND or multicast frames, such as %x", n.Name, len(asked), asked[0])
				}
			}
		})
	}
}

// Scenario 15: "Underlay MTU 1400, 1500, 9000, mixed: ping -s (MTU-28) -M do
// passes end to end, one byte more fails locally."
func TestScenario15_MTU(t *testing.T) {
	t.Parallel()
	for name, mtus := range map[string][]int{
		"1400":  {1400, 1400, 1400},
		"1500":  {1500, 1500, 1500},
		"9000":  {9000, 9000, 9000},
		"mixed": {9000, 1400, 1500},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := start(t, lab.Options{Nodes: 3, MTU: mtus})
			c.create(c.Nodes[0], "demo")
			var boxes []*lab.Sandbox
			for _, n := range c.Nodes {
				boxes = append(boxes, c.attach(n, "demo", "box-"+n.Name))
			}
			least := min(mtus[0], mtus[1], mtus[2])
			for _, box := range boxes {
				link, err := box.Link(eth0)
				c.must(err)
				if want := least - 50; link.MTU != want {
					t.Errorf("%s has the MTU %d; want %d", box.Name, link.MTU, want)
				}
				for _, to := range boxes {
					if to != box {
						c.fits(box, to, link.MTU)
					}
				}
				c.tooLong(box, link.MTU)
			}
		})
	}
}

// headers are those of IPv4 and ICMP, in bytes.
const headers = 20 + 8

// fits checks that a packet of a size gets through unfragmented.
func (c *cluster) fits(from, to *lab.Sandbox, size int) {
	c.t.Helper()
	_, err := from.Exec(c.t.Context(), "ping", "-c1", "-W2", "-M", "do", "-s", strconv.Itoa(size-headers), c.addr(to).String())
	if err != nil {
		c.t.Errorf("a packet of %d bytes to %s: %v", size, to.Name, err)
	}
}

// tooLong checks that a packet a byte longer than the MTU is refused where it
// is sent. It goes to the gateway: that is on the same link as all others.
func (c *cluster) tooLong(from *lab.Sandbox, mtu int) {
	c.t.Helper()
	gateway := c.subnet(from.Node, "demo").Addr().Next()
	res, err := from.Run(c.t.Context(), "ping", "-c1", "-W1", "-M", "do", "-s", strconv.Itoa(mtu+1-headers), gateway.String())
	c.must(err)
	if said := res.Stdout + res.Stderr; !strings.Contains(said, fmt.Sprintf("essage too long, mtu=%d", mtu)) {
		c.t.Errorf("a packet of %d bytes was not refused locally: %s", mtu+1, said)
	}
}
