// Package publication decides what a node writes to etcd again of what it serves:
// after a restart, an absence, a removal, and where etcd has lost its past.
package publication

import (
	"fmt"
	"maps"
	"slices"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/ipam"
)

// Input is all that publishing again depends on.
type Input struct {
	Self     overspan.NodeID
	Snapshot *overspan.Snapshot // what etcd has

	// Registration is the one that the node has now.
	Registration int64

	// Memory is what etcd had before it lost its past, while the cluster is
	// frozen; nil if that is not known.
	Memory *overspan.Snapshot

	// Attachments are this node's, apart from those that are about to end.
	Attachments []overspan.Attachment

	// Ports are those that lead to the endpoints that are on their networks now.
	Ports map[overspan.EndpointID][]overspan.Port
}

// A Plan is what a node does so that etcd says again what it serves. What
// it lists may be done in any order but that of its fields; each step stands or
// falls by itself, and the next snapshot shows what is left.
type Plan struct {
	Obsolete []*overspan.Network // removed before, and in the way of those that are to be written
	Networks []*overspan.Network // to be written again
	Surplus  []Surplus           // own blocks to be given up, wholly or in part
	Claims   []Claim             // used slots
	Records  []Record
	Around   []Claim // what else the node held around used slots

	// Lost tells of endpoints that cannot be published, why, and what to do.
	Lost map[overspan.EndpointID]string

	// Withdraw are records of lost endpoints that etcd has brought back.
	Withdraw []overspan.Endpoint

	// Waiting tells of endpoints that cannot be published yet, and why not.
	Waiting map[overspan.EndpointID]string
}

// A Claim is slots to be held again.
type Claim struct {
	Network *overspan.Network
	overspan.Range
}

// A Record is an endpoint to be written again.
type Record struct {
	Network    *overspan.Network
	Blocks     []overspan.Block // around the endpoint's slots
	Attachment overspan.Attachment
	Stands     bool // it is only to be seen that it does under this registration
}

// A Surplus is what to give up of a block.
type Surplus struct {
	Network *overspan.Network
	ipam.Surplus
}

// HasWork reports whether there is anything to be done now.
func (p Plan) HasWork() bool {
	return len(p.Obsolete)+len(p.Networks)+len(p.Surplus)+len(p.Claims)+len(p.Records)+len(p.Around)+len(p.Withdraw) > 0
}

// Frozen reports whether etcd may have lost what it once had. Then nothing is
// lost for good: memory says what is.
func (in Input) Frozen() bool { return in.Snapshot.Frozen != nil }

// FreezeRevision returns the revision of the freeze; 0: there is none.
func (in Input) FreezeRevision() int64 {
	if !in.Frozen() {
		return 0
	}
	return in.Snapshot.Frozen.Revision
}

// Plan says what is to be published again. It is pure. The snapshot must not
// be older than the registration.
func (in Input) Plan() Plan {
	p := Plan{Lost: map[overspan.EndpointID]string{}, Waiting: map[overspan.EndpointID]string{}}
	due := map[overspan.NetworkID][]overspan.Attachment{}
	for _, a := range in.Attachments {
		if in.Due(a) {
			due[a.Endpoint.Network] = append(due[a.Endpoint.Network], a)
		}
	}
	networks := maps.Clone(due)
	if in.Frozen() && in.Memory != nil {
		for id := range in.Memory.Networks {
			networks[id] = due[id]
		}
		for id := range in.Snapshot.Segments.Keys() {
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

// Due reports whether an endpoint's record is not known to stand: it was written
// under another registration, or etcd may have forgotten it; or to tell of ports
// that lead elsewhere by now. One whose attach is under way is not: that sees to
// it.
func (in Input) Due(a overspan.Attachment) bool {
	return a.Committed && (a.Registration != in.Registration || !slices.Equal(a.Endpoint.Ports, in.portsOf(a)))
}

// portsOf returns the ports that an endpoint's record is to tell of.
func (in Input) portsOf(a overspan.Attachment) []overspan.Port {
	if ports, known := in.Ports[a.Endpoint.ID]; known {
		return ports
	}
	return a.Endpoint.Ports
}

// stands reports whether an endpoint's records are all there.
func stands(seg *overspan.Segment, e overspan.Endpoint) bool {
	return seg != nil && !slices.ContainsFunc(e.Slots, func(slot overspan.Slot) bool {
		at := seg.Endpoints.Get(slot)
		return at == nil || at.ID != e.ID
	})
}

// absentNetwork decides about a network of which etcd has no record.
func (in Input) absentNetwork(p *Plan, id overspan.NetworkID, due []overspan.Attachment) {
	if in.Frozen() && in.Memory != nil {
		if n := in.Memory.Networks[id]; n != nil && !n.Deleting && n.On(in.Self) {
			p.Networks = append(p.Networks, n)
			p.Obsolete = append(p.Obsolete, in.inPlaceOf(n)...)
		}
	}
	again := in.localAgain(p, due)
	for _, a := range due {
		name := a.NetworkLabel()
		switch {
		case again != "":
			p.Waiting[a.Endpoint.ID] = again
		case in.Frozen():
			p.Waiting[a.Endpoint.ID] = fmt.Sprintf("network %s is not in etcd", name)
		case len(in.Snapshot.Bad) > 0:
			// An unreadable record is not an absent one.
			p.Waiting[a.Endpoint.ID] = fmt.Sprintf("network %s cannot be found, and there are records that cannot be read", name)
		default:
			p.Lost[a.Endpoint.ID] = removed(name)
			if a.Local == nil {
				continue
			}
			if rival := in.rival(a.Local); rival != nil {
				p.Lost[a.Endpoint.ID] = fmt.Sprintf("network %s was removed with this node, and its name or subnet is network %s's by now; disconnect it", name, rival.Name)
			}
		}
	}
}

// localAgain has a local network written again that went with this node's former
// registration, and says what its endpoints wait for; "" if there is none, or
// another network is in its place.
func (in Input) localAgain(p *Plan, due []overspan.Attachment) string {
	at := slices.IndexFunc(due, func(a overspan.Attachment) bool { return a.Local != nil })
	if at < 0 || in.Frozen() || len(in.Snapshot.Bad) > 0 || in.rival(due[at].Local) != nil {
		return ""
	}
	n := due[at].Local
	p.Networks = append(p.Networks, n)
	return fmt.Sprintf("network %s went with this node's registration, and is not in etcd again yet", n.Name)
}

// rival returns a network that cannot be beside another; nil if there is none.
func (in Input) rival(n *overspan.Network) *overspan.Network {
	for _, id := range slices.Sorted(maps.Keys(in.Snapshot.Networks)) {
		if other := in.Snapshot.Networks[id]; clash(n, other) {
			return other
		}
	}
	return nil
}

// inPlaceOf returns the networks that have what another needs, and that had been
// removed when etcd lost its past.
func (in Input) inPlaceOf(n *overspan.Network) []*overspan.Network {
	var out []*overspan.Network
	for _, id := range slices.Sorted(maps.Keys(in.Snapshot.Networks)) {
		if other := in.Snapshot.Networks[id]; in.wasRemoved(other) && clash(n, other) {
			out = append(out, other)
		}
	}
	return out
}

// wasRemoved reports whether a network that etcd has was there once, but not any
// more when etcd lost its past.
func (in Input) wasRemoved(n *overspan.Network) bool {
	return in.Frozen() && in.Memory != nil && in.Memory.Networks[n.ID] == nil && n.CreateRevision <= in.Memory.Revision
}

// clash reports whether two networks cannot both be.
func clash(a, b *overspan.Network) bool {
	overlaps := func(x, y overspan.Subnet) bool {
		return !a.ConfigOnly && !b.ConfigOnly && x.IsValid() && y.IsValid() && x.Prefix.Overlaps(y.Prefix)
	}
	named := a.Name == b.Name && (a.Node == "" || b.Node == "" || a.Node == b.Node)
	return named || a.VNI != 0 && a.VNI == b.VNI || overlaps(a.IPv4, b.IPv4) || overlaps(a.IPv6, b.IPv6)
}

// network decides about a network that etcd has.
func (in Input) network(p *Plan, id overspan.NetworkID, due []overspan.Attachment) {
	n, seg := in.Snapshot.Networks[id], in.Snapshot.Segments.Get(id)
	if n.Deleting || seg == nil {
		for _, a := range due {
			switch {
			case n.Deleting && !in.Frozen():
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
		if in.Due(a) {
			in.endpoint(p, n, a, now, before)
		}
		if _, lost := p.Lost[a.Endpoint.ID]; !lost {
			used = append(used, a.Endpoint.Slots...)
		}
	}
	former, known := in.former(id)
	r := ipam.Restore(in.Self, former, used, seg)
	for _, slots := range r.Slots {
		p.Claims = append(p.Claims, Claim{n, slots})
	}
	if !known {
		return
	}
	for _, slots := range r.Around {
		p.Around = append(p.Around, Claim{n, slots})
	}
	for _, s := range r.Surplus {
		p.Surplus = append(p.Surplus, Surplus{n, s})
	}
}

// remembered returns what a network held before etcd lost its past; nil if that
// is not known.
func (in Input) remembered(id overspan.NetworkID) *overspan.Segment {
	if !in.Frozen() || in.Memory == nil {
		return nil
	}
	return in.Memory.Segments.Get(id)
}

// former returns the blocks that this node held in a network; known is false if
// nothing is remembered at all.
func (in Input) former(id overspan.NetworkID) (blocks []overspan.Range, known bool) {
	if seg := in.remembered(id); seg != nil {
		for b := range seg.Blocks.Values() {
			if b.Node == in.Self {
				blocks = append(blocks, b.Range)
			}
		}
	}
	return blocks, in.Frozen() && in.Memory != nil
}
