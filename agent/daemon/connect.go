package daemon

import (
	"context"

	"github.com/overspan/overspan"
)

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
	Aliases   []string        // further names, which others may bear too
	Links     []overspan.Link // names that the target alone knows others by
	Wait      Wait

	Publish    []string // ports, as docker run -p has them
	PublishAll bool     // those of Expose too
	Expose     []string // ports of the container

	GatewayPriority int32
	DriverOptions   map[string]string
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

// Connect plugs a sandbox into a network.
//
//	choose a slot → [record in etcd ∥ veth, not yet on the bridge]
//	             → [journal ∥ onto the bridge] → wait for the peers
//
// Whatever fails, all of it is undone.
func (d *Daemon) Connect(caller context.Context, req ConnectRequest) (ConnectResult, error) {
	ctx, cancel := context.WithTimeout(caller, requestBound)
	defer cancel()
	if err := d.refuseFrozen(); err != nil {
		return ConnectResult{}, err
	}
	want, err := parseConnect(req)
	if err != nil {
		return ConnectResult{}, err
	}
	sb, unlock, err := d.enter(ctx, req.Target)
	if err != nil {
		return ConnectResult{}, err
	}
	defer unlock()
	var res ConnectResult
	n, err := d.usable(ctx, req.Network)
	if err == nil {
		err = want.options.CheckFor(n)
	}
	if err == nil {
		want.publish, err = publishAt(n, want.publish)
	}
	if err == nil {
		res, err = d.plug(ctx, caller, n, sb, want, req.Wait)
	}
	if err != nil {
		d.forgetIfUnused(sb)
	}
	return res, err
}

// enter finds the sandbox that a user means and takes its gate. One that was
// forgotten while it waited there is looked for again: an endpoint in a sandbox
// that nobody knows would outlive it.
func (d *Daemon) enter(ctx context.Context, ref string) (sb overspan.Sandbox, unlock func(), err error) {
	for {
		if sb, err = d.target(ctx, ref); err != nil {
			return sb, nil, err
		}
		if unlock, err = d.lockSandbox(ctx, sb.ID, sb.Name); err != nil {
			return sb, nil, err
		}
		if now, known := d.local.Sandbox(sb.ID); known {
			return now, unlock, nil
		}
		unlock()
	}
}
