package e2e

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/overspan/overspan/e2e/lab"
)

// Scenario 19, its last part: "A second agent with the same node id (a cloned
// machine): refused with a clear error, the first undisturbed."
func TestScenario19_CloneIsRefused(t *testing.T) {
	t.Parallel()
	c := start(t, lab.Options{Nodes: 3, Flags: []string{"--presence-ttl", "2s"}})
	h1, h2, h3 := c.Nodes[0], c.Nodes[1], c.Nodes[2]
	own := filepath.Join(h3.Dir, "own-state")
	c.must(h3.Stop(t.Context()))
	c.must(os.Rename(h3.StateDir(), own))
	c.create(h1, "demo")
	a, b := c.attach(h1, "demo", "a"), c.attach(h2, "demo", "b")
	traffic := c.traffic(a, b)
	before := c.tracks()

	t.Run("on the same machine", func(t *testing.T) {
		dir := t.TempDir()
		copyState(t, h1, dir)
		refusedStart(t, h1, dir, "is in use by agent pid", "this machine", "is a copy")
	})
	t.Run("with the same state directory", func(t *testing.T) {
		refusedStart(t, h1, h1.StateDir(), "two agents cannot share a state directory")
	})
	t.Run("on a machine with the same machine id", func(t *testing.T) {
		c.must(h3.SetMachineID(h1.Host))
		defer func() { c.must(h3.SetMachineID(h3.Host)) }()
		copyState(t, h1, h3.StateDir())
		refusedStart(t, h3, h3.StateDir(), "is in use by agent pid", "is a copy")
	})
	t.Run("on another machine", func(t *testing.T) {
		copyState(t, h1, h3.StateDir())
		refusedStart(t, h3, h3.StateDir(), "belongs to the machine", "is a copy")
	})
	c.sameTracks(before)
	t.Run("on another machine while the first is down", func(t *testing.T) {
		c.must(h1.Kill(t.Context()))
		copyState(t, h1, h3.StateDir())
		refusedStart(t, h3, h3.StateDir(), "belongs to the machine", "is a copy")
		c.must(h1.Start(t.Context()))
	})

	traffic.stop()
	c.attach(h1, "demo", "late")
	c.must(os.RemoveAll(h3.StateDir()))
	c.must(os.Rename(own, h3.StateDir()))
	c.must(h3.Start(t.Context()))
}

// tracks returns what the nodes have written in etcd, but for flights and
// acknowledgements: registrations, presences, networks.
func (c *cluster) tracks() map[string]string {
	c.t.Helper()
	all, err := c.keys(c.t.Context(), "nodes/", "live/", "networks/", "net/", "removing/")
	c.must(err)
	return all
}

func (c *cluster) sameTracks(before map[string]string) {
	c.t.Helper()
	if now := c.tracks(); !maps.Equal(before, now) {
		c.t.Errorf("etcd held %v, holds %v", before, now)
	}
}

// copyState copies the state directory of a node's agent, which may be running.
func copyState(t *testing.T, from *lab.Node, to string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(to, os.DirFS(from.StateDir())); err != nil {
		t.Fatal(err)
	}
}

// refusedStart starts an agent with a state directory on a host: it must end by
// itself and say why.
func refusedStart(t *testing.T, n *lab.Node, dir string, words ...string) {
	t.Helper()
	ctx, cancel := lab.WithTimeout(t.Context(), startWithin)
	defer cancel()
	res, err := n.RunAgent(ctx, "--state-dir", dir, "--run-dir", "/run/second", "--listen", "unix:///run/second/agent.sock", "--metrics-listen", "")
	if err != nil || res.Code != 1 {
		t.Fatalf("a clone ends with status %d, %v\n%s", res.Code, err, res.Stderr)
	}
	said := strings.TrimSpace(res.Stderr)
	last := said[strings.LastIndex(said, "\n")+1:]
	for _, word := range words {
		if !strings.Contains(last, word) {
			t.Errorf("%q does not say %q", last, word)
		}
	}
}
