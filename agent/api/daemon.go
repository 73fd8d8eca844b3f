// Package api serves the agent's gRPC API on a unix socket and over mutual TLS.
//
// Its handlers check references, wait for a fresh enough snapshot and shape
// answers for readers. They decide nothing and touch neither etcd nor the
// kernel: all of that is asked of the Daemon.
package api

import (
	"context"
	"time"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/daemon"
)

// Daemon is what the API needs of the agent. All methods may be called at
// once; errors carry a class of package overspan and a text for users.
type Daemon interface {
	Cluster
	Nodes
	Networks
	Sandboxes
	System
}

// Cluster is the desired state, as this node knows it.
type Cluster interface {
	Self() overspan.NodeID

	// Cluster returns the cluster's name.
	Cluster() string

	// Snapshot returns the newest snapshot, nil before the first.
	Snapshot() *overspan.Snapshot

	// Stale tells since when nothing was heard from etcd, and why; the zero
	// time if the snapshot is fresh.
	Stale() (since time.Time, reason string)

	// Sync returns once the snapshot is at least as new as the call;
	// ErrUnavailable if etcd is away.
	Sync(ctx context.Context) error

	// Segment returns the interior of a network, also of one that this node
	// does not follow.
	Segment(ctx context.Context, id overspan.NetworkID) (*overspan.Segment, error)

	// InUse reports whether a network has endpoints, also one that this node
	// does not follow. That costs less than to read them.
	InUse(ctx context.Context, id overspan.NetworkID) (bool, error)
}

// Nodes changes what the cluster says of nodes. References are names, ids or
// unique prefixes of ids.
type Nodes interface {
	// RemoveNode takes another node out of the cluster, with force also one that
	// is up.
	RemoveNode(ctx context.Context, ref string, force bool) (daemon.RemovedNode, error)

	// DrainNode tells a node to take no new endpoints, or some again.
	DrainNode(ctx context.Context, ref string, draining bool) (overspan.Node, error)

	// Leaving returns the names of nodes whose removal is under way: they are in
	// no snapshot any more.
	Leaving(ctx context.Context) (map[overspan.NodeID]string, error)
}

// Networks changes networks and what is plugged into them. References are
// names, ids or unique prefixes of ids.
type Networks interface {
	CreateNetwork(ctx context.Context, r daemon.CreateRequest) (*overspan.Network, error)
	RemoveNetwork(ctx context.Context, ref string) (overspan.NetworkID, error)
	Connect(ctx context.Context, r daemon.ConnectRequest) (daemon.ConnectResult, error)

	// Attachment returns how an endpoint of this node is plugged in; ok is false if
	// it is not.
	Attachment(id overspan.EndpointID) (a overspan.Attachment, ok bool)

	// Disconnect frees an endpoint of this node, named by its target or by
	// itself. Pending says that etcd is away and hears of it later.
	Disconnect(ctx context.Context, network, target string) (e overspan.Endpoint, pending bool, err error)

	// ForceDisconnect also frees an endpoint of another node that is absent.
	ForceDisconnect(ctx context.Context, network, target string) (e overspan.Endpoint, pending bool, err error)
}

// Sandboxes are those of this node.
type Sandboxes interface {
	Sandboxes() []overspan.Sandbox
	Attachments() []overspan.Attachment

	// CreateSandbox makes a network namespace; it draws a name if given "".
	CreateSandbox(ctx context.Context, r daemon.SandboxRequest) (overspan.Sandbox, error)
	RemoveSandbox(ctx context.Context, ref string) error
}

// System tells how the agent itself is.
type System interface {
	Status(ctx context.Context) daemon.Status

	// Accept ends a freeze: what etcd holds now is the truth from then on. It is
	// refused while a node has yet to publish what it holds, unless force is set.
	// It returns how often it has happened, and what the nodes had reported.
	Accept(ctx context.Context, force bool) (uint64, []daemon.NodeReport, error)

	// Verify compares plan and kernel: one line for each op that would repair
	// the kernel, and the revision that the plan was made from.
	Verify(ctx context.Context) (revision int64, drift []string, err error)

	// Subscribe returns the events of a span of time: what is kept of the past
	// first. The channel closes when ctx ends or the span is over. Where events
	// are missed, one of daemon.TypeEvents says so.
	Subscribe(ctx context.Context, span daemon.Span) <-chan daemon.Event
}
