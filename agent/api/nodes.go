package api

import (
	"context"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

type nodeService struct {
	overspanv1.UnimplementedNodeServiceServer
	*reader
}

func (s *nodeService) ListNodes(ctx context.Context, _ *overspanv1.ListNodesRequest) (*overspanv1.ListNodesResponse, error) {
	v, err := s.fresh(ctx)
	if err != nil {
		return nil, err
	}
	return &overspanv1.ListNodesResponse{Nodes: v.nodeViews(), Stale: v.stale}, nil
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
	id, err := overspan.Match("node", req.GetNode(), names)
	if err != nil {
		return nil, err
	}
	return &overspanv1.GetNodeResponse{Node: v.nodeView(v.Nodes[id], v.memberships()[id]), Stale: v.stale}, nil
}
