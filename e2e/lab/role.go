package lab

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/overspan/overspan/internal/minihost"
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

// roleCommand returns the command with which a program plays a role; without one,
// this program does.
func roleCommand(program, role string, args ...string) (*exec.Cmd, error) {
	if program == "" {
		var err error
		if program, err = os.Executable(); err != nil {
			return nil, err
		}
	}
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), roleVar+"="+role)
	return cmd, nil
}

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
	if err := minihost.Furnish(name, dir); err != nil {
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
			minihost.Reap(func(int) {})
		case <-ended:
			return nil
		}
	}
}
