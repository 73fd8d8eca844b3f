package main

import (
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestAgentWithoutPrivilegesSaysSo runs the real program as a user who may
// change nothing.
func TestAgentWithoutPrivilegesSaysSo(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "agent")
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	for dir := filepath.Dir(bin); dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		if out, err := exec.Command("chmod", "a+x", dir).CombinedOutput(); err != nil {
			t.Fatalf("chmod: %v\n%s", err, out)
		}
	}
	cmd := exec.Command(bin, "--advertise-address", "192.0.2.1", "--embedded-etcd", "--state-dir", "/nonexistent", "--run-dir", "/nonexistent")
	const nobody = 65534
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "lacks CAP_NET_ADMIN: run it as root") {
		t.Errorf("got %v:\n%s", err, out)
	}
}
