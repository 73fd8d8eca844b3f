package apitest

import (
	"context"
	"maps"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/daemon"
)

// HalfRemove takes a node's registration away, as a remover that died then.
func (d *Daemon) HalfRemove(ref string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.node(ref)
	if err != nil {
		return err
	}
	if d.leaving == nil {
		d.leaving = map[overspan.NodeID]string{}
	}
	d.leaving[n.ID] = n.Name
	d.change(func(s *overspan.Snapshot) { delete(s.Nodes, n.ID) })
	return nil
}

// node finds a registered node. The caller holds mu.
func (d *Daemon) node(ref string) (*overspan.Node, error) {
	names := map[overspan.NodeID]string{}
	for id, n := range d.snapshot.Nodes {
		names[id] = n.Name
	}
	id, err := overspan.Match("node", ref, maps.All(names))
	if err != nil {
		return nil, err
	}
	return d.snapshot.Nodes[id], nil
}

// RemoveNode implements api.Daemon. Every node had two endpoints and a block.
func (d *Daemon) RemoveNode(_ context.Context, ref string, force bool) (daemon.RemovedNode, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.reachable(); err != nil {
		return daemon.RemovedNode{}, err
	}
	if id, err := overspan.Match("node", ref, maps.All(d.leaving)); err == nil {
		name := d.leaving[id]
		delete(d.leaving, id)
		return daemon.RemovedNode{ID: id, Name: name}, nil
	}
	n, err := d.node(ref)
	switch {
	case err != nil:
		return daemon.RemovedNode{}, err
	case n.ID == Self:
		return daemon.RemovedNode{}, overspan.Errorf(overspan.ErrInvalid, "node %s is the one that was asked", n.Name)
	case n.Presence != nil && !force:
		return daemon.RemovedNode{}, overspan.Errorf(overspan.ErrInUse, "node %s is up: stop its agent, or use --force; one that has died counts as up until its presence expires, 15 s by default", n.Name)
	}
	d.change(func(s *overspan.Snapshot) { delete(s.Nodes, n.ID) })
	return daemon.RemovedNode{ID: n.ID, Name: n.Name, Endpoints: 2, Blocks: 1}, nil
}

// DrainNode implements api.Daemon.
func (d *Daemon) DrainNode(_ context.Context, ref string, draining bool) (overspan.Node, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.reachable(); err != nil {
		return overspan.Node{}, err
	}
	n, err := d.node(ref)
	if err != nil {
		return overspan.Node{}, err
	}
	now := *n
	now.Draining = draining
	d.change(func(s *overspan.Snapshot) { s.Nodes[n.ID] = &now })
	return now, nil
}

// Leaving implements api.Daemon.
func (d *Daemon) Leaving(context.Context) (map[overspan.NodeID]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.leaving), d.reachable()
}
