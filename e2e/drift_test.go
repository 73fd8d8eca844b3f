package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/e2e/lab"
	"github.com/overspan/overspan/internal/mutation"
)

const (
	// promptly is what the repair of what the kernel announces takes at most. A
	// machine that is loaded just then is given repairWithin, for one of twenty.
	promptly     = time.Second
	repairWithin = 2 * time.Second

	// shortResync is that of a node whose full passes a test waits for, longResync
	// of one on which a test must not see any.
	shortResync = time.Second
	longResync  = 10 * time.Minute
)

// A site is a node with one sandbox in the network that others spoil there.
type site struct {
	c       *cluster
	node    *lab.Node
	box     *lab.Sandbox
	objects mutation.Objects
	events  *lab.Events
	before  []string // what the kernel holds while nobody spoils it
	deaf    bool     // nothing that the kernel announces reaches the agent
}

// newSite looks at a node in whose network remote is a sandbox of another node.
func (c *cluster) newSite(network string, box, remote *lab.Sandbox) *site {
	c.t.Helper()
	id := overspan.NetworkID(c.inspect(box.Node, network).ID)
	veths, err := box.Node.Exec(c.t.Context(), "ip", "-o", "link", "show", "type", "veth")
	c.must(err)
	local, err := box.Link(eth0)
	c.must(err)
	far, err := remote.Link(eth0)
	c.must(err)
	addrs, err := remote.Addrs(eth0)
	c.must(err)
	s := &site{c: c, node: box.Node, box: box, objects: mutation.Objects{
		Bridge: overspan.BridgeName(id), VXLAN: overspan.VXLANName(id), Veth: firstMatch(veths, `(osv-[0-9a-f]+)`), Underlay: eth0,
		LocalMAC: local.HardwareAddr.String(), RemoteMAC: far.HardwareAddr.String(),
		RemoteIPv4: addrs[0].String(), RemoteIPv6: addrs[1].String(), RemoteVTEP: remote.Node.Addrs[0].String(),
	}}
	s.events, err = s.node.Events(c.t.Context())
	c.must(err)
	c.t.Cleanup(func() {
		if err := s.events.Stop(context.Background()); err != nil {
			c.t.Error(err)
		}
	})
	s.before, err = s.look(c.t.Context())
	c.must(err)
	return s
}

// lookAt prints what a node's kernel holds that anybody could spoil.
const lookAt = `
	ip -d -o link show; ip -o addr show; ip route show table all; ip -6 route show table all
	ip neigh show nud permanent; bridge fdb show; ipset save; tc qdisc show dev eth0; tc filter show dev eth0 ingress
	for f in /proc/sys/net/ipv4/conf/osb-*/arp_ignore /proc/sys/net/ipv6/conf/osb-*/accept_ra /proc/sys/net/ipv6/conf/osb-*/forwarding /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding; do echo $f $(cat $f); done`

// rulesAt prints all rules in their order. That of the tables is the order in
// which they were made.
const rulesAt = `for t in filter nat raw; do iptables-save -t $t; ip6tables-save -t $t; done; nft list table inet foreign 2>/dev/null || true`

// moving is what changes by itself, or with a device that is made anew:
// numbers of links and ports, timers, the state of the carrier, counters.
var moving = regexp.MustCompile(`^#.*|^\d+: |@\S+|\(id: \d+\)|link-net\w+ \S+|\S*timer +\S+|(port_|root_|designated_|bridge_)\w+ \S+|topology_change\w* \d` +
	`|\bstate \w+|\bqlen \d+|_lft \w+|expires \S+|\[\d+:\d+\]|linkdown|LOWER_UP|NO-CARRIER,?|M-DOWN|counter packets \d+ bytes \d+|\btentative`)

// look returns what the node's kernel holds and what the sandbox has.
func (s *site) look(ctx context.Context) ([]string, error) {
	out, err := look(ctx, s.node)
	if err != nil {
		return nil, err
	}
	inside, err := s.box.Exec(ctx, "sh", "-c", "ip -o addr show; ip -o link show; ip route; ip -6 route")
	return append(out, still(inside)...), err
}

// look returns what a node's kernel holds: rules in their order, the rest
// sorted.
func look(ctx context.Context, n *lab.Node) ([]string, error) {
	text, err := n.Exec(ctx, "sh", "-c", lookAt)
	if err != nil {
		return nil, err
	}
	rules, err := n.Exec(ctx, "sh", "-c", rulesAt)
	out := still(text)
	slices.Sort(out)
	return append(out, still(rules)...), err
}

// still returns the lines of a text without what changes by itself, and without what
// the kernel makes of it: link-local addresses, and the anycast addresses of routers,
// which it joins as forwarding goes on and off and nobody here sends to.
func still(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		line = vethMAC.ReplaceAllString(moving.ReplaceAllString(line, ""), "$1")
		line = strings.Join(strings.Fields(line), " ")
		if line != "" && !ofVethAlone(line) && !strings.Contains(line, "fe80:") && !strings.HasPrefix(line, "anycast ") {
			out = append(out, line)
		}
	}
	return out
}

// ofVethAlone reports whether a line is about what a veth's host end has by
// chance: its MAC is the kernel's choice.
func ofVethAlone(line string) bool {
	return strings.Contains(line, "osv-") && (strings.Contains(line, "ff00::") || strings.Contains(line, " permanent"))
}

var vethMAC = regexp.MustCompile(`(osv-.*link/ether) \S+`)

// spoil does a mutation to the site.
func (s *site) spoil(ctx context.Context, m mutation.Mutation) error {
	if m.Host != "" {
		if _, err := s.node.Exec(ctx, "sh", "-ec", s.objects.Expand(m.Host)); err != nil {
			return err
		}
	}
	if m.Inside != "" {
		if _, err := s.box.Exec(ctx, "sh", "-ec", s.objects.Expand(m.Inside)); err != nil {
			return err
		}
	}
	return nil
}

// whole reports whether the kernel holds what it held before.
func (s *site) whole(ctx context.Context) error {
	now, err := s.look(ctx)
	if err != nil {
		return err
	}
	if diff := cmp.Diff(s.before, now); diff != "" {
		return fmt.Errorf("(-before +now):\n%s", diff)
	}
	return nil
}

// judge spoils the site and waits until that is told as repaired and everything
// is as before; both must happen within a time. It returns how long it took from
// the mutation's beginning until its repair was told.
func (s *site) judge(ctx context.Context, m mutation.Mutation, within time.Duration) (time.Duration, error) {
	seen := len(s.events.Seen())
	before, err := repaired(ctx, s.node)
	if err != nil {
		return 0, err
	}
	took, err := s.repair(ctx, m, within)
	if err != nil {
		return 0, err
	}
	if m.Left != "" {
		if _, err := s.node.Exec(ctx, "sh", "-ec", m.Left); err != nil {
			return 0, fmt.Errorf("what is foreign was touched: %w", err)
		}
	}
	if err := s.asBefore(ctx, within); err != nil {
		return 0, err
	}
	return took, lab.Eventually(ctx, within, func(context.Context) error { return s.counts(ctx, seen, before) })
}

// asBefore waits until a look that has begun within a time finds everything as it
// was: how long the look itself takes beside other tests says nothing of the agent.
func (s *site) asBefore(ctx context.Context, within time.Duration) error {
	return lab.Eventually(ctx, within, func(context.Context) error { return s.whole(ctx) })
}

// repair spoils the site and waits until that is told as repaired.
func (s *site) repair(ctx context.Context, m mutation.Mutation, within time.Duration) (time.Duration, error) {
	if s.deaf {
		if err := s.node.Deafen(); err != nil { // again: it may listen anew
			return 0, err
		}
	}
	seen, begin := len(s.events.Seen()), time.Now()
	if err := s.spoil(ctx, m); err != nil {
		return 0, err
	}
	if m.Noticed == mutation.ByVeth {
		begin = time.Now()
		if err := s.leftAlone(ctx, m, seen); err != nil {
			return 0, err
		}
	}
	var at time.Time
	err := lab.Eventually(ctx, within, func(context.Context) (err error) {
		at, err = s.told(seen, "repair", s.objects.Expand(m.Told))
		return err
	})
	return at.Sub(begin), err
}

// leftAlone checks that what was done inside the container is found by ctl
// verify, unless something else made the agent look there already. Then it
// gives the veth a reason to be looked at.
func (s *site) leftAlone(ctx context.Context, m mutation.Mutation, seen int) error {
	res, err := s.node.Ctl(ctx, "verify")
	if err != nil {
		return err
	}
	_, unseen := s.told(seen, "repair", s.objects.Expand(m.Told))
	if unseen != nil && !strings.Contains(res.Stdout, "set inside "+s.objects.Veth) {
		return fmt.Errorf("ctl verify does not name it:\n%s%s", res.Stdout, res.Stderr)
	}
	_, err = s.node.Exec(ctx, "ip", "link", "set", s.objects.Veth, "mtu", "1299")
	return err
}

// told returns when an event of the kernel was told that says the words.
func (s *site) told(from int, action, words string) (time.Time, error) {
	var others []string
	for _, e := range s.events.Seen()[from:] {
		if e.Type == "kernel" && e.Action == action && strings.Contains(e.Name, words) {
			if s.deaf && e.Attributes["cause"] == "hint" {
				return e.Time, fmt.Errorf("%s has heard of it", s.node.Name)
			}
			return e.Time, nil
		}
		others = append(others, e.Action+" "+e.Name)
	}
	return time.Time{}, fmt.Errorf("no event %s says %q; told were:\n%s", action, words, strings.Join(others, "\n"))
}

// resync returns the flags of an agent that looks at everything so often.
func resync(every time.Duration) []string {
	return []string{"--resync", (every * lab.Patience).String()}
}

// Scenario 22: "Device deleted, bridge deleted, FDB flushed, neighbours flushed,
// link set down, MAC changed, MTU changed, jump rule removed: repaired in under
// 1 s each, event names it."
func TestScenario22_DriftIsRepaired(t *testing.T) {
	c := build(t, lab.Options{Nodes: 2})
	h1, h2 := c.Nodes[0], c.Nodes[1]
	h1.Flags, h2.Flags = resync(longResync), resync(shortResync)
	c.start()
	c.create(h1, "--ipv6", "demo")
	a, b := c.attach(h1, "demo", "a"), c.attach(h2, "demo", "b")
	prompt, slow := c.newSite("demo", a, b), c.newSite("demo", b, a)
	if n, err := repaired(t.Context(), h1); err != nil || len(n) > 0 {
		t.Errorf("the repairs %v are counted before anybody spoilt anything, %v", n, err)
	}
	var pings []*lab.Pinger
	addrs, err := b.Addrs(eth0)
	c.must(err)
	for _, to := range addrs {
		ping, err := a.StartPing(to)
		c.must(err)
		pings = append(pings, ping)
	}
	run := func(s *site, all []mutation.Mutation, within time.Duration) (each []time.Duration) {
		for _, m := range all {
			took, err := s.judge(t.Context(), m, within)
			if err != nil {
				t.Errorf("%s on %s: %v", m.Name, s.node.Name, err)
			}
			each = append(each, took)
			t.Logf("%-30s on %s repaired in %4d ms", m.Name, s.node.Name, took.Milliseconds())
			for _, p := range pings {
				if err := p.Recover(t.Context(), settleWithin); err != nil {
					t.Errorf("%s on %s: %v", m.Name, s.node.Name, err)
				}
			}
		}
		return each
	}
	announced, silent := split(mutation.All(), func(m mutation.Mutation) bool { return m.Noticed != mutation.ByResync })
	var both sync.WaitGroup
	// A third of what is announced, another one each time, is as good on a deaf node.
	missed, _ := split(announced, func(m mutation.Mutation) bool { return m.Noticed == mutation.ByEvent })
	random := rand.New(rand.NewPCG(seed(t), 0))
	random.Shuffle(len(missed), func(i, j int) { missed[i], missed[j] = missed[j], missed[i] })
	slow.deaf = true
	both.Go(func() { run(slow, slices.Concat(silent, missed[:len(missed)/3]), shortResync+repairWithin) })
	took := run(prompt, announced, repairWithin)
	both.Wait()
	slices.Sort(took)
	most := took[len(took)*19/20]
	t.Logf("of %d repairs half took at most %s, 19 of 20 %s, the longest %s", len(took), took[len(took)/2], most, took[len(took)-1])
	if most > promptly*lab.Patience {
		t.Errorf("more than one repair of 20 took longer than %s", promptly*lab.Patience)
	}
	stopAll(pings)
	c.mesh(a, b)
}

// split returns what a condition holds for, and the rest.
func split(all []mutation.Mutation, cond func(mutation.Mutation) bool) (yes, no []mutation.Mutation) {
	for _, m := range all {
		if cond(m) {
			yes = append(yes, m)
		} else {
			no = append(no, m)
		}
	}
	return yes, no
}
