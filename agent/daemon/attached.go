package daemon

import (
	"time"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/kernel"
)

// attached is this node's attachments at one moment: a chronicle that also knows
// them by their network and by their sandbox.
type attached struct {
	chronicle[overspan.EndpointID, overspan.Attachment]
	byNetwork overspan.IDMap[overspan.NetworkID, *group]
	bySandbox overspan.IDMap[overspan.SandboxID, *group]
}

// A group is attachments that have something in common, oldest first. It is
// immutable; a nil one is empty.
type group struct{ list []*overspan.Attachment }

func attachedOf(attachments ...overspan.Attachment) attached {
	at := attached{chronicle: newChronicle(
		func(a *overspan.Attachment) overspan.EndpointID { return a.Endpoint.ID },
		func(a *overspan.Attachment) time.Time { return a.Endpoint.Created },
	)}
	for _, a := range attachments {
		at.put(&a)
	}
	return at
}

// put adds an attachment, or changes the one of the same endpoint.
func (at *attached) put(a *overspan.Attachment) {
	at.remove(a.Endpoint.ID)
	at.chronicle.put(a)
	at.byNetwork.Put(a.Endpoint.Network, &group{at.with(at.inNetwork(a.Endpoint.Network), a)})
	at.bySandbox.Put(a.Sandbox, &group{at.with(at.inSandbox(a.Sandbox), a)})
}

// remove takes an attachment out and returns it; nil if there is none of the
// endpoint.
func (at *attached) remove(id overspan.EndpointID) *overspan.Attachment {
	a := at.chronicle.remove(id)
	if a == nil {
		return nil
	}
	regroup(&at.byNetwork, a.Endpoint.Network, at.without(at.inNetwork(a.Endpoint.Network), a))
	regroup(&at.bySandbox, a.Sandbox, at.without(at.inSandbox(a.Sandbox), a))
	return a
}

func regroup[K ~string](groups *overspan.IDMap[K, *group], id K, list []*overspan.Attachment) {
	if len(list) == 0 {
		groups.Delete(id)
		return
	}
	groups.Put(id, &group{list})
}

// inNetwork returns the attachments to one network, oldest first.
func (at *attached) inNetwork(id overspan.NetworkID) []*overspan.Attachment {
	return at.byNetwork.Get(id).all()
}

// inSandbox returns the attachments of one sandbox, oldest first.
func (at *attached) inSandbox(id overspan.SandboxID) []*overspan.Attachment {
	return at.bySandbox.Get(id).all()
}

func (g *group) all() []*overspan.Attachment {
	if g == nil {
		return nil
	}
	return g.list
}

// within returns those that a scope takes, some of them twice perhaps.
func (at *attached) within(scope kernel.Scope) []*overspan.Attachment {
	if scope.All {
		return at.list
	}
	var out []*overspan.Attachment
	for _, id := range scope.Networks {
		out = append(out, at.inNetwork(id)...)
	}
	for _, key := range scope.Endpoints {
		if a := at.byID.Get(key.Endpoint); a != nil {
			out = append(out, a)
		}
	}
	return out
}

// concernedBy returns those in networks whose record or interior differs between two
// snapshots: all of them if there is no old one.
func (at *attached) concernedBy(old, new *overspan.Snapshot) []*overspan.Attachment {
	if old == nil {
		return at.list
	}
	var out []*overspan.Attachment
	for _, id := range overspan.DifferingNetworks(old, new) {
		out = append(out, at.inNetwork(id)...)
	}
	return out
}
