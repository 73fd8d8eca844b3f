// Agent is Overspan's daemon: it registers this host in etcd, leases subnets
// and addresses for its containers, and keeps the kernel's bridges, VXLAN
// devices and forwarding entries in line with what the cluster says.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/pflag"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/store"
)

func main() {
	os.Exit(run(os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

// run returns the exit status: 2 for a wrong command line, 1 for an agent that
// could not start or go on.
func run(args, env []string, stdout, stderr io.Writer) int {
	c, err := parse(args, env, stderr)
	switch {
	case errors.Is(err, pflag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "agent: %v\nSee 'agent --help'.\n", err)
		return 2
	case c.Version:
		fmt.Fprintf(stdout, "overspan agent %s, with etcd %s\n", overspan.Version, store.EmbeddedVersion())
		return 0
	}
	log, err := newLogger(c, stderr)
	if err != nil {
		fmt.Fprintf(stderr, "agent: %v\n", err)
		if !c.Cleanup {
			return 2
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if c.Cleanup {
		if err := cleanup(ctx, c, stdout, log); err != nil {
			log.Error("cleanup ends", "error", err)
			return 1
		}
		return 0
	}
	if err := serve(ctx, c, log); err != nil {
		log.Error("agent ends", "error", err)
		return 1
	}
	log.Info("agent ends; what it set up in the kernel stays")
	return 0
}

// newLogger returns one even with an error: of text, from info on.
func newLogger(c *config, w io.Writer) (*slog.Logger, error) {
	fallback := slog.New(slog.NewTextHandler(w, nil))
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return fallback, fmt.Errorf("--log-level %q: want debug, info, warn or error", c.LogLevel)
	}
	options := &slog.HandlerOptions{Level: level}
	switch c.LogFormat {
	case "text":
		return slog.New(slog.NewTextHandler(w, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return fallback, fmt.Errorf("--log-format %q: want text or json", c.LogFormat)
}

// notify tells systemd how far the agent is, if systemd started it: sd_notify(3).
func notify(log *slog.Logger, state string) {
	if _, err := systemd.SdNotify(false, state); err != nil {
		log.Warn("cannot notify systemd", "state", state, "error", err)
	}
}
