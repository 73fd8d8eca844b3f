package lab

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/overspan/overspan/internal/minihost"
)

// Paths on every node. They are the programs' defaults.
const (
	stateDir  = "state" // below the node's directory, not its /run: it outlives nothing else
	agentSock = "/run/overspan/agent.sock"
	notify    = "/run/notify.sock"
	stopAt    = "/run/stop-at" // see StopAt
)

// A Node is a host with an agent.
type Node struct {
	*Host

	// Flags are added to the agent's command line when it starts.
	Flags []string

	// Binary is the agent's, if it is another than the lab's.
	Binary string

	lab    *Lab
	agent  *Process // nil while stopped
	log    *os.File
	notify *net.UnixConn // the agent says here that it is ready, see sd_notify(3)
}

// openNode prepares what an agent needs on its host.
func (l *Lab) openNode(h *Host) (*Node, error) {
	n := &Node{Host: h, lab: l}
	var err error
	if n.log, err = os.Create(n.LogPath()); err != nil {
		return nil, err
	}
	at := &net.UnixAddr{Name: filepath.Join(h.Dir, notify), Net: "unixgram"}
	if n.notify, err = net.ListenUnixgram("unixgram", at); err != nil {
		return nil, fmt.Errorf("listen for the agent of %s: %w", h.Name, err)
	}
	return n, nil
}

// LogPath names the file that the node's agents write to.
func (n *Node) LogPath() string { return filepath.Join(n.Dir, "agent.log") }

// StateDir names the agent's state directory.
func (n *Node) StateDir() string { return filepath.Join(n.Dir, stateDir) }

// Socket names the agent's socket, as seen from outside the host.
func (n *Node) Socket() string { return filepath.Join(n.Dir, agentSock) }

// AgentArgs returns the command line of the node's agent.
func (n *Node) AgentArgs() []string {
	args := []string{"agent", "--node-name", n.Name, "--cluster", Cluster}
	if len(n.Addrs) == 1 {
		args = append(args, "--advertise-address", n.Addrs[0].String())
	} else {
		args = append(args, "--interface", underlayDev)
	}
	if n.lab.opts.EmbeddedEtcd && n == n.lab.Nodes[0] {
		args = append(args, "--embedded-etcd")
	} else {
		args = append(args, "--etcd-endpoints", n.lab.Etcd.URL)
	}
	args = append(args,
		"--state-dir", n.StateDir(),
		"--run-dir", "/run/overspan",
		"--listen", "unix://"+agentSock,
		"--metrics-listen", metricsAddr,
		"--log-level", "debug")
	return append(args, n.Flags...)
}

// RunAgent runs one more agent on the node until it ends. Where flags, in pairs
// of name and value, differ from those of the node's own agent, they hold; a
// last one alone is a switch.
func (n *Node) RunAgent(ctx context.Context, flags ...string) (Result, error) {
	args := n.AgentArgs()[1:]
	if len(flags)%2 == 1 {
		args = append(args, flags[len(flags)-1])
	}
	for i := 0; i+1 < len(flags); i += 2 {
		if at := slices.Index(args, flags[i]); at >= 0 {
			args[at+1] = flags[i+1]
		} else {
			args = append(args, flags[i], flags[i+1])
		}
	}
	return n.Host.Run(ctx, n.lab.bin.Agent, args...)
}

// Launch starts the node's agent and does not wait for it.
func (n *Node) Launch() error {
	if n.agent != nil {
		return fmt.Errorf("agent of %s runs already", n.Name)
	}
	args := n.AgentArgs()
	cmd := exec.Command(cmp.Or(n.Binary, n.lab.bin.Agent), args[1:]...)
	cmd.Args[0] = args[0]
	cmd.Env = append(minihost.Environ(), "NOTIFY_SOCKET="+notify, "OVERSPAN_STOP_AT="+stopAt)
	cmd.Stdout, cmd.Stderr = n.log, n.log
	p, err := n.Host.Start(cmd)
	if err != nil {
		return fmt.Errorf("on %s: %w", n.Name, err)
	}
	n.agent = p
	return nil
}

// Start starts the node's agent and waits until it says that it is ready.
func (n *Node) Start(ctx context.Context) error {
	if err := n.Launch(); err != nil {
		return err
	}
	return n.WaitReady(ctx)
}

// WaitReady returns when the agent says that it is ready, or has ended.
func (n *Node) WaitReady(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	agent := n.agent
	if agent == nil {
		return fmt.Errorf("agent of %s does not run", n.Name)
	}
	go func() {
		select {
		case <-agent.Done():
			cancel(fmt.Errorf("it ended: %w", agent.err))
		case <-ctx.Done():
		}
	}()
	if err := n.notify.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { n.notify.SetReadDeadline(time.Now()) })
	defer stop()
	buf := make([]byte, 4096)
	for {
		size, err := n.notify.Read(buf)
		if err != nil {
			return fmt.Errorf("wait for the agent of %s: %w\n%s", n.Name, context.Cause(ctx), n.LogTail(20))
		}
		for line := range bytes.Lines(buf[:size]) {
			if string(bytes.TrimSpace(line)) == "READY=1" {
				return nil
			}
		}
	}
}

// Stop ends the agent as systemd does, and waits. One that does not end well
// is an error.
func (n *Node) Stop(ctx context.Context) error {
	agent := n.agent
	if agent == nil {
		return nil
	}
	n.agent = nil
	if err := agent.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	if err := agent.Wait(ctx); err != nil {
		return fmt.Errorf("stop the agent of %s: %w\n%s", n.Name, errors.Join(err, agent.Signal(syscall.SIGKILL)), n.LogTail(20))
	}
	return nil
}

// Kill ends the agent with no time for anything.
func (n *Node) Kill(ctx context.Context) error {
	agent := n.agent
	if agent == nil {
		return nil
	}
	n.agent = nil
	return agent.Stop(ctx, syscall.SIGKILL)
}

// Restart ends the agent and starts it again.
func (n *Node) Restart(ctx context.Context) error {
	if err := n.Stop(ctx); err != nil {
		return err
	}
	return n.Start(ctx)
}

// Pause stops the agent in its tracks.
func (n *Node) Pause() error { return n.agent.Pause() }

// Resume lets a paused agent go on.
func (n *Node) Resume() error { return n.agent.Resume() }

// Running reports whether the agent was started and has not ended.
func (n *Node) Running() bool {
	if n.agent == nil {
		return false
	}
	select {
	case <-n.agent.Done():
		return false
	default:
		return true
	}
}

// Ctl runs ctl on the node.
func (n *Node) Ctl(ctx context.Context, args ...string) (Result, error) {
	cmd := exec.CommandContext(ctx, n.lab.bin.Ctl, args...)
	cmd.Args[0] = "ctl"
	cmd.Env = append(os.Environ(), "OVERSPAN_HOST=unix://"+agentSock)
	return run(cmd, shown(append([]string{"ctl"}, args...)...), n.enter)
}

// MustCtl runs ctl on the node and returns its standard output without the
// last newline; a status other than 0 is an error.
func (n *Node) MustCtl(ctx context.Context, args ...string) (string, error) {
	res, err := n.Ctl(ctx, args...)
	if err == nil {
		err = res.Err()
	}
	if err != nil {
		return "", fmt.Errorf("on %s: %w", n.Name, err)
	}
	return strings.TrimSuffix(res.Stdout, "\n"), nil
}

// CtlJSON runs ctl on the node and decodes what it prints as JSON.
func (n *Node) CtlJSON(ctx context.Context, out any, args ...string) error {
	text, err := n.MustCtl(ctx, args...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(text), out); err != nil {
		return fmt.Errorf("on %s: ctl %s: %w in %q", n.Name, shown(args...), err, text)
	}
	return nil
}

// Cut takes the node's cable out of the underlay.
func (n *Node) Cut() error { return n.lab.segment.set(n.Host, false) }

// Heal puts the cable back in.
func (n *Node) Heal() error { return n.lab.segment.set(n.Host, true) }

// Hides drops all packets between the node and etcd's servers, without a word to
// anybody, or lets them pass again. All others still reach the node.
func (n *Node) Hides(ctx context.Context, e *Etcd, hidden bool) error {
	change := "-D"
	if hidden {
		change = "-I"
	}
	for _, m := range e.Members {
		for _, rule := range [][]string{{"INPUT", "-s"}, {"OUTPUT", "-d"}} {
			if _, err := n.Exec(ctx, "iptables", "-w", change, rule[0], rule[1], m.Addrs[0].String(), "-j", "DROP"); err != nil {
				return err
			}
		}
	}
	return nil
}

// LogTail returns the last lines of the agent's log.
func (n *Node) LogTail(lines int) string {
	raw, err := os.ReadFile(n.LogPath())
	if err != nil {
		return err.Error()
	}
	all := strings.SplitAfter(string(raw), "\n")
	return strings.Join(all[max(0, len(all)-lines-1):], "")
}

// alarms are words in a log that no agent may write, whatever happens to it.
var alarms = []string{"DATA RACE", "panic: ", "fatal error: "}

// checkLog reports an alarm in the agent's log.
func (n *Node) checkLog() error {
	raw, err := os.ReadFile(n.LogPath())
	if err != nil {
		return err
	}
	for _, alarm := range alarms {
		if _, from, found := strings.Cut(string(raw), alarm); found {
			return fmt.Errorf("agent of %s: %s%.4000s", n.Name, alarm, from)
		}
	}
	return nil
}

// close ends the agent and checks how it fared.
func (n *Node) close(ctx context.Context) error {
	err := errors.Join(n.Stop(ctx), n.checkLog())
	n.notify.Close()
	n.log.Close()
	return err
}
