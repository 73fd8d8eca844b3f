package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/overspan/overspan/e2e/lab"
)

// dockerPrograms are what TestDockerTarget needs besides the lab.
var dockerPrograms = []string{"dockerd", "docker", "busybox"}

// needsDocker skips the test where Docker is not installed, but not in CI: a
// test that never runs protects nothing.
func needsDocker(t *testing.T) {
	t.Helper()
	for _, program := range dockerPrograms {
		if _, err := exec.LookPath(program); err == nil {
			continue
		}
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is not installed", program)
		}
		t.Skipf("%s is not installed (Debian: docker.io, busybox-static)", program)
	}
}

// Containers of a Docker engine are targets by name.
func TestDockerTarget(t *testing.T) {
	t.Parallel()
	needsDocker(t)
	c := three(t)
	h1, h2 := c.Nodes[0], c.Nodes[1]
	docker := startDocker(c, h1)
	c.create(h1, "demo")
	peer := c.attach(h2, "demo", "peer")
	docker("run", "-d", "--network", "none", "--name", "web", "box", "/busybox", "sleep", "3600")

	c.ctl(h1, "network", "connect", "demo", "docker:web")
	pid := docker("inspect", "--format", "{{.State.Pid}}", "web")
	web, err := h1.OpenSandbox("web", "/proc/"+pid+"/ns/net")
	c.must(err)
	defer web.Close()
	c.mesh(peer, web)
	if out := docker("exec", "web", "/busybox", "ping", "-c", "1", c.addr(peer).String()); !strings.Contains(out, "1 packets received") {
		t.Errorf("ping from within the container:\n%s", out)
	}
	if out := c.ctl(h2, "endpoint", "ls"); !strings.Contains(out, "web") {
		t.Errorf("the endpoint does not bear the container's name:\n%s", out)
	}
	c.must(c.verified(t.Context()))
	c.ctl(h1, "network", "disconnect", "demo", "docker:web")

	docker("stop", "-t", "0", "web")
	c.refused(h1, []string{"web", "not running"}, "network", "connect", "demo", "docker:web")
	c.refused(h1, []string{"container nobody not found"}, "network", "connect", "demo", "docker:nobody")
	docker("rm", "web")
}

// startDocker runs a Docker engine on a node until the test ends, with an
// image "box" that holds /busybox. It returns what runs its client.
func startDocker(c *cluster, n *lab.Node) func(args ...string) string {
	c.t.Helper()
	log, err := os.Create(filepath.Join(n.Dir, "dockerd.log"))
	c.must(err)
	groups := filepath.Base(c.Dir)
	daemon := exec.Command("dockerd", "-H", "unix:///run/docker.sock", "--pidfile", "/run/docker.pid",
		"--data-root", filepath.Join(n.Dir, "docker"), "--exec-root", "/run/docker", "--storage-driver", "vfs",
		"--cgroup-parent", "/"+groups,
		"--bridge", "none", "--iptables=false", "--ip-masq=false", "--ip-forward=false")
	daemon.Stdout, daemon.Stderr = log, log
	engine, err := n.Host.Start(daemon)
	c.must(err)
	c.t.Cleanup(func() { // before the lab ends
		ctx, cancel := lab.WithTimeout(context.Background(), finishWithin)
		defer cancel()
		if err := engine.Stop(ctx, syscall.SIGTERM); err != nil {
			c.t.Error(err)
		}
		log.Close()
		// Control groups are the machine's, so they outlive the host.
		if _, err := n.Exec(ctx, "find", "/sys/fs/cgroup", "-depth", "-type", "d", "-name", groups, "-exec", "rmdir", "{}", ";"); err != nil {
			c.t.Error(err)
		}
	})
	docker := func(args ...string) string {
		c.t.Helper()
		out, err := n.Exec(c.t.Context(), "docker", append([]string{"-H", "unix:///run/docker.sock"}, args...)...)
		c.must(err)
		return strings.TrimSpace(out)
	}
	c.eventually(30*time.Second, func(ctx context.Context) error {
		_, err := n.Exec(ctx, "docker", "-H", "unix:///run/docker.sock", "version")
		return err
	})
	docker("import", c.image(n), "box")
	return docker
}

// image writes a root file system that holds busybox alone, and returns its path.
func (c *cluster) image(n *lab.Node) string {
	c.t.Helper()
	busybox, err := exec.LookPath("busybox")
	c.must(err)
	program, err := os.ReadFile(busybox)
	c.must(err)
	var raw bytes.Buffer
	w := tar.NewWriter(&raw)
	c.must(w.WriteHeader(&tar.Header{Name: "busybox", Mode: 0o755, Size: int64(len(program))}))
	_, err = w.Write(program)
	c.must(err)
	c.must(w.Close())
	path := filepath.Join(n.Dir, "box.tar")
	c.must(os.WriteFile(path, raw.Bytes(), 0o644))
	return path
}
