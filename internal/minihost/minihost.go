// Package minihost makes a host out of namespaces: a machine within the machine,
// with a network, processes, a name, /proc, /sys, /run, /etc and a machine id of
// its own, and all else of the machine's.
package minihost

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Namespaces are those that a host has of its own: the clone flags of its first
// process.
const Namespaces = unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS

// Prepare makes what Furnish finds in a host's directory. The directory's run is
// /run on the host, and its machine-id derives from the name.
func Prepare(name, dir string) error {
	for _, sub := range []string{"run", "cgroup", "etc"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return err
		}
	}
	return SetMachineID(dir, name)
}

// SetMachineID gives a host the machine id that derives from a name, whether the
// system has one or not.
func SetMachineID(dir, name string) error {
	id := fmt.Sprintf("%032x\n", []byte(name))
	// In place: this file is mounted on the host.
	return os.WriteFile(filepath.Join(dir, "machine-id"), []byte(id), 0o644)
}

// Furnish gives the calling process's namespaces, which are Namespaces, all that
// makes a host of them. Control groups stay the machine's: a container engine on
// the host needs them.
func Furnish(name, dir string) error {
	if err := unix.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	const cgroups = "/sys/fs/cgroup"
	aside := filepath.Join(dir, "cgroup")
	mounts := []struct {
		source, target, kind string
		flags                uintptr
	}{
		{"", "/", "", unix.MS_REC | unix.MS_PRIVATE},
		{"proc", "/proc", "proc", 0},
		{cgroups, aside, "", unix.MS_BIND | unix.MS_REC},
		{"sysfs", "/sys", "sysfs", 0},
		{aside, cgroups, "", unix.MS_MOVE},
		{filepath.Join(dir, "run"), "/run", "", unix.MS_BIND},
		{"/etc", filepath.Join(dir, "etc"), "", unix.MS_BIND | unix.MS_REC},
		{"tmpfs", "/etc", "tmpfs", 0},
	}
	for _, m := range mounts {
		if err := unix.Mount(m.source, m.target, m.kind, m.flags, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	if err := furnishEtc(filepath.Join(dir, "etc")); err != nil {
		return err
	}
	return unix.Mount(filepath.Join(dir, "machine-id"), machineID, "", unix.MS_BIND, "")
}

// machineID is where a host finds its machine id.
const machineID = "/etc/machine-id"

// furnishEtc fills an empty /etc with the machine's files, but for what the host
// has for itself: resolv.conf, a place for its machine id, and the settings of an
// agent. What is made there is the host's own.
func furnishEtc(machine string) error {
	entries, err := os.ReadDir(machine)
	if err != nil {
		return err
	}
	for _, e := range entries {
		switch e.Name() {
		case "resolv.conf", "machine-id", "netns", "overspan":
			continue
		}
		if err := os.Symlink(filepath.Join(machine, e.Name()), filepath.Join("/etc", e.Name())); err != nil {
			return err
		}
	}
	for _, own := range []string{"/etc/resolv.conf", machineID} {
		if err := os.WriteFile(own, nil, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Environ is the environment for an agent of the host: this process's, without
// settings that are for the machine's own agent.
func Environ() []string {
	return slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "OVERSPAN_") })
}

// Reap buries all dead children of the first process and tells of each.
func Reap(dead func(pid int)) {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if pid <= 0 && !errors.Is(err, unix.EINTR) {
			return
		}
		if pid > 0 {
			dead(pid)
		}
	}
}

// Enter puts the calling thread, and the children that it starts, into all
// namespaces of the host whose first process a pidfd stands for. The thread is of
// no other use afterwards.
func Enter(pidfd int) error {
	// A thread can only change its mount namespace alone if it does not share
	// its root and working directory with the others.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare working directory: %w", err)
	}
	return unix.Setns(pidfd, Namespaces)
}

// OnThread runs f on a thread that is thrown away afterwards, so that f may
// change what belongs to a thread.
func OnThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}
