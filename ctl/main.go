// Ctl is Overspan's command line: a thin client of the agent's API.
//
// It decides nothing about networks. Only run and exec do something of their
// own: they enter a sandbox's namespaces and start a command there.
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
