package store

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// Freed counts what the removal of a node has freed.
type Freed struct {
	Endpoints int
	Blocks    int
}

func (f *Freed) add(more Freed) {
	f.Endpoints += more.Endpoints
	f.Blocks += more.Blocks
}

// errMarkGone says that a removal is over: another has finished it.
var errMarkGone = errors.New("the mark of the removal is gone")

// FinishNodeRemoval frees all that stands in the name of a node that is marked
// as being removed, and then takes the mark away. It needs no session, may be
// stopped anywhere and begun again, and several may be at it at once: each batch
// compares the mark, so that one that comes late cannot touch what the node has
// claimed under a new registration, and each record in it its own revision. A
// node without a mark is success. It returns what this call has freed.
func FinishNodeRemoval(ctx context.Context, kv KV, keys Keys, node overspan.NodeID) (Freed, error) {
	f := nodeFreer{kv: kv, keys: keys, node: node}
	what := "free what node " + overspan.ShortID(node) + " held"
	for range maxRaces {
		list, err := kv.List(ctx, Key(keys.Removing(node)), 0)
		if err != nil {
			return f.freed, fmt.Errorf("%s: %w", what, err)
		}
		if len(list.KVs) == 0 {
			return f.freed, nil
		}
		f.mark = list.KVs[0].CreateRevision
		switch all, err := f.pass(ctx); {
		case errors.Is(err, errMarkGone):
			return f.freed, nil
		case err != nil:
			return f.freed, fmt.Errorf("%s: %w", what, err)
		case all:
			return f.freed, nil
		}
	}
	return f.freed, overspan.Errorf(overspan.ErrConflict, "%s: others change it at the same time", what)
}

// A nodeFreer is one call of FinishNodeRemoval.
type nodeFreer struct {
	kv    KV
	keys  Keys
	node  overspan.NodeID
	mark  int64 // create-revision of the node's mark
	freed Freed
}

// pass deletes all that it finds, the mark last; false if something was changed
// by others before it could be deleted. Nothing can come after the look: the
// registration, which all transactions of the node compare, is gone.
func (f *nodeFreer) pass(ctx context.Context) (bool, error) {
	inside, err := f.kv.List(ctx, f.keys.Interiors(), 0)
	if err != nil {
		return false, err
	}
	acks, err := f.kv.List(ctx, f.keys.AllAcks(), 0)
	if err != nil {
		return false, err
	}
	owned := f.belongingsAmong(slices.Concat(inside.KVs, acks.KVs))
	endpoints, err := f.commit(ctx, owned.endpoints)
	f.freed.Endpoints += endpoints
	if err != nil {
		return false, err
	}
	// Only now the blocks: whoever claims one finds no record in it.
	blocks, err := f.commit(ctx, owned.blocks)
	f.freed.Blocks += blocks
	if err != nil {
		return false, err
	}
	rest, err := f.commit(ctx, owned.rest)
	if err != nil {
		return false, err
	}
	local, err := f.localNetworks(ctx)
	if err != nil {
		return false, err
	}
	if !local || endpoints < len(owned.endpoints) || blocks < len(owned.blocks) || rest < len(owned.rest) {
		return false, nil
	}
	return true, f.end(ctx)
}

// belongings are what stands in a node's name, as transactions that delete one
// each unless it has changed.
type belongings struct {
	endpoints []Txn
	blocks    []Txn
	rest      []Txn // wants of and to the node, acknowledgements
}

// belongingsAmong finds the node's belongings among records. One that cannot be read may
// be anybody's, and is left alone.
func (f *nodeFreer) belongingsAmong(kvs []KeyValue) belongings {
	var out belongings
	at := make(map[string]KeyValue, len(kvs))
	for _, kv := range kvs {
		at[kv.Key] = kv
	}
	seen := map[overspan.EndpointID]bool{}
	for _, kv := range kvs {
		name, err := f.keys.Parse(kv.Key)
		if err != nil {
			continue
		}
		switch name.Kind {
		case KeyEndpoint:
			if e, err := f.keys.endpoint(kv); err == nil && e.Node == f.node && !seen[e.ID] {
				seen[e.ID] = true
				out.endpoints = append(out.endpoints, f.endpoint(e, at))
			}
		case KeyBlock:
			if b, err := f.keys.block(kv); err == nil && b.Node == f.node {
				out.blocks = append(out.blocks, deleteUnchanged(kv))
			}
		case KeyWant:
			if name.Node == f.node || name.Asker == f.node {
				out.rest = append(out.rest, deleteUnchanged(kv))
			}
		case KeyAck:
			if name.Node == f.node {
				out.rest = append(out.rest, deleteUnchanged(kv))
			}
		}
	}
	return out
}

// endpoint deletes an endpoint with all that it owns: of its keys those that
// are its own by now.
func (f *nodeFreer) endpoint(e overspan.Endpoint, at map[string]KeyValue) Txn {
	var own []KeyValue
	for _, slot := range e.Slots {
		kv := at[f.keys.Endpoint(e.Network, slot)]
		if now, err := f.keys.endpoint(kv); err == nil && now.ID == e.ID {
			own = append(own, kv)
		}
	}
	for _, key := range []string{f.keys.EndpointName(e.Network, e.Name), f.keys.MAC(e.Network, e.MAC)} {
		var ref overspanv1.Reference
		if kv, is := at[key]; is && Unmarshal(kv.Value, &ref) == nil && ref.GetEndpoint() == string(e.ID) {
			own = append(own, kv)
		}
	}
	return deleteUnchanged(own...)
}

// deleteUnchanged deletes keys unless one of them has changed.
func deleteUnchanged(kvs ...KeyValue) Txn {
	var t Txn
	for _, kv := range kvs {
		t.If = append(t.If, Unchanged(kv.Key, kv.ModRevision))
		t.Then = append(t.Then, Delete(Key(kv.Key)))
	}
	return t
}

// commit carries out transactions in batches, each for itself, and returns how
// many succeeded.
func (f *nodeFreer) commit(ctx context.Context, all []Txn) (int, error) {
	done := 0
	for batch := range slices.Chunk(all, maxGroup) {
		t := Txn{If: []Cmp{f.unfinished()}}
		for _, one := range batch {
			t.Then = append(t.Then, Nest(one))
		}
		res, err := f.kv.Txn(ctx, t)
		if err != nil {
			return done, err
		}
		if !res.OK {
			return done, errMarkGone
		}
		for _, r := range res.Responses {
			if r.Result.OK {
				done++
			}
		}
	}
	return done, nil
}

// unfinished demands that the removal is still the one that is being finished.
func (f *nodeFreer) unfinished() Cmp { return Created(f.keys.Removing(f.node), f.mark) }

// localNetworks removes the networks that the node alone had; false if one of
// them has changed meanwhile, or a subnet elsewhere.
func (f *nodeFreer) localNetworks(ctx context.Context) (bool, error) {
	list, err := f.kv.List(ctx, f.keys.Networks(), 0)
	if err != nil {
		return false, err
	}
	all := true
	for _, record := range list.KVs {
		n, err := f.keys.network(record)
		if err != nil || n.Node != f.node {
			continue
		}
		done, err := f.localNetwork(ctx, record, n)
		if err != nil {
			return false, err
		}
		all = all && done
	}
	return all, nil
}

func (f *nodeFreer) localNetwork(ctx context.Context, record KeyValue, n overspan.Network) (bool, error) {
	nameKey := f.keys.NetworkName(n.Name, n.Node)
	now, err := f.kv.Txn(ctx, Txn{Then: []Op{Get(Key(f.keys.SubnetsVersion())), Get(Key(nameKey))}})
	if err != nil {
		return false, err
	}
	kvs := found(now)
	t := Txn{
		If: []Cmp{
			f.unfinished(),
			Unchanged(record.Key, record.ModRevision),
			Unchanged(f.keys.SubnetsVersion(), kvs[f.keys.SubnetsVersion()].ModRevision),
		},
		Then: append(f.keys.freeLeases(n), Delete(Key(record.Key)), Delete(f.keys.Segment(n.ID)), Delete(f.keys.Acks(n.ID))),
		Else: []Op{Get(Key(f.keys.Removing(f.node)))},
	}
	var ref overspanv1.Reference
	if name, is := kvs[nameKey]; is && Unmarshal(name.Value, &ref) == nil && ref.GetNetwork() == string(n.ID) {
		t.If = append(t.If, Unchanged(nameKey, name.ModRevision))
		t.Then = append(t.Then, Delete(Key(nameKey)))
	}
	res, err := f.kv.Txn(ctx, t)
	if err != nil || res.OK {
		return res.OK, err
	}
	if found(res)[f.keys.Removing(f.node)].CreateRevision != f.mark {
		return false, errMarkGone
	}
	return false, nil
}

// end takes away the mark, and what says nothing without the node. Notes of
// evictions stay: a node that returns would publish again what it was told to give
// up, if it had not heard of it.
func (f *nodeFreer) end(ctx context.Context) error {
	_, err := f.kv.Txn(ctx, Txn{
		If: []Cmp{f.unfinished()},
		Then: []Op{
			Delete(Key(f.keys.Flight(f.node))),
			Delete(Key(f.keys.Report(f.node))),
			Delete(Key(f.keys.Removing(f.node))),
		},
	})
	return err
}
