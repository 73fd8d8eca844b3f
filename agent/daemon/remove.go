package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/store"
)

// A RemovedNode is what a removal has freed.
type RemovedNode struct {
	ID        overspan.NodeID
	Name      string
	Endpoints int
	Blocks    int
}

// RemoveNode takes another node, that is absent or with force any, out of the
// cluster and frees all that stands in its name. A removal that somebody has
// left half done is finished.
func (d *Daemon) RemoveNode(ctx context.Context, ref string, force bool) (RemovedNode, error) {
	asked, cancel := context.WithTimeout(ctx, requestBound)
	defer cancel()
	session, err := d.registrar.session()
	if err != nil {
		return RemovedNode{}, err
	}
	n, err := d.node(asked, ref)
	if errors.Is(err, overspan.ErrNotFound) {
		return d.finishRemovalOf(asked, ref)
	}
	if err != nil {
		return RemovedNode{}, err
	}
	if n.ID == d.Self() {
		return RemovedNode{}, overspan.Errorf(overspan.ErrInvalid, "node %s is the one that was asked: stop its agent and ask another node to remove it", n.Name)
	}
	if err := session.BeginNodeRemoval(asked, *n, force); err != nil {
		return RemovedNode{}, err
	}
	freed, err := d.endRemoval(ctx, session, *n)
	removed := RemovedNode{ID: n.ID, Name: n.Name, Endpoints: freed.Endpoints, Blocks: freed.Blocks}
	if err != nil {
		return removed, err
	}
	d.log.Info("removed a node", "name", n.Name, "id", overspan.ShortID(n.ID), "endpoints", freed.Endpoints, "blocks", freed.Blocks)
	d.awaitSeen(ctx, "the removal of node "+n.Name)
	return removed, nil
}

// endRemoval frees what a node held whose removal has begun.
func (d *Daemon) endRemoval(ctx context.Context, session *store.Session, n overspan.Node) (store.Freed, error) {
	ctx, cancel := context.WithTimeout(ctx, removeBound)
	defer cancel()
	return session.EndNodeRemoval(ctx, n)
}

// finishRemovalOf finishes a removal whose node has no registration any more.
func (d *Daemon) finishRemovalOf(ctx context.Context, ref string) (RemovedNode, error) {
	names, err := d.Leaving(ctx)
	if err != nil {
		return RemovedNode{}, err
	}
	id, err := overspan.Match("node", ref, maps.All(names))
	if err != nil {
		return RemovedNode{}, err
	}
	freed, err := store.FinishNodeRemoval(ctx, d.kv, d.keys, id)
	return RemovedNode{ID: id, Name: names[id], Endpoints: freed.Endpoints, Blocks: freed.Blocks}, err
}

// Leaving returns the names of the nodes whose removal is under way: they are
// not registered any more.
func (d *Daemon) Leaving(ctx context.Context) (map[overspan.NodeID]string, error) {
	marks, err := store.NodeRemovals(ctx, d.kv, d.keys)
	names := make(map[overspan.NodeID]string, len(marks))
	for _, m := range marks {
		names[m.Node] = m.Name
	}
	return names, err
}

// DrainNode tells a node to take no new endpoints and to give back its blocks
// as they empty, or with draining unset to take some again.
func (d *Daemon) DrainNode(ctx context.Context, ref string, draining bool) (overspan.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, requestBound)
	defer cancel()
	session, err := d.registrar.session()
	if err != nil {
		return overspan.Node{}, err
	}
	n, err := d.node(ctx, ref)
	if err != nil {
		return overspan.Node{}, err
	}
	now, err := session.Drain(ctx, n.ID, draining)
	if err != nil {
		return overspan.Node{}, err
	}
	d.awaitSeen(ctx, "the draining of node "+n.Name)
	return now, nil
}

// node finds a registered node by name, id, or a unique prefix of its id, as it
// is at the moment of the call.
func (d *Daemon) node(ctx context.Context, ref string) (*overspan.Node, error) {
	s, err := d.latest(ctx)
	if err != nil {
		return nil, fmt.Errorf("look for node %s: %w", ref, err)
	}
	names := make(map[overspan.NodeID]string, len(s.Nodes))
	for id, n := range s.Nodes {
		names[id] = n.Name
	}
	id, err := overspan.Match("node", ref, maps.All(names))
	if errors.Is(err, overspan.ErrNotFound) && s.Frozen != nil {
		return nil, s.Frozen.Refusal() // etcd may have forgotten it, and still lists show it
	}
	if err != nil {
		return nil, err
	}
	return s.Nodes[id], nil
}

// sweepNodes finishes the removals of nodes that their removers have left half
// done. A freeze forbids it, since etcd may have forgotten who is back.
func (d *Daemon) sweepNodes(ctx context.Context, sweeper *store.NodeSweeper, s *overspan.Snapshot) {
	if s.Frozen != nil {
		return
	}
	finished, err := sweeper.Sweep(ctx)
	if err != nil {
		d.log.Warn("cannot finish the removal of a node; will try again", "error", err)
	}
	for _, r := range finished {
		d.log.Info("finished the removal of a node", "name", r.Name, "id", overspan.ShortID(r.Node), "by", r.By)
	}
}

// Absences are looked at reapLooks times within ReapAfter, but at least once every
// reapPause.
const (
	reapLooks = 10
	reapPause = 30 * time.Second
)

// reap removes nodes that have been away for too long.
func (d *Daemon) reap(ctx context.Context) error {
	if d.cfg.ReapAfter == 0 {
		return nil
	}
	seen := absences{every: min(d.cfg.ReapAfter/reapLooks, reapPause)}
	look := time.NewTicker(seen.every)
	defer look.Stop()
	for {
		changed := d.snapshots.Wait()
		seen.see(d.knowledge().Etcd)
		select {
		case <-changed:
			continue
		case <-look.C:
		case <-ctx.Done():
			return nil
		}
		if s, _, clear := d.sight(); clear {
			seen.look(time.Now(), s)
			d.reapDue(ctx, &seen)
		}
	}
}

// sight returns what this node may judge others by, and the session to do so; false
// where what it sees may be of the past.
func (d *Daemon) sight() (*overspan.Snapshot, *store.Session, bool) {
	s := d.knowledge().Etcd
	_, stale := d.Stale()
	session, err := d.registrar.session()
	if err != nil || stale != "" || s == nil || s.Frozen != nil {
		return nil, nil, false
	}
	self := s.Nodes[d.Self()]
	return s, session, self != nil && self.Presence != nil
}

// reapDue removes the nodes that are due. One may take long: the next is judged by
// what is seen then.
func (d *Daemon) reapDue(ctx context.Context, seen *absences) {
	tried := map[overspan.NodeID]bool{}
	for {
		s, session, clear := d.sight()
		if !clear {
			return
		}
		seen.see(s)
		due := seen.due(s, d.Self(), d.cfg.ReapAfter)
		next := slices.IndexFunc(due, func(n *overspan.Node) bool { return !tried[n.ID] })
		if next < 0 {
			return
		}
		tried[due[next].ID] = true
		d.reapNode(ctx, session, due[next])
	}
}

func (d *Daemon) reapNode(ctx context.Context, session *store.Session, n *overspan.Node) {
	log := d.log.With("name", n.Name, "id", overspan.ShortID(n.ID))
	asked, cancel := context.WithTimeout(ctx, requestBound)
	defer cancel()
	err := session.BeginNodeRemoval(asked, *n, false)
	var freed store.Freed
	if err == nil {
		freed, err = d.endRemoval(ctx, session, *n)
	}
	switch {
	case err == nil:
		log.Warn("removed a node that was away for too long", "after", d.cfg.ReapAfter, "endpoints", freed.Endpoints, "blocks", freed.Blocks)
	case errors.Is(err, overspan.ErrNotFound), errors.Is(err, overspan.ErrInUse), errors.Is(err, overspan.ErrConflict):
		log.Debug("a node that was away is back, or gone", "error", err)
	default:
		log.Warn("cannot remove a node that is away; will try again", "error", err)
	}
}
