// Demo shows Overspan at work in a minute: three hosts made of namespaces, a
// real agent on each, an etcd inside the first one's, and an overlay network
// across them. It prints every command as a user types it and what came of it,
// checks each step, and leaves nothing behind. It needs root.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/overspan/overspan/e2e/lab"
)

func main() {
	lab.RunRole()
	verbose := flag.Bool("logs", false, "show the end of the agents' logs if a step fails")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, *verbose); err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: %v\n", err)
		stop()
		os.Exit(1)
	}
}

// run builds the programs and the lab, tells the story, and takes the lab down.
func run(ctx context.Context, out io.Writer, verbose bool) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("the demo makes network namespaces: run it as root")
	}
	dir, err := os.MkdirTemp("", "overspan-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	fmt.Fprintln(out, "Building agent and ctl …")
	bin, err := lab.Build(ctx, dir)
	if err != nil {
		return err
	}
	begin := time.Now()
	l, err := lab.New(ctx, lab.Options{Nodes: 3, EmbeddedEtcd: true, Bin: bin})
	if err != nil {
		return err
	}
	s := &story{Lab: l, out: out}
	err = s.tell(ctx)
	if err != nil && verbose {
		for _, n := range l.Nodes {
			fmt.Fprintf(out, "\n--- the agent of %s said last:\n%s", n.Name, n.LogTail(30))
		}
	}
	if err = errors.Join(err, l.Close(context.WithoutCancel(ctx))); err != nil {
		return err
	}
	fmt.Fprintf(out, "\nDone in %.1f s. Of %d packets none was lost; hosts, agents and etcd are gone.\n", time.Since(begin).Seconds(), s.packets)
	return nil
}
