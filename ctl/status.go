package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// statusDetails is how the agent and its cluster are.
type statusDetails struct {
	Cluster          string
	ClusterID        string
	Settings         *settingsItem `json:",omitempty"`
	Version          string
	Started          time.Time
	Node             nodeItem
	Etcd             []etcdItem
	Stale            *staleItem  `json:",omitempty"`
	Freeze           *freezeItem `json:",omitempty"`
	Nodes            []nodeItem
	Networks         uint32
	Blocks           uint32
	Endpoints        uint32
	SnapshotRevision int64
	AppliedRevision  int64
	Drift            uint32
	LastError        string
	LastFullPass     time.Time
	PendingReleases  uint32
	Warnings         []string
}

// A settingsItem is what the cluster was set up with.
type settingsItem struct {
	OverlayPool poolItem
	BridgePool  poolItem
	IPv6Pool    poolItem
	VNIs        vnisItem
}

// A poolItem is where automatic subnets come from, in Docker's words.
type poolItem struct {
	Base string
	Size uint32
}

type vnisItem struct{ First, Last uint32 }

type etcdItem struct {
	Endpoint      string
	Healthy       bool
	Version       string
	Leader        bool
	LatencyMicros int64
	Error         string `json:",omitempty"`
}

type staleItem struct {
	Since  time.Time
	Reason string
}

func statusOf(s *overspanv1.StatusResponse) statusDetails {
	d := statusDetails{
		Cluster:          s.GetCluster(),
		ClusterID:        s.GetClusterId(),
		Version:          s.GetVersion(),
		Started:          timeOf(s.GetStarted()),
		Node:             nodeItemOf(s.GetSelf()),
		Etcd:             []etcdItem{},
		Nodes:            []nodeItem{},
		Networks:         s.GetNetworks(),
		Blocks:           s.GetBlocks(),
		Endpoints:        s.GetEndpoints(),
		SnapshotRevision: s.GetSnapshotRevision(),
		AppliedRevision:  s.GetAppliedRevision(),
		Drift:            s.GetDrift(),
		LastError:        s.GetLastError(),
		LastFullPass:     timeOf(s.GetLastFullPass()),
		PendingReleases:  s.GetPendingReleases(),
		Warnings:         append([]string{}, s.GetWarnings()...),
	}
	if m := s.GetSettings(); m != nil {
		d.Settings = settingsItemOf(m)
	}
	for _, m := range s.GetEtcd() {
		d.Etcd = append(d.Etcd, etcdItem{m.GetEndpoint(), m.GetHealthy(), m.GetVersion(), m.GetLeader(), m.GetLatencyMicros(), m.GetError()})
	}
	if s.GetStale() != nil {
		d.Stale = &staleItem{timeOf(s.GetStale().GetSince()), s.GetStale().GetReason()}
	}
	if s.GetFreeze() != nil {
		d.Freeze = freezeItemOf(s.GetFreeze())
	}
	for _, n := range s.GetNodes() {
		d.Nodes = append(d.Nodes, nodeItemOf(n))
	}
	return d
}

func settingsItemOf(m *overspanv1.Meta) *settingsItem {
	pool := func(p *overspanv1.Pool) poolItem { return poolItem{p.GetPrefix(), p.GetBits()} }
	return &settingsItem{
		OverlayPool: pool(m.GetOverlayPool()),
		BridgePool:  pool(m.GetBridgePool()),
		IPv6Pool:    pool(m.GetIpv6Pool()),
		VNIs:        vnisItem{m.GetFirstVni(), m.GetLastVni()},
	}
}

func (a *app) statusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "status [flags]",
		Short:             "Show on one screen how the agent and the cluster are",
		Args:              wants(cobra.NoArgs),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	a.formatFlag(cmd, "f")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		system, err := a.system()
		if err != nil {
			return err
		}
		resp, err := system.Status(cmd.Context(), &overspanv1.StatusRequest{})
		if err != nil {
			return err
		}
		d := statusOf(resp)
		return one(a, d, func() error { return d.print(a.stdout) })
	}
	return cmd
}

// shownNodes is how many nodes fit on the screen; those that are down come first.
const shownNodes = 16

func (d statusDetails) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(label, format string, args ...any) {
		fmt.Fprintf(w, "%s\t%s\n", label, fmt.Sprintf(format, args...))
	}
	line("Cluster", "%s (%s)", d.Cluster, orUnknown(overspan.ShortID(d.ClusterID)))
	line("Node", "%s (%s) %s", orUnknown(d.Node.Name), overspan.ShortID(d.Node.ID), strings.Join(d.Node.Addresses, " "))
	line("Agent", "version %s, started %s", d.Version, clock(d.Started))
	for _, m := range d.Etcd {
		line("Etcd", "%s", m)
	}
	if len(d.Etcd) == 0 {
		line("Etcd", "no member known")
	}
	if d.Stale != nil {
		line("", "stale since %s: %s", clock(d.Stale.Since), d.Stale.Reason)
	}
	if d.Freeze != nil {
		d.Freeze.print(line)
	}
	d.printNodes(line)
	line("Networks", "%d, with %d blocks and %d endpoints in those that this node takes part in", d.Networks, d.Blocks, d.Endpoints)
	if s := d.Settings; s != nil {
		line("Pools", "overlay %s, bridge %s, IPv6 %s; VNIs %d to %d", s.OverlayPool, s.BridgePool, s.IPv6Pool, s.VNIs.First, s.VNIs.Last)
	}
	line("Revision", "%d, applied %d, last full pass %s", d.SnapshotRevision, d.AppliedRevision, clock(d.LastFullPass))
	if d.Drift == 0 {
		line("Drift", "none")
	} else {
		line("Drift", "%d; see ctl verify", d.Drift)
	}
	if d.PendingReleases > 0 {
		line("Releases", "%d wait for etcd", d.PendingReleases)
	}
	if d.LastError != "" {
		line("Last error", "%s", d.LastError)
	}
	for _, warning := range d.Warnings {
		line("Warning", "%s", warning)
	}
	return w.Flush()
}

func (d statusDetails) printNodes(line func(label, format string, args ...any)) {
	var down, up []nodeItem
	for _, n := range d.Nodes {
		if n.Status == upDown(true) {
			up = append(up, n)
		} else {
			down = append(down, n)
		}
	}
	line("Nodes", "%d up, %d down", len(up), len(down))
	for i, n := range append(down, up...) {
		if i == shownNodes {
			line("", "and %d more; see ctl node ls", len(d.Nodes)-shownNodes)
			return
		}
		line("", "%s", n)
	}
}

// String shows a member on one line.
func (m etcdItem) String() string {
	switch {
	case !m.Healthy && m.Version == "":
		return m.Endpoint + " unreachable: " + m.Error
	case !m.Healthy:
		return m.Endpoint + " unhealthy: " + m.Error
	}
	role := "follower"
	if m.Leader {
		role = "leader"
	}
	latency := time.Duration(m.LatencyMicros) * time.Microsecond
	return fmt.Sprintf("%s healthy, %s, version %s, answers in %s", m.Endpoint, role, m.Version, latency.Round(100*time.Microsecond))
}

// String shows a pool and what is cut from it.
func (p poolItem) String() string { return fmt.Sprintf("%s by /%d", p.Base, p.Size) }

func orUnknown(s string) string {
	if s == "" {
		return "not known yet"
	}
	return s
}

func clock(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.Local().Format(time.DateTime)
}
