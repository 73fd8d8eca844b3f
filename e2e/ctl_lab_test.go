package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overspan/overspan/e2e/lab"
)

// A labUser is somebody who plays with ctl lab.
type labUser struct {
	t   *testing.T
	bin lab.Binaries
	dir string
}

// ctl runs ctl and returns its output and its exit status.
func (u *labUser) ctl(args ...string) (stdout, stderr string, code int) {
	u.t.Helper()
	return u.finish(u.command(args...))
}

// command prepares ctl; it has bounds of its own.
func (u *labUser) command(args ...string) *exec.Cmd {
	cmd := exec.Command(u.bin.Ctl, args...)
	cmd.Env = append(os.Environ(), "OVERSPAN_LAB_DIR="+u.dir)
	return cmd
}

// finish runs a command to its end.
func (u *labUser) finish(cmd *exec.Cmd) (stdout, stderr string, code int) {
	u.t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		u.t.Fatalf("%s: %v", cmd, err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// must runs ctl, which must succeed.
func (u *labUser) must(args ...string) string {
	u.t.Helper()
	stdout, stderr, code := u.ctl(args...)
	if code != 0 {
		u.t.Fatalf("ctl %s: exit status %d\n%s", strings.Join(args, " "), code, stderr)
	}
	return stdout
}

// refused runs ctl, which must fail and say something.
func (u *labUser) refused(say string, args ...string) {
	u.t.Helper()
	if _, stderr, code := u.ctl(args...); code == 0 || !strings.Contains(stderr, say) {
		u.t.Errorf("ctl %s: exit status %d, %q; want a refusal that says %q", strings.Join(args, " "), code, stderr, say)
	}
}

// gone checks that of the lab nothing is left.
func (u *labUser) gone(hosts []int) {
	u.t.Helper()
	if _, err := os.Stat(u.dir); !errors.Is(err, os.ErrNotExist) {
		u.t.Errorf("the lab's directory is left: %v", err)
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), u.dir) {
		u.t.Errorf("the machine has mounts of the lab (%v):\n%s", err, mounts)
	}
	err := lab.Eventually(u.t.Context(), 5*time.Second, func(context.Context) error {
		for _, pid := range hosts {
			if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("process %d of a host is left: %w", pid, err)
			}
		}
		return nil
	})
	if err != nil {
		u.t.Error(err)
	}
}

// hosts returns the first processes of the switch and of the lab's hosts.
func (u *labUser) hosts() []int {
	u.t.Helper()
	type process struct{ PID int }
	var record struct {
		Switch process
		Nodes  []process
	}
	text, err := os.ReadFile(filepath.Join(u.dir, "lab.json"))
	if err == nil {
		err = json.Unmarshal(text, &record)
	}
	if err != nil {
		u.t.Fatal(err)
	}
	pids := []int{record.Switch.PID}
	for _, n := range record.Nodes {
		pids = append(pids, n.PID)
	}
	return pids
}

// TestLabToPlayWith does what README's quick start tells, and what a user does
// wrong.
func TestLabToPlayWith(t *testing.T) {
	bin, err := checkedBinaries()
	if err != nil {
		t.Fatal(err)
	}
	u := &labUser{t: t, bin: bin, dir: filepath.Join(t.TempDir(), "lab")}
	t.Setenv("OVERSPAN_ETCD_ENDPOINTS", "http://192.0.2.1:2379") // for the machine's own agent
	links := func() string {
		out, err := exec.CommandContext(t.Context(), "ip", "-br", "link").Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	before := links()

	u.refused("there is no lab", "--node", "h1", "status")
	u.refused("1 to 64 nodes", "lab", "up", "--nodes", "0")
	u.refused("no such file", "lab", "up", "--agent", "/no/agent")
	u.refused("sees 0 of 1 nodes", "--timeout", "2s", "lab", "up", "--nodes", "1", "--agent", "/bin/false")
	u.gone(nil)
	u.refused("--node names no host", "--node", "", "status")
	// In namespaces of its own, in case that it is not refused.
	host := u.command("lab", "host", "h1", u.dir)
	host.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWUTS}
	if _, stderr, code := u.finish(host); code != 1 || !strings.Contains(stderr, "to make a lab: ctl lab up") {
		t.Errorf("lab host that somebody types: exit status %d, %s", code, stderr)
	}
	u.foreign()

	t.Cleanup(func() { u.ctl("lab", "down") })
	u.upTwice()
	hosts := u.hosts()
	if len(hosts) != 3 {
		t.Fatalf("the lab has the processes %v, want those of a switch and two hosts", hosts)
	}
	u.refused("a lab of 2 nodes is up", "lab", "up")
	u.refused(`no node "h3"; it has h1, h2`, "--node", "h3", "status")
	u.refused("--node and --host", "--node", "h1", "--host", "unix:///nowhere", "status")

	u.fromWithin()

	id := strings.TrimSpace(u.must("--node", "h1", "network", "create", "-d", "overlay", "demo"))
	if got := strings.TrimSpace(u.must("--node=h2", "network", "inspect", "--format", "{{.Id}}", "demo")); got != id {
		t.Errorf("h2 knows network demo as %q, h1 as %s", got, id)
	}
	u.must("--node", "h1", "sandbox", "create", "web")
	u.must("--node", "h1", "network", "connect", "demo", "web")
	u.must("--node", "h2", "run", "--network", "demo", "--", "ping", "-c", "1", "-W", "5", "web")
	if got := u.must("lab", "exec", "h2", "--", "hostname"); got != "h2\n" {
		t.Errorf("h2 calls itself %q", got)
	}
	u.typedIn()
	if _, _, code := u.ctl("lab", "exec", "h2", "--", "sh", "-c", "exit 7"); code != 7 {
		t.Errorf("a command that exits with 7 has ctl exit with %d", code)
	}
	u.interrupted()

	u.must("lab", "exec", "h2", "--", "pkill", "-9", "-f", "node-name h2")
	err = lab.Eventually(t.Context(), 20*time.Second, func(context.Context) error {
		if got := u.must("lab", "ls", "--format", "{{.Name}} {{.Agent}}"); got != "h1 up\nh2 up\n" {
			return fmt.Errorf("lab ls: %s", got)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	u.must("--node", "h2", "run", "--network", "demo", "--", "ping", "-c", "1", "-W", "5", "web")

	u.must("lab", "exec", "h1", "--", "pkill", "-9", "-f", "node-name h1")
	u.must("lab", "down")
	u.gone(hosts)
	u.must("lab", "down")
	if after := links(); after != before {
		t.Errorf("the machine's links are\n%sand were\n%s", after, before)
	}
}

// typedIn has a command start where it is typed, and at the root where the host
// has no such directory: /run is its own.
func (u *labUser) typedIn() {
	u.t.Helper()
	absent, err := os.MkdirTemp("/run", "overspan-test-")
	if err != nil {
		u.t.Fatal(err)
	}
	defer os.Remove(absent)
	for dir, want := range map[string]string{"/usr": "/usr\n", absent: "/\n"} {
		pwd := u.command("lab", "exec", "h2", "--", "pwd", "-P")
		pwd.Dir = dir
		if got, _, _ := u.finish(pwd); got != want {
			u.t.Errorf("a command that is typed in %s starts in %q, want %q", dir, got, want)
		}
	}
}

// foreign names directories that a lab must not have, and a file in one that must
// stay.
func (u *labUser) foreign() {
	u.t.Helper()
	other := &labUser{t: u.t, bin: u.bin, dir: u.t.TempDir()}
	mine := filepath.Join(other.dir, "mine")
	if err := os.WriteFile(mine, nil, 0o644); err != nil {
		u.t.Fatal(err)
	}
	other.refused("holds mine, which is no lab's", "lab", "up", "--agent", u.bin.Agent)
	other.must("lab", "down")
	if _, err := os.Stat(mine); err != nil {
		u.t.Error(err)
	}
	other.dir = "relative"
	other.refused("no absolute path", "lab", "up", "--agent", u.bin.Agent)
	other.dir = "/run/overspan-lab-test"
	other.refused("each of its hosts has", "lab", "up", "--agent", u.bin.Agent)
}

// upTwice makes the lab by two commands at once, of which one must be refused.
func (u *labUser) upTwice() {
	u.t.Helper()
	var cmds [2]*exec.Cmd
	var stdout, stderr [2]bytes.Buffer
	for i := range cmds {
		cmds[i] = u.command("lab", "up", "--nodes", "2", "--agent", u.bin.Agent)
		cmds[i].Stdout, cmds[i].Stderr = &stdout[i], &stderr[i]
		if err := cmds[i].Start(); err != nil {
			u.t.Fatal(err)
		}
	}
	errs := [2]error{cmds[0].Wait(), cmds[1].Wait()}
	won, lost := 0, 1
	if errs[won] != nil {
		won, lost = lost, won
	}
	if errs[won] != nil || stdout[won].String() != "h1\nh2\n" {
		u.t.Fatalf("lab up: %v, %q, %s", errs, stdout[won].String(), stderr[won].String())
	}
	say := stderr[lost].String()
	if cmds[lost].ProcessState.ExitCode() != 1 || !strings.Contains(say, "is up in") && !strings.Contains(say, "another ctl") {
		u.t.Errorf("the other lab up: %v, %s", errs[lost], say)
	}
}

// fromWithin asks a host of the lab to make and end labs. It sees the lab's
// directory, but not its processes.
func (u *labUser) fromWithin() {
	u.t.Helper()
	say := "this is host h2 of a lab"
	u.refused(say, "--node", "h2", "lab", "down")
	u.refused(say, "lab", "exec", "h2", "--", u.bin.Ctl, "lab", "up", "--agent", u.bin.Agent)
	u.refused(say, "lab", "exec", "h2", "--", u.bin.Ctl, "--node", "h1", "status")
	u.must("--node", "h2", "node", "ls")
}

// interrupted sends ctl what it must hand on to the command on the host as it is.
func (u *labUser) interrupted() {
	u.t.Helper()
	script := `trap "exit 5" INT; trap "exit 6" TERM; echo ready; sleep 60 >/dev/null 2>&1 & wait`
	cmd := u.command("lab", "exec", "h2", "--", "sh", "-c", script)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		u.t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		u.t.Errorf("the command says %q: %v", line, err)
	}
	if err := cmd.Process.Signal(unix.SIGINT); err != nil {
		u.t.Error(err)
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 5 {
		u.t.Errorf("interrupted, it ends otherwise than a command that ends with 5 at SIGINT: %v", err)
	}
}
