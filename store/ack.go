package store

import (
	"context"
	"fmt"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/internal/steps"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// AskAck asks the members to acknowledge that they have programmed a block of
// this node's, and returns the block with the revision that they must reach.
// Its epoch stays. ErrConflict if the block is no longer this node's.
func (s *Session) AskAck(ctx context.Context, n overspan.NetworkID, b overspan.Block) (overspan.Block, error) {
	what := fmt.Sprintf("ask for block %s of network %s to be acknowledged", b.Range, overspan.ShortID(n))
	old, err := s.get(ctx, s.keys.Block(n, b.Range))
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
//
// Errors: ErrNotFound if the network is gone, ErrFenced if the registration is,
// ErrConflict if the key was changed each time.
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

// Acks returns up to which revision each node has programmed a network; ErrCorrupt
// names one that cannot be read.
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
