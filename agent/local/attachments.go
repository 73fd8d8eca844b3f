package local

import (
	"iter"
	"time"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/kernel"
)

// Attachments is this node's attachments at one moment: a chronicle that also knows
// them by their network and by their sandbox. The zero value is empty, and for reading
// only; AttachmentsOf makes one that Put can add to.
type Attachments struct {
	Chronicle[overspan.EndpointID, overspan.Attachment]
	byNetwork overspan.IDMap[overspan.NetworkID, *overspan.AttachmentGroup]
	bySandbox overspan.IDMap[overspan.SandboxID, *overspan.AttachmentGroup]
}

// AttachmentsOf returns attachments as they are found.
func AttachmentsOf(attachments ...overspan.Attachment) Attachments {
	at := Attachments{Chronicle: newChronicle(
		func(a *overspan.Attachment) overspan.EndpointID { return a.Endpoint.ID },
		func(a *overspan.Attachment) time.Time { return a.Endpoint.Created },
	)}
	for _, a := range attachments {
		at.Put(&a)
	}
	return at
}

// Put adds an attachment, or changes the one of the same endpoint.
func (at *Attachments) Put(a *overspan.Attachment) {
	at.remove(a.Endpoint.ID)
	at.Chronicle.put(a)
	at.byNetwork.Put(a.Endpoint.Network, overspan.AttachmentGroupOf(at.with(at.InNetwork(a.Endpoint.Network), a)))
	at.bySandbox.Put(a.Sandbox, overspan.AttachmentGroupOf(at.with(at.InSandbox(a.Sandbox), a)))
}

// remove takes an attachment out and returns it; nil if there is none of the
// endpoint.
func (at *Attachments) remove(id overspan.EndpointID) *overspan.Attachment {
	a := at.Chronicle.remove(id)
	if a == nil {
		return nil
	}
	regroup(&at.byNetwork, a.Endpoint.Network, at.without(at.InNetwork(a.Endpoint.Network), a))
	regroup(&at.bySandbox, a.Sandbox, at.without(at.InSandbox(a.Sandbox), a))
	return a
}

func regroup[K ~string](groups *overspan.IDMap[K, *overspan.AttachmentGroup], id K, list []*overspan.Attachment) {
	if len(list) == 0 {
		groups.Delete(id)
		return
	}
	groups.Put(id, overspan.AttachmentGroupOf(list))
}

// Networks yields the networks that have some.
func (at *Attachments) Networks() iter.Seq[overspan.NetworkID] { return at.byNetwork.Keys() }

// InNetwork returns the attachments to one network, oldest first.
func (at *Attachments) InNetwork(id overspan.NetworkID) []*overspan.Attachment {
	return at.byNetwork.Get(id).All()
}

// InSandbox returns the attachments of one sandbox, oldest first.
func (at *Attachments) InSandbox(id overspan.SandboxID) []*overspan.Attachment {
	return at.bySandbox.Get(id).All()
}

// Within returns those that a scope takes, some of them twice perhaps.
func (at *Attachments) Within(scope kernel.Scope) []*overspan.Attachment {
	if scope.All {
		return at.List
	}
	var out []*overspan.Attachment
	for _, id := range scope.Networks {
		out = append(out, at.InNetwork(id)...)
	}
	for _, key := range scope.Endpoints {
		if a := at.ByID.Get(key.Endpoint); a != nil {
			out = append(out, a)
		}
	}
	return out
}

// ConcernedBy returns those in networks whose record or interior differs between two
// snapshots: all of them if there is no old one.
func (at *Attachments) ConcernedBy(old, new *overspan.Snapshot) []*overspan.Attachment {
	if old == nil {
		return at.List
	}
	var out []*overspan.Attachment
	for _, id := range overspan.DifferingNetworks(old, new) {
		out = append(out, at.InNetwork(id)...)
	}
	return out
}

// KeyOf returns what to look at of an attachment: its container's end, too.
func KeyOf(a *overspan.Attachment) kernel.EndpointKey {
	return kernel.EndpointKey{Network: a.Endpoint.Network, Endpoint: a.Endpoint.ID, Netns: a.Netns}
}

// KeysOf is KeyOf for several.
func KeysOf(attachments []*overspan.Attachment) []kernel.EndpointKey {
	out := make([]kernel.EndpointKey, 0, len(attachments))
	for _, a := range attachments {
		out = append(out, KeyOf(a))
	}
	return out
}

// ScopeOf is the scope of one attachment: its port, and its container's end.
func ScopeOf(a overspan.Attachment) kernel.Scope {
	return kernel.Scope{Endpoints: []kernel.EndpointKey{KeyOf(&a)}}
}
