package e2e

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/overspan/overspan/e2e/lab"
	"github.com/overspan/overspan/internal/steps"
)

// crashesVar set to "all" kills an agent at every moment; without it, at every
// fifth one: fences try them all.
const crashesVar = "OVERSPAN_E2E_CRASHES"

// everyFifth leaves out four of five moments.
func everyFifth(ops []operation) []operation {
	n := 0
	var out []operation
	for _, op := range ops {
		var some []steps.Moment
		for _, m := range op.moments {
			if n++; n%5 == 0 {
				some = append(some, m)
			}
		}
		op.moments = some
		out = append(out, op)
	}
	return out
}

// An agent that is killed between any two steps of what it does has left
// nothing half done once it is back: what etcd says of the network is sound,
// the kernel agrees, and what the operation was about can be had.
func TestCrashes(t *testing.T) {
	t.Parallel()
	ops := everyFifth(interruptible)
	if os.Getenv(crashesVar) == "all" {
		ops = interruptible
	}
	newFence(t).each(ops, (*fence).crash)
}

// crash carries one operation out and kills h1's agent at one moment.
func (f *fence) crash(op operation, m steps.Moment) {
	f.setUp(op)
	told, _ := f.begin(op, m)
	f.must(f.a.Kill(f.t.Context()))
	<-told
	f.must(f.a.Start(f.t.Context()))
	f.eventually(startWithin, f.whole)
	f.eventually(startWithin, f.verified)
	f.reaches(f.probe, f.addr4(2), f.addr4(3))
	if f.addr.IsValid() {
		f.eventually(startWithin, f.have)
		f.eventually(startWithin, f.verified)
	}
	f.tearDown(op)
}

// whole reports whether the round's network is sound, has the endpoints that
// nobody meant, and has op where the sandbox has its interface, and only there.
func (f *fence) whole(ctx context.Context) error {
	in, err := f.interior(ctx, f.id)
	if err != nil {
		return err
	}
	if err := in.sound(); err != nil {
		return err
	}
	for _, name := range []string{"keep", "stay", "probe"} {
		if _, there := in.names[name]; !there {
			return fmt.Errorf("etcd has lost the endpoint %s", name)
		}
	}
	_, recorded := in.names["op"]
	plugged := false
	for _, box := range []*lab.Sandbox{f.op, f.taken} {
		_, err := box.Link(eth0)
		plugged = plugged || err == nil
	}
	if recorded != plugged {
		return fmt.Errorf("op has a record: %t; an interface: %t", recorded, plugged)
	}
	return nil
}

// have connects op, unless it is connected, and reports whether it answers. What
// the crash has left, such as a release, may take a moment to go.
func (f *fence) have(ctx context.Context) error {
	if err := f.whole(ctx); err != nil {
		return err
	}
	if f.endpointID("op") == "" {
		if _, err := f.a.MustCtl(ctx, "network", "connect", "--ip", f.addr.String(), f.network, "op"); err != nil {
			return err
		}
	}
	lost, err := f.probe.PingOnce(f.addr)
	if err == nil && len(lost) > 0 {
		err = fmt.Errorf("no answer from %v", lost)
	}
	return err
}
