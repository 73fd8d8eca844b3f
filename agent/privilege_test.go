package main

import (
	"os"
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
	// Both directories are this test's own: TempDir makes one within another.
	for _, dir := range []string{filepath.Dir(bin), filepath.Dir(filepath.Dir(bin))} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
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
