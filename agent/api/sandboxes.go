package api

import (
	"context"
	"maps"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/daemon"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

type sandboxService struct {
	overspanv1.UnimplementedSandboxServiceServer
	*reader
	sandboxes Sandboxes
}

func (s *sandboxService) CreateSandbox(ctx context.Context, req *overspanv1.CreateSandboxRequest) (*overspanv1.CreateSandboxResponse, error) {
	settings, err := overspanv1.SettingsOf(req.GetHostname(), req.GetResolver(), req.GetHosts())
	if err != nil {
		return nil, err
	}
	sb, err := s.sandboxes.CreateSandbox(ctx, daemon.SandboxRequest{Name: req.GetName(), SandboxSettings: settings})
	if err != nil {
		return nil, err
	}
	return &overspanv1.CreateSandboxResponse{Sandbox: overspanv1.SandboxRecord(sb)}, nil
}

// ListSandboxes needs no etcd: sandboxes are this node's own.
func (s *sandboxService) ListSandboxes(_ context.Context, req *overspanv1.ListSandboxesRequest) (*overspanv1.ListSandboxesResponse, error) {
	wanted, err := sandboxKeys().parse(req.GetFilters())
	if err != nil {
		return nil, err
	}
	v := s.latest()
	resp := &overspanv1.ListSandboxesResponse{}
	for _, sb := range s.sandboxes.Sandboxes() {
		if shown := v.sandboxView(sb); wanted(shown) {
			resp.Sandboxes = append(resp.Sandboxes, shown)
		}
	}
	return resp, nil
}

func (s *sandboxService) GetSandbox(_ context.Context, req *overspanv1.GetSandboxRequest) (*overspanv1.GetSandboxResponse, error) {
	byID := map[overspan.SandboxID]overspan.Sandbox{}
	names := map[overspan.SandboxID]string{}
	for _, sb := range s.sandboxes.Sandboxes() {
		byID[sb.ID], names[sb.ID] = sb, sb.Name
	}
	id, err := overspan.Match("sandbox", req.GetSandbox(), maps.All(names))
	if err != nil {
		return nil, err
	}
	return &overspanv1.GetSandboxResponse{Sandbox: s.latest().sandboxView(byID[id])}, nil
}

func (s *sandboxService) RemoveSandbox(ctx context.Context, req *overspanv1.RemoveSandboxRequest) (*overspanv1.RemoveSandboxResponse, error) {
	if err := s.sandboxes.RemoveSandbox(ctx, req.GetSandbox()); err != nil {
		return nil, err
	}
	return &overspanv1.RemoveSandboxResponse{}, nil
}
