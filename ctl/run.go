package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// A runRequest is what the flags of run say.
type runRequest struct {
	networks []string
	name     string
	ip, ip6  string
	mac      string
	aliases  []string
	links    []string
	command  []string
	settings sandboxFlags
	doors    publication // at the first network

	around    surroundings
	variables []string // that around says, once they are read
}

func (a *app) runCommand() *cobra.Command {
	var req runRequest
	cmd := &cobra.Command{
		Use:   "run [flags] [--] COMMAND [ARG...]",
		Short: "Run a command in a new sandbox that is removed when it ends",
		Long: "Run makes a sandbox, connects it, and runs a command in it, with a hostname,\n" +
			"/etc/hosts, /etc/resolv.conf and /sys of its own. Signals are passed on; the\n" +
			"exit code is the command's. It needs root.\n\n" +
			"NETWORK is a network's name or id, or, alone, none (only a loopback), host (what\n" +
			"this host has) or container:SANDBOX (what that sandbox has). In the long form,\n" +
			"name=NETWORK,ip=ADDRESS,…, keys are for that network alone; alias and driver-opt\n" +
			"may be repeated, and a field with commas in it goes into double quotes.",
		Example: "  ctl run --network demo --name web1 -- python3 -m http.server\n" +
			"  ctl run -p 8080:80 --network demo --name web -- httpd -f\n" +
			"  ctl run --network name=demo,ip=10.0.0.9,alias=db --network other -- CMD\n" +
			"  ctl run --network container:web1 -- ss -tln",
		Args:              wants(cobra.MinimumNArgs(1)),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.Bool("help", false, "help for run") // so that -h can be docker's
	f.StringArrayVar(&req.networks, "network", nil, "network to connect to, or name=NETWORK,KEY=VALUE,… with alias, ip, ip6, mac-address, driver-opt, gw-priority; may be repeated (default: bridge)")
	f.StringVar(&req.name, "name", "", "name of the sandbox and its endpoints (default: drawn)")
	f.StringVar(&req.ip, "ip", "", "IPv4 address, with one network")
	f.StringVar(&req.ip6, "ip6", "", "IPv6 address, with one network")
	f.StringVar(&req.mac, "mac-address", "", "MAC address, with one network")
	f.StringArrayVar(&req.aliases, "alias", nil, "further name in the networks, which others may have too; may be repeated")
	f.StringArrayVar(&req.links, "link", nil, "NAME:ALIAS: a name that this sandbox alone knows another by; may be repeated")
	req.settings.register(f, "h")
	req.doors.flags(f)
	req.around.register(cmd)
	detach := dockerRunFlags(f)
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("network", func(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
		return a.completeModes(cmd, req.networkNames(), prefix)
	}))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *detach {
			return usagef("--detach is not supported, since a sandbox of ctl run ends with its command: end the line with &, or let a service manager run it")
		}
		req.command = args
		mode, err := req.mode()
		if err != nil {
			return err
		}
		if req.variables, err = req.around.variables(); err != nil {
			return err
		}
		return a.runIn(cmd.Context(), mode, req)
	}
	return cmd
}

// runIn runs a command where it belongs.
func (a *app) runIn(ctx context.Context, mode runMode, req runRequest) error {
	// Signals are for the command. Those that come before it runs end the
	// preparations by way of ctx, or wait for it.
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, forwarded()...)
	defer signal.Stop(signals)

	if len(mode.networks) == 0 && req.doors.some() {
		fmt.Fprintf(a.stderr, "warning: published ports are discarded with --network %s\n", mode.name)
	}
	if mode.host {
		if err := surround(req.variables, req.around.dir); err != nil {
			return err
		}
		path, err := lookUp(req.command[0])
		if err != nil {
			return err
		}
		return supervise(onTerminal(exec.Command(path, req.command[1:]...)), signals)
	}
	sandboxes, err := a.sandboxes()
	if err != nil {
		return err
	}
	if mode.shared != "" {
		resp, err := sandboxes.GetSandbox(ctx, &overspanv1.GetSandboxRequest{Sandbox: mode.shared})
		if err != nil {
			return err
		}
		return supervise(a.execCommandLine(resp.GetSandbox().GetSandbox(), req), signals)
	}
	return a.runInSandbox(ctx, sandboxes, mode.networks, req, signals)
}

// runInSandbox runs a command in a sandbox of its own and removes the sandbox,
// whatever happens.
func (a *app) runInSandbox(ctx context.Context, sandboxes overspanv1.SandboxServiceClient, networks []runNetwork, req runRequest, signals <-chan os.Signal) (err error) {
	// Not to be interrupted: what was made must be known, to be removed.
	lasting := context.WithoutCancel(ctx)
	create, err := req.settings.request(req.name)
	if err != nil {
		return err
	}
	links, err := parseLinks(req.links)
	if err != nil {
		return err
	}
	created, err := sandboxes.CreateSandbox(lasting, create)
	if err != nil {
		return err
	}
	sb := created.GetSandbox()
	defer func() {
		_, removeErr := sandboxes.RemoveSandbox(lasting, &overspanv1.RemoveSandboxRequest{Sandbox: sb.GetId()})
		if removeErr == nil {
			return
		}
		fmt.Fprintf(a.stderr, "Error: remove sandbox %s: %v\n", sb.GetName(), removeErr)
		if err == nil {
			err = exitCode(exitFailure)
		}
	}()
	for i, network := range networks {
		connect := network.connect(sb.GetName(), links)
		if i == 0 {
			req.doors.into(connect)
		}
		if _, err := a.connect(ctx, connect); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return supervise(a.execCommandLine(sb, req), signals)
}

// execCommandLine is ctl exec: it enters the sandbox and becomes the command,
// so that what is supervised is the command itself.
func (a *app) execCommandLine(sb *overspanv1.Sandbox, req runRequest) *exec.Cmd {
	args := []string{
		"--host", a.client.host, "--timeout", a.timeout.String(),
		"--tls-ca", a.client.tls.ca, "--tls-cert", a.client.tls.cert, "--tls-key", a.client.tls.key,
		"exec", "--workdir", req.around.dir,
	}
	args = append(args, sb.GetId(), "--")
	cmd := exec.Command("/proc/self/exe", append(args, req.command...)...)
	cmd.Args[0] = os.Args[0]
	// Not as flags: what a file says is not for everybody to see in ps(1).
	cmd.Env = append(os.Environ(), req.variables...)
	return onTerminal(cmd)
}

// onTerminal gives a command what ctl itself reads and writes.
func onTerminal(cmd *exec.Cmd) *exec.Cmd {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd
}

// forwarded lists the signals that are passed on to the command. The terminal
// sends its own to the whole foreground group: there the command has them
// already, and they must only not end ctl.
func forwarded() []os.Signal {
	return []os.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGQUIT, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2}
}

// supervise runs a command to its end, as attend does.
func supervise(cmd *exec.Cmd, signals <-chan os.Signal) error {
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("run %s: %w", cmd.Path, err)
	}
	return attend(cmd, signals)
}

// attend waits for a command that was started, passes signals on to it, and
// returns its exit code as an error.
func attend(cmd *exec.Cmd, signals <-chan os.Signal) error {
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	for {
		select {
		case sig := <-signals:
			if fromTerminal(sig) {
				continue
			}
			// A command that ended meanwhile needs no signal.
			_ = cmd.Process.Signal(sig)
		case err := <-done:
			return exitStatus(err)
		}
	}
}

// fromTerminal reports whether a signal came from the keyboard, as far as that
// can be told: it is one that a terminal sends, and there is a terminal.
func fromTerminal(sig os.Signal) bool {
	if sig != unix.SIGINT && sig != unix.SIGQUIT {
		return false
	}
	_, err := unix.IoctlGetTermios(int(os.Stdin.Fd()), unix.TCGETS)
	return err == nil
}

// exitStatus turns how a command ended into the code that a shell would give.
func exitStatus(err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return exitCode(128 + int(status.Signal()))
	}
	return exitCode(exit.ExitCode())
}
