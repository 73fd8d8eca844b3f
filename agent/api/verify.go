package api

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

const (
	// askBound is how long another node may take to verify itself.
	askBound = 5 * time.Second
	// askAtOnce is how many nodes are asked at a time.
	askAtOnce = 256
)

// Verify compares plan and kernel on this node, and on every other one if all
// are asked for. A node that cannot be asked is told with the reason.
func (s *systemService) Verify(ctx context.Context, req *overspanv1.VerifyRequest) (*overspanv1.VerifyResponse, error) {
	revision, drift, err := s.system.Verify(ctx)
	if err != nil {
		return nil, err
	}
	v := s.latest()
	own := &overspanv1.NodeVerdict{Node: string(v.self), Name: v.NodeName(v.self), Revision: revision, Drift: drift}
	resp := &overspanv1.VerifyResponse{Nodes: []*overspanv1.NodeVerdict{own}}
	if !req.GetAll() {
		return resp, nil
	}
	if v, err = s.fresh(ctx); err != nil {
		return nil, err
	}
	var g errgroup.Group
	g.SetLimit(askAtOnce)
	for _, n := range v.nodes() {
		if n.ID == v.self {
			continue
		}
		verdict := &overspanv1.NodeVerdict{Node: string(n.ID), Name: n.Name}
		resp.Nodes = append(resp.Nodes, verdict)
		g.Go(func() error {
			if err := s.ask(ctx, n, verdict); err != nil {
				verdict.Error = fmt.Sprintf("could not be asked: %v", err)
			}
			return nil
		})
	}
	return resp, g.Wait()
}

// ask has another node verify itself and fills in what it says.
func (s *systemService) ask(ctx context.Context, n *overspan.Node, verdict *overspanv1.NodeVerdict) error {
	if n.Presence == nil {
		return overspan.Errorf(overspan.ErrUnavailable, "the node is down")
	}
	conn, err := s.dial(n)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, askBound)
	defer cancel()
	resp, err := overspanv1.NewSystemServiceClient(conn).Verify(ctx, &overspanv1.VerifyRequest{})
	if err != nil {
		return overspanv1.FromStatus(err)
	}
	for _, answer := range resp.GetNodes() {
		if answer.GetNode() == string(n.ID) {
			verdict.Revision, verdict.Drift = answer.GetRevision(), answer.GetDrift()
			return nil
		}
	}
	return overspan.Errorf(overspan.ErrNotFound, "another agent answers at its address")
}
