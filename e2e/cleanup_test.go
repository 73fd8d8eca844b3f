package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/overspan/overspan/e2e/lab"
)

// hostAsFound prints what an agent changes of a host: links, namespaces but for
// those that the test has made meanwhile, rules
// and the tables that they are in, sets, and settings of the host and its
// devices.
const hostAsFound = `
	ip -o link show; ip addr show dev eth0; ip route; ip -6 route; ip netns list | grep -v ^user- || true; ls -d /run/overspan 2>/dev/null || true
	iptables-save; ip6tables-save; ipset save; nft list tables; tc qdisc show dev eth0
	for f in /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/*/* /proc/sys/net/ipv6/conf/*/*; do
		case $f in */stable_secret) ;; *) echo $f $(cat $f) ;; esac
	done`

func (c *cluster) asFound(n *lab.Node) []string {
	c.t.Helper()
	out, err := n.Exec(c.t.Context(), "sh", "-c", hostAsFound)
	c.must(err)
	return still(out)
}

// Scenario 38: "agent --cleanup leaves ip link, ip netns, iptables-save, sysctl
// as before the first start."
func TestScenario38_CleanupLeavesTheHostAsFound(t *testing.T) {
	t.Parallel()
	c := build(t, lab.Options{Nodes: 2})
	h1, h2 := c.Nodes[0], c.Nodes[1]
	_, err := h1.Exec(t.Context(), "sh", "-ec", "iptables -w -A FORWARD -p 253 -j DROP; ip6tables -w -t mangle -N FOREIGN; ip netns add foreign")
	c.must(err)
	before := c.asFound(h1)
	c.start()
	c.create(h1, "--ipv6", "demo")
	a, b := c.attach(h1, "demo", "user-a"), c.attach(h2, "demo", "user-b")
	c.ctl(h1, "network", "create", "-d", "bridge", "--internal", "local")
	c.ctl(h1, "sandbox", "create", "made")
	c.connect("local", a)
	if status, say := c.ctl(h1, "status"), "has become a router that lets everybody pass (ipv4, ipv6)"; !strings.Contains(status, say) {
		t.Errorf("status does not say %q:\n%s", say, status)
	}
	_, err = h1.Exec(t.Context(), "iptables", "-w", "-A", "OVERSPAN-USER", "-s", "192.0.2.9", "-j", "DROP")
	c.must(err)

	res, err := h1.RunAgent(t.Context(), "--cleanup")
	c.must(err)
	if res.Code != 1 || !strings.Contains(res.Stderr, "stop the agent first") {
		t.Errorf("beside an agent: exit status %d, %s", res.Code, res.Stderr)
	}
	// Its journal is elsewhere, but it answers where every agent does by default.
	bin, err := checkedBinaries()
	c.must(err)
	res, err = h1.Run(t.Context(), bin.Agent, "--cleanup", "--state-dir", filepath.Join(h1.Dir, "other"))
	c.must(err)
	if res.Code != 1 || !strings.Contains(res.Stderr, "it answers at /run/overspan/agent.sock") {
		t.Errorf("beside an agent with another state directory: exit status %d, %s", res.Code, res.Stderr)
	}
	c.mesh(a, b) // nothing was touched

	c.must(h1.Stop(t.Context()))
	res, err = h1.RunAgent(t.Context(), "--cleanup")
	c.must(err)
	c.must(res.Err())
	for _, word := range []string{"-A OVERSPAN-USER -s 192.0.2.9/32 -j DROP", "ctl node rm", "set sysctl net/ipv4/ip_forward 0"} {
		if !strings.Contains(res.Stdout, word) {
			t.Errorf("cleanup does not say %q:\n%s", word, res.Stdout)
		}
	}
	if diff := cmp.Diff(before, c.asFound(h1)); diff != "" {
		t.Errorf("the host (-before the first start +after cleanup):\n%s", diff)
	}
	res, err = h1.RunAgent(t.Context(), "--cleanup")
	c.must(err)
	if strings.Contains(res.Stdout, "del ") {
		t.Errorf("a second cleanup finds more:\n%s", res.Stdout)
	}

	// The state directory was kept: an agent serves again what it served.
	c.must(h1.Start(t.Context()))
	c.eventually(settleWithin, c.verified)
	c.mesh(a, b)
	c.ctl(h1, "sandbox", "rm", "made")
}
