package lab

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/overspan/overspan"
)

// TestHostIsKnownByItsStart: a process that only has a host's id is not the host,
// and is left alone.
func TestHostIsKnownByItsStart(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := cmd.Process.Kill(); err != nil {
			t.Errorf("the process is gone: %v", err)
		}
		_ = cmd.Wait() // it was killed
	}()
	started, err := startTime(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	own, err := startTime(os.Getpid())
	if err != nil || own > started {
		t.Errorf("this process started at %d (%v), its child at %d", own, err, started)
	}
	h := Host{Name: "h1", PID: cmd.Process.Pid, Started: started}
	if !h.alive() {
		t.Error("the host that runs has ended")
	}
	h.Started--
	if h.alive() {
		t.Error("another process is taken for the host")
	}
	if err := h.end(t.Context()); err != nil {
		t.Errorf("end a host that has ended: %v", err)
	}
}

func TestNodesAreFoundByName(t *testing.T) {
	l := &Lab{Dir: filepath.Join(t.TempDir(), "lab"), Nodes: []Node{{Host: Host{Name: "h1"}}, {Host: Host{Name: "h2"}}}}
	if _, err := Open(l.Dir); !errors.Is(err, overspan.ErrNotFound) {
		t.Errorf("open what is not there: %v", err)
	}
	if err := errors.Join(os.Mkdir(l.Dir, 0o755), l.save()); err != nil {
		t.Fatal(err)
	}
	read, err := Open(l.Dir)
	if err != nil {
		t.Fatal(err)
	}
	n, err := read.Node("h2")
	if err != nil || read.Socket(n) != filepath.Join(l.Dir, "h2/run/overspan/agent.sock") {
		t.Errorf("node h2: %v, %+v", err, n)
	}
	if _, err := read.Node("h3"); !errors.Is(err, overspan.ErrNotFound) {
		t.Errorf("node h3: %v", err)
	}
}
