package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/overspan/overspan/e2e/lab"
)

// hasShortcut returns an error unless packets from other nodes are taken past the
// packet filter of a node, or are not.
func hasShortcut(n *lab.Node, want bool) func(context.Context) error {
	return func(ctx context.Context) error {
		filters, err := n.Exec(ctx, "tc", "filter", "show", "dev", "eth0", "ingress")
		if got := strings.Contains(filters, "overspan_underlay"); err == nil && got != want {
			err = fmt.Errorf("%s: eth0 has the program: %v, want %v", n.Name, got, want)
		}
		return err
	}
}

// TestShortcut: what comes from other nodes gets straight to endpoints, and what goes
// there straight to the underlay, unless IPsec has a say in it, and as long as there is
// a network that it comes by.
func TestShortcut(t *testing.T) {
	t.Parallel()
	c := start(t, lab.Options{Nodes: 2})
	h1, h2 := c.Nodes[0], c.Nodes[1]
	c.eventually(settleWithin, hasShortcut(h1, false)) // nobody needs it yet
	c.create(h1, "--ipv6", "demo")
	a, b := c.attach(h1, "demo", "a"), c.attach(h2, "demo", "b")
	for _, n := range c.Nodes {
		c.eventually(settleWithin, hasShortcut(n, true))
	}
	vxlan, err := h1.Exec(t.Context(), "sh", "-c", "ls -d /proc/sys/net/ipv4/conf/osx-* | sed 's,.*/,,'")
	c.must(err)
	counted := func() (packets [2]int) { // received, sent
		out, err := h1.Exec(t.Context(), "sh", "-c", "grep "+strings.TrimSpace(vxlan)+": /proc/net/dev | sed 's/.*://' | awk '{print $2, $10}'")
		c.must(err)
		_, err = fmt.Sscan(out, &packets[0], &packets[1])
		c.must(err)
		return packets
	}
	before := counted()
	c.mesh(a, b)
	if after := counted(); after != before {
		t.Errorf("the VXLAN device has received and sent %v packets before, and %v after", before, after)
	}

	const policy = " src 192.0.2.0/24 dst 192.0.2.0/24 dir in"
	_, err = h1.Exec(t.Context(), "sh", "-ec", "ip xfrm policy add"+policy+" tmpl src 192.0.2.1 dst 192.0.2.2 proto esp mode tunnel")
	c.must(err)
	c.eventually(2*time.Second, hasShortcut(h1, false))
	c.eventually(settleWithin, func(ctx context.Context) error {
		status, err := h1.MustCtl(ctx, "status")
		if err == nil && !strings.Contains(status, "IPsec policies") {
			err = errors.New("the status does not say why: " + status)
		}
		return err
	})
	before = counted()
	c.mesh(a, b)
	if after := counted(); after[0] == before[0] || after[1] == before[1] {
		t.Errorf("with IPsec the VXLAN device has received and sent %v packets before, and %v after", before, after)
	}
	_, err = h1.Exec(t.Context(), "sh", "-ec", "ip xfrm policy del"+policy)
	c.must(err)
	c.eventually(2*time.Second, hasShortcut(h1, true))

	c.disconnect("demo", a)
	c.disconnect("demo", b)
	c.ctl(h1, "network", "rm", "demo")
	for _, n := range c.Nodes {
		c.eventually(settleWithin, hasShortcut(n, false))
	}
}
