package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"
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

func (s *Session) putBlock(n overspan.NetworkID, b overspan.Block) Op {
	return Put(s.keys.Block(n, b.Range), mustMarshal(overspanv1.BlockRecord(b)))
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

// gapsIn returns what blocks leave of a whole, lowest first; ok is false if they
// are no disjoint parts of it. It counts from the whole's first slot: the slot
// behind the last one of all has no number.
func gapsIn(whole overspan.Range, parts []overspan.Range) (gaps []overspan.Range, ok bool) {
	offset := func(r overspan.Range) uint64 { return uint64(r.First - whole.First) }
	parts = slices.SortedFunc(slices.Values(parts), func(a, b overspan.Range) int { return cmp.Compare(offset(a), offset(b)) })
	next := uint64(0)
	gap := func(end uint64) {
		if next < end {
			gaps = append(gaps, overspan.Range{First: whole.First + overspan.Slot(next), Size: end - next})
		}
	}
	for _, p := range parts {
		if !p.IsBlock() || !whole.Contains(p.First) || offset(p) < next || whole.Size-offset(p) < p.Size {
			return nil, false
		}
		gap(offset(p))
		next = offset(p) + p.Size
	}
	gap(whole.Size)
	return gaps, true
}
