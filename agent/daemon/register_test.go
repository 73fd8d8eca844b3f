package daemon

import (
	"errors"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/store"
)

func TestProcessAlive(t *testing.T) {
	own, err := describeProcess()
	if err != nil {
		t.Fatal(err)
	}
	if !processAlive(own) {
		t.Error("this process does not run")
	}
	if processAlive(overspan.Presence{PID: os.Getpid(), StartTime: own.StartTime + 1}) {
		t.Error("a process runs whose PID another has by now")
	}
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	child := overspan.Presence{PID: cmd.Process.Pid}
	if _, child.StartTime, err = processStat(child.PID); err != nil {
		t.Fatal(err)
	}
	if !processAlive(child) {
		t.Error("a child does not run")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	// Waits until the child has ended, and leaves it a zombie.
	if err := unix.Waitid(unix.P_PID, child.PID, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	if processAlive(child) {
		t.Error("a killed process runs until its parent waits for it")
	}
	_ = cmd.Wait() // killed
	if processAlive(child) {
		t.Error("a process runs that is gone")
	}
}

func TestAJournalBelongsToOneMachine(t *testing.T) {
	for _, tt := range []struct {
		name, known, own string
		refused          bool
	}{
		{"the same", "one", "one", false},
		{"another", "one", "two", true},
		{"never used", "", "two", false},
		{"no machine id", "one", "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := checkMachine(store.Identity{Node: "node", Machine: tt.known}, overspan.Presence{MachineID: tt.own}, "state")
			if refused := errors.Is(err, overspan.ErrInUse); refused != tt.refused || !refused && err != nil {
				t.Errorf("error is %v; want one: %t", err, tt.refused)
			}
		})
	}
}
