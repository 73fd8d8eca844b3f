package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/overspan/overspan/e2e/lab"
	"github.com/overspan/overspan/internal/mutation"
)

// A theft puts something foreign where a device of ours has to be.
type theft struct {
	name  string
	steal string // commands, while the agent stands still
	say   string // what the agent complains of
	back  string // commands
}

// thefts take from a network with VNI 70000.
func thefts() []theft {
	return []theft{
		{
			"VNI taken", "ip link del VXLAN; ip link add thief type vxlan id 70000 dstport 4789",
			"VNI 70000 is in use by the foreign device thief", "ip link del thief",
		},
		{
			"port taken", "ip link del VXLAN; ip link add thief type vxlan external dstport 4789; ip link set thief up",
			"UDP port 4789 is in use by the foreign device thief in collect-metadata or gbp mode", "ip link del thief",
		},
		{
			"name taken", "ip link del BRIDGE; ip link add BRIDGE type bridge",
			"BRIDGE exists and is not ours", "ip link del BRIDGE",
		},
	}
}

// What cannot be repaired is named in status and by an event, keeps nothing else
// from being repaired, and is healed when what is in the way has gone.
func TestScenario22_ConflictsAreNamedAndHealed(t *testing.T) {
	c := build(t, lab.Options{Nodes: 2})
	for _, n := range c.Nodes {
		n.Flags = resync(longResync)
	}
	c.start()
	c.create(c.Nodes[0], "--ipv6", "-o", "vni=70000", "demo")
	a, b := c.attach(c.Nodes[0], "demo", "a"), c.attach(c.Nodes[1], "demo", "b")
	s := c.newSite("demo", a, b)
	addrs, err := b.Addrs(eth0)
	c.must(err)
	ping, err := a.StartPing(addrs[0])
	c.must(err)
	for _, th := range thefts() {
		seen := len(s.events.Seen())
		c.must(s.node.Pause())
		_, err := s.node.Exec(t.Context(), "sh", "-ec", s.objects.Expand(th.steal))
		c.must(s.node.Resume())
		c.must(err)
		say := s.objects.Expand(th.say)
		s.eventuallyTold(seen, "conflict", say)
		c.eventually(settleWithin, func(context.Context) error { return s.statusSays(say, true) })
		// Beside it, as ever.
		_, err = s.repair(t.Context(), mutation.Mutation{
			Name: "jump removed", Host: "iptables -w -D INPUT -j OVERSPAN-INPUT", Told: "jump from INPUT",
		}, repairWithin)
		if err != nil {
			t.Errorf("%s: drift beside it: %v", th.name, err)
		}

		_, err = s.node.Exec(t.Context(), "sh", "-ec", s.objects.Expand(th.back))
		c.must(err)
		begin := time.Now()
		c.must(s.asBefore(t.Context(), repairWithin))
		t.Logf("%s: healed %d ms after the way was free", th.name, time.Since(begin).Milliseconds())
		s.eventuallyTold(seen, "resolve", "")
		c.eventually(settleWithin, func(context.Context) error { return s.statusSays(say, false) })
		c.must(ping.Recover(t.Context(), settleWithin))
	}
	ping.Stop(t.Context())
	c.mesh(a, b)
}

// eventuallyTold waits until an event of the kernel says the words.
func (s *site) eventuallyTold(from int, action, words string) {
	s.c.t.Helper()
	s.c.eventually(settleWithin, func(context.Context) error {
		_, err := s.told(from, action, words)
		return err
	})
}

// statusSays reports an error unless status says the words, or says them not.
func (s *site) statusSays(words string, want bool) error {
	out, err := s.node.MustCtl(s.c.t.Context(), "status")
	if err == nil && strings.Contains(out, words) != want {
		err = fmt.Errorf("status says %q: %t; want %t:\n%s", words, !want, want, out)
	}
	return err
}

// A watch that the kernel cut off because events came faster than the agent
// took them is made again, and everything is looked at.
func TestScenario22_LostEventsAreMadeUpFor(t *testing.T) {
	c := build(t, lab.Options{Nodes: 2})
	h1 := c.Nodes[0]
	h1.Flags = resync(longResync)
	_, err := h1.Exec(t.Context(), "ip", "link", "add", "foreign", "type", "bridge")
	c.must(err)
	c.start()
	c.create(h1, "--ipv6", "demo")
	a, b := c.attach(h1, "demo", "a"), c.attach(c.Nodes[1], "demo", "b")
	s := c.newSite("demo", a, b)

	c.must(h1.Pause())
	_, err = h1.Exec(t.Context(), "sh", "-ec", s.objects.Expand(`
		seq 1 50000 | awk '{m=sprintf("02:00:00:00:%02x:%02x",$1/256,$1%256); print "fdb add " m " dev foreign self permanent"; print "fdb del " m " dev foreign self"}' | bridge -batch -
		bridge fdb del REMOTEMAC dev VXLAN; ip link set VETH nomaster`))
	c.must(h1.Resume())
	c.must(err)
	c.must(s.asBefore(t.Context(), repairWithin+time.Second))
	c.mesh(a, b)
	if !strings.Contains(h1.LogTail(10000), "kernel events lost") {
		t.Error("no events were lost: the test tests nothing")
	}
}
