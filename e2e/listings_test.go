package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overspan/overspan/e2e/lab"
)

// eventsSince returns the events that a node's agent remembers since a moment, a line
// each; flags choose among them.
func eventsSince(ctx context.Context, n *lab.Node, since time.Time, flags ...string) ([]string, error) {
	args := append([]string{"events", "-o", "json", "--until", "0s", "--since", since.Format(time.RFC3339Nano)}, flags...)
	out, err := n.MustCtl(ctx, args...)
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, line := range strings.Split(out, "\n") {
		var e lab.Event
		if line == "" {
			continue
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			return nil, fmt.Errorf("ctl events prints %q: %w", line, err)
		}
		words := []string{e.Type, e.Action, e.Name}
		if at := e.Attributes["node"]; at != "" {
			words = append(words, "on "+at)
		}
		lines = append(lines, strings.Join(words, " "))
	}
	return lines, nil
}

// tells waits until a node tells of exactly these events.
func (c *cluster) tells(n *lab.Node, since time.Time, want []string, flags ...string) {
	c.t.Helper()
	c.eventually(settleWithin, func(ctx context.Context) error {
		got, err := eventsSince(ctx, n, since, flags...)
		slices.Sort(got)
		if diff := cmp.Diff(slices.Sorted(slices.Values(want)), got); err == nil && diff != "" {
			err = fmt.Errorf("events %v on %s (-want +got):\n%s", flags, n.Name, diff)
		}
		return err
	})
}

// names returns which networks a node lists.
func (c *cluster) names(n *lab.Node, flags ...string) []string {
	c.t.Helper()
	args := append([]string{"network", "ls", "--format", "{{.Name}}", "--filter", "type=custom"}, flags...)
	return strings.Fields(c.ctl(n, args...))
}

// Scenario 37: "ls, inspect, prune, filters, formats, events on every node."
func TestScenario37_ListingsAndEvents(t *testing.T) {
	t.Parallel()
	c := three(t)
	h1, h2, h3 := c.Nodes[0], c.Nodes[1], c.Nodes[2]
	begin := time.Now()
	c.create(h1, "--label", "env=prod", "demo")
	c.create(h2, "--label", "keep", "kept")
	c.create(h3, "far")
	web1 := c.attach(h1, "demo", "web1")
	web2 := c.attach(h2, "demo", "web2")
	web3 := c.attach(h3, "demo", "web3")
	alone := c.attach(h1, "far", "alone")
	c.mesh(web1, web2, web3)

	for _, n := range c.Nodes {
		for filter, want := range map[string][]string{
			"dangling=true":  {"kept"},
			"dangling=false": {"demo", "far"},
			"label=env=prod": {"demo"},
			"name=^k":        {"kept"},
			"driver=overlay": {"demo", "far", "kept"},
			"scope=local":    nil,
		} {
			got := c.names(n, "--filter", filter)
			if slices.Sort(got); !slices.Equal(got, want) {
				t.Errorf("%s lists %v with %s; want %v", n.Name, got, filter, want)
			}
		}
		out := c.ctl(n, "network", "inspect", "-v", "-f", "{{range .Containers}}{{.Name}}@{{.Node}} {{end}}{{range .Peers}}{{.Name}}={{.Used}} {{end}}", "demo")
		got := strings.Fields(out)
		slices.Sort(got)
		if want := []string{"h1=1", "h2=1", "h3=1", "web1@h1", "web2@h2", "web3@h3"}; !slices.Equal(got, want) {
			t.Errorf("%s inspects %v; want %v", n.Name, got, want)
		}
		if got := c.ctl(n, "endpoint", "ls", "--filter", "network=far", "--format", "{{.Name}}@{{.Node}}"); strings.TrimSpace(got) != "alone@h1" {
			t.Errorf("%s lists %q in far", n.Name, got)
		}
		c.tells(n, begin, []string{"network create demo", "network create far", "network create kept"}, "--filter", "type=network", "--filter", "scope=global")
	}

	// Who takes part in a network hears once of what comes to it and goes.
	connected := []string{"endpoint connect web1 on h1", "endpoint connect web2 on h2", "endpoint connect web3 on h3"}
	for i, n := range c.Nodes {
		c.tells(n, begin, connected[i:], "--filter", "type=endpoint", "--filter", "network=demo")
	}
	repaired := time.Now()
	dev := c.deviceOf(h2)
	_, err := h2.Exec(t.Context(), "ip", "link", "set", dev, "down")
	c.must(err)
	c.eventually(settleWithin, func(ctx context.Context) error {
		got, err := eventsSince(ctx, h2, repaired, "--filter", "event=repair", "--filter", "network=demo")
		if err == nil && (len(got) == 0 || !strings.HasSuffix(got[0], " on h2")) {
			err = fmt.Errorf("h2 tells of the repairs %v", got)
		}
		return err
	})
	c.tells(h3, repaired, nil, "--filter", "type=kernel")

	parted := time.Now()
	c.disconnect("demo", web2)
	for _, n := range c.Nodes {
		c.tells(n, parted, []string{"endpoint disconnect web2 on h2"}, "--filter", "node=h2")
	}
	c.tells(h2, begin, nil, "--filter", "network=far", "--filter", "type=endpoint")

	restarted := time.Now()
	c.must(h3.Restart(t.Context()))
	for _, n := range []*lab.Node{h1, h2} {
		c.tells(n, restarted, []string{"node down h3", "node up h3"}, "--filter", "type=node")
	}
	c.tells(h3, begin, nil, "--filter", "type=endpoint") // what is there at its start is no news

	c.refuseListings(h1)
	c.prunes(h3)
	c.disconnect("far", alone)
}

// refuseListings asks for what makes no sense.
func (c *cluster) refuseListings(n *lab.Node) {
	c.t.Helper()
	for _, bad := range []struct {
		args []string
		say  string
	}{
		{[]string{"network", "ls", "--filter", "color=red"}, "invalid filter 'color'"},
		{[]string{"network", "ls", "--filter", "dangling=perhaps"}, "invalid filter 'dangling=perhaps': use true or false"},
		{[]string{"network", "ls", "--filter", "type=odd"}, "invalid filter 'type=odd'"},
		{[]string{"network", "ls", "--filter", "name=("}, "missing closing )"},
		{[]string{"network", "prune", "-f", "--filter", "until=soon"}, "is no time"},
		{[]string{"network", "prune", "-f", "--filter", "dangling=true"}, "invalid filter 'dangling'"},
		{[]string{"events", "--since", "soon"}, "invalid since"},
		{[]string{"events", "--since", "1m", "--until", "2m"}, "must not be after until"},
		{[]string{"events", "--filter", "color=red"}, "invalid filter 'color'"},
		{[]string{"endpoint", "ls", "--filter", "status=odd"}, "use up or down or lost"},
		{[]string{"endpoint", "ls", "nope"}, "network nope not found"},
		{[]string{"node", "ls", "--filter", "label=a"}, "invalid filter 'label'"},
		{[]string{"sandbox", "ls", "--filter", "label=a"}, "invalid filter 'label'"},
		{[]string{"ipam", "ls", "--filter", "label=a"}, "invalid filter 'label'"},
	} {
		c.refused(n, []string{bad.say}, bad.args...)
	}
	for _, args := range [][]string{
		{"network", "ls", "--filter", "demo"},
		{"network", "ls", "--format", "{{.Frob}}"},
		{"network", "ls", "--format", "{{"},
		{"network", "inspect", "--format", "{{.Frob}}", "demo"},
		{"events", "--until", "0s", "--since", "1h", "--format", "{{"},
	} {
		c.refusedWith(n, 2, nil, args...)
	}
	res, err := n.Ctl(c.t.Context(), "network", "inspect", "--format", "{{.Name}}", "nope", "demo")
	c.must(err)
	if res.Code != 1 || res.Stdout != "demo\n" || !strings.Contains(res.Stderr, "network nope not found") {
		c.t.Errorf("inspect of one that is there and one that is not: %+v", res)
	}
}

// prunes removes on one node what no node uses.
func (c *cluster) prunes(n *lab.Node) {
	c.t.Helper()
	pruned := time.Now()
	for _, keeps := range [][]string{{"until=24h"}, {"label!=keep"}, {"label=env"}} {
		if out := c.ctl(n, "network", "prune", "-f", "--filter", keeps[0]); out != "" {
			c.t.Errorf("prune with %s: %s", keeps[0], out)
		}
	}
	if out := c.ctl(n, "network", "prune", "-f", "--filter", "until=0s", "--filter", "label=keep"); strings.TrimSpace(out) != "Deleted Networks:\nkept" {
		c.t.Errorf("prune prints %q", out)
	}
	for _, other := range c.Nodes {
		if got := c.names(other); !slices.Equal(got, []string{"demo", "far"}) {
			c.t.Errorf("%s still lists %v", other.Name, got)
		}
		c.tells(other, pruned, []string{"network destroy kept"}, "--filter", "network=kept")
	}
}
