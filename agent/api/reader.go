package api

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// syncBound is how long a read waits for a snapshot as new as itself. A read
// that cannot have one is answered from the newest there is, and says so.
const syncBound = time.Second

// reader makes the views from which reads are answered.
type reader struct {
	cluster     Cluster
	attachments func() []overspan.Attachment
}

// A view is one snapshot as readers on this node see it: without the local
// networks of other nodes, without networks that are being removed.
type view struct {
	*overspan.Snapshot
	self  overspan.NodeID
	here  func() plugged        // this node's attachments: all are read when it is first asked
	stale *overspanv1.Staleness // nil if it is as new as the read

	// fetch reads the interior of a network that is not followed; used says
	// whether there are endpoints in it.
	fetch func(context.Context, overspan.NetworkID) (*overspan.Segment, error)
	used  func(context.Context, overspan.NetworkID) (bool, error)
}

// fresh returns a view that is as new as the call; if etcd is away, the newest
// there is, marked stale.
func (r *reader) fresh(ctx context.Context) (*view, error) {
	stale := r.sync(ctx)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if r.cluster.Snapshot() == nil {
		return nil, overspan.Errorf(overspan.ErrUnavailable, "this node has not heard from etcd yet: nothing is known of the cluster; see the agent's log and its --etcd-endpoints")
	}
	v := r.latest()
	v.stale = stale
	return v, nil
}

// latest returns a view of the newest snapshot, of an empty one before the first.
func (r *reader) latest() *view {
	v := &view{
		Snapshot: r.cluster.Snapshot(),
		self:     r.cluster.Self(),
		here:     sync.OnceValue(func() plugged { return pluggedOf(r.attachments()) }),
		fetch:    r.cluster.Segment,
		used:     r.cluster.InUse,
	}
	if v.Snapshot == nil {
		v.Snapshot = &overspan.Snapshot{}
	}
	return v
}

// plugged is this node's attachments.
type plugged struct {
	byID      map[overspan.EndpointID]overspan.Attachment
	bySandbox map[overspan.SandboxID][]overspan.Attachment // by interface
	lost      []overspan.Attachment                        // by interface
}

func pluggedOf(attachments []overspan.Attachment) plugged {
	slices.SortFunc(attachments, func(a, b overspan.Attachment) int {
		return cmp.Or(
			cmp.Compare(a.Endpoint.Interface, b.Endpoint.Interface),
			cmp.Compare(a.Endpoint.Network, b.Endpoint.Network),
			cmp.Compare(a.Endpoint.ID, b.Endpoint.ID),
		)
	})
	p := plugged{
		byID:      map[overspan.EndpointID]overspan.Attachment{},
		bySandbox: map[overspan.SandboxID][]overspan.Attachment{},
	}
	for _, a := range attachments {
		p.byID[a.Endpoint.ID] = a
		p.bySandbox[a.Sandbox] = append(p.bySandbox[a.Sandbox], a)
		if a.Lost != "" {
			p.lost = append(p.lost, a)
		}
	}
	return p
}

// sync waits for a snapshot as new as the call. While etcd is known to be away
// it does not wait.
func (r *reader) sync(ctx context.Context) *overspanv1.Staleness {
	called := time.Now()
	if since, reason := r.cluster.Stale(); !since.IsZero() {
		return staleness(since, reason)
	}
	ctx, cancel := context.WithTimeout(ctx, syncBound)
	defer cancel()
	err := r.cluster.Sync(ctx)
	if err == nil {
		return nil
	}
	if since, reason := r.cluster.Stale(); !since.IsZero() {
		return staleness(since, reason)
	}
	return staleness(called, err.Error())
}

func staleness(since time.Time, reason string) *overspanv1.Staleness {
	return &overspanv1.Staleness{Since: timestamppb.New(since), Reason: reason}
}

// visible reports whether readers on this node see the network.
func (v *view) visible(n *overspan.Network) bool {
	return !n.Deleting && n.On(v.self)
}

// networks returns the networks that readers see, by name.
func (v *view) networks() []*overspan.Network {
	var out []*overspan.Network
	for _, n := range v.Networks {
		if v.visible(n) {
			out = append(out, n)
		}
	}
	slices.SortFunc(out, func(a, b *overspan.Network) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	return out
}

// network finds the network that ref names; predefined ones are not among them.
func (v *view) network(ref string) (*overspan.Network, error) {
	names := map[overspan.NetworkID]string{}
	for id, n := range v.Networks {
		if v.visible(n) {
			names[id] = n.Name
		}
	}
	id, err := overspan.Match("network", ref, maps.All(names))
	if err != nil {
		return nil, err
	}
	return v.Networks[id], nil
}

// nodes returns all nodes, by name.
func (v *view) nodes() []*overspan.Node {
	return slices.SortedFunc(maps.Values(v.Nodes), func(a, b *overspan.Node) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
}

func (v *view) up(id overspan.NodeID) bool {
	n := v.Nodes[id]
	return n != nil && n.Presence != nil
}

// segment returns a network's interior. While etcd is away the interior of a
// network that is not followed is unknown: the segment is empty and the view
// says so in stale.
func (v *view) segment(ctx context.Context, n *overspan.Network) (*overspan.Segment, error) {
	if s := v.Segments.Get(n.ID); s != nil {
		return s, nil
	}
	s, err := v.fetch(ctx, n.ID)
	if err == nil {
		return s, nil
	}
	if !errors.Is(err, overspan.ErrUnavailable) || v.stale == nil {
		return nil, err
	}
	v.stale.Reason += "; this node does not follow network " + n.Name + ", so what is in it is not known"
	return &overspan.Segment{}, nil
}

// inUse reports whether anything is plugged into a network.
func (v *view) inUse(ctx context.Context, id overspan.NetworkID) (bool, error) {
	if s := v.Segments.Get(id); s != nil {
		return s.Endpoints.Len() > 0, nil
	}
	return v.used(ctx, id)
}

// interiors returns the network that ref names. Without one it is those that a
// filter names, also where this node does not follow them, or else all that the
// snapshot holds the interior of.
func (v *view) interiors(ctx context.Context, ref string, filters map[string]*overspanv1.FilterValues) ([]interior, error) {
	if ref != "" {
		n, err := v.network(ref)
		if errors.Is(err, overspan.ErrNotFound) && (findPredefined(ref) != nil || v.unusedDefault(ref) != nil) {
			return nil, nil // listed among the networks, and empty
		}
		if err != nil {
			return nil, err
		}
		s, err := v.segment(ctx, n)
		return []interior{{n, s}}, err
	}
	named := filters["network"].GetValues()
	var out []interior
	for _, n := range v.networks() {
		if len(named) == 0 && v.Segments.Get(n.ID) == nil || len(named) > 0 && !networkNamed(n).isOneOf(named) {
			continue
		}
		s, err := v.segment(ctx, n)
		if err != nil {
			return nil, err
		}
		out = append(out, interior{n, s})
	}
	return out, nil
}

// An interior is a network and what is in it.
type interior struct {
	network *overspan.Network
	segment *overspan.Segment
}

// endpoints returns a network's endpoints by slot, those that own several once.
func (i interior) endpoints() []*overspan.Endpoint {
	var out []*overspan.Endpoint
	for slot, e := range i.segment.Endpoints.All() {
		if slot == e.Slot {
			out = append(out, e)
		}
	}
	return out
}

// blocks returns a network's blocks by their first slot.
func (i interior) blocks() []overspan.Block { return slices.Collect(i.segment.Blocks.Values()) }
