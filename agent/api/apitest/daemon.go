// Package apitest provides a daemon in memory, behind which tests of the API
// and of its clients can stand. It knows three nodes, gives addresses out in
// order, and never waits; it has no etcd and touches no kernel.
package apitest

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/daemon"
)

// Self, Other and Away are the nodes: h1 is the one that is asked, h2 is up,
// h3 is down.
var (
	Self  = overspan.NodeID(strings.Repeat("11", 32))
	Other = overspan.NodeID(strings.Repeat("22", 32))
	Away  = overspan.NodeID(strings.Repeat("33", 32))
)

// Created is when everything was made.
var Created = time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC)

// A Daemon is an api.Daemon in memory. Its exported methods beyond those of
// the interface set what it will say.
type Daemon struct {
	// Netns makes the network namespace of a new sandbox and returns its
	// path; nil makes none. Unmake is its reverse.
	Netns  func(name string) (string, error)
	Unmake func(name string) error

	mu          sync.Mutex // guards all below
	snapshot    *overspan.Snapshot
	since       time.Time // etcd is away since then
	reason      string
	syncErr     error
	sandboxes   []overspan.Sandbox
	attachments []overspan.Attachment
	unreleased  []overspan.Endpoint // detached while etcd was away
	drift       []string
	status      daemon.Status
	panics      bool
	made        int // things so far: ids are drawn from it
	events      *daemon.Events
	subscribers int
	unfollowed  map[overspan.NetworkID]*overspan.Segment // interiors that the snapshot does not show
	leaving     map[overspan.NodeID]string               // nodes whose removal is half done
}

// New makes a daemon of a cluster without networks.
func New() *Daemon {
	return &Daemon{
		events:     daemon.NewEvents(),
		unfollowed: map[overspan.NetworkID]*overspan.Segment{},
		snapshot: &overspan.Snapshot{
			Revision: 100,
			Meta: overspan.Meta{
				Schema: 1, ClusterID: strings.Repeat("cc", 32),
				Pools: overspan.Pools{
					Overlay: overspan.Pool{Prefix: netip.MustParsePrefix("10.0.0.0/8"), Bits: 24},
					Bridge:  overspan.Pool{Prefix: netip.MustParsePrefix("172.16.0.0/12"), Bits: 24},
					IPv6:    overspan.Pool{Prefix: netip.MustParsePrefix("fd12:3456:789a::/48"), Bits: 64},
				},
				VNIs: overspan.VNIRange{First: 1 << 16, Last: 1<<17 - 1},
			},
			Nodes: map[overspan.NodeID]*overspan.Node{
				Self:  node(Self, "h1", "127.0.0.1", true),
				Other: node(Other, "h2", "10.99.0.2", true),
				Away:  node(Away, "h3", "10.99.0.3", false),
			},
			Networks: map[overspan.NetworkID]*overspan.Network{},
		},
		status: daemon.Status{
			Started:          Created,
			Etcd:             []daemon.EtcdMember{{Endpoint: "http://10.99.0.1:2379", Version: "3.6.0", Leader: true, Latency: 400 * time.Microsecond}},
			SnapshotRevision: 100,
			AppliedRevision:  100,
			LastFullPass:     Created,
		},
	}
}

func node(id overspan.NodeID, name, vtep string, up bool) *overspan.Node {
	n := &overspan.Node{ID: id, Name: name, VTEPs: []netip.Addr{netip.MustParseAddr(vtep)}, MTU: 1500, Version: "test", CreateRevision: 10, ModRevision: 10}
	if up {
		n.Presence = &overspan.Presence{Instance: name}
	}
	return n
}

// newID returns the next id, which no other shares its first digits with. The
// caller holds mu.
func (d *Daemon) newID() string {
	d.made++
	const digits = "0123456789abcdef"
	return strings.Repeat(string([]byte{digits[10+d.made/16%6], digits[d.made%16]}), 32)
}

// change replaces the snapshot by a changed copy. The caller holds mu.
func (d *Daemon) change(f func(*overspan.Snapshot)) {
	next := *d.snapshot
	next.Revision++
	next.Nodes = maps.Clone(next.Nodes)
	next.Networks = maps.Clone(next.Networks)
	f(&next)
	d.snapshot = &next
}

// Change changes the cluster as another node would.
func (d *Daemon) Change(f func(*overspan.Snapshot)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.change(f)
}

// Forget makes the daemon one that never heard from etcd.
func (d *Daemon) Forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.snapshot = nil
}

// LoseEtcd makes etcd unreachable since Created; an empty reason brings it back.
func (d *Daemon) LoseEtcd(reason string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.since, d.reason = time.Time{}, reason
	if reason != "" {
		d.since = Created
	} else {
		d.release()
	}
}

// FailSync makes Sync fail although etcd is not known to be away.
func (d *Daemon) FailSync(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.syncErr = err
}

// SetDrift sets what Verify finds.
func (d *Daemon) SetDrift(ops ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.drift, d.status.Drift = ops, len(ops)
}

// SetStatus changes what Status says.
func (d *Daemon) SetStatus(f func(*daemon.Status)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f(&d.status)
}

// Freeze freezes the cluster, or ends that if f is nil.
func (d *Daemon) Freeze(f *daemon.FreezeStatus) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.freeze(f)
}

func (d *Daemon) freeze(f *daemon.FreezeStatus) {
	d.status.Freeze = f
	d.change(func(s *overspan.Snapshot) {
		s.Frozen = nil
		if f != nil {
			s.Frozen = &f.Freeze
		}
	})
}

// Accept implements api.Daemon: it is refused while a node that is up has not
// reported.
func (d *Daemon) Accept(_ context.Context, force bool) (uint64, []daemon.NodeReport, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.status.Freeze
	if f == nil {
		return 0, nil, overspan.Errorf(overspan.ErrNotFound, "the cluster is not frozen: there is nothing to accept")
	}
	for _, r := range f.Reports {
		if r.Up && r.Report == nil && !force {
			return 0, nil, overspan.Errorf(overspan.ErrUnavailable, "node %s has not published again what it holds", r.Name)
		}
	}
	d.freeze(nil)
	return 1, f.Reports, nil
}

// Panic makes Verify and Subscribe panic.
func (d *Daemon) Panic() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.panics = true
}

// Lose takes an endpoint of this node off its network, as one whose slot
// another node holds by now.
func (d *Daemon) Lose(name, why string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, a := range d.attachments {
		if a.Endpoint.Name == name {
			d.attachments[i].Lost = why
			d.change(func(s *overspan.Snapshot) {
				s.Segments.Put(a.Endpoint.Network, without(s.Segments.Get(a.Endpoint.Network), a.Endpoint))
			})
		}
	}
}

// Self implements api.Daemon.
func (d *Daemon) Self() overspan.NodeID { return Self }

// Cluster implements api.Daemon.
func (d *Daemon) Cluster() string { return "default" }

// Snapshot implements api.Daemon.
func (d *Daemon) Snapshot() *overspan.Snapshot {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.snapshot
}

// Stale implements api.Daemon.
func (d *Daemon) Stale() (time.Time, string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.since, d.reason
}

// Sync implements api.Daemon.
func (d *Daemon) Sync(context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.reachable(); err != nil {
		return err
	}
	return d.syncErr
}

// reachable fails while etcd is away. The caller holds mu.
func (d *Daemon) reachable() error {
	if d.since.IsZero() {
		return nil
	}
	return overspan.Errorf(overspan.ErrUnavailable, "etcd is not reachable: %s", d.reason)
}

// Segment implements api.Daemon.
func (d *Daemon) Segment(_ context.Context, id overspan.NetworkID) (*overspan.Segment, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.snapshot.Segments.Get(id); s != nil {
		return s, nil
	}
	if err := d.reachable(); err != nil {
		return nil, err
	}
	if s := d.unfollowed[id]; s != nil {
		return s, nil
	}
	return &overspan.Segment{}, nil
}

// InUse implements api.Daemon.
func (d *Daemon) InUse(ctx context.Context, id overspan.NetworkID) (bool, error) {
	s, err := d.Segment(ctx, id)
	if err != nil {
		return false, err
	}
	return s.Endpoints.Len() > 0, nil
}

// Unfollow has the snapshot not show what is in a network.
func (d *Daemon) Unfollow(network string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.network(network)
	if err != nil {
		return err
	}
	d.unfollowed[n.ID] = d.snapshot.Segments.Get(n.ID)
	d.change(func(s *overspan.Snapshot) { s.Segments.Delete(n.ID) })
	return nil
}

// Status implements api.Daemon.
func (d *Daemon) Status(context.Context) daemon.Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.status
}

// Verify implements api.Daemon.
func (d *Daemon) Verify(context.Context) (int64, []string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.panics {
		panic("a test asked for it")
	}
	if d.snapshot == nil {
		return 0, nil, overspan.Errorf(overspan.ErrUnavailable, "nothing is known yet")
	}
	return d.snapshot.Revision, slices.Clone(d.drift), nil
}

// Subscribe implements api.Daemon.
func (d *Daemon) Subscribe(ctx context.Context, span daemon.Span) <-chan daemon.Event {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.panics {
		panic("a test asked for it")
	}
	d.subscribers++
	context.AfterFunc(ctx, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.subscribers--
	})
	return d.events.Subscribe(ctx, span)
}

// Subscribers returns how many read events.
func (d *Daemon) Subscribers() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.subscribers
}

// Publish sends an event to all subscribers and returns how many there are.
func (d *Daemon) Publish(e daemon.Event) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.events.Publish(e)
	return d.subscribers
}
