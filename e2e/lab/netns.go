package lab

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/overspan/overspan/internal/minihost"
)

// A namespace is a network namespace that lives as long as the file is open.
type namespace struct{ file *os.File }

// newNamespace makes an empty network namespace.
func newNamespace() (namespace, error) {
	var ns namespace
	err := minihost.OnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace (are you root?): %w", err)
		}
		var err error
		ns, err = openNamespace("/proc/thread-self/ns/net")
		return err
	})
	return ns, err
}

func openNamespace(path string) (namespace, error) {
	f, err := os.Open(path)
	if err != nil {
		return namespace{}, fmt.Errorf("open network namespace: %w", err)
	}
	return namespace{f}, nil
}

func (ns namespace) fd() int { return int(ns.file.Fd()) }

// enter puts the calling thread into the namespace.
func (ns namespace) enter() error {
	if err := unix.Setns(ns.fd(), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", ns.file.Name(), err)
	}
	return nil
}

// do runs f on a thread inside the namespace. A socket that f opens stays in
// the namespace and can be used from anywhere.
func (ns namespace) do(f func() error) error {
	return minihost.OnThread(func() error {
		if err := ns.enter(); err != nil {
			return err
		}
		return f()
	})
}

func (ns namespace) close() {
	if ns.file != nil {
		ns.file.Close()
	}
}
