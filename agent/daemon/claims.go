package daemon

import (
	"context"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/reconcile"
	"github.com/overspan/overspan/internal/steps"
	"github.com/overspan/overspan/ipam"
	"github.com/overspan/overspan/store"
)

// claims lets the allocator see and change who holds what: it is ipam.Claims
// over the mirror and the session.
type claims struct{ d *Daemon }

// View returns what the newest snapshot says of a network that is followed.
func (c claims) View(_ context.Context, id overspan.NetworkID) (ipam.View, error) {
	s := c.d.knowledge().Shown
	if s == nil {
		return ipam.View{}, reconcile.ErrNoSnapshot
	}
	n, seg := s.Networks[id], s.Segments.Get(id)
	if n == nil {
		return ipam.View{}, overspan.Errorf(overspan.ErrNotFound, "network %s not found: it was removed", overspan.ShortID(id))
	}
	if seg == nil {
		return ipam.View{}, overspan.Errorf(overspan.ErrUnavailable, "network %s has not been read from etcd yet", n.Name)
	}
	return ipam.View{
		Network: n,
		Segment: seg,
		Self:    c.d.Self(),
		Up:      func(id overspan.NodeID) bool { return s.Nodes[id] != nil && s.Nodes[id].Presence != nil },
		Name:    func(id overspan.NodeID) string { return s.NodeName(id) },
	}, nil
}

// Refresh returns once View is at least as new as the moment of the call.
func (c claims) Refresh(ctx context.Context, _ overspan.NetworkID) error { return c.d.Sync(ctx) }

// Claim takes a block, and returns once the mirror shows it.
func (c claims) Claim(ctx context.Context, n *overspan.Network, r overspan.Range) error {
	session, err := c.d.registrar.session()
	if err != nil {
		return err
	}
	steps.At(steps.ClaimBegun)
	if err := c.d.journal.PutFollowed(n.ID); err != nil {
		return err
	}
	steps.At(steps.ClaimNoted)
	b, err := session.Claim(ctx, n, r, true)
	if err != nil {
		return err
	}
	steps.At(steps.ClaimDone)
	c.d.log.Info("claimed a block", "network", n.Name, "slots", r.String(), "epoch", b.CreateRevision)
	return c.d.mirror.WaitSegment(ctx, n.ID, b.ModRevision)
}

// Ask leaves a want with a holder and waits for its answer. Whatever that is,
// View shows it when Ask returns nil.
func (c claims) Ask(ctx context.Context, n *overspan.Network, holder overspan.NodeID, slot *overspan.Slot) error {
	session, err := c.d.registrar.session()
	if err != nil {
		return err
	}
	steps.At(steps.WantBegun)
	if err := c.d.journal.PutFollowed(n.ID); err != nil {
		return err
	}
	steps.At(steps.WantNoted)
	want, err := session.PutWant(ctx, n, holder, slot)
	if err != nil {
		return err
	}
	steps.At(steps.WantPut)
	wait, cancel := context.WithTimeout(ctx, askBound)
	defer cancel()
	for {
		changed := c.d.snapshots.Wait()
		if answered(c.d.knowledge().Shown, want) {
			steps.At(steps.WantMet)
			return nil
		}
		select {
		case <-changed:
		case <-wait.Done():
			// The holder may answer until the want is gone; then View tells.
			if err := c.dropWant(ctx, session, want); err != nil {
				return err
			}
			if err := c.d.Sync(ctx); err != nil {
				return err
			}
			return overspan.Errorf(overspan.ErrUnavailable, "node %s did not answer within %s when asked for addresses of network %s", c.d.knowledge().Shown.NodeName(holder), askBound, n.Name)
		}
	}
}

// dropWant takes a want back, even for a caller that has given up. One that
// stays keeps the network followed until it is answered.
func (c claims) dropWant(ctx context.Context, session *store.Session, want overspan.Want) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoBound)
	defer cancel()
	return session.DropWant(ctx, want)
}

// answered reports whether a want is gone.
func answered(s *overspan.Snapshot, want overspan.Want) bool {
	seg := s.Segment(want.Network)
	if seg == nil || seg.Revision < want.CreateRevision {
		return false
	}
	for _, w := range seg.Wants {
		if w.Holder == want.Holder && w.Asker == want.Asker && w.CreateRevision == want.CreateRevision {
			return false
		}
	}
	return true
}
