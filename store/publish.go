package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/internal/steps"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// What follows writes to etcd again what a node knows and etcd has lost: after
// the node's removal, or where etcd has gone back in time. A freeze does not
// forbid it, and each is a success where what it would write stands already, so
// that it may be done any number of times.

// Reclaim is Claim, frozen or not.
func (s *Session) Reclaim(ctx context.Context, n *overspan.Network, r overspan.Range, ack bool) (overspan.Block, error) {
	return s.claim(ctx, steps.Reclaim, n, r, ack)
}

// Reattach is Attach, frozen or not, of an endpoint that has its id already and
// may be there: then it is returned with the revisions that it has, once its
// record tells of the ports that lead to it now. A caller that gives up has
// nothing undone: the endpoint is served.
func (s *Session) Reattach(ctx context.Context, a AttachRequest) (overspan.Endpoint, error) {
	var own map[string]int64
	var created int64 // what is written over keeps its create-revision; 0: it is new
	for {
		r, err := s.attach(a, own)
		if err != nil {
			return overspan.Endpoint{}, err
		}
		r.step = steps.Reattach
		res, err := s.flights.fly(ctx, r)
		if err != nil {
			return overspan.Endpoint{}, err
		}
		e := a.Endpoint
		if res.OK {
			e.CreateRevision, e.ModRevision = cmp.Or(created, res.Revision), res.Revision
			return e, nil
		}
		kvs := found(res)
		first := kvs[s.keys.Endpoint(e.Network, e.Slots[0])]
		if e.CreateRevision = s.standingRecord(e, kvs); e.CreateRevision != 0 {
			e.ModRevision = first.ModRevision
			return e, nil
		}
		if own != nil {
			return overspan.Endpoint{}, s.whyNotAttached(ctx, a, kvs)
		}
		if own = s.remnants(e, kvs); len(own) == 0 {
			return overspan.Endpoint{}, s.whyNotAttached(ctx, a, kvs)
		}
		if _, stands := own[first.Key]; stands {
			created = first.CreateRevision
		}
	}
}

// remnants returns which of an endpoint's keys stand and are its own, with their
// mod-revisions: somebody has deleted some of the others by hand. They may be
// written again as they stand.
func (s *Session) remnants(e overspan.Endpoint, kvs map[string]KeyValue) map[string]int64 {
	own := map[string]int64{}
	for i, key := range s.endpointKeys(e) {
		kv, there := kvs[key]
		if !there {
			continue
		}
		var ref overspanv1.Reference
		if i < len(e.Slots) {
			if now, err := s.keys.endpoint(kv); err == nil && now.ID == e.ID && now.Node == e.Node && slices.Equal(now.Slots, e.Slots) {
				own[key] = kv.ModRevision
			}
		} else if Unmarshal(kv.Value, &ref) == nil && ref.GetEndpoint() == string(e.ID) {
			own[key] = kv.ModRevision
		}
	}
	return own
}

// standingRecord returns the create-revision of an endpoint whose records were
// read at all of its slots; 0 if they do not all stand, or tell of other ports.
func (s *Session) standingRecord(e overspan.Endpoint, kvs map[string]KeyValue) int64 {
	var created int64
	for _, slot := range e.Slots {
		kv, there := kvs[s.keys.Endpoint(e.Network, slot)]
		if !there {
			return 0
		}
		now, err := s.keys.endpoint(kv)
		if err != nil || now.ID != e.ID || now.Node != e.Node || !slices.Equal(now.Ports, e.Ports) {
			return 0
		}
		created = now.CreateRevision
	}
	return created
}

// RestoreNetwork writes a network's record, name, VNI and subnets, frozen or
// not, with the id that it had. It returns the network as it stands then: one
// that was there already is left as it is.
//
// Errors: ErrExists if its name or VNI is another network's, ErrInUse if a
// subnet is; both name that network. ErrNotFound if it is on its way out,
// ErrConflict if too many races were lost.
func (s *Session) RestoreNetwork(ctx context.Context, n overspan.Network) (overspan.Network, error) {
	what := "write network " + n.Name + " again"
	if _, err := overspanv1.NetworkRecord(n).Noun(); err != nil {
		return overspan.Network{}, overspan.Errorf(overspan.ErrInvalid, "%s: %s", what, err)
	}
	if err := leaving(&n); err != nil {
		return overspan.Network{}, err
	}
	for race := range maxRaces {
		taken, version, err := s.taken(ctx)
		if err != nil {
			return overspan.Network{}, fmt.Errorf("%s: %w", what, err)
		}
		// Read after what is taken: a network that another node writes between
		// the two is found here, not taken for an obstacle.
		record, err := s.get(ctx, s.keys.Network(n.ID))
		if err != nil {
			return overspan.Network{}, fmt.Errorf("%s: %w", what, err)
		}
		if record.Key != "" {
			return s.keys.network(record)
		}
		if err := s.checkRestored(ctx, n, taken); err != nil {
			return overspan.Network{}, fmt.Errorf("%s: %w", what, err)
		}
		r, err := s.writeNetwork(n, version)
		if err != nil {
			return overspan.Network{}, err
		}
		r.step = steps.Restore
		res, err := s.flights.fly(ctx, r)
		switch {
		case err != nil:
			return overspan.Network{}, err
		case res.OK:
			n.CreateRevision, n.ModRevision = res.Revision, res.Revision
			return n, nil
		}
		if err := pause(ctx, firstPause, min(race, 3)); err != nil {
			return overspan.Network{}, overspan.Errorf(overspan.ErrUnavailable, "%s: %w", what, err)
		}
	}
	return overspan.Network{}, overspan.Errorf(overspan.ErrConflict, "%s: others wrote networks at the same time; try again", what)
}

// checkRestored names the network that is in the way of another.
func (s *Session) checkRestored(ctx context.Context, n overspan.Network, taken Taken) error {
	if taken.CheckName(n.Name, n.Node) != nil {
		list, err := s.kv.List(ctx, s.keys.NetworkNames(n.Name), 0)
		if err != nil {
			return err
		}
		holder := "another network"
		var ref overspanv1.Reference
		if len(list.KVs) > 0 && Unmarshal(list.KVs[0].Value, &ref) == nil {
			holder = "network " + overspan.ShortID(ref.GetNetwork())
		}
		return overspan.Errorf(overspan.ErrExists, "name %s is taken by %s: remove that network", n.Name, holder)
	}
	return s.checkChoice(ctx, n, taken)
}

// DiscardNetwork deletes a network in which nothing is, frozen or not: one that
// had been removed and has come back from the past. One that is gone is success.
// Where its removal had begun by then, the blocks are the removal's and go with it.
//
// Errors: ErrInUse if endpoints or blocks stand in it; ErrConflict if it was
// changed meanwhile, or other networks were.
func (s *Session) DiscardNetwork(ctx context.Context, n *overspan.Network) error {
	what := "discard network " + n.Name + ", which had been removed"
	now, version, err := s.networkAndVersion(ctx, n.ID)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if now == nil {
		return nil
	}
	record := s.keys.Network(n.ID)
	t := Txn{
		If: []Cmp{
			Unchanged(record, now.ModRevision), Unchanged(s.keys.SubnetsVersion(), version),
			Absent(s.keys.Endpoints(n.ID)),
		},
		Then: append([]Op{Delete(s.keys.Segment(n.ID)), Delete(s.keys.Acks(n.ID))}, s.keys.freeLeases(*now)...),
		Else: []Op{Get(Key(record)), Get(Key(s.keys.SubnetsVersion()))},
	}
	if !now.Deleting { // else the name was freed before, and may be another's
		t.If = append(t.If, Absent(s.keys.Blocks(n.ID)))
		t.Then = append(t.Then, Delete(Key(s.keys.NetworkName(now.Name, now.Node))))
	}
	res, err := s.flights.fly(ctx, &request{step: steps.Discard, what: what, witness: Delete(Key(record)), txn: t})
	if err != nil || res.OK {
		return err
	}
	kvs := found(res)
	if kvs[record].ModRevision != now.ModRevision || kvs[s.keys.SubnetsVersion()].ModRevision != version {
		return overspan.Errorf(overspan.ErrConflict, "%s: networks were changed meanwhile", what)
	}
	return overspan.Errorf(overspan.ErrInUse, "%s: nodes still have endpoints or blocks in it", what)
}

// Reshape replaces a block of this node's by parts of it, frozen or not, in one
// transaction, and gives up the rest. The parts have epochs of their own: an
// attach that was prepared for the old block fails with ErrConflict and looks
// again. Endpoints in the parts are not touched.
//
// Errors: ErrInUse if an endpoint stands in what is given up; ErrConflict if the
// block is no longer this node's, or the network changed; ErrNotFound if the
// network is gone or on its way out, where its removal takes the block away.
func (s *Session) Reshape(ctx context.Context, n *overspan.Network, from overspan.Block, keep []overspan.Range) ([]overspan.Block, error) {
	what := fmt.Sprintf("keep %v of block %s of network %s", keep, from.Range, n.Name)
	give, ok := gapsIn(from.Range, keep)
	if !ok || len(give) == 0 {
		return nil, overspan.Errorf(overspan.ErrInvalid, "%s: these are no parts of it", what)
	}
	if err := leaving(n); err != nil {
		return nil, err
	}
	fromKey := s.keys.Block(n.ID, from.Range)
	t := Txn{
		If:   []Cmp{Unchanged(s.keys.Network(n.ID), n.ModRevision), Created(fromKey, from.CreateRevision)},
		Else: []Op{Get(Key(s.keys.Network(n.ID))), Get(Key(fromKey))},
	}
	for _, gap := range give {
		t.If = append(t.If, Absent(s.keys.EndpointsWithin(n.ID, gap)))
	}
	parts := make([]overspan.Block, 0, len(keep))
	for _, r := range keep {
		b := overspan.Block{Range: r, Node: s.cfg.Node.ID, Ack: true}
		t.Then = append(t.Then, s.putBlock(n.ID, b))
		parts = append(parts, b)
	}
	t.Then = append(t.Then, s.noteClaim()...)
	res, err := s.flights.fly(ctx, &request{step: steps.Reshape, what: what, witness: Delete(Key(fromKey)), txn: t})
	if err != nil {
		return nil, err
	}
	if !res.OK {
		kvs := found(res)
		if err := s.whyNotClaimed(n, kvs); err != nil {
			return nil, err
		}
		if kvs[fromKey].CreateRevision != from.CreateRevision {
			return nil, overspan.Errorf(overspan.ErrConflict, "%s: it is no longer what this node held", what)
		}
		return nil, overspan.Errorf(overspan.ErrInUse, "%s: endpoints stand in the rest", what)
	}
	for i := range parts {
		parts[i].CreateRevision, parts[i].ModRevision = res.Revision, res.Revision
	}
	return parts, nil
}
