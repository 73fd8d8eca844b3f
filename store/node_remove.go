package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/internal/steps"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// A NodeRemoval is the mark of a node that is being removed: its registration
// is gone, and what stands in its name is being freed.
type NodeRemoval struct {
	Node     overspan.NodeID
	Name     string // of the node
	By       string // name of the node that was asked to remove it
	Since    time.Time
	Revision int64 // create-revision of the mark
}

// seeNodes shows what became of a node's removal, or of its draining.
const seeNodes = "ctl node ls"

// BeginNodeRemoval takes a node's registration, so that nothing that it sends can
// commit any more; without force only that of a node that is absent. From then on
// the removal goes on whatever happens: EndNodeRemoval ends it, or whoever else
// sees the mark.
//
// Errors: ErrInUse if the node is up, ErrNotFound if there is none, ErrConflict
// if it has registered anew since n was read, ErrUnavailable while the cluster
// is frozen.
func (s *Session) BeginNodeRemoval(ctx context.Context, n overspan.Node, force bool) error {
	what := "remove node " + n.Name
	mark, err := Marshal(&overspanv1.Removing{Name: n.Name, By: s.cfg.Node.Name, Since: timestamppb.Now()})
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	t := Txn{
		If: []Cmp{
			Created(s.keys.Node(n.ID), n.CreateRevision),
			Absent(Key(s.keys.Frozen())),
		},
		Then: []Op{
			Delete(Key(s.keys.Live(n.ID))),
			Put(s.keys.Removing(n.ID), mark),
		},
		Else: []Op{
			Get(Key(s.keys.Frozen())), Get(Key(s.keys.Removing(n.ID))),
			Get(Key(s.keys.Node(n.ID))), Get(Key(s.keys.Live(n.ID))),
		},
	}
	if !force {
		t.If = append(t.If, Absent(Key(s.keys.Live(n.ID))))
	}
	res, err := s.flights.fly(ctx, &request{step: steps.Remove, what: what, look: seeNodes, witness: Delete(Key(s.keys.Node(n.ID))), txn: t})
	if err != nil || res.OK {
		return err
	}
	return s.whyNotRemoved(n, found(res))
}

// EndNodeRemoval frees all that stands in the name of a node whose removal has
// begun, and tries until ctx ends.
func (s *Session) EndNodeRemoval(ctx context.Context, n overspan.Node) (Freed, error) {
	var freed Freed
	err := insist(ctx, func() error {
		more, err := FinishNodeRemoval(ctx, s.kv, s.keys, n.ID)
		freed.add(more)
		return err
	})
	if err != nil {
		return freed, fmt.Errorf("node %s is removed, but not all that it held is free yet; the other agents go on with it: %w", n.Name, err)
	}
	return freed, nil
}

// whyNotRemoved names what was in the way; nil if another has begun the same
// removal.
func (s *Session) whyNotRemoved(n overspan.Node, kvs map[string]KeyValue) error {
	if err := s.frozen(kvs); err != nil {
		return err
	}
	_, marked := kvs[s.keys.Removing(n.ID)]
	now, registered := kvs[s.keys.Node(n.ID)]
	_, up := kvs[s.keys.Live(n.ID)]
	switch {
	case !registered && marked:
		return nil
	case !registered:
		return overspan.Errorf(overspan.ErrNotFound, "node %s not found: it was removed", n.Name)
	case now.CreateRevision == n.CreateRevision && up:
		return nodeIsUp(n.Name)
	}
	return overspan.Errorf(overspan.ErrConflict, "node %s has registered anew meanwhile: look at ctl node ls, and try again if it is still to go", n.Name)
}

func nodeIsUp(name string) error {
	return overspan.Errorf(overspan.ErrInUse, "node %s is up: stop its agent, or use --force; one that has died counts as up until its presence expires, 15 s by default", name)
}

// NodeRemovals lists the nodes that are being removed, by id.
func NodeRemovals(ctx context.Context, kv KV, keys Keys) ([]NodeRemoval, error) {
	list, err := kv.List(ctx, keys.Removals(), 0)
	if err != nil {
		return nil, fmt.Errorf("list the nodes that are being removed: %w", err)
	}
	var out []NodeRemoval
	for _, mark := range list.KVs {
		name, err := keys.Parse(mark.Key)
		if err != nil {
			continue // stands in nobody's way
		}
		r := NodeRemoval{Node: name.Node, Name: overspan.ShortID(name.Node), Revision: mark.CreateRevision}
		var rec overspanv1.Removing
		if Unmarshal(mark.Value, &rec) == nil && rec.GetName() != "" {
			r.Name, r.By, r.Since = rec.GetName(), rec.GetBy(), rec.GetSince().AsTime()
		}
		out = append(out, r)
	}
	return out, nil
}

// A NodeSweeper finishes the removals of nodes that their removers have left
// half done. It is for one goroutine.
type NodeSweeper struct {
	kv   KV
	keys Keys
	seen map[overspan.NodeID]int64 // marks of the last look, by create-revision
}

// NewNodeSweeper returns a sweeper that has looked at nothing yet.
func NewNodeSweeper(kv KV, keys Keys) *NodeSweeper { return &NodeSweeper{kv: kv, keys: keys} }

// Sweep finishes each removal that the call before has seen already: so long
// its remover had. It returns those that it has finished, and of the others why
// not: the next call tries them again.
func (w *NodeSweeper) Sweep(ctx context.Context) ([]NodeRemoval, error) {
	marks, err := NodeRemovals(ctx, w.kv, w.keys)
	if err != nil {
		return nil, err
	}
	before := w.seen
	w.seen = make(map[overspan.NodeID]int64, len(marks))
	var finished []NodeRemoval
	var errs []error
	for _, r := range marks {
		w.seen[r.Node] = r.Revision
		if before[r.Node] != r.Revision {
			continue
		}
		if _, err := FinishNodeRemoval(ctx, w.kv, w.keys, r.Node); err != nil {
			errs = append(errs, err)
			continue
		}
		finished = append(finished, r)
	}
	return finished, errors.Join(errs...)
}
