package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// An Event is what ctl events prints of one thing that an agent saw happen.
type Event struct {
	Time       time.Time
	Type       string
	Action     string
	Name       string
	Attributes map[string]string
}

// Events is a ctl events that runs on a node.
type Events struct {
	ctl  *Process
	done sync.WaitGroup

	mu   sync.Mutex // guards all below
	seen []Event
	err  error
}

// Events starts to record the node's events. It returns once nothing is missed
// any more: when an event that it causes itself is seen.
func (n *Node) Events(ctx context.Context) (*Events, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(n.lab.bin.Ctl, "events", "-o", "json")
	cmd.Args[0] = "ctl"
	cmd.Env = append(os.Environ(), "OVERSPAN_HOST=unix://"+agentSock)
	cmd.Stdout = w
	e := &Events{}
	e.ctl, err = n.Host.Start(cmd)
	w.Close()
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("on %s: %w", n.Name, err)
	}
	e.done.Go(func() { e.read(r) })
	err = Eventually(ctx, answerWithin*10, func(ctx context.Context) error {
		const probe = "events-probe"
		for _, verb := range []string{"create", "rm"} {
			if _, err := n.MustCtl(ctx, "sandbox", verb, probe); err != nil {
				return err
			}
		}
		for _, seen := range e.Seen() {
			if seen.Name == probe {
				return nil
			}
		}
		return fmt.Errorf("ctl events on %s shows nothing", n.Name)
	})
	if err != nil {
		e.Stop(ctx)
		return nil, err
	}
	return e, nil
}

func (e *Events) read(r *os.File) {
	defer r.Close()
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		var seen Event
		err := json.Unmarshal(lines.Bytes(), &seen)
		e.mu.Lock()
		e.seen = append(e.seen, seen)
		if err != nil {
			e.err = fmt.Errorf("ctl events prints %q: %w", lines.Text(), err)
		}
		e.mu.Unlock()
	}
}

// Seen returns the events so far.
func (e *Events) Seen() []Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]Event(nil), e.seen...)
}

// Stop ends the recording, and says if ctl printed what is no event.
func (e *Events) Stop(ctx context.Context) error {
	err := e.ctl.Stop(ctx, unix.SIGTERM)
	e.done.Wait()
	if e.err != nil {
		return e.err
	}
	return err
}
