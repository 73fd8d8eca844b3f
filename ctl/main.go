// Ctl is Overspan's command line: a thin client of the agent's API.
//
// It decides nothing about networks. Only run, exec and lab do something of their
// own: the first two enter a sandbox's namespaces and start a command there, and
// lab makes hosts to try things on.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
