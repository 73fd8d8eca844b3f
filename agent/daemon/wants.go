package daemon

import (
	"context"
	"errors"
	"slices"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/internal/steps"
	"github.com/overspan/overspan/ipam"
)

// answerWants gives up slots that other nodes ask for, as far as they are unused.
func (d *Daemon) answerWants(ctx context.Context) error {
	var seen overspan.Segments
	wanted := map[overspan.NetworkID][]overspan.Want{} // of this node
	for {
		changed := d.snapshots.Wait()
		if s := d.knowledge().Etcd; s != nil {
			for id := range s.Segments.Changes(seen) {
				if wanted[id] = wantsOf(s.Segments.Get(id), d.Self()); len(wanted[id]) == 0 {
					delete(wanted, id)
				}
			}
			seen = s.Segments
			for id, wants := range wanted {
				if err := d.alloc.Grants(ctx, id, wants, d.answer); err != nil {
					d.log.Warn("cannot answer a want", "network", overspan.ShortID(id), "error", err)
				}
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// wantsOf returns what others want of a node in a network; a nil one is not known.
func wantsOf(seg *overspan.Segment, holder overspan.NodeID) []overspan.Want {
	if seg == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(seg.Wants), func(w overspan.Want) bool { return w.Holder != holder })
}

// answer gives the asker what it may have, or takes its want away: a refusal.
func (d *Daemon) answer(ctx context.Context, n *overspan.Network, w overspan.Want, g *ipam.Grant) error {
	session, err := d.registrar.session()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, requestBound)
	defer cancel()
	if g == nil {
		return session.DropWant(ctx, w)
	}
	steps.At(steps.YieldOffered)
	err = session.Yield(ctx, n, w, g.From, g.Give, g.Keep)
	steps.At(steps.YieldDone)
	switch {
	case errors.Is(err, overspan.ErrConflict):
		// The block is another by now: the next snapshot shows what to answer.
		return nil
	case errors.Is(err, overspan.ErrNotFound), errors.Is(err, overspan.ErrInUse):
		// Withdrawn, its asker is gone, or what was to be given is in use.
		return session.DropWant(ctx, w)
	case err == nil:
		d.log.Info("yielded addresses", "network", n.Name, "slots", g.Give.String(), "to", d.knowledge().Shown.NodeName(w.Asker))
	}
	return err
}

// asks reports whether a node has left a want in the network.
func asks(seg *overspan.Segment, node overspan.NodeID) bool {
	return slices.ContainsFunc(seg.Wants, func(w overspan.Want) bool { return w.Asker == node })
}
