package store

import (
	"context"
	"fmt"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/internal/steps"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// PutWant asks a holder to give up slots of its blocks in a network: one certain
// slot, or any if slot is nil. A want that this node left there before is
// replaced. The holder answers by Yield or DropWant; either way the want is gone.
// ErrUnavailable, too, if the holder was removed.
func (s *Session) PutWant(ctx context.Context, n *overspan.Network, holder overspan.NodeID, slot *overspan.Slot) (overspan.Want, error) {
	w := overspan.Want{Network: n.ID, Holder: holder, Asker: s.cfg.Node.ID, Slot: slot}
	what := fmt.Sprintf("want slots of network %s", n.Name)
	rec := overspanv1.WantRecord(w, s.registration)
	if _, err := rec.Noun(n.ID, holder, w.Asker); err != nil {
		return overspan.Want{}, overspan.Errorf(overspan.ErrInvalid, "%s: %s", what, err)
	}
	if err := leaving(n); err != nil {
		return overspan.Want{}, err
	}
	key, holderKey := s.keys.Want(n.ID, holder, w.Asker), s.keys.Node(holder)
	for range maxRaces {
		res, err := s.flights.fly(ctx, &request{step: steps.PutWant, what: what, witness: Put(key, mustMarshal(rec)), txn: Txn{
			// Who removes a node looks for wants after its registration is gone.
			If:   append(s.mayClaim(n), Absent(Key(key)), Present(holderKey)),
			Else: []Op{Get(Key(s.keys.Network(n.ID))), Get(Key(s.keys.Frozen())), Get(Key(key)), Get(Key(holderKey))},
		}})
		if err != nil {
			return overspan.Want{}, err
		}
		if res.OK {
			w.CreateRevision = res.Revision
			return w, nil
		}
		kvs := found(res)
		if err := s.whyNotClaimed(n, kvs); err != nil {
			return overspan.Want{}, err
		}
		if _, there := kvs[holderKey]; !there {
			return overspan.Want{}, overspan.Errorf(overspan.ErrUnavailable, "%s: node %s was removed; try again", what, overspan.ShortID(holder))
		}
		standing, there := kvs[key]
		if !there {
			// The answer was lost, and by the time it was asked for again the holder
			// had answered.
			w.CreateRevision = res.Revision
			return w, nil
		}
		// An old want is deleted, not overwritten: the holder tells wants apart by
		// their create-revision.
		old := w
		old.CreateRevision = standing.CreateRevision
		if err := s.DropWant(ctx, old); err != nil {
			return overspan.Want{}, err
		}
	}
	return overspan.Want{}, overspan.Errorf(overspan.ErrConflict, "%s: an older want is still there", what)
}

// DropWant deletes a want: its asker takes it back, or its holder refuses. One
// that is gone or has been replaced is success.
func (s *Session) DropWant(ctx context.Context, w overspan.Want) error {
	key := s.keys.Want(w.Network, w.Holder, w.Asker)
	_, err := s.flights.fly(ctx, &request{
		step:    steps.DropWant,
		what:    fmt.Sprintf("drop a want in network %s", overspan.ShortID(w.Network)),
		witness: Delete(Key(key)),
		txn:     Txn{If: []Cmp{Created(key, w.CreateRevision)}},
	})
	return err
}

// Yield answers a want: it gives a part of a block of this node's to the asker
// and keeps the rest as smaller blocks, in one transaction that also deletes the
// want. The asker's block asks to be acknowledged, since the asker is about to
// use it. So do the blocks that are kept: they are other blocks than the one that
// the members have confirmed, and this node's next attach waits for them. Give and
// keep must cover from exactly.
//
// The blocks that are kept have epochs of their own. An attach of this node that
// was prepared for the old block fails with ErrConflict and looks again; endpoints
// that stand in them are not touched.
//
// A block that is given up as a whole is only released: the next owner's block
// would have the same key, and with it the same epoch. The asker finds it
// unclaimed.
//
// Errors: ErrNotFound if the want is gone, the asker too, or the network;
// ErrConflict if the block is no longer this node's; ErrInUse if an endpoint
// stands in what would be given.
func (s *Session) Yield(ctx context.Context, n *overspan.Network, w overspan.Want, from overspan.Block, give overspan.Range, keep []overspan.Range) error {
	what := fmt.Sprintf("yield slots %s of network %s", give, n.Name)
	if gaps, ok := gapsIn(from.Range, append([]overspan.Range{give}, keep...)); !ok || len(gaps) > 0 {
		return overspan.Errorf(overspan.ErrInvalid, "%s: with %v kept it is not block %s", what, keep, from.Range)
	}
	if err := leaving(n); err != nil {
		return err
	}
	wantKV, err := s.get(ctx, s.keys.Want(w.Network, w.Holder, w.Asker))
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if wantKV.Key == "" || wantKV.CreateRevision != w.CreateRevision {
		return overspan.Errorf(overspan.ErrNotFound, "%s: it is not wanted any more", what)
	}
	_, asker, err := s.keys.want(wantKV)
	if err != nil {
		return err
	}
	fromKey, askerKey := s.keys.Block(n.ID, from.Range), s.keys.Node(w.Asker)
	t := Txn{
		If: append(s.mayClaim(n),
			Created(fromKey, from.CreateRevision),
			Created(wantKV.Key, w.CreateRevision),
			Created(askerKey, asker),
			Absent(s.keys.EndpointsWithin(n.ID, give)),
		),
		Then: []Op{Delete(Key(wantKV.Key))},
		Else: []Op{
			Get(Key(s.keys.Network(n.ID))), Get(Key(s.keys.Frozen())),
			Get(Key(fromKey)), Get(Key(wantKV.Key)), Get(Key(askerKey)),
		},
	}
	if give != from.Range {
		t.Then = append(t.Then, s.putBlock(n.ID, overspan.Block{Range: give, Node: w.Asker, Ack: true}))
	}
	for _, r := range keep {
		t.Then = append(t.Then, s.putBlock(n.ID, overspan.Block{Range: r, Node: s.cfg.Node.ID, Ack: true}))
	}
	t.Then = append(t.Then, s.noteClaim()...)
	res, err := s.flights.fly(ctx, &request{step: steps.Yield, what: what, witness: Delete(Key(fromKey)), txn: t})
	if err != nil || res.OK {
		return err
	}
	kvs := found(res)
	if err := s.whyNotClaimed(n, kvs); err != nil {
		return err
	}
	switch {
	case kvs[wantKV.Key].CreateRevision != w.CreateRevision:
		return overspan.Errorf(overspan.ErrNotFound, "%s: it is not wanted any more", what)
	case kvs[askerKey].CreateRevision != asker:
		return overspan.Errorf(overspan.ErrNotFound, "%s: node %s was removed", what, overspan.ShortID(w.Asker))
	case kvs[fromKey].CreateRevision != from.CreateRevision:
		return overspan.Errorf(overspan.ErrConflict, "%s: block %s is no longer what this node held", what, from.Range)
	}
	return overspan.Errorf(overspan.ErrInUse, "%s: endpoints stand in it", what)
}
