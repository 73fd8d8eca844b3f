// Package local holds what this node alone knows: its sandboxes, and which endpoint
// is plugged in where. Whoever asks gets all of one moment, which stays as it is.
package local

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/overspan/overspan"
)

// An Inventory is what this node has now. The journal holds the same on disk; this is
// what the planner reads. It is safe for concurrent use.
type Inventory struct {
	mu  sync.Mutex // guards now
	now View
}

// A View is what an Inventory holds at one moment. It stays as it is: the Inventory
// replaces what is in it and changes none of it.
type View struct {
	Version     uint64 // grows with each change
	Sandboxes   Chronicle[overspan.SandboxID, overspan.Sandbox]
	Attachments Attachments
	Ports       map[overspan.SandboxID][]overspan.Port // of the sandboxes that publish some
}

// Plugged returns what is plugged in where, for those who need no more.
func (v View) Plugged() overspan.Plugged {
	return overspan.Plugged{
		Sandboxes:   v.Sandboxes.ByID,
		Attachments: v.Attachments.ByID,
		InNetwork:   v.Attachments.byNetwork,
		InSandbox:   v.Attachments.bySandbox,
	}
}

// New makes an inventory of what the journal remembers.
func New(sandboxes []overspan.Sandbox, attachments []overspan.Attachment) *Inventory {
	l := &Inventory{now: View{Sandboxes: SandboxesOf(), Attachments: AttachmentsOf(attachments...)}}
	for _, s := range sandboxes {
		if len(l.now.Attachments.InSandbox(s.ID)) == 0 {
			s.Ports = nil // the agent died between the last endpoint's end and theirs
		}
		l.now.enter(s)
	}
	return l
}

// SandboxesOf returns a chronicle of sandboxes.
func SandboxesOf(sandboxes ...overspan.Sandbox) Chronicle[overspan.SandboxID, overspan.Sandbox] {
	c := newChronicle(
		func(s *overspan.Sandbox) overspan.SandboxID { return s.ID },
		func(s *overspan.Sandbox) time.Time { return s.Created })
	for _, s := range sandboxes {
		c.put(&s)
	}
	return c
}

// enter adds a sandbox, or what has become of it.
func (v *View) enter(s overspan.Sandbox) {
	v.Sandboxes.put(&s)
	if slices.Equal(v.Ports[s.ID], s.Ports) {
		return
	}
	ports := maps.Clone(v.Ports)
	if ports == nil {
		ports = map[overspan.SandboxID][]overspan.Port{}
	}
	if ports[s.ID] = s.Ports; len(s.Ports) == 0 {
		delete(ports, s.ID)
	}
	v.Ports = ports
}

// drop reports whether there was an attachment. With its last endpoint a sandbox
// publishes nothing any more.
func (v *View) drop(id overspan.EndpointID) bool {
	a := v.Attachments.remove(id)
	if a == nil {
		return false
	}
	if sb, known := v.Sandboxes.Get(a.Sandbox); known && len(sb.Ports) > 0 && len(v.Attachments.InSandbox(sb.ID)) == 0 {
		sb.Ports = nil
		v.enter(sb)
	}
	return true
}

// change has something changed, and all who look meanwhile see it before or after.
func (l *Inventory) change(by func(*View)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now.Version++
	by(&l.now)
}

// PutSandbox notes a sandbox, or what has become of it.
func (l *Inventory) PutSandbox(s overspan.Sandbox) {
	l.change(func(v *View) { v.enter(s) })
}

// DropSandbox forgets a sandbox.
func (l *Inventory) DropSandbox(id overspan.SandboxID) {
	l.change(func(v *View) { v.Sandboxes.remove(id) })
}

// PutAttachment notes an attachment, or what has become of it.
func (l *Inventory) PutAttachment(a overspan.Attachment) {
	l.change(func(v *View) { v.Attachments.Put(&a) })
}

// PutAttachmentIn notes an attachment together with the sandbox that it is in.
func (l *Inventory) PutAttachmentIn(s overspan.Sandbox, a overspan.Attachment) {
	l.change(func(v *View) {
		v.enter(s)
		v.Attachments.Put(&a)
	})
}

// DropAttachment reports whether the attachment was still there, so that of
// two who end it at once only one goes on. Its sandbox publishes these ports from
// then on.
func (l *Inventory) DropAttachment(id overspan.EndpointID, ports []overspan.Port) (there bool) {
	l.change(func(v *View) {
		if a, there := v.Attachments.Get(id); there {
			if sb, known := v.Sandboxes.Get(a.Sandbox); known && !slices.Equal(sb.Ports, ports) {
				sb.Ports = ports
				v.enter(sb)
			}
		}
		there = v.drop(id)
	})
	return there
}

// DropAttachmentIn takes back PutAttachmentIn: the sandbox is as it was.
func (l *Inventory) DropAttachmentIn(s overspan.Sandbox, id overspan.EndpointID) {
	l.change(func(v *View) {
		v.enter(s)
		v.drop(id)
	})
}

// Register notes an endpoint's record as it stands, and under which registration;
// false if the endpoint is not attached any more.
func (l *Inventory) Register(e overspan.Endpoint, registration int64) (a overspan.Attachment, there bool) {
	l.change(func(v *View) {
		if a, there = v.Attachments.Get(e.ID); there {
			a.Endpoint, a.Registration = e, registration
			noted := a
			v.Attachments.Put(&noted)
		}
	})
	return a, there
}

// Disown forgets under which registration the attachments' records were
// written, and at which revisions. It returns those that it changed.
func (l *Inventory) Disown() (out []overspan.Attachment) {
	l.change(func(v *View) {
		for _, was := range v.Attachments.List {
			if a := *was; a.Committed && a.Registration != 0 {
				a.Registration, a.Endpoint.CreateRevision, a.Endpoint.ModRevision = 0, 0, 0
				v.Attachments.Put(&a)
				out = append(out, a)
			}
		}
	})
	return out
}

// View returns all that there is at this moment.
func (l *Inventory) View() View {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now
}

// Sandbox returns one sandbox; ok is false if there is none of the id.
func (l *Inventory) Sandbox(id overspan.SandboxID) (overspan.Sandbox, bool) {
	v := l.View()
	return v.Sandboxes.Get(id)
}

// Attachment returns how an endpoint is plugged in; ok is false if it is not.
func (l *Inventory) Attachment(id overspan.EndpointID) (overspan.Attachment, bool) {
	v := l.View()
	return v.Attachments.Get(id)
}

// PortsOf returns the ports that a sandbox publishes; nobody changes the list.
func (l *Inventory) PortsOf(id overspan.SandboxID) []overspan.Port { return l.View().Ports[id] }

// Attachments returns the attachments of this moment.
func (l *Inventory) Attachments() Attachments { return l.View().Attachments }

// AllSandboxes returns the sandboxes, oldest first; nobody changes them.
func (l *Inventory) AllSandboxes() []*overspan.Sandbox { return l.View().Sandboxes.List }

// InNetwork returns the attachments to one network, oldest first; nobody changes
// them.
func (l *Inventory) InNetwork(id overspan.NetworkID) []*overspan.Attachment {
	at := l.Attachments()
	return at.InNetwork(id)
}

// InSandbox returns the attachments of one sandbox, oldest first; nobody changes
// them.
func (l *Inventory) InSandbox(id overspan.SandboxID) []*overspan.Attachment {
	at := l.Attachments()
	return at.InSandbox(id)
}

// AllAttachments returns copies of the attachments, oldest first.
func (l *Inventory) AllAttachments() []overspan.Attachment { return valuesOf(l.Attachments().List) }

func valuesOf[V any](list []*V) []V {
	out := make([]V, 0, len(list))
	for _, v := range list {
		out = append(out, *v)
	}
	return out
}

// Serves reports whether an endpoint here owns one of some slots of a network.
func (l *Inventory) Serves(network overspan.NetworkID, slots []overspan.Slot) bool {
	return slices.ContainsFunc(l.InNetwork(network), func(a *overspan.Attachment) bool {
		return slices.ContainsFunc(a.Endpoint.Slots, func(s overspan.Slot) bool { return slices.Contains(slots, s) })
	})
}
