package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/overspan/overspan/internal/minihost"
)

// underlayDev is the name of every host's interface to the underlay.
const underlayDev = "eth0"

// A Host is a machine of the lab: network, mount, PID and UTS namespaces, a
// directory that is its /run, and one interface to the underlay.
type Host struct {
	Name  string
	Dir   string       // Dir/run is /run on the host
	Addrs []netip.Addr // in the underlay, IPv4 first

	first *Process  // process 1 of the host
	life  io.Closer // first ends when it is closed
	pidfd int       // of first: stands for all of the host's namespaces
	net   namespace
	links *netlink.Handle // in the host's network namespace

	inborn map[mount]struct{} // the mounts that the host has from its birth
}

// newHost makes a host without any interface, whose first process a program plays.
func newHost(ctx context.Context, name, dir, part string) (*Host, error) {
	h := &Host{Name: name, Dir: filepath.Join(dir, name), pidfd: -1}
	if err := minihost.Prepare(name, h.Dir); err != nil {
		return nil, err
	}
	if err := h.boot(ctx, part); err != nil {
		h.close(ctx)
		return nil, fmt.Errorf("boot host %s: %w", name, err)
	}
	return h, nil
}

// SetMachineID gives the host the machine id that another one was made with.
func (h *Host) SetMachineID(of *Host) error { return minihost.SetMachineID(h.Dir, of.Name) }

// boot starts the host's first process and gets hold of its namespaces.
func (h *Host) boot(ctx context.Context, part string) error {
	cmd, err := roleCommand(part, roleHost, h.Name, h.Dir)
	if err != nil {
		return err
	}
	cmd.SysProcAttr = &unix.SysProcAttr{
		Cloneflags: minihost.Namespaces,
	}
	if h.life, err = cmd.StdinPipe(); err != nil {
		return err
	}
	if h.first, err = spawnReady(ctx, cmd, func() error { return nil }); err != nil {
		return err
	}
	if h.pidfd, err = unix.PidfdOpen(h.first.PID(), 0); err != nil {
		return fmt.Errorf("open process 1: %w", err)
	}
	if h.net, err = openNamespace(fmt.Sprintf("/proc/%d/ns/net", h.first.PID())); err != nil {
		return err
	}
	if h.links, err = netlink.NewHandleAt(netns.NsHandle(h.net.fd())); err != nil {
		return fmt.Errorf("open netlink socket: %w", err)
	}
	h.inborn, err = h.mounts()
	return err
}

// spawnReady starts a role and waits until it says that it is ready.
func spawnReady(ctx context.Context, cmd *exec.Cmd, enter func() error) (*Process, error) {
	var complaint strings.Builder
	if cmd.Stderr == nil {
		cmd.Stderr = &complaint
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd.Stdout = w
	p, err := spawn(cmd, enter)
	w.Close()
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { p.Signal(unix.SIGKILL) })
	defer stop()
	if line, _ := bufio.NewReader(r).ReadString('\n'); line != ready {
		p.Signal(unix.SIGKILL)
		<-p.Done()
		return nil, errors.Join(ctx.Err(), fmt.Errorf("%s: %w: %s", cmd.Path, p.err, complaint.String()))
	}
	return p, nil
}

// enter puts the calling thread, and the children that it starts, into all of
// the host's namespaces.
func (h *Host) enter() error {
	if err := minihost.Enter(h.pidfd); err != nil {
		return fmt.Errorf("enter host %s: %w", h.Name, err)
	}
	return nil
}

// Start starts a command on the host.
func (h *Host) Start(cmd *exec.Cmd) (*Process, error) { return spawn(cmd, h.enter) }

// Run runs a command on the host and returns what it left. The error says that
// it could not be run; a status other than 0 is none.
func (h *Host) Run(ctx context.Context, name string, args ...string) (Result, error) {
	return run(exec.CommandContext(ctx, name, args...), shown(append([]string{name}, args...)...), h.enter)
}

// Exec runs a command on the host that must succeed, and returns its output.
func (h *Host) Exec(ctx context.Context, name string, args ...string) (string, error) {
	res, err := h.Run(ctx, name, args...)
	if err == nil {
		err = res.Err()
	}
	if err != nil {
		return "", fmt.Errorf("on %s: %w", h.Name, err)
	}
	return res.Stdout, nil
}

// Do runs f in the host's network namespace. Sockets that f opens stay there.
func (h *Host) Do(f func() error) error { return h.net.do(f) }

// Sysctl writes settings below /proc/sys of the host: "net/ipv4/ip_forward" to "0".
func (h *Host) Sysctl(settings map[string]string) error {
	return h.Do(func() error {
		for name, value := range settings {
			if err := os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0); err != nil {
				return fmt.Errorf("set sysctl %s on %s: %w", name, h.Name, err)
			}
		}
		return nil
	})
}

// Path returns where a path that the host sees is found from outside.
func (h *Host) Path(path string) string {
	return fmt.Sprintf("/proc/%d/root%s", h.first.PID(), path)
}

// close ends the host and everything that still runs on it.
func (h *Host) close(ctx context.Context) error {
	var err error
	if h.first != nil {
		h.life.Close()
		err = h.first.Wait(ctx)
	}
	if h.links != nil {
		h.links.Close()
	}
	if h.pidfd >= 0 {
		unix.Close(h.pidfd)
	}
	h.net.close()
	return err
}
