package e2e

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A process's namespace can be connected by its number, and a killed process
// is a clear error.
func TestProcessAsTarget(t *testing.T) {
	t.Parallel()
	c := three(t)
	h1, h2 := c.Nodes[0], c.Nodes[1]
	c.create(h1, "demo")
	peer := c.attach(h2, "demo", "peer")
	sleeper, err := h1.Host.Start(exec.Command("unshare", "--net", "sh", "-c", "echo $$ >/run/sleeper; exec sleep infinity"))
	c.must(err)
	var pid string
	c.eventually(settleWithin, func(ctx context.Context) error {
		out, err := h1.Exec(ctx, "cat", "/run/sleeper")
		pid = strings.TrimSpace(out)
		return err
	})
	c.ctl(h1, "network", "connect", "demo", "pid:"+pid)
	box, err := h1.OpenSandbox("sleeper", "/proc/"+pid+"/ns/net")
	c.must(err)
	defer box.Close()
	c.mesh(peer, box)
	if out := c.ctl(h2, "endpoint", "ls"); !strings.Contains(out, "pid-"+pid) {
		t.Errorf("the endpoint is not called pid-%s:\n%s", pid, out)
	}
	c.ctl(h1, "network", "disconnect", "demo", "pid:"+pid)
	c.must(sleeper.Stop(t.Context(), os.Kill))
	c.refused(h1, []string{"pid:" + pid}, "network", "connect", "demo", "pid:"+pid)
}

// The whole name of a namespace means that namespace, even if the id of a
// sandbox begins with it.
func TestNameOutweighsPrefixOfID(t *testing.T) {
	t.Parallel()
	c := three(t)
	h1 := c.Nodes[0]
	c.create(h1, "demo")
	id := c.ctl(h1, "sandbox", "create", "other")
	box := c.attach(h1, "demo", id[:1])
	c.addr(box) // fails if another one was connected
	c.ctl(h1, "sandbox", "rm", "other")
}

// Sandboxes that ctl makes last, run commands, and go.
func TestMadeSandboxes(t *testing.T) {
	t.Parallel()
	c := three(t)
	h1, h2 := c.Nodes[0], c.Nodes[1]
	c.create(h1, "demo")
	peer := c.attach(h2, "demo", "peer")

	id := c.ctl(h1, "sandbox", "create", "web1")
	if !idSyntax.MatchString(id) {
		t.Errorf("sandbox create printed %q; want an id alone", id)
	}
	c.refused(h1, []string{"web1", "already exists"}, "sandbox", "create", "web1")
	c.ctl(h1, "network", "connect", "demo", "web1")
	ping := []string{"ping", "-c", "1", "-W", "2", c.addr(peer).String()}
	c.ctl(h1, append([]string{"exec", "web1", "--"}, ping...)...)
	c.must(h1.Restart(t.Context()))
	c.ctl(h1, append([]string{"exec", "web1", "--"}, ping...)...)
	c.ctl(h1, "sandbox", "rm", "web1") // disconnects it, too
	if out := c.ctl(h2, "endpoint", "ls", "-q"); strings.Count(out, "\n") != 0 {
		t.Errorf("endpoints of sandboxes that are gone:\n%s", out)
	}

	// A sandbox for a single command, which has its own host name and whose
	// status is passed on.
	c.ctl(h1, append([]string{"run", "--network", "demo", "--name", "web2", "--"}, ping...)...)
	if got := c.ctl(h1, "run", "--network", "demo", "--name", "web2", "--", "hostname"); got != "web2" {
		t.Errorf("the host name in the sandbox is %q", got)
	}
	res, err := h1.Ctl(t.Context(), "run", "--network", "demo", "--", "sh", "-c", "exit 42")
	c.must(err)
	if res.Code != 42 {
		t.Errorf("%s: exit status %d; want the command's", res.Command, res.Code)
	}
	if out := c.ctl(h1, "sandbox", "ls", "-q"); out != "" {
		t.Errorf("sandboxes are left:\n%s", out)
	}
}

// Every node tells the same of the cluster.
func TestNodesAgree(t *testing.T) {
	t.Parallel()
	c := three(t)
	c.create(c.Nodes[0], "demo")
	for _, n := range c.Nodes {
		c.attach(n, "demo", "web-"+n.Name)
	}
	for _, words := range [][]string{
		{"network", "inspect", "demo"},
		{"endpoint", "ls"},
		{"ipam", "ls"},
		{"network", "ls", "--filter", "driver=overlay"},
	} {
		// The others' snapshots may be a moment behind.
		c.eventually(settleWithin, func(ctx context.Context) error {
			var tell []string
			for _, n := range c.Nodes {
				out, err := n.MustCtl(ctx, words...)
				if err != nil {
					return err
				}
				tell = append(tell, out)
			}
			return same(tell)
		})
	}
}

func same(texts []string) error {
	for _, text := range texts[1:] {
		if diff := cmp.Diff(texts[0], text); diff != "" {
			return errors.New("nodes differ (-first +other):\n" + diff)
		}
	}
	return nil
}
