package daemon

import (
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
}

func newLocal(sandboxes []overspan.Sandbox, attachments []overspan.Attachment) *local {
	return &local{
		sandboxes: newChronicle(
			func(s *overspan.Sandbox) overspan.SandboxID { return s.ID },
			func(s *overspan.Sandbox) time.Time { return s.Created }, sandboxes),
		attachments: newChronicle(
			func(a *overspan.Attachment) overspan.EndpointID { return a.Endpoint.ID },
			func(a *overspan.Attachment) time.Time { return a.Endpoint.Created }, attachments),
	}
}

func (l *local) putSandbox(s overspan.Sandbox) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.version++
	l.sandboxes.put(s)
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
}

// dropAttachment reports whether the attachment was still there, so that of
// two who end it at once only one goes on.
func (l *local) dropAttachment(id overspan.EndpointID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.version++
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

func (l *local) attachment(id overspan.EndpointID) (overspan.Attachment, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.attachments.get(id)
}

// all returns everything of one moment: the version, and sandboxes and
// attachments, oldest first. The lists are shared: nobody changes them.
func (l *local) all() (version uint64, sandboxes []overspan.Sandbox, attachments []overspan.Attachment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.version, l.sandboxes.all(), l.attachments.all()
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
