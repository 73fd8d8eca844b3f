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
	"github.com/overspan/overspan/ipam"
)

// Daemon is what the API needs of the agent. All methods may be called at
// once; errors carry a class of package overspan and a text for users.
type Daemon interface {
	Cluster
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
}

// Networks changes networks and what is plugged into them. References are
// names, ids or unique prefixes of ids.
type Networks interface {
	CreateNetwork(ctx context.Context, r CreateRequest) (*overspan.Network, error)
	RemoveNetwork(ctx context.Context, ref string) (overspan.NetworkID, error)
	Connect(ctx context.Context, r ConnectRequest) (ConnectResult, error)

	// Disconnect frees an endpoint of this node, named by its target or by
	// itself. Pending says that etcd is away and hears of it later.
	Disconnect(ctx context.Context, network, target string) (e overspan.Endpoint, pending bool, err error)
}

// Sandboxes are those of this node.
type Sandboxes interface {
	Sandboxes() []overspan.Sandbox
	Attachments() []overspan.Attachment

	// CreateSandbox makes a network namespace; it draws a name if given "".
	CreateSandbox(ctx context.Context, name string) (overspan.Sandbox, error)
	RemoveSandbox(ctx context.Context, ref string) error
}

// System tells how the agent itself is.
type System interface {
	Status(ctx context.Context) Status

	// Verify compares plan and kernel: one line for each op that would repair
	// the kernel, and the revision that the plan was made from.
	Verify(ctx context.Context) (revision int64, drift []string, err error)

	// Subscribe returns what happens from now on; the channel closes when ctx
	// ends. A reader that lags far behind misses events.
	Subscribe(ctx context.Context) <-chan Event
}

// A CreateRequest is what a user says about a new network.
type CreateRequest struct {
	ipam.Spec
	Internal bool
	Options  map[string]string
	Labels   map[string]string
}

// A ConnectRequest is what a user says about a new endpoint; all but Network
// and Target may be empty.
type ConnectRequest struct {
	Network   string
	Target    string
	Name      string
	IP        string
	IP6       string
	MAC       string
	Interface string
	Wait      Wait
}

// A Wait says what Connect waits for.
type Wait int

// What Connect may wait for.
const (
	WaitPeers Wait = iota // every present member has programmed the endpoint, bounded
	WaitLocal             // this node has
	WaitNone              // the endpoint's record stands in etcd
)

// A ConnectResult is a new endpoint, and which peers had not confirmed it when
// the wait ended, by name.
type ConnectResult struct {
	Endpoint    overspan.Endpoint
	Unconfirmed []string
}

// A Status is how the agent is.
type Status struct {
	Started          time.Time
	Etcd             []EtcdMember
	SnapshotRevision int64     // of the newest snapshot
	AppliedRevision  int64     // the newest that the kernel was brought in line with
	Drift            int       // ops that would repair the kernel
	LastError        string    // of the last pass; "" if it went well
	LastFullPass     time.Time // zero before the first
	Warnings         []string  // what an operator should look at
	PendingReleases  int       // disconnects that etcd has not heard of
}

// An EtcdMember is an etcd server, as its answer to a status request shows it.
type EtcdMember struct {
	Endpoint string
	Version  string
	Leader   bool
	Latency  time.Duration
	Err      error // nil if it answered
}

// An Event is something that this agent saw happen.
type Event struct {
	Time       time.Time
	Type       string // "network", "endpoint", "sandbox", "node", "block", "kernel", "etcd"
	Action     string // "create", "destroy", "connect", "disconnect", "up", "down", "repair", …
	ID         string
	Name       string
	Attributes map[string]string
}
