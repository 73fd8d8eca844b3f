package daemon

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/overspan/overspan"
)

// describeProcess says which run of which agent this is.
func describeProcess() (overspan.Presence, error) {
	p := overspan.Presence{PID: os.Getpid(), Instance: overspan.NewID()}
	machine, err := os.ReadFile("/etc/machine-id")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return p, err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return p, err
	}
	p.MachineID, p.BootID = strings.TrimSpace(string(machine)), strings.TrimSpace(string(boot))
	if p.PIDSpace, err = os.Readlink("/proc/self/ns/pid"); err != nil {
		return p, err
	}
	_, p.StartTime, err = processStat(p.PID)
	return p, err
}

// processAlive reports whether the process that a presence names still runs.
// It is only asked about presences of this boot and PID namespace. A zombie does
// not run: a killed agent stays one until its parent asks for it, which may be
// long after the next agent has started.
func processAlive(p overspan.Presence) bool {
	state, start, err := processStat(p.PID)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return false
	}
	return err != nil || start == p.StartTime && state != "Z" && state != "X"
}

// processStat returns a process's state and when it started, in clock ticks
// after boot: fields 3 and 22 of /proc/PID/stat, counted from behind the
// parenthesised command, which may contain anything (proc(5)).
func processStat(pid int) (state string, start uint64, err error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", 0, err
	}
	fields := strings.Fields(string(raw)[strings.LastIndexByte(string(raw), ')')+1:])
	if len(fields) < 20 {
		return "", 0, fmt.Errorf("read /proc/%d/stat: %d fields after the command", pid, len(fields))
	}
	start, err = strconv.ParseUint(fields[19], 10, 64)
	return fields[0], start, err
}
