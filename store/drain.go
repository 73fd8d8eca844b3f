package store

import (
	"context"
	"fmt"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/internal/steps"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// Drain tells a node, this one or another, present or not, to attach nothing new
// and to give back its blocks as they empty, or that it need not any more. It
// returns the node as its registration says it now.
//
// Errors: ErrNotFound if it has none, ErrConflict if it was changed each time.
func (s *Session) Drain(ctx context.Context, id overspan.NodeID, draining bool) (overspan.Node, error) {
	what := "drain node " + overspan.ShortID(id)
	for range maxRaces {
		old, err := s.get(ctx, s.keys.Node(id))
		if err != nil {
			return overspan.Node{}, fmt.Errorf("%s: %w", what, err)
		}
		if old.Key == "" {
			return overspan.Node{}, overspan.Errorf(overspan.ErrNotFound, "node %s not found", overspan.ShortID(id))
		}
		n, err := s.keys.node(old)
		if err != nil || n.Draining == draining {
			return n, err
		}
		var rec overspanv1.Node
		if err := Unmarshal(old.Value, &rec); err != nil {
			return overspan.Node{}, atKey(old, err)
		}
		rec.Draining = draining
		value, err := Rewrite(old.Value, &rec)
		if err != nil {
			return overspan.Node{}, atKey(old, err)
		}
		res, err := s.flights.fly(ctx, &request{step: steps.Drain, what: what, look: seeNodes, witness: Put(old.Key, value), txn: Txn{
			If: []Cmp{Unchanged(old.Key, old.ModRevision)},
		}})
		if err != nil {
			return overspan.Node{}, err
		}
		if res.OK {
			n.Draining, n.ModRevision = draining, res.Revision
			return n, nil
		}
	}
	return overspan.Node{}, overspan.Errorf(overspan.ErrConflict, "%s: its registration was changed meanwhile; try again", what)
}

// redescribe writes what a host has become into its registration. What others
// say there of the node stays: that it is draining, its public key, and whatever
// this version does not know.
func redescribe(old []byte, n overspan.Node) ([]byte, error) {
	var said overspanv1.Node
	if err := Unmarshal(old, &said); err != nil {
		return nil, err
	}
	rec := overspanv1.NodeRecord(n)
	rec.Draining, rec.PublicKey = said.GetDraining(), said.GetPublicKey()
	return Rewrite(old, rec)
}
