package api

import (
	"context"
	"runtime"
	"runtime/debug"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/daemon"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

type systemService struct {
	overspanv1.UnimplementedSystemServiceServer
	*reader
	system   System
	dial     DialFunc
	stopping <-chan struct{}
}

// Status answers also before the first snapshot: it is what an operator asks
// when nothing works.
func (s *systemService) Status(ctx context.Context, _ *overspanv1.StatusRequest) (*overspanv1.StatusResponse, error) {
	stale := s.sync(ctx)
	v := s.latest()
	st := s.system.Status(ctx)
	memberships := v.memberships()
	resp := &overspanv1.StatusResponse{
		Cluster:          s.cluster.Cluster(),
		ClusterId:        v.Meta.ClusterID,
		Self:             &overspanv1.NodeView{Node: &overspanv1.Node{Id: string(v.self)}, Self: true},
		Version:          overspan.Version,
		Started:          timestamp(st.Started),
		Etcd:             etcdMembers(st.Etcd),
		Stale:            stale,
		Nodes:            v.nodeViews(memberships),
		Networks:         uint32(len(v.networks())),
		SnapshotRevision: st.SnapshotRevision,
		AppliedRevision:  st.AppliedRevision,
		Drift:            uint32(st.Drift),
		LastError:        st.LastError,
		LastFullPass:     timestamp(st.LastFullPass),
		Warnings:         st.Warnings,
		PendingReleases:  uint32(st.PendingReleases),
	}
	if f := st.Freeze; f != nil {
		resp.Freeze = &overspanv1.FreezeStatus{Frozen: overspanv1.FrozenRecord(f.Freeze), Reports: nodeReports(f.Reports)}
	}
	if v.Meta != (overspan.Meta{}) {
		resp.Settings = overspanv1.MetaRecord(v.Meta)
	}
	if n := v.Nodes[v.self]; n != nil {
		resp.Self = v.nodeView(n, memberships[n.ID])
	}
	for id, segment := range v.Segments.All() {
		if n := v.Networks[id]; n != nil && v.visible(n) {
			resp.Blocks += uint32(segment.Blocks.Len())
			resp.Endpoints += uint32(len(interior{n, segment}.endpoints()))
		}
	}
	return resp, nil
}

func nodeReports(in []daemon.NodeReport) []*overspanv1.NodeReport {
	var out []*overspanv1.NodeReport
	for _, r := range in {
		report := &overspanv1.NodeReport{Node: string(r.Node), Name: r.Name, Up: r.Up}
		if r.Report != nil {
			report.Report = overspanv1.ReportRecord(*r.Report)
		}
		out = append(out, report)
	}
	return out
}

func (s *systemService) Accept(ctx context.Context, req *overspanv1.AcceptRequest) (*overspanv1.AcceptResponse, error) {
	count, reports, err := s.system.Accept(ctx, req.GetForce())
	if err != nil {
		return nil, err
	}
	return &overspanv1.AcceptResponse{Accepted: count, Reports: nodeReports(reports)}, nil
}

func etcdMembers(in []daemon.EtcdMember) []*overspanv1.EtcdMember {
	var out []*overspanv1.EtcdMember
	for _, m := range in {
		member := &overspanv1.EtcdMember{
			Endpoint:      m.Endpoint,
			Healthy:       m.Err == nil,
			Version:       m.Version,
			Leader:        m.Leader,
			LatencyMicros: m.Latency.Microseconds(),
		}
		if m.Err != nil {
			member.Error = m.Err.Error()
		}
		out = append(out, member)
	}
	return out
}

func (s *systemService) ListBlocks(ctx context.Context, req *overspanv1.ListBlocksRequest) (*overspanv1.ListBlocksResponse, error) {
	wanted, err := blockKeys().parse(req.GetFilters())
	if err != nil {
		return nil, err
	}
	v, err := s.fresh(ctx)
	if err != nil {
		return nil, err
	}
	interiors, err := v.interiors(ctx, req.GetNetwork(), req.GetFilters())
	if err != nil {
		return nil, err
	}
	resp := &overspanv1.ListBlocksResponse{Stale: v.stale}
	for _, i := range interiors {
		resp.Blocks = append(resp.Blocks, selected(v.blockViews(i), wanted)...)
	}
	return resp, nil
}

func (s *systemService) Version(context.Context, *overspanv1.VersionRequest) (*overspanv1.VersionResponse, error) {
	resp := &overspanv1.VersionResponse{Version: overspan.Version, GoVersion: runtime.Version()}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, setting := range info.Settings {
			if setting.Key == "vcs.revision" {
				resp.Commit = setting.Value
			}
		}
	}
	return resp, nil
}

// timestamp leaves the zero time unset.
func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
