package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overspan/overspan/e2e/lab"
)

// The service of deploy/docker connects containers by their labels: those that
// run when it starts, those that start, and those that start again.
func TestDockerFollow(t *testing.T) {
	t.Parallel()
	needsDocker(t)
	c := three(t)
	h1, h2 := c.Nodes[0], c.Nodes[1]
	docker := startDocker(c, h1)
	c.create(h1, "demo")
	peer := c.attach(h2, "demo", "peer")
	run := func(name string, flags ...string) {
		t.Helper()
		docker(append(append([]string{"run", "-d", "--network", "none", "--name", name}, flags...), "box", "/busybox", "sleep", "3600")...)
	}
	// answers waits until the container answers from the namespace that it has now.
	answers := func(name string) {
		t.Helper()
		c.eventually(60*time.Second, func(ctx context.Context) error {
			res, err := h1.Run(ctx, "docker", "-H", "unix:///run/docker.sock", "exec", name, "/busybox", "ping", "-c", "1", "-W", "1", c.addr(peer).String())
			if err != nil {
				return err
			}
			return res.Err()
		})
	}

	run("early", "--label", "overspan=demo")
	run("stranger")
	stop := follow(c, h1)
	answers("early")
	run("late", "--label", "overspan=demo")
	answers("late")
	docker("restart", "-t", "0", "early")
	answers("early")

	stop()
	run("between", "--label", "overspan=demo")
	stop = follow(c, h1)
	answers("between")
	answers("late") // which was connected already
	if out := c.ctl(h2, "endpoint", "ls", "--filter", "name=stranger", "--format", "{{.Name}}", "demo"); out != "" {
		t.Errorf("a container without the label was connected: %s", out)
	}
	c.must(c.verified(t.Context()))

	stop()
	docker("rm", "-f", "early", "late", "between", "stranger")
}

// follow runs the service's script on a node until it is stopped, with all that
// it has started.
func follow(c *cluster, n *lab.Node) (stop func()) {
	c.t.Helper()
	script, err := filepath.Abs("../deploy/docker/follow.sh")
	c.must(err)
	bin, err := checkedBinaries()
	c.must(err)
	log, err := os.Create(filepath.Join(n.Dir, "follow.log"))
	c.must(err)
	cmd := exec.Command(script)
	cmd.Env = append(os.Environ(), "DOCKER_HOST=unix:///run/docker.sock", "PATH="+filepath.Dir(bin.Ctl)+":"+os.Getenv("PATH"))
	cmd.Stdout, cmd.Stderr = log, log
	service, err := n.Host.Start(cmd)
	c.must(err)
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		ctx, cancel := lab.WithTimeout(context.Background(), finishWithin)
		defer cancel()
		// As systemd ends a service: its group, not its first process alone.
		if err := unix.Kill(-service.PID(), syscall.SIGTERM); err != nil {
			c.t.Errorf("end the service: %v", err)
		}
		if err := service.Wait(ctx); ctx.Err() != nil {
			c.t.Error(err)
		}
		log.Close()
		if c.t.Failed() {
			said, err := os.ReadFile(log.Name())
			c.t.Logf("the service said, %v:\n%s", err, said)
		}
	}
	c.t.Cleanup(stop)
	return stop
}
