package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overspan/overspan/internal/steps"
)

// StopAt makes the node's agent stop itself, once, when it next is at a moment.
// Only an agent that was built with the tag steps does.
func (n *Node) StopAt(m steps.Moment) error {
	return os.WriteFile(filepath.Join(n.Dir, stopAt), []byte(m), 0o644)
}

// AwaitStop returns when the agent stands still at the moment that StopAt
// named. Resume lets it go on.
func (n *Node) AwaitStop(ctx context.Context, within time.Duration) error {
	err := Eventually(ctx, within, func(context.Context) error {
		stopped, err := n.agent.isStopped()
		if err == nil && !stopped {
			err = errors.New("it runs on")
		}
		return err
	})
	if err != nil {
		wanted, _ := os.ReadFile(filepath.Join(n.Dir, stopAt))
		return fmt.Errorf("wait for the agent of %s to stop at %q: %w\n%s", n.Name, wanted, err, n.LogTail(20))
	}
	return nil
}

// isStopped reports whether the process stands still.
func (p *Process) isStopped() (bool, error) {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_PID, p.PID(), &info, unix.WSTOPPED|unix.WNOHANG|unix.WNOWAIT, nil)
	if errors.Is(err, unix.EINTR) {
		return false, nil
	}
	return info.Signo != 0, err
}
