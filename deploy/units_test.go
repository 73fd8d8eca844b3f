// Package deploy checks what an operator installs: units, scripts and packages.
package deploy

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// needs skips a test where a program is missing that tools/deps.sh installs; in CI it
// fails.
func needs(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is not installed", name)
		}
		t.Skipf("%s is not installed", name)
	}
}

// program runs one, and returns what it says.
func program(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	needs(t, name)
	out, err := exec.Command(name, args...).CombinedOutput()
	return string(out), err
}

// TestUnitsAreUnderstood has systemd read them. What they start need not be
// installed here.
func TestUnitsAreUnderstood(t *testing.T) {
	start := regexp.MustCompile(`(?m)^ExecStart=\S+`)
	dir := t.TempDir() // of all, since a timer looks for its service
	units := []string{
		"systemd/overspan-agent.service", "etcd/etcd.service", "docker/overspan-docker.service",
		"etcd/overspan-etcd-backup.service", "etcd/overspan-etcd-backup.timer",
	}
	for i, unit := range units {
		text, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		units[i] = filepath.Join(dir, filepath.Base(unit))
		text = start.ReplaceAll(text, []byte("ExecStart=/bin/true"))
		if err := os.WriteFile(units[i], text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := program(t, "systemd-analyze", append([]string{"verify", "--man=no"}, units...)...); err != nil || out != "" {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestAgentKeepsTheHostsMounts: a unit with mounts of its own would hide from the
// host the namespaces that the agent mounts, and take them away with itself.
func TestAgentKeepsTheHostsMounts(t *testing.T) {
	unit := settings(t, "systemd/overspan-agent.service")
	for _, name := range []string{
		"PrivateDevices", "PrivateMounts", "PrivateTmp", "ProtectControlGroups", "ProtectHome", "ProtectKernelLogs",
		"ProtectKernelModules", "ProtectKernelTunables", "ProtectProc", "ProtectSystem", "ReadOnlyPaths",
	} {
		if value, set := unit[name]; set {
			t.Errorf("%s=%s gives the agent mounts of its own", name, value)
		}
	}
	if unit["RuntimeDirectoryPreserve"] != "yes" {
		t.Error("RuntimeDirectoryPreserve= is not yes: namespaces below it would go with the agent")
	}
}

// TestComposeGivesWhatTheUnitGives: a container of the agent has the very
// capabilities of the service.
func TestComposeGivesWhatTheUnitGives(t *testing.T) {
	raw, err := os.ReadFile("container/compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Services map[string]struct {
			CapDrop []string `yaml:"cap_drop"`
			CapAdd  []string `yaml:"cap_add"`
		}
	}
	if err := yaml.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	agent := doc.Services["agent"]
	want := strings.Fields(strings.ReplaceAll(settings(t, "systemd/overspan-agent.service")["CapabilityBoundingSet"], "CAP_", ""))
	if !slices.Equal(agent.CapAdd, want) || !slices.Equal(agent.CapDrop, []string{"ALL"}) {
		t.Errorf("compose drops %v and adds %v; the unit has %v", agent.CapDrop, agent.CapAdd, want)
	}
}

// TestFollowWantsItsPrograms: what is not installed is named, with the status at
// which the service does not try again.
func TestFollowWantsItsPrograms(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	out, err := exec.Command("/bin/sh", "docker/follow.sh").CombinedOutput()
	exit, exited := errors.AsType[*exec.ExitError](err)
	if !exited || !strings.Contains(string(out), "ctl is not installed") {
		t.Fatalf("%v\n%s", err, out)
	}
	if code := strconv.Itoa(exit.ExitCode()); settings(t, "docker/overspan-docker.service")["RestartPreventExitStatus"] != code {
		t.Errorf("the service tries again after status %s", code)
	}
}

// settings reads a unit's; of one that is given twice the last.
func settings(t *testing.T, unit string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(unit)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(name, "#") {
			out[name] = value
		}
	}
	return out
}

// TestScriptsAreSound has every shell script of the tree looked at.
func TestScriptsAreSound(t *testing.T) {
	var scripts []string
	for _, pattern := range []string{"debian/*", "*/*.sh", "../tools/*.sh", "../.ci/run", "../kernel/bpf/*.sh", "../vagrant/*.sh"} {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %v, %v", pattern, found, err)
		}
		scripts = append(scripts, found...)
	}
	if out, err := program(t, "shellcheck", scripts...); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestVagrantfileIsUnderstood has Vagrant read it for what can be chosen. No
// provider is asked, so that none need be here.
func TestVagrantfileIsUnderstood(t *testing.T) {
	if out, err := program(t, "ruby", "-c", "../vagrant/Vagrantfile"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	t.Setenv("VAGRANT_CWD", "../vagrant")
	t.Setenv("VAGRANT_HOME", t.TempDir())
	t.Setenv("VAGRANT_DOTFILE_PATH", t.TempDir())
	t.Setenv("VAGRANT_CHECKPOINT_DISABLE", "1")
	for _, test := range []struct {
		driver, etcd string
		ok           bool
	}{
		{"kvm", "embedded", true},
		{"qemu", "pair", true},
		{"xen", "embedded", false},
	} {
		t.Setenv("OVERSPAN_DRIVER", test.driver)
		t.Setenv("OVERSPAN_ETCD", test.etcd)
		if out, err := program(t, "vagrant", "validate", "-p"); (err == nil) != test.ok {
			t.Errorf("driver %s, etcd %s: %v, want ok %t\n%s", test.driver, test.etcd, err, test.ok, out)
		}
	}
}
