package daemon

import (
	"fmt"
	"maps"
	"slices"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/ipam"
)

// publicationInput is all that publishing again depends on.
type publicationInput struct {
	Self     overspan.NodeID
	Snapshot *overspan.Snapshot // what etcd has

	// Registration is the one that the node has now.
	Registration int64

	// Memory is what etcd had before it lost its past, while the cluster is
	// frozen; nil if that is not known.
	Memory *overspan.Snapshot

	// Attachments are this node's, apart from those that are about to end.
	Attachments []overspan.Attachment
}

// A publication is what a node does so that etcd says again what it serves. What
// it lists may be done in any order but that of its fields; each step stands or
// falls by itself, and the next snapshot shows what is left.
type publication struct {
	Networks []*overspan.Network // to be written again
	Surplus  []surplusWork       // own blocks to be given up, wholly or in part
	Claims   []claimWork         // used slots
	Records  []recordWork
	Around   []claimWork // what else the node held around used slots

	// Lost tells of endpoints that cannot be published, why, and what to do.
	Lost map[overspan.EndpointID]string

	// Withdraw are records of lost endpoints that etcd has brought back.
	Withdraw []overspan.Endpoint

	// Waiting tells of endpoints that cannot be published yet, and why not.
	Waiting map[overspan.EndpointID]string
}

type claimWork struct {
	Network *overspan.Network
	overspan.Range
}

type recordWork struct {
	Network    *overspan.Network
	Blocks     []overspan.Block // around the endpoint's slots
	Attachment overspan.Attachment
	Stands     bool // it is only to be seen that it does under this registration
}

type surplusWork struct {
	Network *overspan.Network
	ipam.Surplus
}

// work reports whether there is anything to be done now.
func (p publication) work() bool {
	return len(p.Networks)+len(p.Surplus)+len(p.Claims)+len(p.Records)+len(p.Around)+len(p.Withdraw) > 0
}

// frozen reports whether etcd may have lost what it once had. Then nothing is
// lost for good: memory says what is.
func (in publicationInput) frozen() bool { return in.Snapshot.Frozen != nil }

// freeze returns the revision of the freeze; 0: there is none.
func (in publicationInput) freeze() int64 {
	if !in.frozen() {
		return 0
	}
	return in.Snapshot.Frozen.Revision
}

// publish says what is to be published again. It is pure. The snapshot must not
// be older than the registration.
func (in publicationInput) publish() publication {
	p := publication{Lost: map[overspan.EndpointID]string{}, Waiting: map[overspan.EndpointID]string{}}
	due := map[overspan.NetworkID][]overspan.Attachment{}
	for _, a := range in.Attachments {
		if in.due(a) {
			due[a.Endpoint.Network] = append(due[a.Endpoint.Network], a)
		}
	}
	networks := maps.Clone(due)
	if in.frozen() && in.Memory != nil {
		for id := range in.Memory.Networks {
			networks[id] = due[id]
		}
		for id := range in.Snapshot.Segments {
			networks[id] = due[id]
		}
	}
	for _, id := range slices.Sorted(maps.Keys(networks)) {
		if in.Snapshot.Networks[id] == nil {
			in.absentNetwork(&p, id, due[id])
		} else {
			in.network(&p, id, due[id])
		}
	}
	return p
}

// due reports whether an endpoint's record is not known to stand: it was written
// under another registration, or etcd may have forgotten it. One whose attach is
// under way is not: that sees to it.
func (in publicationInput) due(a overspan.Attachment) bool {
	return a.Committed && a.Registration != in.Registration
}

// stands reports whether an endpoint's records are all there.
func stands(seg *overspan.Segment, e overspan.Endpoint) bool {
	return seg != nil && !slices.ContainsFunc(e.Slots, func(slot overspan.Slot) bool {
		at := seg.Endpoints.Get(slot)
		return at == nil || at.ID != e.ID
	})
}

// absentNetwork decides about a network of which etcd has no record.
func (in publicationInput) absentNetwork(p *publication, id overspan.NetworkID, due []overspan.Attachment) {
	if in.frozen() && in.Memory != nil {
		if n := in.Memory.Networks[id]; n != nil && !n.Deleting && (n.Node == "" || n.Node == in.Self) {
			p.Networks = append(p.Networks, n)
		}
	}
	for _, a := range due {
		name := networkNameOf(a)
		switch {
		case in.frozen():
			p.Waiting[a.Endpoint.ID] = fmt.Sprintf("network %s is not in etcd", name)
		case len(in.Snapshot.Bad) > 0:
			// An unreadable record is not an absent one.
			p.Waiting[a.Endpoint.ID] = fmt.Sprintf("network %s cannot be found, and there are records that cannot be read", name)
		default:
			p.Lost[a.Endpoint.ID] = fmt.Sprintf("network %s was removed; disconnect it", name)
		}
	}
}

// network decides about a network that etcd has.
func (in publicationInput) network(p *publication, id overspan.NetworkID, due []overspan.Attachment) {
	n, seg := in.Snapshot.Networks[id], in.Snapshot.Segments[id]
	if n.Deleting || seg == nil {
		for _, a := range due {
			switch {
			case n.Deleting && !in.frozen():
				p.Lost[a.Endpoint.ID] = fmt.Sprintf("network %s is being removed; disconnect it", n.Name)
			case n.Deleting:
				p.Waiting[a.Endpoint.ID] = fmt.Sprintf("etcd has network %s as being removed", n.Name)
			default:
				p.Waiting[a.Endpoint.ID] = fmt.Sprintf("network %s has not been read from etcd yet", n.Name)
			}
		}
		return
	}
	now, before := rivalsOf(seg, due), rivalsOf(in.remembered(id), due)
	var used []overspan.Slot
	for _, a := range in.Attachments {
		if a.Endpoint.Network != id || !a.Committed {
			continue
		}
		if in.due(a) {
			in.endpoint(p, n, a, now, before)
		}
		if _, lost := p.Lost[a.Endpoint.ID]; !lost {
			used = append(used, a.Endpoint.Slots...)
		}
	}
	former, known := in.former(id)
	r := ipam.Restore(in.Self, former, used, seg)
	for _, slots := range r.Slots {
		p.Claims = append(p.Claims, claimWork{n, slots})
	}
	if !known {
		return
	}
	for _, slots := range r.Around {
		p.Around = append(p.Around, claimWork{n, slots})
	}
	for _, s := range r.Surplus {
		p.Surplus = append(p.Surplus, surplusWork{n, s})
	}
}

// endpoint decides about one endpoint by who has what it needs now, and had it
// before etcd lost its past. Where one of its slots is still to be claimed
// nothing can be said yet.
func (in publicationInput) endpoint(p *publication, n *overspan.Network, a overspan.Attachment, now, before rivals) {
	e := a.Endpoint
	why, leaving := in.inTheWay(before, e)
	if newer := now.latest[e.Name]; newer != e.ID {
		why = fmt.Sprintf("its name now belongs to endpoint %s on this node", overspan.ShortID(newer))
	}
	if why != "" && !leaving {
		p.Lost[e.ID] = why + connectAgain
		if stands(now.segment, e) {
			p.Withdraw = append(p.Withdraw, e)
		}
		return
	}
	switch why, leaving := in.inTheWay(now, e); {
	case why == "":
	case leaving || in.frozen():
		// It may itself be something that etcd should not have any more.
		p.Waiting[e.ID] = why
		return
	default:
		p.Lost[e.ID] = why + connectAgain
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
	p.Records = append(p.Records, recordWork{Network: n, Blocks: blocks, Attachment: a, Stands: stands(now.segment, e)})
}

// inTheWay tells what an endpoint needs and another has; "" if there is nothing.
// Leaving says that it is this node's and on its way out.
func (in publicationInput) inTheWay(others rivals, e overspan.Endpoint) (why string, leaving bool) {
	if holder := foreignHolder(others.segment, e, in.Self); holder != "" {
		return belongsTo(in.Snapshot, e, holder), false
	}
	other, what := others.of(e)
	switch {
	case other == nil:
		return "", false
	case in.onItsWayOut(other):
		return fmt.Sprintf("%s is still to be released by endpoint %s", what, overspan.ShortID(other.ID)), true
	}
	return fmt.Sprintf("%s now belongs to endpoint %s on node %s", what, other.Name, nodeName(in.Snapshot, other.Node)), false
}

// onItsWayOut reports whether a record is one of this node's that nobody here
// knows: the releaser takes it away.
func (in publicationInput) onItsWayOut(e *overspan.Endpoint) bool {
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

// remembered returns what a network held before etcd lost its past; nil if that
// is not known.
func (in publicationInput) remembered(id overspan.NetworkID) *overspan.Segment {
	if !in.frozen() || in.Memory == nil {
		return nil
	}
	return in.Memory.Segments[id]
}

// former returns the blocks that this node held in a network; known is false if
// nothing is remembered at all.
func (in publicationInput) former(id overspan.NetworkID) (blocks []overspan.Range, known bool) {
	if seg := in.remembered(id); seg != nil {
		for b := range seg.Blocks.Values() {
			if b.Node == in.Self {
				blocks = append(blocks, b.Range)
			}
		}
	}
	return blocks, in.frozen() && in.Memory != nil
}

// connectAgain is what can be done about an endpoint that is lost.
const connectAgain = "; disconnect it and connect it again"

// belongsTo says that an endpoint's address is another node's.
func belongsTo(s *overspan.Snapshot, e overspan.Endpoint, holder overspan.NodeID) string {
	return fmt.Sprintf("%s now belongs to node %s", e.Addrs()[0], nodeName(s, holder))
}

// foreignHolder returns another node that holds one of an endpoint's slots.
func foreignHolder(seg *overspan.Segment, e overspan.Endpoint, self overspan.NodeID) overspan.NodeID {
	for _, slot := range e.Slots {
		if b, ok := seg.Holder(slot); ok && b.Node != self {
			return b.Node
		}
	}
	return ""
}

// networkNameOf returns what people call an attachment's network.
func networkNameOf(a overspan.Attachment) string {
	if a.NetworkName != "" {
		return a.NetworkName
	}
	return overspan.ShortID(a.Endpoint.Network)
}
