package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/overspan/overspan/e2e/lab"
)

// The kernel gives a new namespace the lowest number that is free: as a rule that
// of the one which has just gone, once that is cleared away. Spares take the numbers
// below, until the namespace x, or that of a process, has that one. Somebody else on
// the machine may be faster; what is asked of the agent is the same then.
const (
	rebornPath = `
		want=$(stat -Lc %i /run/netns/x)
		ip netns del x
		for i in $(seq 300); do
			ip netns add x
			[ "$(stat -Lc %i /run/netns/x)" = "$want" ] && break
			touch /run/netns/spare-$i
			mount --bind /run/netns/x /run/netns/spare-$i
			ip netns del x
		done
		[ -e /run/netns/x ] || ip netns add x
		for spare in /run/netns/spare-*; do [ ! -e $spare ] || ip netns del ${spare##*/}; done
		[ "$(stat -Lc %i /run/netns/x)" = "$want" ] && echo same || echo another`

	sleeperOfItsOwn = `
		own=$(stat -Lc %i /proc/self/ns/net)
		sleeper() {
			unshare --net sleep infinity </dev/null >/dev/null 2>&1 &
			pid=$!
			until ino=$(stat -Lc %i /proc/$pid/ns/net); [ "$ino" != "$own" ]; do :; done
		}`

	rebornProcess = sleeperOfItsOwn + `
		want=$(stat -Lc %i /proc/$1/ns/net)
		kill -KILL $1
		spares=
		for i in $(seq 300); do
			sleeper
			[ "$ino" = "$want" ] && break
			spares="$spares $pid"
		done
		[ "$ino" = "$want" ] || sleeper
		[ -z "$spares" ] || kill -KILL $spares
		echo $pid`
)

// A namespace that has the number of one that is gone is a stranger: it gets
// nothing of what that one had, and can be connected itself at once.
func TestNamespaceWithTheNumberOfADeadOne(t *testing.T) {
	c := three(t) // not in parallel: others would take the numbers
	h1, h2 := c.Nodes[0], c.Nodes[1]
	c.create(h1, "demo")
	peer := c.attach(h2, "demo", "peer")
	sh := func(script string, args ...string) string {
		t.Helper()
		out, err := h1.Exec(t.Context(), "sh", append([]string{"-ec", script, "sh"}, args...)...)
		c.must(err)
		return strings.TrimSpace(out)
	}
	endpoints := func(want ...string) {
		t.Helper()
		slices.Sort(want)
		c.eventually(settleWithin, func(ctx context.Context) error {
			out, err := h2.MustCtl(ctx, "endpoint", "ls", "demo", "--format", "{{.Name}}")
			if got := slices.Sorted(strings.FieldsSeq(out)); err == nil && !slices.Equal(got, want) {
				err = fmt.Errorf("the endpoints are %q, want %q", got, want)
			}
			return err
		})
	}

	// It came to be while the agent did not run.
	_, err := h1.Exec(t.Context(), "ip", "netns", "add", "x")
	c.must(err)
	c.ctl(h1, "network", "connect", "demo", "x")
	events, err := h2.Events(t.Context())
	c.must(err)
	c.must(h1.Stop(t.Context()))
	t.Logf("x has %s number", sh(rebornPath))
	c.must(h1.Start(t.Context()))
	endpoints("peer")
	if links := sh("ip netns exec x ip -o link show"); strings.Contains(links, eth0) {
		t.Errorf("a stranger got the endpoint:\n%s", links)
	}
	c.must(events.Stop(t.Context()))
	if told := nodeEvents(events.Seen()); !slices.Contains(told, "endpoint disconnect x") {
		t.Errorf("told on h2: %q, want that x is disconnected", told)
	}
	c.ctl(h1, "network", "connect", "demo", "x")

	// It is connected before the agent has looked.
	c.must(h1.Pause())
	t.Logf("x has %s number", sh(rebornPath))
	c.must(h1.Resume())
	c.servesAnew(h1, "x", peer, endpoints)

	c.processes(h1, peer, sh, endpoints)
}

// processes has a process get the number of a dead one's namespace, and a
// namespace outlive the process by which it is known.
func (c *cluster) processes(n *lab.Node, peer *lab.Sandbox, sh func(string, ...string) string, endpoints func(...string)) {
	c.t.Helper()
	first := sh(sleeperOfItsOwn + "\nsleeper; echo $pid")
	c.ctl(n, "network", "connect", "demo", "pid:"+first)
	c.must(n.Pause())
	second := sh(rebornProcess, first)
	c.must(n.Resume())
	c.ctl(n, "network", "connect", "demo", "pid:"+second)
	endpoints("peer", "pid-"+second)

	sh("ip netns attach kept $1; kill -KILL $1", second)
	c.servesAnew(n, "kept", peer, endpoints)
}

// servesAnew connects a namespace that the agent has known as another's, checks that it
// and its peer alone are there and meet, and takes it away.
func (c *cluster) servesAnew(n *lab.Node, name string, peer *lab.Sandbox, endpoints func(...string)) {
	c.t.Helper()
	c.ctl(n, "network", "connect", "demo", name)
	box, err := n.OpenSandbox(name, "/run/netns/"+name)
	c.must(err)
	c.mesh(peer, box)
	endpoints("peer", name)
	c.ctl(n, "network", "disconnect", "demo", name)
	c.must(box.DelNetns(c.t.Context()))
}
