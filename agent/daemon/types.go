package daemon

import (
	"time"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/ipam"
)

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
	Type       string // "network", "endpoint", "sandbox", "node" or "kernel"
	Action     string // "create", "destroy", "connect", "disconnect", "up", "down", "remove", "fence", "repair"
	ID         string
	Name       string
	Attributes map[string]string
}
