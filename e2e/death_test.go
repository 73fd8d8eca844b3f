package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overspan/overspan/e2e/lab"
)

// movedWithin is what a new home of an address may take until everybody reaches
// it there.
const movedWithin = 2 * time.Second

// defaultTTL is the default of --presence-ttl: how long a node's presence outlives
// it, at the most. What etcd takes to end a lease comes on top, and a snapshot.
const defaultTTL = 15 * time.Second

// downWithin bounds how long it takes until everybody knows that a node is away.
func downWithin(ttl time.Duration) time.Duration { return ttl + 2*time.Second }

// returnsWithin bounds how long a node takes that finds etcd again.
const returnsWithin = 10 * time.Second

// die takes a node's agent, sandboxes and links away, as a loss of power does.
func (c *cluster) die(n *lab.Node) {
	c.t.Helper()
	c.must(n.Kill(c.t.Context()))
	c.boxes = slices.DeleteFunc(c.boxes, func(box *lab.Sandbox) bool {
		if box.Node == n {
			c.must(box.DelNetns(c.t.Context()))
		}
		return box.Node == n
	})
	c.plugs = slices.DeleteFunc(c.plugs, func(p plug) bool { return p.box.Node == n })
	links, err := n.Exec(c.t.Context(), "ip", "-o", "link", "show")
	c.must(err)
	for line := range strings.Lines(links) {
		name := strings.TrimSuffix(strings.Fields(line)[1], ":")
		name, _, _ = strings.Cut(name, "@")
		if strings.HasPrefix(name, "os") {
			// A veth may have gone with its namespace.
			_, err := n.Run(c.t.Context(), "ip", "link", "del", name)
			c.must(err)
		}
	}
}

// id returns a node's id.
func (c *cluster) id(asked, n *lab.Node) string {
	c.t.Helper()
	return c.ctl(asked, "node", "inspect", "--format", "{{.ID}}", n.Name)
}

// status returns how a node lists another: "up active", or "" if it does not.
func status(ctx context.Context, asked, n *lab.Node) (string, error) {
	list, err := asked.MustCtl(ctx, "node", "ls", "--format", "{{.Name}} {{.Status}} {{.Availability}}")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(list) {
		if rest, is := strings.CutPrefix(strings.TrimSpace(line), n.Name+" "); is {
			return rest, nil
		}
	}
	return "", nil
}

// lists waits until some nodes list another with a status.
func (c *cluster) lists(within time.Duration, n *lab.Node, want string, asked ...*lab.Node) {
	c.t.Helper()
	c.eventually(within, func(ctx context.Context) error {
		for _, a := range asked {
			if got, err := status(ctx, a, n); err != nil || got != want {
				return errors.Join(err, fmt.Errorf("%s lists %s as %q, want %q", a.Name, n.Name, got, want))
			}
		}
		return nil
	})
}

// answers waits until an address answers all who ask.
func (c *cluster) answers(within time.Duration, addr netip.Addr, askers ...*lab.Sandbox) {
	c.t.Helper()
	for _, from := range askers {
		c.eventually(within, func(context.Context) error {
			lost, err := from.PingOnce(addr)
			if err == nil && len(lost) > 0 {
				err = fmt.Errorf("%s on %s has no answer from %s", from.Name, from.Node.Name, addr)
			}
			return err
		})
	}
}

// movesTo connects a sandbox under an address that a removed node had, and checks
// that all reach it there soon after the removal.
func (c *cluster) movesTo(home *lab.Sandbox, addr netip.Addr, removed time.Time, askers ...*lab.Sandbox) {
	c.t.Helper()
	// What the removed node held is freed right after its registration.
	c.eventually(movedWithin, func(ctx context.Context) error {
		_, err := home.Node.MustCtl(ctx, "network", "connect", "--ip", addr.String(), "demo", home.Name)
		return err
	})
	c.plugs = append(c.plugs, plug{home, "demo"})
	c.answers(movedWithin, addr, askers...)
	took := time.Since(removed)
	c.t.Logf("everybody reached %s at its new home %s after the removal", addr, took.Round(time.Millisecond))
	if took > movedWithin*lab.Patience {
		c.t.Errorf("everybody reached %s at its new home %s after the removal; want at most %s", addr, took, movedWithin*lab.Patience)
	}
}

// removed waits until a node's registration is gone from etcd, and returns when it
// was seen to be.
func (c *cluster) removed(within time.Duration, id string) time.Time {
	c.t.Helper()
	var seen time.Time
	c.eventually(within, func(ctx context.Context) error {
		left, err := c.keys(ctx, "nodes/"+id)
		seen = time.Now()
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("%s is registered", id)
		}
		return err
	})
	return seen
}

// forgotten waits until nothing in etcd names a node, and nothing on the others
// leads to it.
func (c *cluster) forgotten(within time.Duration, n *lab.Node, id string, others ...*lab.Node) {
	c.t.Helper()
	c.eventually(within, func(ctx context.Context) error {
		all, err := c.Etcd.Dump(ctx, lab.Prefix)
		if err != nil {
			return err
		}
		for _, key := range slices.Sorted(maps.Keys(all)) {
			if strings.Contains(key, id) || strings.Contains(all[key], id) {
				return fmt.Errorf("etcd still holds %s = %s", key, all[key])
			}
		}
		for _, other := range others {
			fp, err := other.Footprint(ctx)
			if err != nil {
				return err
			}
			for _, line := range fp {
				if slices.Contains(strings.Fields(line), n.Addrs[0].String()) {
					return fmt.Errorf("%s still has %s", other.Name, line)
				}
			}
		}
		return nil
	})
}

// lasting returns a node's footprint without the link-local addresses, which
// come by themselves some seconds after a link is up.
func (c *cluster) lasting(n *lab.Node) lab.Footprint {
	c.t.Helper()
	all, err := n.Footprint(c.t.Context())
	c.must(err)
	return slices.DeleteFunc(all, func(line string) bool { return strings.Contains(line, "fe80:") })
}

// beside returns an address of the same block that no endpoint has.
func beside(a netip.Addr) netip.Addr { return a.Next() }

// neighbour reports whether a node has a permanent neighbour entry for an address.
func neighbour(ctx context.Context, n *lab.Node, a netip.Addr) (bool, error) {
	out, err := n.Exec(ctx, "ip", "neigh", "show", "nud", "permanent", "to", a.String())
	return strings.TrimSpace(out) != "", err
}

// nodeEvents returns what was told of nodes, without the probes of the recorder.
func nodeEvents(all []lab.Event) []string {
	var out []string
	for _, e := range all {
		if e.Type != "sandbox" {
			out = append(out, strings.Join([]string{e.Type, e.Action, e.Name}, " "))
		}
	}
	return out
}

// Scenario 17: "Node death (agent, sandboxes and links gone): after `node rm`
// from any other node, or `--reap-after`, address, name, FDB, neighbours are gone
// on all others without anyone's help; a container with the same name and address
// on H1 is reachable from H2 within 2 s."
func TestScenario17_NodeDeath(t *testing.T) {
	t.Parallel()
	c := start(t, lab.Options{Nodes: 4})
	h1, h2, h3, h4 := c.Nodes[0], c.Nodes[1], c.Nodes[2], c.Nodes[3]
	c.create(h1, "demo")
	a, b, far := c.attach(h1, "demo", "a"), c.attach(h2, "demo", "b"), c.attach(h4, "demo", "far")
	dead := c.attach(h3, "demo", "web")
	addr, id := c.addr(dead), c.id(h1, h3)
	c.mesh(a, b, far, dead)
	events, err := h2.Events(t.Context())
	c.must(err)
	traffic := c.traffic(a, b)
	before := map[*lab.Node]lab.Footprint{}
	for _, n := range []*lab.Node{h1, h2, h4} {
		before[n] = c.lasting(n)
		if known, err := neighbour(t.Context(), n, beside(addr)); err != nil || !known {
			t.Errorf("%s has no neighbour entry for %s of the block of h3: %v", n.Name, beside(addr), err)
		}
	}
	records, err := c.keys(t.Context())
	c.must(err)

	// Its death alone changes nothing but what is listed and told.
	c.die(h3)
	c.lists(downWithin(defaultTTL), h3, "down active", h1, h2, h4)
	for _, n := range []*lab.Node{h1, h2, h4} {
		if diff := before[n].Diff(c.lasting(n)); len(diff) > 0 {
			t.Errorf("the death of h3 changed %s (-before +now):\n%s", n.Name, strings.Join(diff, "\n"))
		}
	}
	now, err := c.keys(t.Context())
	c.must(err)
	if diff := cmp.Diff(records, now); diff != "" {
		t.Errorf("the death of h3 changed etcd (-before +now):\n%s", diff)
	}

	again := c.netns(h1, "web")
	c.refused(h1, []string{"ctl node rm h3"}, "network", "connect", "--name", "late", "--ip", addr.String(), "demo", "web")
	c.refused(h1, []string{"endpoint with name web already exists", "h3", "ctl node rm h3"}, "network", "connect", "demo", "web")
	c.refused(h1, []string{"node h2 is up: stop its agent, or use --force"}, "node", "rm", "h2")
	if out := c.ctl(h1, "node", "rm", "h3"); out != "h3" {
		t.Errorf("node rm prints %q, want h3", out)
	}
	c.movesTo(again, addr, time.Now(), a, b, far)
	c.forgotten(settleWithin, h3, id, h1, h2, h4)
	for _, n := range []*lab.Node{h1, h2, h4} {
		if known, err := neighbour(t.Context(), n, beside(addr)); err != nil || known {
			t.Errorf("%s still has a neighbour entry for %s, which nobody holds: %v", n.Name, beside(addr), err)
		}
	}
	c.lists(settleWithin, h3, "", h1, h2, h4)
	c.must(c.verified(t.Context()))
	traffic.stop()
	c.must(events.Stop(t.Context()))
	told := []string{"node down h3", "node remove h3", "endpoint disconnect web", "endpoint connect web"}
	if diff := cmp.Diff(told, nodeEvents(events.Seen())); diff != "" {
		t.Errorf("told on h2 (-want +got):\n%s", diff)
	}
	c.must(h3.Start(t.Context()))
	c.lists(settleWithin, h3, "up active", h1, h2)
	c.eventually(settleWithin, c.verified)
}

// The same when nobody runs node rm.
func TestScenario17_NodeIsReaped(t *testing.T) {
	t.Parallel()
	const ttl, reapAfter = 2 * time.Second, 3 * time.Second
	c := start(t, lab.Options{Nodes: 4, Flags: []string{"--presence-ttl", ttl.String(), "--reap-after", reapAfter.String()}})
	h1, h2, h3, h4 := c.Nodes[0], c.Nodes[1], c.Nodes[2], c.Nodes[3]
	c.create(h1, "demo")
	a, b, far := c.attach(h1, "demo", "a"), c.attach(h2, "demo", "b"), c.attach(h4, "demo", "far")
	dead := c.attach(h3, "demo", "web")
	addr, id := c.addr(dead), c.id(h1, h3)
	c.mesh(a, b, far, dead)
	again := c.netns(h1, "web")
	traffic := c.traffic(a, b)
	events, err := h2.Events(t.Context())
	c.must(err)
	c.die(h3)
	c.lists(downWithin(ttl), h3, "down active", h1)
	down := time.Now()
	if left, err := c.keys(t.Context(), "nodes/"+id); err != nil || len(left) != 1 {
		t.Errorf("of h3, which is down since just now, etcd holds the registrations %v, %v", left, err)
	}
	removed := c.removed(reapAfter+2*time.Second, id)
	// It was listed some time after its presence had ended.
	if after := removed.Sub(down); after < reapAfter-time.Second {
		t.Errorf("h3 was removed %s after it was listed as down; want %s", after, reapAfter)
	}
	c.movesTo(again, addr, removed, a, b, far)
	c.forgotten(settleWithin, h3, id, h1, h2, h4)
	c.lists(settleWithin, h3, "", h1, h2, h4)
	traffic.stop()
	c.must(events.Stop(t.Context()))
	told := []string{"node down h3", "node remove h3", "endpoint disconnect web", "endpoint connect web"}
	if diff := cmp.Diff(told, nodeEvents(events.Seen())); diff != "" {
		t.Errorf("told on h2 (-want +got):\n%s", diff)
	}
	c.must(h3.Start(t.Context()))
	c.lists(settleWithin, h3, "up active", h1, h2)
	c.eventually(settleWithin, c.verified)
}

// serves checks that whoever asks finds an address at one sandbox: nowhere else
// does anybody listen.
func (c *cluster) serves(home *lab.Sandbox, addr netip.Addr, askers ...*lab.Sandbox) {
	c.t.Helper()
	ctx, cancel := lab.WithTimeout(c.t.Context(), settleWithin)
	defer cancel()
	for _, from := range askers {
		stream, err := from.StartStream(ctx, home, addr)
		c.must(err)
		if _, err := stream.Stop(); err != nil {
			c.t.Errorf("%s on %s and %s on %s: %v", from.Name, from.Node.Name, home.Name, home.Node.Name, err)
		}
	}
}

// Scenario 18: "The dead node returns with its old sandboxes still alive: the
// moved address answers only at its new home; the loss is reported on the
// returned node."
func TestScenario18_NodeReturns(t *testing.T) {
	t.Parallel()
	c := start(t, lab.Options{Nodes: 3, Flags: []string{"--presence-ttl", "2s"}})
	h1, h2, h3 := c.Nodes[0], c.Nodes[1], c.Nodes[2]
	c.create(h1, "demo")
	a, b := c.attach(h1, "demo", "a"), c.attach(h2, "demo", "b")
	old, kept := c.attach(h3, "demo", "web"), c.attach(h3, "demo", "kept")
	addr, keptAddr := c.addr(old), c.addr(kept)
	c.mesh(a, b, old, kept)
	c.must(h3.Restart(t.Context())) // its journal knows the network then, if no etcd is there
	c.must(h3.Kill(t.Context()))
	c.lists(downWithin(2*time.Second), h3, "down active", h1, h2)
	c.ctl(h2, "node", "rm", "h3")
	home := c.attach(h1, "demo", "web", "--ip", addr.String())
	c.serves(home, addr, a, b)

	// The agent returns before it can reach etcd, so that no event is missed.
	c.must(h3.Cut())
	c.must(h3.Start(t.Context()))
	events, err := h3.Events(t.Context())
	c.must(err)
	c.must(h3.Heal())
	c.lists(returnsWithin, h3, "up active", h1, h2)
	c.answers(returnsWithin, keptAddr, a)
	c.eventually(settleWithin, c.verified)
	c.mesh(a, b, kept, home)
	c.serves(home, addr, a, b, kept)
	c.misses(old, c.addr(a), c.addr(b), keptAddr)

	c.eventually(settleWithin, func(ctx context.Context) error {
		told := nodeEvents(events.Seen())
		if !slices.Contains(told, "endpoint lost web") {
			return fmt.Errorf("told on h3 is %q, want that web is lost", told)
		}
		list, err := h3.MustCtl(ctx, "endpoint", "ls", "demo", "--format", "{{.Name}} {{.Node}} {{.Lost}}")
		if err != nil {
			return err
		}
		if !strings.Contains(list, "web h3 "+addr.String()) {
			return fmt.Errorf("endpoint ls on h3 prints %q, want that web of h3 has lost %s", list, addr)
		}
		status, err := h3.MustCtl(ctx, "status")
		if err == nil && !strings.Contains(status, "endpoint web is off its network: "+addr.String()) {
			err = fmt.Errorf("status of h3 does not say that web is off its network:\n%s", status)
		}
		return err
	})
	c.must(events.Stop(t.Context()))
}

// What an absent node holds is freed one by one, and the node hears of it.
func TestEndpointOfAnAbsentNodeIsFreedByForce(t *testing.T) {
	t.Parallel()
	c := three(t)
	h1, h2, h3 := c.Nodes[0], c.Nodes[1], c.Nodes[2]
	c.create(h1, "demo")
	a, b := c.attach(h1, "demo", "a"), c.attach(h2, "demo", "b")
	old, kept := c.attach(h3, "demo", "web"), c.attach(h3, "demo", "kept")
	c.refused(h1, []string{"is up: disconnect it there"}, "network", "disconnect", "--force", "demo", "web")
	c.must(h3.Stop(t.Context()))
	c.lists(settleWithin, h3, "down active", h1)
	c.refused(h1, []string{"on node h3, which is away", "--force"}, "network", "disconnect", "demo", "web")
	if out := c.ctl(h1, "network", "disconnect", "--force", "demo", "web"); out != "" {
		t.Errorf("network disconnect --force prints %q", out)
	}
	again := c.attach(h1, "demo", "web")
	c.reaches(b, c.addr(again))
	c.reaches(a, c.addr(kept)) // which nobody has touched

	c.must(h3.Start(t.Context()))
	c.plugs = slices.DeleteFunc(c.plugs, func(p plug) bool { return p.box == old })
	c.eventually(settleWithin, func(ctx context.Context) error {
		if _, err := old.Link(eth0); err == nil {
			return errors.New("web on h3 still has its interface")
		}
		status, err := h3.MustCtl(ctx, "status")
		if err == nil && !strings.Contains(status, "endpoint web of web was disconnected from network demo by node h1") {
			err = fmt.Errorf("status of h3 does not say who took web off:\n%s", status)
		}
		return err
	})
	left, err := c.keys(t.Context(), "evicted/")
	if err != nil || len(left) > 0 {
		t.Errorf("notes that the node has read are still there: %v, %v", left, err)
	}
	c.mesh(a, b, kept, again)
}

func TestDrainedNodeTakesNothingNewAndGivesBack(t *testing.T) {
	t.Parallel()
	c := three(t)
	h1, h2, h3 := c.Nodes[0], c.Nodes[1], c.Nodes[2]
	c.create(h1, "demo")
	a, b := c.attach(h1, "demo", "a"), c.attach(h2, "demo", "b")
	kept := c.attach(h3, "demo", "kept")
	traffic := c.traffic(a, kept)
	if out := c.ctl(h1, "node", "drain", "h3"); out != "h3" {
		t.Errorf("node drain prints %q, want h3", out)
	}
	c.lists(settleWithin, h3, "up drain", h1, h2, h3)
	fresh := c.netns(h3, "fresh")
	c.refused(h3, []string{"node h3 is draining", "ctl node undrain h3"}, "network", "connect", "demo", "fresh")
	c.must(h3.Restart(t.Context()))
	c.refused(h3, []string{"node h3 is draining"}, "network", "connect", "demo", "fresh")
	traffic.stop()
	c.disconnect("demo", kept)
	c.eventually(settleWithin, func(ctx context.Context) error {
		list, err := h1.MustCtl(ctx, "ipam", "ls", "--format", "{{.Node}} {{.Used}}", "demo")
		if err == nil && strings.Contains(list, "h3") {
			err = fmt.Errorf("h3 still holds blocks:\n%s", list)
		}
		return err
	})
	c.ctl(h2, "node", "undrain", "h3")
	c.lists(settleWithin, h3, "up active", h1, h3)
	c.connect("demo", fresh)
	c.mesh(a, b, fresh)
}
