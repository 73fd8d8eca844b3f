package e2e

import "testing"

// Endpoints whose MAC does not follow from their slots are exceptions that
// peers program one by one: a MAC of the user's choice, two slots, and a slot
// that no IPv4 address has. The first packet reaches them all the same.
func TestExceptionsAreReachable(t *testing.T) {
	t.Parallel()
	c := three(t)
	h1, h2, h3 := c.Nodes[0], c.Nodes[1], c.Nodes[2]
	c.create(h1, "--subnet", "10.71.0.0/24", "--subnet", "fd00:71::/64", "demo")
	c.mesh(
		c.attach(h2, "demo", "plain"),
		c.attach(h1, "demo", "chosen", "--mac-address", "0a:00:00:00:00:71"),
		c.attach(h3, "demo", "twoslots", "--ip", "10.71.0.9", "--ip6", "fd00:71::77"),
		c.attach(h1, "demo", "high", "--ip6", "fd00:71::1234:5678:9abc"),
	)
}
