package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

func (a *app) execCommand() *cobra.Command {
	var hostname string
	var around surroundings
	cmd := &cobra.Command{
		Use:   "exec [flags] SANDBOX [--] COMMAND [ARG...]",
		Short: "Run a command in a sandbox of this host",
		Long: "Exec runs a command in the network namespace of a sandbox, with a hostname,\n" +
			"/etc/hosts, /etc/resolv.conf and /sys of its own. It needs root.",
		Example:           "  ctl exec web1 -- ping 10.0.0.3\n  ctl exec -e LANG=C -w /srv web1 -- ./serve",
		Args:              wants(cobra.MinimumNArgs(2)),
		ValidArgsFunction: a.completeSandboxes(oneArg),
	}
	cmd.Flags().SetInterspersed(false)
	ttyFlags(cmd.Flags())
	around.register(cmd)
	cmd.Flags().StringVar(&hostname, "hostname", "", "hostname that the command sees (default: the sandbox's)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		// Soon this process is the command: what ends that ends this.
		signal.Reset()
		variables, err := around.variables()
		if err != nil {
			return err
		}
		sandboxes, err := a.sandboxes()
		if err != nil {
			return err
		}
		resp, err := sandboxes.GetSandbox(cmd.Context(), &overspanv1.GetSandboxRequest{Sandbox: args[0]})
		if err != nil {
			return err
		}
		command := args[1:]
		if command[0] == "--" {
			command = command[1:]
		}
		if len(command) == 0 {
			return usagef("no command to run in %s", args[0])
		}
		sb := sandboxItemOf(resp.GetSandbox())
		if hostname == "" {
			hostname = cmp.Or(sb.Hostname, sb.Name)
		}
		return become(sb, hostname, command, variables, around.dir)
	}
	return cmd
}

// The exit codes of a command that cannot be started, as shells have them.
const (
	exitCannotRun = 126
	exitNoCommand = 127
)

// become turns this process into a command in the sandbox. It returns only if
// that fails. The thread is never unlocked: its namespaces are not those of
// the others any more, and exec makes it the only one.
func become(sb sandboxItem, hostname string, command, variables []string, dir string) error {
	runtime.LockOSThread()
	if err := enter(sb, hostname); err != nil {
		return fmt.Errorf("enter sandbox %s: %w", sb.Name, err)
	}
	if err := surround(variables, dir); err != nil {
		return err
	}
	path, err := lookUp(command[0])
	if err != nil {
		return err
	}
	err = unix.Exec(path, command, os.Environ())
	fmt.Fprintf(os.Stderr, "Error: run %s: %v\n", path, err)
	return exitCode(exitCannotRun)
}

// lookUp finds a command's program as a shell does; what is wrong with it was
// said when the error is returned.
func lookUp(command string) (string, error) {
	path, err := exec.LookPath(command)
	if err == nil {
		return path, nil
	}
	fmt.Fprintf(os.Stderr, "Error: %v\n", err)
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
		return "", exitCode(exitNoCommand)
	}
	return "", exitCode(exitCannotRun)
}
