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
	mu          sync.Mutex // guards all below
	version     uint64     // grows with each change
	sandboxes   *chronicle[overspan.SandboxID, overspan.Sandbox]
	attachments *chronicle[overspan.EndpointID, overspan.Attachment]
	homes       map[overspan.SandboxID]map[overspan.EndpointID]struct{} // of each sandbox
	shared      map[overspan.SandboxID]struct{}                         // sandboxes with several endpoints
	ports       map[overspan.SandboxID][]overspan.Port                  // of the sandboxes that publish some; replaced, never changed
}

func newLocal(sandboxes []overspan.Sandbox, attachments []overspan.Attachment) *local {
	l := &local{
		homes:  map[overspan.SandboxID]map[overspan.EndpointID]struct{}{},
		shared: map[overspan.SandboxID]struct{}{},
		ports:  map[overspan.SandboxID][]overspan.Port{},
		sandboxes: newChronicle(
			func(s *overspan.Sandbox) overspan.SandboxID { return s.ID },
			func(s *overspan.Sandbox) time.Time { return s.Created }, nil),
		attachments: newChronicle(
			func(a *overspan.Attachment) overspan.EndpointID { return a.Endpoint.ID },
			func(a *overspan.Attachment) time.Time { return a.Endpoint.Created }, attachments),
	}
	for i := range attachments {
		l.house(attachments[i])
	}
	for _, s := range sandboxes {
		if l.homes[s.ID] == nil {
			s.Ports = nil // the agent died between the last endpoint's end and theirs
		}
		l.enter(s)
	}
	return l
}

// enter adds a sandbox, or what has become of it.
func (l *local) enter(s overspan.Sandbox) {
	l.sandboxes.put(s)
	if slices.Equal(l.ports[s.ID], s.Ports) {
		return
	}
	l.ports = maps.Clone(l.ports)
	if l.ports[s.ID] = s.Ports; len(s.Ports) == 0 {
		delete(l.ports, s.ID)
	}
}

// house notes that a sandbox has an endpoint.
func (l *local) house(a overspan.Attachment) {
	if l.homes[a.Sandbox] == nil {
		l.homes[a.Sandbox] = map[overspan.EndpointID]struct{}{}
	}
	l.homes[a.Sandbox][a.Endpoint.ID] = struct{}{}
	if len(l.homes[a.Sandbox]) > 1 {
		l.shared[a.Sandbox] = struct{}{}
	}
}

// leave is the opposite of house. With its last endpoint a sandbox publishes
// nothing any more.
func (l *local) leave(a overspan.Attachment) {
	delete(l.homes[a.Sandbox], a.Endpoint.ID)
	switch len(l.homes[a.Sandbox]) {
	case 0:
		delete(l.homes, a.Sandbox)
		if sb, known := l.sandboxes.get(a.Sandbox); known && len(sb.Ports) > 0 {
			sb.Ports = nil
			l.enter(sb)
		}
	case 1:
		delete(l.shared, a.Sandbox)
	}
}

func (l *local) putSandbox(s overspan.Sandbox) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.version++
	l.enter(s)
}

func (l *local) dropSandbox(id overspan.SandboxID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.version++
	l.sandboxes.remove(id)
}

func (l *local) putAttachment(a overspan.Attachment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.version++
	l.attachments.put(a)
	l.house(a)
}

// putAttachmentIn notes an attachment together with the sandbox that it is in.
func (l *local) putAttachmentIn(s overspan.Sandbox, a overspan.Attachment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.version++
	l.enter(s)
	l.attachments.put(a)
	l.house(a)
}

// dropAttachment reports whether the attachment was still there, so that of
// two who end it at once only one goes on. Its sandbox publishes these ports from
// then on.
func (l *local) dropAttachment(id overspan.EndpointID, ports []overspan.Port) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a, there := l.attachments.get(id); there {
		if sb, known := l.sandboxes.get(a.Sandbox); known && !slices.Equal(sb.Ports, ports) {
			sb.Ports = ports
			l.enter(sb)
		}
	}
	return l.drop(id)
}

// dropAttachmentIn takes back putAttachmentIn: the sandbox is as it was.
func (l *local) dropAttachmentIn(s overspan.Sandbox, id overspan.EndpointID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.enter(s)
	l.drop(id)
}

func (l *local) drop(id overspan.EndpointID) bool {
	l.version++
	if a, there := l.attachments.get(id); there {
		l.leave(a)
	}
	return l.attachments.remove(id)
}

// register notes an endpoint's record as it stands, and under which registration;
// false if the endpoint is not attached any more.
func (l *local) register(e overspan.Endpoint, registration int64) (overspan.Attachment, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a, there := l.attachments.get(e.ID)
	if !there {
		return a, false
	}
	l.version++
	a.Endpoint, a.Registration = e, registration
	l.attachments.put(a)
	return a, true
}

func (l *local) sandbox(id overspan.SandboxID) (overspan.Sandbox, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sandboxes.get(id)
}

// portsOf returns the ports that a sandbox publishes; nobody changes the list.
func (l *local) portsOf(id overspan.SandboxID) []overspan.Port {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ports[id]
}

func (l *local) attachment(id overspan.EndpointID) (overspan.Attachment, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.attachments.get(id)
}

// A localView is what local holds at one moment. All of it is shared: nobody
// changes it.
type localView struct {
	version     uint64
	sandboxes   []overspan.Sandbox    // oldest first
	attachments []overspan.Attachment // oldest first
	siblings    []overspan.Attachment // those of sandboxes that have several
	ports       map[overspan.SandboxID][]overspan.Port
}

func (l *local) view() localView {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := localView{version: l.version, sandboxes: l.sandboxes.all(), attachments: l.attachments.all(), ports: l.ports}
	for sb := range l.shared {
		for id := range l.homes[sb] {
			a, _ := l.attachments.get(id)
			v.siblings = append(v.siblings, a)
		}
	}
	return v
}

// allSandboxes returns the sandboxes, oldest first; nobody changes the list.
func (l *local) allSandboxes() []overspan.Sandbox {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sandboxes.all()
}

// disown forgets under which registration the attachments' records were
// written, and at which revisions. It returns those that it changed.
func (l *local) disown() []overspan.Attachment {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []overspan.Attachment
	for _, a := range l.attachments.all() {
		if !a.Committed || a.Registration == 0 {
			continue
		}
		a.Registration, a.Endpoint.CreateRevision, a.Endpoint.ModRevision = 0, 0, 0
		l.attachments.put(a)
		out = append(out, a)
	}
	if len(out) > 0 {
		l.version++
	}
	return out
}

// allAttachments returns the attachments, oldest first; nobody changes the list.
func (l *local) allAttachments() []overspan.Attachment {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.attachments.all()
}

// has reports whether an endpoint here owns one of some slots of a network.
func (l *local) has(network overspan.NetworkID, slots []overspan.Slot) bool {
	return slices.ContainsFunc(l.inNetwork(network), func(a overspan.Attachment) bool {
		return slices.ContainsFunc(a.Endpoint.Slots, func(s overspan.Slot) bool { return slices.Contains(slots, s) })
	})
}

// inNetwork returns the attachments to one network, oldest first.
func (l *local) inNetwork(id overspan.NetworkID) []overspan.Attachment {
	return l.filter(func(a overspan.Attachment) bool { return a.Endpoint.Network == id })
}

// inSandbox returns the attachments of one sandbox, oldest first.
func (l *local) inSandbox(id overspan.SandboxID) []overspan.Attachment {
	return l.filter(func(a overspan.Attachment) bool { return a.Sandbox == id })
}

// filter returns the attachments that keep says yes to, oldest first.
func (l *local) filter(keep func(overspan.Attachment) bool) []overspan.Attachment {
	var out []overspan.Attachment
	for _, a := range l.allAttachments() {
		if keep(a) {
			out = append(out, a)
		}
	}
	return out
}
