package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/overspan/overspan/internal/minihost"
)

// A Process is a child of this program in a host's namespaces. It ends at the
// latest when the host's first process does.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
	err  error         // of Wait; to be read after done
}

// spawn starts a command on a thread that enter has put into other namespaces.
func spawn(cmd *exec.Cmd, enter func() error) (*Process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	// A Ctrl-C is for this program, which then ends the others in order.
	cmd.SysProcAttr.Setpgid = true
	cmd.Dir = "/"
	err := minihost.OnThread(func() error {
		if err := enter(); err != nil {
			return err
		}
		return cmd.Start()
	})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	p := &Process{cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// PID returns the process's id as this program sees it.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Signal sends a signal; one that has ended is no error.
func (p *Process) Signal(sig os.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %v to %s: %w", sig, p.cmd.Path, err)
	}
	return nil
}

// Wait returns how the process ended: nil if with status 0.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return fmt.Errorf("wait for %s: %w", p.cmd.Path, ctx.Err())
	}
}

// Stop sends a signal and waits until the process has ended, however it ended.
func (p *Process) Stop(ctx context.Context, sig os.Signal) error {
	if err := p.Signal(sig); err != nil {
		return err
	}
	err := p.Wait(ctx)
	if _, exited := errors.AsType[*exec.ExitError](err); exited {
		return nil
	}
	return err
}

// Pause stops the process in its tracks, and returns when it stands still.
func (p *Process) Pause() error {
	if err := p.Signal(unix.SIGSTOP); err != nil {
		return err
	}
	for {
		err := unix.Waitid(unix.P_PID, p.PID(), nil, unix.WSTOPPED|unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// Resume lets a paused process go on.
func (p *Process) Resume() error { return p.Signal(unix.SIGCONT) }

// A Result is what a command that ended left.
type Result struct {
	Command string // as a user would type it
	Stdout  string
	Stderr  string
	Code    int // exit status; -1 if a signal ended it
}

// Err returns nil if the command succeeded, else an error with all it said.
func (r Result) Err() error {
	if r.Code == 0 {
		return nil
	}
	return fmt.Errorf("%s: exit status %d\n%s%s", r.Command, r.Code, r.Stdout, r.Stderr)
}

// run starts a command as spawn does and collects what it prints. The error
// says that it could not be run; a status other than 0 is none.
func run(cmd *exec.Cmd, shown string, enter func() error) (Result, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	res := Result{Command: shown, Code: -1}
	p, err := spawn(cmd, enter)
	if err != nil {
		return res, err
	}
	<-p.done
	res.Stdout, res.Stderr, res.Code = stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
	if _, exited := errors.AsType[*exec.ExitError](p.err); p.err != nil && !exited {
		return res, fmt.Errorf("%s: %w", shown, p.err)
	}
	return res, nil
}

// shown joins a command's words for a reader.
func shown(words ...string) string { return strings.Join(words, " ") }
