package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/ctl/lab"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// defaultLabDir is where a lab stands unless OVERSPAN_LAB_DIR says otherwise. It
// is not below /run, of which each host has its own.
const defaultLabDir = "/var/lib/overspan-lab"

func labDir() string { return cmp.Or(os.Getenv("OVERSPAN_LAB_DIR"), defaultLabDir) }

func (a *app) labCommand() *cobra.Command {
	cmd := group("lab", "Hosts made of namespaces on this machine, each with an agent: to try things",
		a.labUpCommand(), a.labListCommand(), a.labExecCommand(), a.labDownCommand(), labHostCommand())
	cmd.Long = "A lab is some hosts made of namespaces, on a network of their own, with an agent on\n" +
		"each and an etcd inside the first one's. The machine's own network stays as it is.\n" +
		"Every command of ctl talks to a node of it with --node, in front of all else."
	cmd.Example = "  ctl lab up --nodes 3\n  ctl --node h1 network create -d overlay demo\n  ctl --node h2 network ls\n  ctl lab down"
	return cmd
}

func (a *app) labUpCommand() *cobra.Command {
	opts := lab.Options{Ready: awaitNodes}
	cmd := &cobra.Command{
		Use:               "up [flags]",
		Short:             "Make a lab and wait until its nodes see each other",
		Args:              wants(cobra.NoArgs),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().IntVar(&opts.Nodes, "nodes", 3, "how many hosts")
	cmd.Flags().StringVar(&opts.Agent, "agent", "", "the agent's program (default: beside this one, or in PATH)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		opts.Dir = labDir()
		var err error
		if opts.Agent, err = agentProgram(opts.Agent); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), a.timeout)
		defer cancel()
		l, err := lab.Up(ctx, opts)
		if err != nil {
			return err
		}
		for _, n := range l.Nodes {
			fmt.Fprintln(a.stdout, n.Name)
		}
		return nil
	}
	return cmd
}

// agentProgram finds the agent's program.
func agentProgram(given string) (string, error) {
	if given != "" {
		path, err := exec.LookPath(given)
		if err != nil {
			return "", err
		}
		return filepath.Abs(path)
	}
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	if path, err := exec.LookPath(filepath.Join(filepath.Dir(self), "agent")); err == nil {
		return path, nil
	}
	path, err := exec.LookPath("agent")
	if err != nil {
		return "", overspan.Errorf(overspan.ErrNotFound, "there is no program agent in %s or in PATH; name it: --agent PATH", filepath.Dir(self))
	}
	return filepath.Abs(path)
}

// awaitNodes waits until each agent tells of all nodes as present.
func awaitNodes(ctx context.Context, l *lab.Lab) error {
	const again = 50 * time.Millisecond
	tick := time.NewTicker(again)
	defer tick.Stop()
	for i := range l.Nodes {
		n := &l.Nodes[i]
		for {
			up, err := nodesUp(ctx, "unix://"+l.Socket(n))
			if up == len(l.Nodes) {
				break
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return fmt.Errorf("the agent of %s sees %d of %d nodes (%w); it said last: %s", n.Name, up, len(l.Nodes), cmp.Or(err, ctx.Err()), lastLine(l.Log(n)))
			}
		}
	}
	return nil
}

// nodesUp counts the nodes that an agent tells of as present.
func nodesUp(ctx context.Context, host string) (up int, err error) {
	a := &app{client: client{host: host, timeout: time.Second, stderr: io.Discard}}
	defer a.client.close()
	nodes, err := a.nodes()
	if err != nil {
		return 0, err
	}
	resp, err := nodes.ListNodes(ctx, &overspanv1.ListNodesRequest{})
	for _, n := range resp.GetNodes() {
		if nodeItemOf(n).Status == "up" {
			up++
		}
	}
	return up, err
}

func lastLine(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return lines[len(lines)-1]
}

// labItem is a node of the lab.
type labItem struct {
	Name    string
	Address string
	PID     int
	Agent   string // "up" if it answers, else "down"
	Log     string
}

func (a *app) labListCommand() *cobra.Command {
	list := listing[labItem]{
		columns: []column[labItem]{
			{"NAME", func(i labItem) string { return i.Name }},
			{"ADDRESS", func(i labItem) string { return i.Address }},
			{"PID", func(i labItem) string { return strconv.Itoa(i.PID) }},
			{"AGENT", func(i labItem) string { return i.Agent }},
			{"LOG", func(i labItem) string { return i.Log }},
		},
		id: func(i labItem) string { return i.Name },
	}
	cmd := &cobra.Command{
		Use:               "ls [flags]",
		Aliases:           []string{"list"},
		Short:             "List the lab's hosts",
		Args:              wants(cobra.NoArgs),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	list.flags(a, cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		l, err := lab.Open(labDir())
		if err != nil {
			return err
		}
		var items []labItem
		for i := range l.Nodes {
			n := &l.Nodes[i]
			item := labItem{Name: n.Name, Address: n.Address.String(), PID: n.PID, Agent: "down", Log: l.Log(n)}
			if _, err := nodesUp(cmd.Context(), "unix://"+l.Socket(n)); err == nil {
				item.Agent = "up"
			}
			items = append(items, item)
		}
		return list.print(a, items)
	}
	return cmd
}

func (a *app) labExecCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "exec NODE [--] COMMAND [ARG...]",
		Short:             "Run a command on a host of the lab",
		Example:           "  ctl lab exec h2 -- ip -br link",
		Args:              wants(cobra.MinimumNArgs(2)),
		ValidArgsFunction: completeLabNodes,
	}
	cmd.Flags().SetInterspersed(false)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		command := args[1:]
		if command[0] == "--" {
			command = command[1:]
		}
		if len(command) == 0 {
			return usagef("no command to run on %s", args[0])
		}
		return a.onNode(args[0], command, os.Environ())
	}
	return cmd
}

// onNode runs a command on a host of the lab, and ends as it does.
func (a *app) onNode(name string, command, environ []string) error {
	l, err := lab.Open(labDir())
	if err != nil {
		return err
	}
	n, err := l.Node(name)
	if err != nil {
		return err
	}
	path, err := lookUp(command[0])
	if err != nil {
		return err
	}
	// A directory that is gone here is not there either.
	dir, _ := os.Getwd()
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, forwarded()...)
	defer signal.Stop(signals)
	run := exec.Command(path, command[1:]...)
	run.Dir = dir
	run.Env, run.Stdin, run.Stdout, run.Stderr = environ, os.Stdin, a.stdout, a.stderr
	if err := n.Start(run); err != nil {
		return err
	}
	return attend(run, signals)
}

func (a *app) labDownCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "down",
		Short:             "End the lab's hosts, with all that runs on them, and delete what they had",
		Args:              wants(cobra.NoArgs),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, cancel := context.WithTimeout(cmd.Context(), a.timeout)
		defer cancel()
		return lab.Down(ctx, labDir())
	}
	return cmd
}

// labHostCommand is the first process of a host; nobody types it.
func labHostCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:    lab.HostCommand + " NAME DIR [AGENT...]",
		Args:   wants(cobra.MinimumNArgs(2)),
		Hidden: true,
		RunE:   func(_ *cobra.Command, args []string) error { return lab.Serve(args[0], args[1], args[2:]) },
	}
	cmd.Flags().SetInterspersed(false)
	return cmd
}

// completeLabNodes offers the lab's hosts.
func completeLabNodes(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	const none = cobra.ShellCompDirectiveNoFileComp
	l, err := lab.Open(labDir())
	if err != nil || len(args) > 0 {
		return nil, none
	}
	var names []string
	for _, n := range l.Nodes {
		names = append(names, n.Name)
	}
	return names, none
}

// ctlOnNode runs this command line on a host of the lab, as it would be typed there.
func (a *app) ctlOnNode() error {
	if a.node == "" {
		return usagef("--node names no host; ctl lab ls lists them")
	}
	if a.client.host != "" {
		return usagef("--node and --host name two agents; give one of them")
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	environ := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "OVERSPAN_HOST=") })
	if err := a.onNode(a.node, append([]string{self}, withoutNode(a.args)...), environ); err != nil {
		return err
	}
	return errDone
}

// errDone says that all was done elsewhere.
const errDone = exitCode(0)

// withoutNode drops --node and its value from a command line: it stands in front
// of the command's name.
func withoutNode(args []string) []string {
	for i, arg := range args {
		if arg == "--node" {
			return slices.Delete(slices.Clone(args), i, min(i+2, len(args)))
		}
		if strings.HasPrefix(arg, "--node=") {
			return slices.Delete(slices.Clone(args), i, i+1)
		}
	}
	return args
}
