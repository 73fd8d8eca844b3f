package daemon

import (
	"context"
	"errors"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/await"
)

// mayAttach refuses what a draining node does not take.
func (d *Daemon) mayAttach() error {
	if n := d.registeredAs(); n != nil && n.Draining {
		return overspan.Errorf(overspan.ErrUnavailable, "node %s is draining and takes no new endpoints: allow them with ctl node undrain %s, or connect on another node", n.Name, n.Name)
	}
	return nil
}

// drain gives back the blocks of a draining node as they empty. What it still
// has it serves, and it answers wants as ever.
func (d *Daemon) drain(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.emptied:
		}
		if n := d.registeredAs(); n == nil || !n.Draining {
			continue
		}
		for _, id := range d.follows.all() {
			if err := d.alloc.Drain(ctx, id, d.giveBack); err != nil && !errors.Is(err, overspan.ErrNotFound) {
				d.log.Warn("cannot give back blocks; will try again", "network", overspan.ShortID(id), "error", err)
				await.WakeIn(d.emptied, releaseEvery)
			}
		}
		d.leaveIdle(ctx)
	}
}
