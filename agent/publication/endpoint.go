package publication

import (
	"fmt"
	"slices"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/local"
)

// endpoint decides about one endpoint by who has what it needs now, and had it
// before etcd lost its past. Where one of its slots is still to be claimed
// nothing can be said yet.
func (in Input) endpoint(p *Plan, n *overspan.Network, a overspan.Attachment, now, before rivals) {
	e := a.Endpoint
	if why := in.knownLoss(n, e, now, before); why != "" {
		p.Lost[e.ID] = why
		if stands(now.segment, e) {
			p.Withdraw = append(p.Withdraw, e)
		}
		return
	}
	switch why, leaving := in.inTheWay(now, e); {
	case why == "":
	case leaving || in.Frozen():
		// It may itself be something that etcd should not have any more.
		p.Waiting[e.ID] = why
		return
	default:
		p.Lost[e.ID] = why + local.ConnectAgain
		return
	}
	var blocks []overspan.Block
	for _, slot := range e.Slots {
		b, held := now.segment.Holder(slot)
		if !held {
			return
		}
		if !slices.Contains(blocks, b) {
			blocks = append(blocks, b)
		}
	}
	a.Endpoint.Ports = in.portsOf(a)
	p.Records = append(p.Records, Record{Network: n, Blocks: blocks, Attachment: a, Stands: stands(now.segment, e)})
}

// knownLoss tells why an endpoint is lost whatever etcd has now, and what to do;
// "" if it is not.
func (in Input) knownLoss(n *overspan.Network, e overspan.Endpoint, now, before rivals) string {
	if in.wasRemoved(n) {
		return removed(n.Name)
	}
	if newer := now.latest[e.Name]; newer != e.ID {
		return fmt.Sprintf("its name now belongs to endpoint %s on this node%s", overspan.ShortID(newer), local.ConnectAgain)
	}
	if why, leaving := in.inTheWay(before, e); why != "" && !leaving {
		return why + local.ConnectAgain
	}
	return ""
}

// inTheWay tells what an endpoint needs and another has; "" if there is nothing.
// Leaving says that it is this node's and on its way out.
func (in Input) inTheWay(others rivals, e overspan.Endpoint) (why string, leaving bool) {
	if holder := others.segment.ForeignHolder(e, in.Self); holder != "" {
		return local.BelongsTo(in.Snapshot, e, holder), false
	}
	other, what := others.of(e)
	switch {
	case other == nil:
		return "", false
	case in.onItsWayOut(other):
		return fmt.Sprintf("%s is still to be released by endpoint %s", what, overspan.ShortID(other.ID)), true
	}
	return fmt.Sprintf("%s now belongs to endpoint %s on node %s", what, other.Name, in.Snapshot.NodeName(other.Node)), false
}

// onItsWayOut reports whether a record is one of this node's that nobody here
// knows: the releaser takes it away.
func (in Input) onItsWayOut(e *overspan.Endpoint) bool {
	return e.Node == in.Self && !slices.ContainsFunc(in.Attachments, func(a overspan.Attachment) bool { return a.Endpoint.ID == e.ID })
}

// rivals are who has what the endpoints that are to be published need: names and
// chosen MACs in a segment, and names among these endpoints themselves.
type rivals struct {
	segment *overspan.Segment
	names   map[string]*overspan.Endpoint
	macs    map[overspan.MAC]*overspan.Endpoint
	latest  map[string]overspan.EndpointID // of several with a name, the one that had it last
}

// rivalsOf looks once at each endpoint of a segment, of which there may be many;
// a nil one is empty. The due ones come oldest first.
func rivalsOf(seg *overspan.Segment, due []overspan.Attachment) rivals {
	if seg == nil {
		seg = &overspan.Segment{}
	}
	r := rivals{
		segment: seg,
		names:   map[string]*overspan.Endpoint{},
		macs:    map[overspan.MAC]*overspan.Endpoint{},
		latest:  map[string]overspan.EndpointID{},
	}
	macs := map[overspan.MAC]struct{}{}
	for _, a := range due {
		r.latest[a.Endpoint.Name] = a.Endpoint.ID
		macs[a.Endpoint.MAC] = struct{}{}
	}
	if len(due) == 0 {
		return r
	}
	for e := range seg.Endpoints.Values() {
		if _, wanted := r.latest[e.Name]; wanted {
			r.names[e.Name] = e
		}
		if _, wanted := macs[e.MAC]; wanted {
			r.macs[e.MAC] = e
		}
	}
	return r
}

// of returns the endpoint that has what another needs, and what that is; nil if
// none has.
func (r rivals) of(e overspan.Endpoint) (other *overspan.Endpoint, what string) {
	addrs := e.Addrs()
	for i, slot := range e.Slots {
		if other := r.segment.Endpoints.Get(slot); other != nil && other.ID != e.ID {
			return other, addrs[min(i, len(addrs)-1)].String()
		}
	}
	if other := r.names[e.Name]; other != nil && other.ID != e.ID {
		return other, "its name"
	}
	if other := r.macs[e.MAC]; other != nil && other.ID != e.ID {
		return other, "its MAC address " + e.MAC.String()
	}
	return nil, ""
}

// removed says that a network is gone, and what to do.
func removed(network string) string {
	return fmt.Sprintf("network %s was removed; disconnect it", network)
}
