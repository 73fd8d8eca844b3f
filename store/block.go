package store

import (
	"context"
	"fmt"
	"time"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/internal/steps"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// Claim makes an unclaimed range this node's block and returns it with its
// epoch. That it overlaps no other block is proven inside the transaction. With
// ack, members are asked to acknowledge it.
//
// Errors: ErrConflict if any of it is claimed already, or the network changed;
// ErrNotFound if the network is gone; ErrUnavailable while the cluster is
// frozen.
func (s *Session) Claim(ctx context.Context, n *overspan.Network, r overspan.Range, ack bool) (overspan.Block, error) {
	return s.claim(ctx, steps.Claim, n, r, ack, Absent(Key(s.keys.Frozen())))
}

// claim is Claim under other guards.
func (s *Session) claim(ctx context.Context, step steps.Flight, n *overspan.Network, r overspan.Range, ack bool, guards ...Cmp) (overspan.Block, error) {
	what := fmt.Sprintf("claim slots %s of network %s", r, n.Name)
	if !r.IsBlock() {
		return overspan.Block{}, overspan.Errorf(overspan.ErrInvalid, "%s: not an aligned power of two up to %d", what, overspan.MaxBlockSize)
	}
	if err := leaving(n); err != nil {
		return overspan.Block{}, err
	}
	b := overspan.Block{Range: r, Node: s.cfg.Node.ID, Ack: ack}
	t := Txn{
		If:   append([]Cmp{Unchanged(s.keys.Network(n.ID), n.ModRevision)}, s.unclaimed(n.ID, r)...),
		Then: s.noteClaim(),
		Else: []Op{Get(Key(s.keys.Network(n.ID)))},
	}
	for _, g := range guards {
		t.If = append(t.If, g)
		t.Else = append(t.Else, Get(Key(g.Key)))
	}
	res, err := s.flights.fly(ctx, &request{step: step, what: what, witness: s.putBlock(n.ID, b), txn: t})
	if err != nil {
		return overspan.Block{}, err
	}
	if !res.OK {
		if err := s.whyNotClaimed(n, found(res)); err != nil {
			return overspan.Block{}, err
		}
		return overspan.Block{}, overspan.Errorf(overspan.ErrConflict, "%s: claimed already", what)
	}
	b.CreateRevision, b.ModRevision = res.Revision, res.Revision
	return b, nil
}

// unclaimed proves that no block shares a slot with a range that is a block:
// none of its own size or smaller begins within it, and none of the larger ones
// that could contain it exists.
func (s *Session) unclaimed(n overspan.NetworkID, r overspan.Range) []Cmp {
	var out []Cmp
	for _, size := range overspan.BlockSizes() {
		if size <= r.Size {
			out = append(out, Absent(s.keys.BlocksWithin(n, r, size)))
		} else {
			out = append(out, Absent(Key(s.keys.Block(n, overspan.BlockAt(r.First, size)))))
		}
	}
	return out
}

// claimedEvery is how often, across the cluster, claims put the key claimed: each
// node is told of it. Only a backup of the second before a claim does not show that
// it lacks the claim.
const claimedEvery = time.Second

// noteClaim is what a transaction that puts a block does besides.
func (s *Session) noteClaim() []Op {
	if s.cfg.Claimed != nil {
		if _, heard := s.cfg.Claimed(); time.Since(heard) < claimedEvery {
			return nil
		}
	}
	return []Op{Put(s.keys.Claimed(), mustMarshal(&overspanv1.Claimed{}))}
}

// mayClaim are the guards of everything that puts a block.
func (s *Session) mayClaim(n *overspan.Network) []Cmp {
	return []Cmp{Unchanged(s.keys.Network(n.ID), n.ModRevision), Absent(Key(s.keys.Frozen()))}
}

// whyNotClaimed returns an error if the guards of mayClaim were in the way.
func (s *Session) whyNotClaimed(n *overspan.Network, kvs map[string]KeyValue) error {
	if err := s.frozen(kvs); err != nil {
		return err
	}
	if err := s.networkGone(n, kvs); err != nil {
		return err
	}
	if kvs[s.keys.Network(n.ID)].ModRevision != n.ModRevision {
		return networkChanged(n)
	}
	return nil
}

// ReleaseBlock gives a block back. One that this node no longer holds is
// success; ErrInUse if an endpoint stands in it.
func (s *Session) ReleaseBlock(ctx context.Context, n overspan.NetworkID, b overspan.Block) error {
	what := fmt.Sprintf("give back block %s of network %s", b.Range, overspan.ShortID(n))
	key := s.keys.Block(n, b.Range)
	res, err := s.flights.fly(ctx, &request{step: steps.GiveBack, what: what, witness: Delete(Key(key)), txn: Txn{
		If:   []Cmp{Created(key, b.CreateRevision), Absent(s.keys.EndpointsWithin(n, b.Range))},
		Else: []Op{Get(Key(key))},
	}})
	if err != nil || res.OK {
		return err
	}
	if found(res)[key].CreateRevision != b.CreateRevision {
		return nil
	}
	return overspan.Errorf(overspan.ErrInUse, "%s: endpoints stand in it", what)
}

// AskAck asks the members to acknowledge that they have programmed a block of
// this node's, and returns the block with the revision that they must reach.
// Its epoch stays. ErrConflict if the block is no longer this node's.
func (s *Session) AskAck(ctx context.Context, n overspan.NetworkID, b overspan.Block) (overspan.Block, error) {
	what := fmt.Sprintf("ask for block %s of network %s to be acknowledged", b.Range, overspan.ShortID(n))
	old, err := s.one(ctx, s.keys.Block(n, b.Range))
	if err != nil {
		return overspan.Block{}, fmt.Errorf("%s: %w", what, err)
	}
	lost := overspan.Errorf(overspan.ErrConflict, "%s: it is no longer this node's", what)
	if old.Key == "" || old.CreateRevision != b.CreateRevision {
		return overspan.Block{}, lost
	}
	now, err := s.keys.block(old)
	if err != nil || now.Ack {
		return now, err
	}
	now.Ack = true
	value, err := Rewrite(old.Value, overspanv1.BlockRecord(now))
	if err != nil {
		return overspan.Block{}, atKey(old, err)
	}
	res, err := s.flights.fly(ctx, &request{step: steps.AskAck, what: what, witness: Put(old.Key, value), txn: Txn{
		If: []Cmp{Unchanged(old.Key, old.ModRevision)},
	}})
	if err != nil {
		return overspan.Block{}, err
	}
	if !res.OK {
		return overspan.Block{}, lost
	}
	now.ModRevision = res.Revision
	return now, nil
}

// PutAck tells the cluster that this node has programmed everything of a
// network up to a revision. It does not fly, since nobody else writes it. One that
// comes late, of which nobody knows whether it was carried out, takes back nothing
// that was told after it: last, of the former call for the network, is the key's
// mod-revision, 0 where there is none. It returns that of now.
func (s *Session) PutAck(ctx context.Context, n *overspan.Network, revision, last int64) (now int64, err error) {
	what := fmt.Sprintf("acknowledge network %s", n.Name)
	key := s.keys.Ack(n.ID, s.cfg.Node.ID)
	for range maxRaces {
		res, err := s.kv.Txn(ctx, Txn{
			If: []Cmp{
				Created(s.keys.Node(s.cfg.Node.ID), s.registration),
				Created(s.keys.Network(n.ID), n.CreateRevision),
				Unchanged(key, last),
			},
			Then: []Op{Put(key, mustMarshal(&overspanv1.Ack{Revision: revision}))},
			Else: []Op{Get(Key(s.keys.Network(n.ID))), Get(Key(s.keys.Node(s.cfg.Node.ID))), Get(Key(key))},
		})
		if err != nil {
			return last, fmt.Errorf("%s: %w", what, err)
		}
		if res.OK {
			return res.Revision, nil
		}
		kvs := found(res)
		if kvs[s.keys.Network(n.ID)].CreateRevision != n.CreateRevision {
			return last, overspan.Errorf(overspan.ErrNotFound, "network %s not found", n.Name)
		}
		if kvs[s.keys.Node(s.cfg.Node.ID)].CreateRevision != s.registration {
			s.Recheck()
			return last, overspan.Errorf(overspan.ErrFenced, "%s: registration of this node is gone", what)
		}
		last = kvs[key].ModRevision
	}
	return last, overspan.Errorf(overspan.ErrConflict, "%s: it was changed meanwhile; will try again", what)
}

// Acks returns up to which revision each node has programmed a network.
func (s *Session) Acks(ctx context.Context, n overspan.NetworkID) (map[overspan.NodeID]int64, error) {
	list, err := s.kv.List(ctx, s.keys.Acks(n), 0)
	if err != nil {
		return nil, fmt.Errorf("read acknowledgements of network %s: %w", overspan.ShortID(n), err)
	}
	out := make(map[overspan.NodeID]int64, len(list.KVs))
	for _, kv := range list.KVs {
		var rec overspanv1.Ack
		name, err := s.keys.record(kv, KeyAck, &rec)
		if err != nil {
			return nil, err
		}
		out[name.Node] = rec.GetRevision()
	}
	return out, nil
}
