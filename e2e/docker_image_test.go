package e2e

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/overspan/overspan/e2e/lab"
)

// An agent in a container of deploy/container works on its host as any other, and
// takes everything off it again.
func TestAgentInAContainer(t *testing.T) {
	needsDocker(t)
	c := build(t, lab.Options{Nodes: 2, ForwardDrop: true})
	h1, h2 := c.Nodes[0], c.Nodes[1]
	// As systemd has it, /run is shared. The machine's /var/lib is none of a host's.
	_, err := h1.Exec(t.Context(), "sh", "-ec", "mount --make-shared /run; mount -t tmpfs tmpfs /var/lib; mkdir /etc/netns")
	c.must(err)
	before := c.asFound(h1)
	docker := startDocker(c, h1)
	c.importAgent(h1)
	service := readCompose(c, map[string]string{"ADDRESS": h1.Addrs[0].String(), "ETCD_ENDPOINTS": c.Etcd.URL})
	options := append(service.options(c), "--env", "OVERSPAN_CLUSTER="+lab.Cluster)

	docker(slices.Concat([]string{"run", "-d", "--name", "agent"}, service.lasting(), options, []string{service.Image})...)
	c.must(h2.Start(t.Context()))
	c.eventually(startWithin, func(ctx context.Context) error {
		_, err := h1.Exec(ctx, "docker", "-H", "unix:///run/docker.sock", "exec", "agent", "ctl", "status")
		return err
	})
	c.before, err = c.Footprints(t.Context())
	c.must(err)

	c.create(h2, "demo")
	peer := c.attach(h2, "demo", "peer")
	inside := c.attach(h1, "demo", "inside") // a namespace that the host has mounted
	c.ctl(h1, "sandbox", "create", "made")   // one that the container mounts
	c.ctl(h1, "network", "connect", "demo", "made")
	docker("run", "-d", "--network", "none", "--name", "web", "box", "/busybox", "sleep", "3600")
	c.ctl(h1, "network", "connect", "demo", "docker:web")
	docker("exec", "web", "/busybox", "ping", "-c", "1", "-W", "2", c.addr(peer).String())
	c.ctl(h1, "exec", "made", "--", "ping", "-c", "1", "-W", "2", "web") // by name
	c.mesh(peer, inside)
	c.ctl(h1, "verify")
	if status := c.ctl(h1, "status"); strings.Contains(status, "Warning") {
		t.Errorf("status warns:\n%s", status)
	}

	c.ctl(h1, "network", "disconnect", "demo", "docker:web")
	c.ctl(h1, "sandbox", "rm", "made")
	docker("rm", "-f", "web")
	c.must(c.finish(t.Context()))
	c.before = nil // that was the end of a lab whose agents run

	docker("stop", "agent")
	said := docker(slices.Concat([]string{"run", "--rm"}, options, []string{service.Image, "--cleanup"})...)
	if !strings.Contains(said, "ctl node rm") {
		t.Errorf("cleanup in a container says:\n%s", said)
	}
	docker("rm", "agent")
	// As uninstall.md says of a network that went before.
	_, err = h1.Exec(t.Context(), "tc", "qdisc", "del", "dev", "eth0", "clsact")
	c.must(err)
	if diff := cmp.Diff(before, c.asFound(h1)); diff != "" {
		t.Errorf("the host (-before the first start +after cleanup):\n%s", diff)
	}
}

// importAgent makes the image that deploy/container/Dockerfile makes, of programs
// as they are released and the iptables of this machine.
func (c *cluster) importAgent(n *lab.Node) {
	c.t.Helper()
	c.t.Setenv("CGO_ENABLED", "0")
	bin, err := lab.Build(c.t.Context(), filepath.Join(n.Dir, "programs"), "-ldflags=-s -w")
	c.must(err)
	dockerfile, err := os.ReadFile("../deploy/container/Dockerfile")
	c.must(err)
	_, last, found := strings.Cut(string(dockerfile), "\nFROM scratch\n")
	if !found {
		c.t.Fatal("the Dockerfile does not end with an image from scratch")
	}
	var changes []string
	for line := range strings.Lines(last) {
		switch word, _, _ := strings.Cut(line, " "); word {
		case "ENV", "ENTRYPOINT": // docker import takes no STOPSIGNAL; SIGTERM is the default
			changes = append(changes, "--change", strings.TrimSpace(line))
		}
	}
	script, err := filepath.Abs("../deploy/container/rootfs.sh")
	c.must(err)
	const make = `script=$1 agent=$2 ctl=$3 dir=$4; shift 4
		sh "$script" "$dir"
		install "$agent" "$dir/usr/sbin/agent"
		install -D "$ctl" "$dir/usr/bin/ctl"
		tar -C "$dir" -c . | docker -H unix:///run/docker.sock import "$@" - overspan`
	args := []string{"-ec", make, "sh", script, bin.Agent, bin.Ctl, filepath.Join(n.Dir, "image")}
	_, err = n.Exec(c.t.Context(), "sh", append(args, changes...)...)
	c.must(err)
}

// composed is the agent's service in deploy/container/compose.yaml. What is not here
// is an error: the test would go without it.
type composed struct {
	Image       string
	NetworkMode string `yaml:"network_mode"`
	PID         string
	UTS         string
	Restart     string
	GracePeriod time.Duration `yaml:"stop_grace_period"`
	Environment map[string]string
	CapDrop     []string    `yaml:"cap_drop"`
	CapAdd      []string    `yaml:"cap_add"`
	SecurityOpt []string    `yaml:"security_opt"`
	Volumes     []yaml.Node // text, or a volume
}

type volume struct {
	Type, Source, Target string
	Bind                 struct{ Propagation string }
}

// readCompose reads the service as compose does, with these variables.
func readCompose(c *cluster, variables map[string]string) composed {
	c.t.Helper()
	text, err := os.ReadFile("../deploy/container/compose.yaml")
	c.must(err)
	expanded := os.Expand(string(text), func(name string) string {
		if name, fallback, ok := strings.Cut(name, ":-"); ok && variables[name] == "" {
			return fallback
		}
		name, _, _ = strings.Cut(name, ":")
		return variables[name]
	})
	var file struct{ Services map[string]yaml.Node }
	c.must(yaml.Unmarshal([]byte(expanded), &file))
	agent := file.Services["agent"]
	raw, err := yaml.Marshal(&agent)
	c.must(err)
	decoder := yaml.NewDecoder(bytes.NewReader(raw))
	decoder.KnownFields(true)
	var s composed
	c.must(decoder.Decode(&s))
	return s
}

// lasting returns the options of docker run for a container that serves.
func (s composed) lasting() []string {
	return []string{"--restart", s.Restart, "--stop-timeout", strconv.Itoa(int(s.GracePeriod.Seconds()))}
}

// options returns those for any container of the service.
func (s composed) options(c *cluster) []string {
	c.t.Helper()
	out := []string{"--network", s.NetworkMode, "--pid", s.PID, "--uts", s.UTS}
	add := func(flag string, values ...string) {
		for _, v := range values {
			out = append(out, flag, v)
		}
	}
	add("--cap-drop", s.CapDrop...)
	add("--cap-add", s.CapAdd...)
	add("--security-opt", s.SecurityOpt...)
	for name, value := range s.Environment {
		add("--env", name+"="+value)
	}
	for _, node := range s.Volumes {
		if node.Kind == yaml.ScalarNode {
			add("--volume", node.Value)
			continue
		}
		var v volume
		c.must(node.Decode(&v))
		add("--mount", "type="+v.Type+",source="+v.Source+",target="+v.Target+",bind-propagation="+v.Bind.Propagation)
	}
	return out
}
