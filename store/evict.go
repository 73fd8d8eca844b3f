package store

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/internal/steps"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// An Eviction is the note that an endpoint was taken from a node in its absence.
// Without it, the node could not tell that from an etcd that forgot the endpoint.
type Eviction struct {
	Endpoint overspan.EndpointID
	Name     string // of the endpoint
	Network  overspan.NetworkID
	By       string // name of the node that was asked to
	Since    time.Time
	Revision int64 // create-revision of the note
}

// Evict frees an endpoint of another node that is absent: all that the endpoint
// owns goes in one transaction, which leaves the note for its node. The endpoint
// bears its revisions; network is the name of its network, for errors.
//
// Errors: ErrInUse if its node is up, ErrNotFound if the endpoint or its node is
// gone, ErrConflict if it was written again meanwhile, ErrUnavailable while the
// cluster is frozen.
func (s *Session) Evict(ctx context.Context, network string, e overspan.Endpoint) error {
	what := fmt.Sprintf("disconnect %s from network %s by force", e.Name, network)
	owner, err := s.get(ctx, s.keys.Node(e.Node))
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if owner.Key == "" {
		return overspan.Errorf(overspan.ErrNotFound, "%s: its node is being removed, and the endpoint with it", what)
	}
	note, err := Marshal(&overspanv1.Eviction{Name: e.Name, Network: string(e.Network), By: s.cfg.Node.Name, Since: timestamppb.Now()})
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	record := s.keys.Endpoint(e.Network, e.Slots[0])
	t := Txn{
		If: []Cmp{
			Created(record, e.CreateRevision),
			Created(owner.Key, owner.CreateRevision),
			Absent(Key(s.keys.Live(e.Node))),
			Absent(Key(s.keys.Frozen())),
		},
		Else: []Op{Get(Key(record)), Get(Key(s.keys.Live(e.Node))), Get(Key(s.keys.Frozen()))},
	}
	for _, key := range s.endpointKeys(e)[1:] { // the first is the record
		t.Then = append(t.Then, Delete(Key(key)))
	}
	t.Then = append(t.Then, Put(s.keys.Eviction(e.Node, e.ID), note))
	res, err := s.flights.fly(ctx, &request{step: steps.Evict, what: what, look: "ctl network inspect " + network, witness: Delete(Key(record)), txn: t})
	if err != nil || res.OK {
		return err
	}
	kvs := found(res)
	if err := s.frozen(kvs); err != nil {
		return err
	}
	if _, up := kvs[s.keys.Live(e.Node)]; up {
		return overspan.Errorf(overspan.ErrInUse, "%s: its node %s is up: disconnect it there", what, s.nodeName(ctx, e.Node))
	}
	if created, err := s.ownRecord(e, res.Responses[0].KVs); err == nil && created == 0 {
		return overspan.Errorf(overspan.ErrNotFound, "%s: it is gone", what)
	}
	return overspan.Errorf(overspan.ErrConflict, "%s: it was changed meanwhile; try again", what)
}

// Evictions lists what was taken from this node, by endpoint; ErrCorrupt names a
// note that cannot be read.
func (s *Session) Evictions(ctx context.Context) ([]Eviction, error) {
	list, err := s.kv.List(ctx, s.keys.Evictions(s.cfg.Node.ID), 0)
	if err != nil {
		return nil, fmt.Errorf("list evictions of this node: %w", err)
	}
	var out []Eviction
	for _, kv := range list.KVs {
		var rec overspanv1.Eviction
		name, err := s.keys.record(kv, KeyEviction, &rec)
		if err != nil {
			return nil, err
		}
		out = append(out, Eviction{
			Endpoint: name.Evicted,
			Name:     rec.GetName(),
			Network:  overspan.NetworkID(rec.GetNetwork()),
			By:       rec.GetBy(),
			Since:    rec.GetSince().AsTime(),
			Revision: kv.CreateRevision,
		})
	}
	return out, nil
}

// DropEviction deletes a note of this node's once the endpoint is off its
// network. One that is gone is success.
func (s *Session) DropEviction(ctx context.Context, v Eviction) error {
	key := s.keys.Eviction(s.cfg.Node.ID, v.Endpoint)
	_, err := s.flights.fly(ctx, &request{
		step:    steps.Heed,
		what:    fmt.Sprintf("note that endpoint %s was taken off", v.Name),
		witness: Delete(Key(key)),
		txn:     Txn{If: []Cmp{Created(key, v.Revision)}},
	})
	return err
}
