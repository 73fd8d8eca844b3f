package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/daemon"
	"github.com/overspan/overspan/ipam"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

type networkService struct {
	overspanv1.UnimplementedNetworkServiceServer
	*reader
	networks Networks
}

func (s *networkService) CreateNetwork(ctx context.Context, req *overspanv1.CreateNetworkRequest) (*overspanv1.CreateNetworkResponse, error) {
	n, err := s.networks.CreateNetwork(ctx, daemon.CreateRequest{
		Spec: ipam.Spec{
			Name:     req.GetName(),
			Driver:   req.GetDriver(),
			Subnets:  req.GetSubnets(),
			Gateways: req.GetGateways(),
			Ranges:   req.GetIpRanges(),
			Aux:      req.GetAuxAddresses(),
			IPv6:     req.GetIpv6(),
			NoIPv4:   req.GetNoIpv4(),
		},
		Internal:   req.GetInternal(),
		Options:    req.GetOptions(),
		Labels:     req.GetLabels(),
		ConfigOnly: req.GetConfigOnly(),
		ConfigFrom: req.GetConfigFrom(),
	})
	if err != nil {
		return nil, err
	}
	return &overspanv1.CreateNetworkResponse{Network: overspanv1.NetworkRecord(*n)}, nil
}

func (s *networkService) ListNetworks(ctx context.Context, req *overspanv1.ListNetworksRequest) (*overspanv1.ListNetworksResponse, error) {
	wanted, err := listKeys().parse(req.GetFilters())
	if err != nil {
		return nil, err
	}
	v, err := s.fresh(ctx)
	if err != nil {
		return nil, err
	}
	all := predefined()
	if n := v.defaultNetwork(); n != nil {
		all = append(all, n)
	}
	for _, n := range v.networks() {
		all = append(all, overspanv1.NetworkRecord(*n))
	}
	slices.SortStableFunc(all, func(a, b *overspanv1.Network) int { return cmp.Compare(a.GetName(), b.GetName()) })
	shown := selected(all, wanted)
	if alone, asked, err := dangling(req.GetFilters()); err != nil {
		return nil, err
	} else if asked {
		if shown, err = v.dangling(ctx, shown, alone); err != nil {
			return nil, err
		}
	}
	return &overspanv1.ListNetworksResponse{Networks: shown, Stale: v.stale}, nil
}

// dangling returns the networks that nothing is plugged into, or the others.
// Predefined ones never dangle, as docker has it.
func (v *view) dangling(ctx context.Context, in []*overspanv1.Network, alone bool) ([]*overspanv1.Network, error) {
	var out []*overspanv1.Network
	for _, n := range in {
		used := isPredefined(n)
		if !used {
			var err error
			if used, err = v.inUse(ctx, overspan.NetworkID(n.GetId())); err != nil {
				return nil, fmt.Errorf("cannot tell whether network %s is in use: %w", n.GetName(), err)
			}
		}
		if used != alone {
			out = append(out, n)
		}
	}
	return out, nil
}

func (s *networkService) GetNetwork(ctx context.Context, req *overspanv1.GetNetworkRequest) (*overspanv1.GetNetworkResponse, error) {
	if n := findPredefined(req.GetNetwork()); n != nil {
		return &overspanv1.GetNetworkResponse{Network: n, Predefined: true}, nil
	}
	v, err := s.fresh(ctx)
	if err != nil {
		return nil, err
	}
	n, err := v.network(req.GetNetwork())
	if unused := v.unusedDefault(req.GetNetwork()); errors.Is(err, overspan.ErrNotFound) && unused != nil {
		return &overspanv1.GetNetworkResponse{Network: unused, Predefined: true, Stale: v.stale}, nil
	}
	if err != nil {
		return nil, err
	}
	segment, err := v.segment(ctx, n)
	if err != nil {
		return nil, err
	}
	in := interior{n, segment}
	resp := &overspanv1.GetNetworkResponse{
		Network: overspanv1.NetworkRecord(*n),
		Blocks:  v.blockViews(in),
		Stale:   v.stale,
	}
	for _, e := range in.endpoints() {
		resp.Endpoints = append(resp.Endpoints, v.endpointView(n, *e, v.here().byID[e.ID]))
	}
	return resp, nil
}

func (s *networkService) RemoveNetwork(ctx context.Context, req *overspanv1.RemoveNetworkRequest) (*overspanv1.RemoveNetworkResponse, error) {
	id, err := s.networks.RemoveNetwork(ctx, req.GetNetwork())
	if err != nil {
		return nil, err
	}
	return &overspanv1.RemoveNetworkResponse{Id: string(id)}, nil
}

// PruneNetworks removes the networks that nothing is plugged into. One that is
// taken into use or removed meanwhile is left to whoever did so.
func (s *networkService) PruneNetworks(ctx context.Context, req *overspanv1.PruneNetworksRequest) (*overspanv1.PruneNetworksResponse, error) {
	wanted, err := pruneKeys(time.Now()).parse(req.GetFilters())
	if err != nil {
		return nil, err
	}
	v, err := s.fresh(ctx)
	if err != nil {
		return nil, err
	}
	if v.stale != nil {
		return nil, overspan.Errorf(overspan.ErrUnavailable, "cannot tell which networks are in use: %s", v.stale.GetReason())
	}
	resp := &overspanv1.PruneNetworksResponse{}
	for _, n := range v.networks() {
		if record := overspanv1.NetworkRecord(*n); isPredefined(record) || n.ConfigOnly || !wanted(record) {
			continue
		}
		removed, err := s.removeUnused(ctx, v, n)
		if err != nil {
			return nil, fmt.Errorf("remove network %s (removed so far: %s): %w", n.Name, cmp.Or(strings.Join(resp.GetNames(), ", "), "none"), err)
		}
		if removed {
			resp.Names = append(resp.Names, n.Name)
		}
	}
	return resp, nil
}

func (s *networkService) removeUnused(ctx context.Context, v *view, n *overspan.Network) (bool, error) {
	used, err := v.inUse(ctx, n.ID)
	if err != nil || used {
		return false, err
	}
	_, err = s.networks.RemoveNetwork(ctx, string(n.ID))
	if errors.Is(err, overspan.ErrInUse) || errors.Is(err, overspan.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

func (s *networkService) Connect(ctx context.Context, req *overspanv1.ConnectRequest) (*overspanv1.ConnectResponse, error) {
	wait, err := waitOf(req.GetWait())
	if err != nil {
		return nil, err
	}
	result, err := s.networks.Connect(ctx, daemon.ConnectRequest{
		Network:   req.GetNetwork(),
		Target:    req.GetTarget(),
		Name:      req.GetName(),
		IP:        req.GetIp(),
		IP6:       req.GetIp6(),
		MAC:       req.GetMac(),
		Interface: req.GetInterface(),
		Aliases:   req.GetAliases(),
		Links:     overspanv1.LinksOf(req.GetLinks()),
		Wait:      wait,

		Publish:    req.GetPublish(),
		PublishAll: req.GetPublishAll(),
		Expose:     req.GetExpose(),

		GatewayPriority: req.GetGatewayPriority(),
		DriverOptions:   req.GetDriverOptions(),
	})
	if err != nil {
		return nil, err
	}
	v := s.latest()
	here, _ := s.networks.Attachment(result.Endpoint.ID)
	return &overspanv1.ConnectResponse{
		Endpoint:    v.endpointView(v.Networks[result.Endpoint.Network], result.Endpoint, here),
		Unconfirmed: result.Unconfirmed,
	}, nil
}

func waitOf(w overspanv1.Wait) (daemon.Wait, error) {
	switch w {
	case overspanv1.Wait_WAIT_UNSPECIFIED, overspanv1.Wait_WAIT_PEERS:
		return daemon.WaitPeers, nil
	case overspanv1.Wait_WAIT_LOCAL:
		return daemon.WaitLocal, nil
	case overspanv1.Wait_WAIT_NONE:
		return daemon.WaitNone, nil
	}
	return 0, overspan.Errorf(overspan.ErrInvalid, "unknown wait %d: use peers, local or none", w)
}

func (s *networkService) Disconnect(ctx context.Context, req *overspanv1.DisconnectRequest) (*overspanv1.DisconnectResponse, error) {
	disconnect := s.networks.Disconnect
	if req.GetForce() {
		disconnect = s.networks.ForceDisconnect
	}
	e, pending, err := disconnect(ctx, req.GetNetwork(), req.GetTarget())
	if err != nil {
		return nil, err
	}
	v := s.latest()
	return &overspanv1.DisconnectResponse{Endpoint: v.endpointView(v.Networks[e.Network], e, overspan.Attachment{}), Pending: pending}, nil
}
