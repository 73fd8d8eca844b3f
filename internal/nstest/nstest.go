// Package nstest gives a test network namespaces of its own, made with ip(8)
// and gone when the test ends. Tests use it to ask the real kernel what rules
// and packets do; nothing else may import it.
package nstest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A Namespace is a network namespace that lives as long as its test.
type Namespace struct {
	t    testing.TB
	name string
}

// New makes an empty namespace with its loopback device up. It needs root.
func New(t testing.TB, name string) *Namespace {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("network namespaces need root: run as root or inside unshare -Urnm")
	}
	ns := &Namespace{t: t, name: fmt.Sprintf("t%d-%s", os.Getpid(), name)}
	run(t, "", "ip", "netns", "add", ns.name)
	t.Cleanup(func() { run(t, "", "ip", "netns", "del", ns.name) })
	ns.Run("ip", "link", "set", "lo", "up")
	return ns
}

// Legacy has the legacy flavour of iptables be the default one until the test
// ends, as the administrator of a host could have made it.
func Legacy(t testing.TB) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"iptables", "ip6tables"} {
		for _, what := range []string{"", "-save", "-restore"} {
			if err := os.Symlink("/usr/sbin/xtables-legacy-multi", filepath.Join(dir, name+what)); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// Path returns the file by which the namespace can be entered.
func (ns *Namespace) Path() string { return filepath.Join("/run/netns", ns.name) }

// Run runs a command inside and returns what it prints; the test fails if the
// command does.
func (ns *Namespace) Run(args ...string) string {
	ns.t.Helper()
	return ns.Input("", args...)
}

// Input runs a command like Run and gives it a text to read.
func (ns *Namespace) Input(stdin string, args ...string) string {
	ns.t.Helper()
	return run(ns.t, stdin, append([]string{"ip", "netns", "exec", ns.name}, args...)...)
}

// Script runs ip(8) commands inside, one a line.
func (ns *Namespace) Script(lines string) {
	ns.t.Helper()
	ns.Input(lines, "ip", "-batch", "-")
}

// Meet pings each address until it answers, so that both sides know where the
// other is.
func (ns *Namespace) Meet(addrs ...string) {
	ns.t.Helper()
	for _, a := range addrs {
		ns.Run("ping", "-q", "-c", "1", "-i", "0.2", "-w", "10", a)
	}
}

// Join connects two namespaces by a veth pair; each end has its name.
func Join(a *Namespace, devA string, b *Namespace, devB string) {
	a.t.Helper()
	// Made from within: to older kernels (6.1) a name is taken that a link here has.
	run(a.t, "", "ip", "-n", a.name, "link", "add", devA, "type", "veth", "peer", "name", devB, "netns", b.name)
}

// Do calls f on a thread inside the namespace. Sockets that f opens stay there.
func (ns *Namespace) Do(f func() error) {
	ns.t.Helper()
	done := make(chan error)
	go func() {
		// Never unlocked: the thread ends with the goroutine, so that no other
		// one finds itself in a foreign namespace.
		runtime.LockOSThread()
		done <- ns.enter(f)
	}()
	if err := <-done; err != nil {
		ns.t.Fatalf("in namespace %s: %v", ns.name, err)
	}
}

func (ns *Namespace) enter(f func() error) error {
	file, err := os.Open(ns.Path())
	if err != nil {
		return err
	}
	defer file.Close()
	if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter: %w", err)
	}
	return f()
}

func run(t testing.TB, stdin string, args ...string) string {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", strings.Join(args, " "), err, out, stdin)
	}
	return string(out)
}
