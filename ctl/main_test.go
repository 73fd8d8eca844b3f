package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/api"
	"github.com/overspan/overspan/agent/api/apitest"
	"github.com/overspan/overspan/agent/daemon"
)

var update = flag.Bool("update", false, "write what commands print into the scripts")

func TestMain(m *testing.M) {
	overspan.Version = "1.2.3-test"
	testscript.Main(m, map[string]func(){"ctl": main})
}

// TestScripts runs ctl as a process of its own against an API server with a
// daemon in memory. Beside testscript's commands there are those of agentCommand.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		UpdateScripts:       *update,
		Setup: func(env *testscript.Env) error {
			socket := filepath.Join(env.WorkDir, "agent.sock")
			env.Setenv("OVERSPAN_HOST", "unix://"+socket)
			env.Setenv("SOCKET", socket)
			env.Setenv("TZ", "UTC")
			d, err := serveDaemon(env, socket)
			env.Values[daemonKey{}] = d
			return err
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"agent":    agentCommand,
			"waitfile": waitFile,
			"signal":   signalBackground,
		},
	})
}

// daemonKey finds the daemon of a script.
type daemonKey struct{}

// serveDaemon serves a fresh daemon until the script ends. Its sandboxes are
// real network namespaces.
func serveDaemon(env *testscript.Env, socket string) (*apitest.Daemon, error) {
	d := apitest.New()
	netns := netnsOf(socket)
	d.Netns, d.Unmake = netns.add, netns.del
	cfg := api.Config{Listen: []string{"unix://" + socket}}
	listeners, err := api.Listen(cfg)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- api.New(d, cfg, slog.New(slog.DiscardHandler)).Serve(ctx, listeners) }()
	env.Defer(func() {
		cancel()
		err := <-done
		for _, sb := range d.Sandboxes() {
			err = errors.Join(err, d.RemoveSandbox(context.Background(), sb.Name))
		}
		if err != nil {
			panic(err)
		}
	})
	return d, nil
}

// netnsOf makes namespaces as ip-netns(8) does, under names that no other
// script has.
type netnsOf string

func (n netnsOf) name(sandbox string) string {
	return fmt.Sprintf("ctltest-%d-%s-%s", os.Getpid(), filepath.Base(filepath.Dir(string(n))), sandbox)
}

func (n netnsOf) add(sandbox string) (string, error) {
	name := n.name(sandbox)
	if out, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
		return "", fmt.Errorf("ip netns add (these tests need root): %w: %s", err, out)
	}
	return "/run/netns/" + name, nil
}

func (n netnsOf) del(sandbox string) error {
	if out, err := exec.Command("ip", "netns", "del", n.name(sandbox)).CombinedOutput(); err != nil {
		return fmt.Errorf("ip netns del: %w: %s", err, out)
	}
	return nil
}

// agentCommand changes what the daemon says:
//
//	agent stale REASON      etcd is away
//	agent drift OP...       verify finds these
//	agent lose NAME WHY     an endpoint loses its slot
//	agent place NETWORK NAME        h3, which is away, has an endpoint there
//	agent unfollow NETWORK  the snapshot does not show what is in it
//	agent half-remove NODE  a removal of the node is half done
//	agent event TYPE ACTION NAME    something happens; waits for a subscriber
//	agent unheard           waits until no subscriber is left
//	agent trouble           status has something to say
//	agent freeze            the cluster is frozen; h1 has published again, h2 not
//	agent report            h2 could not publish all
//	agent no-sandboxes      fails if there is a sandbox left
func agentCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: agent VERB [ARG...]")
	}
	d := ts.Value(daemonKey{}).(*apitest.Daemon)
	switch verb, args := args[0], args[1:]; verb {
	case "stale":
		d.LoseEtcd(args[0])
	case "drift":
		d.SetDrift(args...)
	case "lose":
		d.Lose(args[0], args[1])
	case "place":
		ts.Check(d.Place(args[0], args[1], apitest.Away))
	case "unfollow":
		ts.Check(d.Unfollow(args[0]))
	case "half-remove":
		ts.Check(d.HalfRemove(args[0]))
	case "event":
		e := daemon.Event{Time: apitest.Created, Type: args[0], Action: args[1], Name: args[2], Attributes: map[string]string{"cause": "test"}}
		eventually(ts, "a subscriber", func() bool { return d.Subscribers() > 0 })
		d.Publish(e)
	case "unheard":
		eventually(ts, "the subscribers to go", func() bool { return d.Subscribers() == 0 })
	case "trouble":
		d.SetStatus(func(s *daemon.Status) {
			s.Warnings, s.LastError, s.PendingReleases = []string{"the underlay is too small"}, "add vxlan osx-1: file exists", 2
			s.Etcd = append(s.Etcd,
				daemon.EtcdMember{Endpoint: "http://10.99.0.2:2379", Err: overspan.Errorf(overspan.ErrUnavailable, "connection refused")},
				daemon.EtcdMember{Endpoint: "http://10.99.0.3:2379", Version: "3.6.0", Err: overspan.Errorf(overspan.ErrUnavailable, "it is out of space")})
		})
	case "freeze":
		d.Freeze(frozen(nil))
	case "report":
		d.Freeze(frozen(&overspan.Report{NodeName: "h2", Endpoints: 1, Failures: []string{"endpoint web: 10.0.0.7 now belongs to node h3"}}))
	case "no-sandboxes":
		if left := d.Sandboxes(); len(left) > 0 {
			ts.Fatalf("sandboxes left: %v", left)
		}
	default:
		ts.Fatalf("unknown verb %q", verb)
	}
}

// frozen is a freeze in which h2 has reported this; nil if nothing.
func frozen(report *overspan.Report) *daemon.FreezeStatus {
	return &daemon.FreezeStatus{
		Freeze: overspan.Freeze{Reason: "etcd was rolled back: it is at revision 8, after 15", Node: apitest.Other, NodeName: "h2", Since: apitest.Created},
		Reports: []daemon.NodeReport{
			{Node: apitest.Self, Name: "h1", Up: true, Report: &overspan.Report{NodeName: "h1", Since: apitest.Created, Networks: 1, Blocks: 2, Endpoints: 3}},
			{Node: apitest.Other, Name: "h2", Up: true, Report: report},
			{Node: apitest.Away, Name: "h3"},
		},
	}
}

// waitFile waits until a file is there and has some content.
func waitFile(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: waitfile FILE")
	}
	eventually(ts, args[0], func() bool {
		info, err := os.Stat(ts.MkAbs(args[0]))
		return err == nil && info.Size() > 0
	})
}

// signalBackground sends a signal to the process whose number a file holds.
func signalBackground(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: signal NAME PIDFILE")
	}
	pid := strings.TrimSpace(ts.ReadFile(args[1]))
	if _, err := strconv.Atoi(pid); err != nil {
		ts.Fatalf("%s: %v", args[1], err)
	}
	ts.Check(ts.Exec("kill", "-"+args[0], pid))
}

// eventually waits for a condition, bounded.
func eventually(ts *testscript.TestScript, what string, done func() bool) {
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			ts.Fatalf("waited in vain for %s", what)
		}
	}
}
