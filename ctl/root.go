package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/ctl/lab"
)

// defaultHost is where an agent listens unless it was told otherwise.
const defaultHost = "unix:///run/overspan/agent.sock"

// Exit codes. A command that run or exec started has its own.
const (
	exitFailure = 1
	exitUsage   = 2
)

// An exitCode ends ctl with a code; all there is to say was said.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// A usageError is a command line that cannot be understood.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// An app is one command line being carried out.
type app struct {
	args           []string
	stdout, stderr io.Writer

	node    string // --node: a host of the lab, on which all is done
	client  client
	output  string        // -o
	format  string        // --format, as docker has it
	timeout time.Duration // of each call
	begun   bool          // the command line is understood, as far as cobra does
}

// run carries out a command line and returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	a := &app{args: args, stdout: stdout, stderr: stderr}
	defer a.client.close()
	root := a.rootCommand()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	var code exitCode
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &usage) || !a.begun: // cobra wraps no error of a flag before the command
		fmt.Fprintf(stderr, "Error: %v\nSee '%s --help'.\n", err, cmd.CommandPath())
		return exitUsage
	}
	fmt.Fprintf(stderr, "Error: %v\n", err)
	return exitFailure
}

func (a *app) rootCommand() *cobra.Command {
	root := group("ctl", "Networks for containers on many hosts",
		a.networkCommand(), a.nodeCommand(), a.endpointCommand(), a.sandboxCommand(), a.ipamCommand(),
		a.clusterCommand(),
		a.runCommand(), a.execCommand(),
		a.statusCommand(), a.verifyCommand(), a.eventsCommand(), a.versionCommand(), a.labCommand(),
	)
	root.Long = "ctl talks to the Overspan agent of this host. Networks, endpoints and nodes are\nthose of the whole cluster; sandboxes are this host's."
	root.SilenceUsage = true
	root.SilenceErrors = true
	root.TraverseChildren = true // so that network create can have docker's -o
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	f := root.PersistentFlags()
	f.StringVar(&a.client.host, "host", "", "the agent: unix:///path or tcp://host:port (OVERSPAN_HOST; default "+defaultHost+")")
	f.StringVar(&a.client.tls.ca, "tls-ca", os.Getenv("OVERSPAN_TLS_CA"), "CA of the agent's certificate, for tcp:// (OVERSPAN_TLS_CA)")
	f.StringVar(&a.client.tls.cert, "tls-cert", os.Getenv("OVERSPAN_TLS_CERT"), "certificate to show, for tcp:// (OVERSPAN_TLS_CERT)")
	f.StringVar(&a.client.tls.key, "tls-key", os.Getenv("OVERSPAN_TLS_KEY"), "key of --tls-cert (OVERSPAN_TLS_KEY)")
	f.StringVarP(&a.output, "output", "o", "", "how to show data: table, json, yaml, go-template=TEMPLATE")
	f.DurationVar(&a.timeout, "timeout", 30*time.Second, "how long to wait for an answer")
	// Not for the commands' own flags: it stands in front of them.
	root.Flags().StringVar(&a.node, "node", "", "a host of the lab on this machine, on which all is done (see ctl lab)")
	cobra.CheckErr(root.RegisterFlagCompletionFunc("node", completeLabNodes))
	root.Version = overspan.Version
	root.SetVersionTemplate("ctl {{.Version}}\n")
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if a.timeout <= 0 {
			return usagef("invalid --timeout %s: want more than 0s", a.timeout)
		}
		a.begun = true
		// An empty name, as of a variable that is not set, is not the machine's own agent.
		if cmd.Root().Flags().Changed("node") {
			return a.ctlOnNode()
		}
		a.prepareClient()
		return nil
	}
	return root
}

// prepareClient tells the client what the flags and the environment say.
func (a *app) prepareClient() {
	a.client.host = cmp.Or(a.client.host, os.Getenv("OVERSPAN_HOST"), defaultHost)
	if a.node != "" { // names are completed from here
		if l, err := lab.Open(labDir()); err == nil {
			if n, err := l.Node(a.node); err == nil {
				a.client.host = "unix://" + l.Socket(n)
			}
		}
	}
	a.client.timeout, a.client.stderr = a.timeout, a.stderr
}

// group makes a command that only holds others.
func group(use, short string, subs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			hint := ""
			if like := cmd.SuggestionsFor(args[0]); len(like) > 0 {
				hint = "; did you mean " + strings.Join(like, " or ") + "?"
			}
			return usagef("unknown command %q of %q%s", args[0], cmd.CommandPath(), hint)
		},
		ValidArgsFunction:          cobra.NoFileCompletions,
		SuggestionsMinimumDistance: 2,
	}
	cmd.AddCommand(subs...)
	return cmd
}

// wants makes what a check of arguments says a usage error that shows the usage.
func wants(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usagef("%w; usage: %s", err, cmd.UseLine())
		}
		return nil
	}
}

// keyValues takes arguments of the form key=value apart.
func keyValues(flag string, in []string, needValue bool) (map[string]string, error) {
	out := map[string]string{}
	for _, text := range in {
		key, value, ok := strings.Cut(text, "=")
		if key == "" || needValue && !ok {
			return nil, usagef("invalid argument %q for --%s: want key=value", text, flag)
		}
		out[key] = value
	}
	return out, nil
}

// each does something for every argument, says what failed, and goes on.
func (a *app) each(args []string, do func(string) error) error {
	var last error
	for _, arg := range args {
		if err := do(arg); err != nil {
			if errors.Is(err, context.Canceled) {
				return err
			}
			fmt.Fprintf(a.stderr, "Error: %v\n", err)
			last = exitCode(exitFailure)
		}
	}
	return last
}
