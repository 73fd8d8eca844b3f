package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Deafen keeps what the kernel announces from the node's running agent, which does
// not notice: its netlink sockets that listen to a group drop all that arrives. It
// holds until the agent makes others.
func (n *Node) Deafen() error {
	pid := n.agent.PID()
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("open the agent of %s: %w", n.Name, err)
	}
	defer unix.Close(pidfd)
	open, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(pid), "fd"))
	if err != nil {
		return err
	}
	deaf := 0
	for _, entry := range open {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil {
			return err
		}
		was, err := deafen(pidfd, fd)
		if err != nil {
			return fmt.Errorf("deafen the agent of %s: %w", n.Name, err)
		}
		if was {
			deaf++
		}
	}
	if deaf == 0 {
		return fmt.Errorf("the agent of %s listens to nothing", n.Name)
	}
	return nil
}

// deafen reports whether a file of a process is a netlink socket that listened.
func deafen(pidfd, fd int) (was bool, err error) {
	socket, err := unix.PidfdGetfd(pidfd, fd, 0)
	if errors.Is(err, unix.EBADF) {
		return false, nil // closed meanwhile
	}
	if err != nil {
		return false, err
	}
	defer unix.Close(socket)
	// What is no socket has no name.
	at, _ := unix.Getsockname(socket)
	netlink, is := at.(*unix.SockaddrNetlink)
	if !is || netlink.Groups == 0 {
		return false, nil
	}
	nothing := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0}
	return true, unix.SetsockoptSockFprog(socket, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing})
}
