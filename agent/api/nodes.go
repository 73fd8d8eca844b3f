package api

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

type nodeService struct {
	overspanv1.UnimplementedNodeServiceServer
	*reader
	nodes Nodes
}

func (s *nodeService) ListNodes(ctx context.Context, req *overspanv1.ListNodesRequest) (*overspanv1.ListNodesResponse, error) {
	wanted, err := nodeKeys().parse(req.GetFilters())
	if err != nil {
		return nil, err
	}
	v, err := s.fresh(ctx)
	if err != nil {
		return nil, err
	}
	views := append(v.nodeViews(v.memberships()), s.leaving(ctx, v)...)
	slices.SortStableFunc(views, func(a, b *overspanv1.NodeView) int {
		return cmp.Or(cmp.Compare(a.GetNode().GetName(), b.GetNode().GetName()), cmp.Compare(a.GetNode().GetId(), b.GetNode().GetId()))
	})
	return &overspanv1.ListNodesResponse{Nodes: selected(views, wanted), Stale: v.stale}, nil
}

// leaving shows the nodes whose removal is under way. While etcd is away they
// are not known.
func (s *nodeService) leaving(ctx context.Context, v *view) []*overspanv1.NodeView {
	if v.stale != nil {
		return nil
	}
	names, err := s.nodes.Leaving(ctx)
	if err != nil {
		v.stale = staleness(time.Now(), err.Error())
	}
	var out []*overspanv1.NodeView
	for id, name := range names {
		if v.Nodes[id] == nil { // else it is back already
			out = append(out, &overspanv1.NodeView{Node: &overspanv1.Node{Id: string(id), Name: name}, Removing: true})
		}
	}
	return out
}

func (s *nodeService) GetNode(ctx context.Context, req *overspanv1.GetNodeRequest) (*overspanv1.GetNodeResponse, error) {
	v, err := s.fresh(ctx)
	if err != nil {
		return nil, err
	}
	names := map[overspan.NodeID]string{}
	for id, n := range v.Nodes {
		names[id] = n.Name
	}
	id, err := overspan.Match("node", req.GetNode(), maps.All(names))
	if errors.Is(err, overspan.ErrNotFound) {
		return s.getLeaving(ctx, v, req.GetNode())
	}
	if err != nil {
		return nil, err
	}
	return &overspanv1.GetNodeResponse{Node: v.nodeView(v.Nodes[id], v.memberships()[id]), Stale: v.stale}, nil
}

// getLeaving shows a node that is not registered any more.
func (s *nodeService) getLeaving(ctx context.Context, v *view, ref string) (*overspanv1.GetNodeResponse, error) {
	names := map[overspan.NodeID]string{}
	byID := map[overspan.NodeID]*overspanv1.NodeView{}
	for _, n := range s.leaving(ctx, v) {
		id := overspan.NodeID(n.GetNode().GetId())
		names[id], byID[id] = n.GetNode().GetName(), n
	}
	id, err := overspan.Match("node", ref, maps.All(names))
	if err != nil {
		return nil, err
	}
	return &overspanv1.GetNodeResponse{Node: byID[id], Stale: v.stale}, nil
}

func (s *nodeService) RemoveNode(ctx context.Context, req *overspanv1.RemoveNodeRequest) (*overspanv1.RemoveNodeResponse, error) {
	removed, err := s.nodes.RemoveNode(ctx, req.GetNode(), req.GetForce())
	if err != nil {
		return nil, err
	}
	return &overspanv1.RemoveNodeResponse{
		Node:      &overspanv1.Node{Id: string(removed.ID), Name: removed.Name},
		Endpoints: uint32(removed.Endpoints),
		Blocks:    uint32(removed.Blocks),
	}, nil
}

func (s *nodeService) DrainNode(ctx context.Context, req *overspanv1.DrainNodeRequest) (*overspanv1.DrainNodeResponse, error) {
	n, err := s.nodes.DrainNode(ctx, req.GetNode(), !req.GetUndo())
	if err != nil {
		return nil, err
	}
	return &overspanv1.DrainNodeResponse{Node: overspanv1.NodeRecord(n)}, nil
}
