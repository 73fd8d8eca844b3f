package lab

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// roleVar tells a copy of this program that it was started as a part of a lab.
const roleVar = "OVERSPAN_LAB_ROLE"

// The roles.
const (
	roleHost = "host" // first process of a host: args name, directory
	roleEtcd = "etcd" // etcd server: arg its part
)

// ready is what a role prints once it stands.
const ready = "ready\n"

// RunRole must be the first thing that a program with a lab does, in main or
// TestMain. It returns at once, unless the lab has started the program anew as
// one of its parts: then it plays that part and ends the process.
func RunRole() {
	var err error
	switch os.Getenv(roleVar) {
	case "":
		return
	case roleHost:
		err = playHost(os.Args[1], os.Args[2])
	case roleEtcd:
		err = playEtcd(os.Args[1])
	default:
		err = fmt.Errorf("unknown role %s", os.Getenv(roleVar))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// playHost is process 1 of a host. It furnishes the host's namespaces, in which
// it was started, and lives until its input ends; the kernel then kills
// whatever still runs on the host.
func playHost(name, dir string) error {
	if err := furnish(name, dir); err != nil {
		return err
	}
	orphans := make(chan os.Signal, 1)
	signal.Notify(orphans, syscall.SIGCHLD)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		io.Copy(io.Discard, os.Stdin)
	}()
	if _, err := os.Stdout.WriteString(ready); err != nil {
		return err
	}
	for {
		select {
		case <-orphans:
			reap()
		case <-ended:
			return nil
		}
	}
}

// reap buries all dead children.
func reap() {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if pid <= 0 && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// furnish gives the host its name, its own /proc, /sys, /run, /etc and machine id.
// Control groups stay the machine's: a container engine on the host needs them.
func furnish(name, dir string) error {
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
	err := unix.Mount(filepath.Join(dir, "machine-id"), "/etc/machine-id", "", unix.MS_BIND, "")
	if errors.Is(err, unix.ENOENT) {
		return nil // a system without one has none to hide
	}
	return err
}

// furnishEtc fills an empty /etc with the machine's files, but for one that the
// host has for itself: resolv.conf. What is made there is the host's own.
func furnishEtc(machine string) error {
	entries, err := os.ReadDir(machine)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == "resolv.conf" || e.Name() == "netns" {
			continue
		}
		if err := os.Symlink(filepath.Join(machine, e.Name()), filepath.Join("/etc", e.Name())); err != nil {
			return err
		}
	}
	return os.WriteFile("/etc/resolv.conf", nil, 0o644)
}
