package api

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

type endpointService struct {
	overspanv1.UnimplementedEndpointServiceServer
	*reader
}

func (s *endpointService) ListEndpoints(ctx context.Context, req *overspanv1.ListEndpointsRequest) (*overspanv1.ListEndpointsResponse, error) {
	wanted, err := endpointKeys().parse(req.GetFilters())
	if err != nil {
		return nil, err
	}
	v, found, err := s.endpoints(ctx, req.GetNetwork(), req.GetFilters())
	if err != nil {
		return nil, err
	}
	return &overspanv1.ListEndpointsResponse{Endpoints: selected(found, wanted), Stale: v.stale}, nil
}

func (s *endpointService) GetEndpoint(ctx context.Context, req *overspanv1.GetEndpointRequest) (*overspanv1.GetEndpointResponse, error) {
	v, found, err := s.endpoints(ctx, req.GetNetwork(), nil)
	if err != nil {
		return nil, err
	}
	e, err := findEndpoint(found, req.GetEndpoint())
	if err != nil {
		return nil, err
	}
	return &overspanv1.GetEndpointResponse{Endpoint: e, Stale: v.stale}, nil
}

// endpoints returns those of one network, or of every network that this node
// follows, and those that networks which are gone have left behind here.
func (s *endpointService) endpoints(ctx context.Context, network string, filters map[string]*overspanv1.FilterValues) (*view, []*overspanv1.EndpointView, error) {
	v, err := s.fresh(ctx)
	if err != nil {
		return nil, nil, err
	}
	out := v.leftBehind(func(id overspan.NetworkID, name string) bool {
		return network == "" || network == name || network == string(id)
	})
	interiors, err := v.interiors(ctx, network, filters)
	if errors.Is(err, overspan.ErrNotFound) {
		if len(out) == 0 { // as of one that is there, the beginning of the id is enough
			out = v.leftBehind(func(id overspan.NetworkID, _ string) bool { return strings.HasPrefix(string(id), network) })
		}
		if len(out) > 0 {
			interiors, err = nil, nil
		}
	}
	if err != nil {
		return nil, nil, err
	}
	for _, i := range interiors {
		out = append(out, v.endpointViews(i)...)
	}
	return v, out, nil
}

// findEndpoint is overspan.Match for names that may be in use in several
// networks; the error says in which.
func findEndpoint(all []*overspanv1.EndpointView, ref string) (*overspanv1.EndpointView, error) {
	byID := map[overspan.EndpointID]*overspanv1.EndpointView{}
	names := map[overspan.EndpointID]string{}
	var networks []string
	for _, e := range all {
		id := overspan.EndpointID(e.GetEndpoint().GetId())
		byID[id], names[id] = e, e.GetEndpoint().GetName()
		if names[id] == ref {
			networks = append(networks, e.GetNetworkName())
		}
	}
	slices.Sort(networks)
	switch several := slices.Compact(slices.Clone(networks)); {
	case len(several) > 1:
		return nil, overspan.Errorf(overspan.ErrInvalid, "endpoint %s is ambiguous: the networks %s have one each; name the network, or the endpoint's id", ref, strings.Join(several, ", "))
	case len(networks) > 1:
		// One of them is lost, and its name another's by now.
		return nil, overspan.Errorf(overspan.ErrInvalid, "endpoint %s is ambiguous: network %s has %d of that name; name the endpoint's id", ref, several[0], len(networks))
	}
	id, err := overspan.Match("endpoint", ref, maps.All(names))
	if err != nil {
		return nil, err
	}
	return byID[id], nil
}
