package lab

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/internal/minihost"
)

// HostCommand is what this program is called with, below "lab", to become the
// first process of a host: its arguments are Serve's.
const HostCommand = "host"

// restartAfter is how long an agent that has ended stays away, as with systemd.
const restartAfter = time.Second

// Serve is the first process of a host. It furnishes the host, waits until it is
// told to begin, and then keeps an agent running until it is killed. Where nobody
// tells it to begin, it ends.
func Serve(name, dir string, agent []string) error {
	// In the machine's namespaces it would furnish the machine itself.
	if os.Getpid() != 1 {
		return overspan.Errorf(overspan.ErrInvalid, "ctl lab %s is what a host of a lab begins with; to make a lab: ctl lab up", HostCommand)
	}
	orphans := make(chan os.Signal, 1)
	signal.Notify(orphans, syscall.SIGCHLD)
	// The terminal's signals are for what is run on the host.
	signal.Ignore(syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT)
	if err := minihost.Furnish(name, dir); err != nil {
		return err
	}
	if _, err := io.WriteString(os.Stdout, standing); err != nil {
		return err
	}
	if line, err := bufio.NewReader(os.Stdin).ReadString('\n'); line != begin {
		return fmt.Errorf("host %s was not told to begin: %w", name, err)
	}
	if err := os.Stdout.Close(); err != nil {
		return err
	}
	s := &supervisor{args: agent}
	restart := time.NewTimer(0)
	defer restart.Stop()
	for {
		select {
		case <-restart.C:
			if err := s.start(); err != nil {
				fmt.Fprintln(os.Stderr, "lab:", err)
				restart.Reset(restartAfter)
			}
		case <-orphans:
			minihost.Reap(func(pid int) {
				if pid == s.pid {
					restart.Reset(restartAfter)
				}
			})
		}
	}
}

// A supervisor starts an agent; nothing if it has no command line.
type supervisor struct {
	args []string
	pid  int
}

func (s *supervisor) start() error {
	if len(s.args) == 0 {
		return nil
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	log := os.Stderr.Fd()
	s.pid, err = syscall.ForkExec(s.args[0], s.args, &syscall.ProcAttr{
		Dir: "/", Env: minihost.Environ(), Files: []uintptr{null.Fd(), log, log},
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", s.args[0], err)
	}
	return nil
}
