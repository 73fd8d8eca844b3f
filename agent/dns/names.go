package dns

import (
	"iter"
	"net/netip"
	"slices"
	"strings"

	"github.com/overspan/overspan"
)

// bearersMost bounds how many endpoints one answer names: more addresses fit
// into no message.
const bearersMost = 512

// A spot is an address in a network: that of who asks, or is asked.
type spot struct {
	network overspan.NetworkID
	addr    netip.Addr
}

// An asker is a sandbox of this node, as far as it concerns its names.
type asker struct {
	sandbox overspan.SandboxID
	places  []place      // its networks, the oldest attachment first
	servers []netip.Addr // asked for names of the world in place of the host's
}

// A place is a sandbox's place in a network.
type place struct {
	network overspan.NetworkID
	links   map[string]string // its own names for others, in lower case
}

// local is this node's part of the names, at one moment. It stays as it is; the zero
// local is that of a node where nothing is plugged in.
type local struct {
	plugged overspan.Plugged
	askers  overspan.IDMap[spotKey, *asker]
}

// A spotKey is a spot as the key of an IDMap.
type spotKey string

func (s spot) key() spotKey {
	addr := s.addr.As16()
	return spotKey(s.network) + spotKey(addr[:])
}

// follow returns the local of another moment. It costs what has changed.
func (l *local) follow(now overspan.Plugged) *local {
	next := &local{plugged: now, askers: l.askers}
	changed := changedSandboxes(l.plugged, now)
	for _, id := range changed {
		for at := range spotsOf(l.plugged.InSandbox.Get(id)) {
			next.askers.Delete(at.key())
		}
	}
	for _, id := range changed {
		sb, attachments := now.Sandboxes.Get(id), now.InSandbox.Get(id)
		if sb == nil {
			continue // it is being forgotten
		}
		who := newAsker(sb, attachments)
		for at := range spotsOf(attachments) {
			next.askers.Put(at.key(), who)
		}
	}
	return next
}

func newAsker(sb *overspan.Sandbox, attachments *overspan.AttachmentGroup) *asker {
	who := &asker{sandbox: sb.ID, servers: sb.Resolver.Servers}
	for _, a := range attachments.All() {
		links := map[string]string{}
		for _, link := range a.Links {
			links[strings.ToLower(link.Alias)] = strings.ToLower(link.Name)
		}
		who.places = append(who.places, place{a.Endpoint.Network, links})
	}
	return who
}

// spotsOf yields where attachments ask from.
func spotsOf(attachments *overspan.AttachmentGroup) iter.Seq[spot] {
	return func(yield func(spot) bool) {
		for _, a := range attachments.All() {
			for _, addr := range a.Endpoint.Addrs() {
				if !yield(spot{a.Endpoint.Network, addr}) {
					return
				}
			}
		}
	}
}

// asker returns who is at a spot; nil if that is nobody of this node.
func (l *local) asker(at spot) *asker { return l.askers.Get(at.key()) }

// has reports whether an endpoint of this node is in use.
func (l *local) has(id overspan.EndpointID) bool {
	a := l.plugged.Attachments.Get(id)
	return a != nil && l.plugged.Sandboxes.Get(a.Sandbox) != nil
}

// names is what one asker may know at one moment. It is pure.
type names struct {
	snapshot *overspan.Snapshot
	self     overspan.NodeID
	local    *local
	asker    *asker
	index    func(overspan.NetworkID) *index
	port     func(service) (uint16, bool) // of a service, if it has one

	// intn returns a number below n: who is named first, and who at all where
	// there are too many.
	intn func(n int) int
}

// called returns who bears a name that was asked for, in lower case and without
// the last dot: in the first of the asker's networks in which somebody does, and
// somebody whose node is up wherever that is so.
func (v names) called(name string) []*overspan.Endpoint {
	var down []*overspan.Endpoint
	for _, p := range v.asker.places {
		n, seg := v.snapshot.Networks[p.network], v.snapshot.Segments.Get(p.network)
		if n == nil || seg == nil {
			continue
		}
		labels := []string{name}
		if base, qualified := strings.CutSuffix(name, "."+strings.ToLower(n.Name)); qualified {
			labels = append(labels, base)
		}
		for _, label := range labels {
			if linked := p.links[label]; linked != "" {
				label = linked
			}
			found, up := v.choose(seg, v.index(n.ID).bearers(seg.Endpoints, label))
			if up {
				return found
			}
			if down == nil {
				down = found
			}
		}
	}
	return down
}

// choose returns those bearers of a name that can be answered, in any order: of
// nodes that are up, or, where there is none of these, of the others.
func (v names) choose(seg *overspan.Segment, bearers []*overspan.Endpoint) (found []*overspan.Endpoint, up bool) {
	if len(bearers) == 0 {
		return nil, false
	}
	var live, down []*overspan.Endpoint
	first := v.intn(len(bearers))
	for i := range bearers {
		e := bearers[(first+i)%len(bearers)]
		switch {
		case !v.stands(seg, e):
		case v.up(e.Node):
			live = append(live, e)
		case len(down) < bearersMost:
			down = append(down, e)
		}
		if len(live) == bearersMost {
			break
		}
	}
	found = down
	if len(live) > 0 {
		found = live
	}
	for i := len(found) - 1; i > 0; i-- {
		j := v.intn(i + 1)
		found[i], found[j] = found[j], found[i]
	}
	return found, len(live) > 0
}

// stands reports whether an endpoint's addresses are its own: its node holds
// their slots. One of this node's that was disconnected while etcd is away has a
// record, and none of a node that is removed will have one for long.
func (v names) stands(seg *overspan.Segment, e *overspan.Endpoint) bool {
	if e.Node == v.self {
		if !v.local.has(e.ID) {
			return false
		}
	} else if v.snapshot.Nodes[e.Node] == nil {
		return false
	}
	return !slices.ContainsFunc(e.Slots, func(slot overspan.Slot) bool {
		b, held := seg.Holder(slot)
		return !held || b.Node != e.Node
	})
}

func (v names) up(id overspan.NodeID) bool {
	if id == v.self {
		return true
	}
	n := v.snapshot.Nodes[id]
	return n != nil && n.Presence != nil
}

// at returns what the endpoint at an address is called, with its network's name.
// Ours says that the address lies in a network of the asker: nobody else knows
// better.
func (v names) at(addr netip.Addr) (name string, ours bool) {
	for _, p := range v.asker.places {
		n, seg := v.snapshot.Networks[p.network], v.snapshot.Segments.Get(p.network)
		if n == nil || seg == nil {
			continue
		}
		subnet := n.IPv4
		if overspan.FamilyOf(addr) == overspan.IPv6 {
			subnet = n.IPv6
		}
		slot, within := subnet.Slot(addr)
		if !within {
			continue
		}
		if e := seg.Endpoints.Get(slot); e != nil && slices.Contains(e.Addrs(), addr) && v.stands(seg, e) {
			return e.Name + "." + n.Name, true
		}
		ours = true
	}
	return "", ours
}

// outside reports whether the asker may ask for names of the world: one of its
// networks at least is not internal.
func (v names) outside() bool {
	return slices.ContainsFunc(v.asker.places, func(p place) bool {
		n := v.snapshot.Networks[p.network]
		return n != nil && !n.Internal
	})
}
