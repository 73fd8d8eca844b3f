package daemon

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/overspan/overspan"
)

// local is what this node alone knows: its sandboxes and which endpoint is
// plugged in where. The journal holds the same on disk; local is what the
// planner reads.
type local struct {
	mu  sync.Mutex // guards now
	now localView
}

// A localView is what local holds at one moment. A copy stays as it is: local
// replaces what is in it and changes none of it.
type localView struct {
	version     uint64 // grows with each change
	sandboxes   chronicle[overspan.SandboxID, overspan.Sandbox]
	attachments attached
	ports       map[overspan.SandboxID][]overspan.Port // of the sandboxes that publish some
}

func newLocal(sandboxes []overspan.Sandbox, attachments []overspan.Attachment) *local {
	l := &local{now: localView{sandboxes: sandboxesOf(), attachments: attachedOf(attachments...)}}
	for _, s := range sandboxes {
		if len(l.now.attachments.inSandbox(s.ID)) == 0 {
			s.Ports = nil // the agent died between the last endpoint's end and theirs
		}
		l.now.enter(s)
	}
	return l
}

func sandboxesOf(sandboxes ...overspan.Sandbox) chronicle[overspan.SandboxID, overspan.Sandbox] {
	c := newChronicle(
		func(s *overspan.Sandbox) overspan.SandboxID { return s.ID },
		func(s *overspan.Sandbox) time.Time { return s.Created })
	for _, s := range sandboxes {
		c.put(&s)
	}
	return c
}

// enter adds a sandbox, or what has become of it.
func (v *localView) enter(s overspan.Sandbox) {
	v.sandboxes.put(&s)
	if slices.Equal(v.ports[s.ID], s.Ports) {
		return
	}
	ports := maps.Clone(v.ports)
	if ports == nil {
		ports = map[overspan.SandboxID][]overspan.Port{}
	}
	if ports[s.ID] = s.Ports; len(s.Ports) == 0 {
		delete(ports, s.ID)
	}
	v.ports = ports
}

// drop reports whether there was an attachment. With its last endpoint a sandbox
// publishes nothing any more.
func (v *localView) drop(id overspan.EndpointID) bool {
	a := v.attachments.remove(id)
	if a == nil {
		return false
	}
	if sb, known := v.sandboxes.get(a.Sandbox); known && len(sb.Ports) > 0 && len(v.attachments.inSandbox(sb.ID)) == 0 {
		sb.Ports = nil
		v.enter(sb)
	}
	return true
}

// change has something changed, and all who look meanwhile see it before or after.
func (l *local) change(by func(*localView)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now.version++
	by(&l.now)
}

func (l *local) putSandbox(s overspan.Sandbox) {
	l.change(func(v *localView) { v.enter(s) })
}

func (l *local) dropSandbox(id overspan.SandboxID) {
	l.change(func(v *localView) { v.sandboxes.remove(id) })
}

func (l *local) putAttachment(a overspan.Attachment) {
	l.change(func(v *localView) { v.attachments.put(&a) })
}

// putAttachmentIn notes an attachment together with the sandbox that it is in.
func (l *local) putAttachmentIn(s overspan.Sandbox, a overspan.Attachment) {
	l.change(func(v *localView) {
		v.enter(s)
		v.attachments.put(&a)
	})
}

// dropAttachment reports whether the attachment was still there, so that of
// two who end it at once only one goes on. Its sandbox publishes these ports from
// then on.
func (l *local) dropAttachment(id overspan.EndpointID, ports []overspan.Port) (there bool) {
	l.change(func(v *localView) {
		if a, there := v.attachments.get(id); there {
			if sb, known := v.sandboxes.get(a.Sandbox); known && !slices.Equal(sb.Ports, ports) {
				sb.Ports = ports
				v.enter(sb)
			}
		}
		there = v.drop(id)
	})
	return there
}

// dropAttachmentIn takes back putAttachmentIn: the sandbox is as it was.
func (l *local) dropAttachmentIn(s overspan.Sandbox, id overspan.EndpointID) {
	l.change(func(v *localView) {
		v.enter(s)
		v.drop(id)
	})
}

// register notes an endpoint's record as it stands, and under which registration;
// false if the endpoint is not attached any more.
func (l *local) register(e overspan.Endpoint, registration int64) (a overspan.Attachment, there bool) {
	l.change(func(v *localView) {
		if a, there = v.attachments.get(e.ID); there {
			a.Endpoint, a.Registration = e, registration
			noted := a
			v.attachments.put(&noted)
		}
	})
	return a, there
}

// disown forgets under which registration the attachments' records were
// written, and at which revisions. It returns those that it changed.
func (l *local) disown() (out []overspan.Attachment) {
	l.change(func(v *localView) {
		for _, was := range v.attachments.list {
			if a := *was; a.Committed && a.Registration != 0 {
				a.Registration, a.Endpoint.CreateRevision, a.Endpoint.ModRevision = 0, 0, 0
				v.attachments.put(&a)
				out = append(out, a)
			}
		}
	})
	return out
}

// view returns all that there is at this moment.
func (l *local) view() localView {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now
}

func (l *local) sandbox(id overspan.SandboxID) (overspan.Sandbox, bool) {
	v := l.view()
	return v.sandboxes.get(id)
}

func (l *local) attachment(id overspan.EndpointID) (overspan.Attachment, bool) {
	v := l.view()
	return v.attachments.get(id)
}

// portsOf returns the ports that a sandbox publishes; nobody changes the list.
func (l *local) portsOf(id overspan.SandboxID) []overspan.Port { return l.view().ports[id] }

// attached returns the attachments of this moment.
func (l *local) attached() attached { return l.view().attachments }

// allSandboxes returns the sandboxes, oldest first; nobody changes them.
func (l *local) allSandboxes() []*overspan.Sandbox { return l.view().sandboxes.list }

// inNetwork returns the attachments to one network, oldest first; nobody changes
// them.
func (l *local) inNetwork(id overspan.NetworkID) []*overspan.Attachment {
	at := l.attached()
	return at.inNetwork(id)
}

// inSandbox returns the attachments of one sandbox, oldest first; nobody changes
// them.
func (l *local) inSandbox(id overspan.SandboxID) []*overspan.Attachment {
	at := l.attached()
	return at.inSandbox(id)
}

// allAttachments returns copies of the attachments, oldest first.
func (l *local) allAttachments() []overspan.Attachment { return valuesOf(l.attached().list) }

func valuesOf[V any](list []*V) []V {
	out := make([]V, 0, len(list))
	for _, v := range list {
		out = append(out, *v)
	}
	return out
}

// has reports whether an endpoint here owns one of some slots of a network.
func (l *local) has(network overspan.NetworkID, slots []overspan.Slot) bool {
	return slices.ContainsFunc(l.inNetwork(network), func(a *overspan.Attachment) bool {
		return slices.ContainsFunc(a.Endpoint.Slots, func(s overspan.Slot) bool { return slices.Contains(slots, s) })
	})
}
