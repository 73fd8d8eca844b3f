package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/internal/minihost"
)

// What the first process of a host says once the host stands, and is told when
// its agent may start.
const (
	standing = "standing\n"
	begin    = "begin\n"
)

// A boot is a host that stands and waits: it ends unless it is released.
type boot struct{ order io.WriteCloser }

func (b *boot) close() { b.order.Close() }

// release has the host's agent start; from then on the host lasts.
func (b *boot) release() error {
	_, err := io.WriteString(b.order, begin)
	return err
}

// boot starts the first process of a host: this program, as HostCommand. Agent is
// the command line of what it runs; nil for nothing.
func (l *Lab) boot(ctx context.Context, name string, agent []string) (*boot, Host, error) {
	dir := filepath.Join(l.Dir, name)
	if err := minihost.Prepare(name, dir); err != nil {
		return nil, Host{}, err
	}
	if err := os.WriteFile(filepath.Join(dir, onHost), []byte(name), 0o644); err != nil {
		return nil, Host{}, err
	}
	log, err := os.Create(filepath.Join(dir, "agent.log"))
	if err != nil {
		return nil, Host{}, err
	}
	defer log.Close()
	self, err := os.Executable()
	if err != nil {
		return nil, Host{}, err
	}
	cmd := exec.Command(self, append([]string{"lab", HostCommand, "--", name, dir}, agent...)...)
	cmd.Stderr, cmd.Dir = log, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: minihost.Namespaces, Setsid: true}
	order, err := cmd.StdinPipe()
	if err != nil {
		return nil, Host{}, err
	}
	said, err := cmd.StdoutPipe()
	if err != nil {
		return nil, Host{}, err
	}
	if err := cmd.Start(); err != nil {
		return nil, Host{}, fmt.Errorf("start host %s: %w", name, err)
	}
	b := &boot{order: order}
	// One that says nothing is not waited for longer than the lab is.
	given := context.AfterFunc(ctx, func() { cmd.Process.Kill() })
	line, _ := bufio.NewReader(said).ReadString('\n')
	if in := given(); !in || line != standing {
		b.close()
		err := errors.Join(cmd.Wait(), ctx.Err())
		text, _ := os.ReadFile(log.Name())
		return nil, Host{}, fmt.Errorf("start host %s: %w: %s", name, err, strings.TrimSpace(string(text)))
	}
	h := Host{Name: name, PID: cmd.Process.Pid}
	if h.Started, err = startTime(h.PID); err != nil {
		b.close()
		return nil, Host{}, errors.Join(err, cmd.Wait())
	}
	return b, h, cmd.Process.Release()
}

// startTime returns when a process was started, in clock ticks since boot.
func startTime(pid int) (uint64, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The second field is the program's name in brackets, which may hold any character.
	_, rest, _ := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')')+1:]), " ")
	const started = 22 - 3 // the rest begins with the third field
	fields := strings.Fields(rest)
	if len(fields) <= started {
		return 0, fmt.Errorf("/proc/%d/stat has too few fields", pid)
	}
	return strconv.ParseUint(fields[started], 10, 64)
}

// open returns a pidfd of the host's first process; an error of os.ErrProcessDone
// if the host has ended.
func (h Host) open() (pidfd int, err error) {
	if h.PID == 0 {
		return -1, os.ErrProcessDone
	}
	pidfd, err = unix.PidfdOpen(h.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return -1, os.ErrProcessDone
	}
	if err != nil {
		return -1, fmt.Errorf("open process %d: %w", h.PID, err)
	}
	// From here on the id cannot become another's unseen.
	if started, err := startTime(h.PID); err != nil || started != h.Started {
		unix.Close(pidfd)
		return -1, os.ErrProcessDone
	}
	return pidfd, nil
}

func (h Host) alive() bool {
	pidfd, err := h.open()
	if err == nil {
		unix.Close(pidfd)
	}
	return err == nil
}

// end kills the host's first process, and with it all of the host's, and waits
// until they are gone.
func (h Host) end(ctx context.Context) error {
	pidfd, err := h.open()
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(pidfd)
	if err := unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	const look = 100 * time.Millisecond
	for ctx.Err() == nil {
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(look.Milliseconds()))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if ready > 0 {
			return nil
		}
	}
	return ctx.Err()
}

// Start starts a command on the host, in its directory if the host has that too.
func (h Host) Start(cmd *exec.Cmd) error {
	pidfd, err := h.open()
	if errors.Is(err, os.ErrProcessDone) {
		return overspan.Errorf(overspan.ErrUnavailable, "host %s has ended; take the lab down and up again: ctl lab down", h.Name)
	}
	if err != nil {
		return err
	}
	defer unix.Close(pidfd)
	return minihost.OnThread(func() error {
		if err := minihost.Enter(pidfd); err != nil {
			return fmt.Errorf("enter host %s (are you root?): %w", h.Name, err)
		}
		if info, err := os.Stat(cmd.Dir); err != nil || !info.IsDir() {
			cmd.Dir = "/"
		}
		return cmd.Start()
	})
}
