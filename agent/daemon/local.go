package daemon

import (
	"maps"
	"slices"
	"sync"

	"github.com/overspan/overspan"
)

// local is what this node alone knows: its sandboxes and which endpoint is
// plugged in where. The journal holds the same on disk; local is what the
// planner reads.
type local struct {
	mu          sync.Mutex // guards all below
	version     uint64     // grows with each change
	sandboxes   map[overspan.SandboxID]overspan.Sandbox
	attachments map[overspan.EndpointID]overspan.Attachment
}

func newLocal(sandboxes []overspan.Sandbox, attachments []overspan.Attachment) *local {
	l := &local{
		sandboxes:   map[overspan.SandboxID]overspan.Sandbox{},
		attachments: map[overspan.EndpointID]overspan.Attachment{},
	}
	for _, s := range sandboxes {
		l.sandboxes[s.ID] = s
	}
	for _, a := range attachments {
		l.attachments[a.Endpoint.ID] = a
	}
	return l
}

func (l *local) putSandbox(s overspan.Sandbox) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.version++
	l.sandboxes[s.ID] = s
}

func (l *local) dropSandbox(id overspan.SandboxID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.version++
	delete(l.sandboxes, id)
}

func (l *local) putAttachment(a overspan.Attachment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.version++
	l.attachments[a.Endpoint.ID] = a
}

// dropAttachment reports whether the attachment was still there, so that of
// two who end it at once only one goes on.
func (l *local) dropAttachment(id overspan.EndpointID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, there := l.attachments[id]
	l.version++
	delete(l.attachments, id)
	return there
}

// register notes an endpoint's record as it stands, and under which registration;
// false if the endpoint is not attached any more.
func (l *local) register(e overspan.Endpoint, registration int64) (overspan.Attachment, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a, there := l.attachments[e.ID]
	if !there {
		return a, false
	}
	l.version++
	a.Endpoint, a.Registration = e, registration
	l.attachments[e.ID] = a
	return a, true
}

func (l *local) sandbox(id overspan.SandboxID) (overspan.Sandbox, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, ok := l.sandboxes[id]
	return s, ok
}

func (l *local) attachment(id overspan.EndpointID) (overspan.Attachment, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a, ok := l.attachments[id]
	return a, ok
}

// all returns everything of one moment: the version, and sandboxes and
// attachments, oldest first.
func (l *local) all() (version uint64, sandboxes []overspan.Sandbox, attachments []overspan.Attachment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.version, l.sortedSandboxes(), l.sortedAttachments(func(overspan.Attachment) bool { return true })
}

// allSandboxes returns the sandboxes, oldest first.
func (l *local) allSandboxes() []overspan.Sandbox {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sortedSandboxes()
}

// sortedSandboxes is called under mu.
func (l *local) sortedSandboxes() []overspan.Sandbox {
	return slices.SortedFunc(maps.Values(l.sandboxes), func(a, b overspan.Sandbox) int {
		return a.Created.Compare(b.Created)
	})
}

// standing returns the attachments whose records were written under a known
// registration, in no order.
func (l *local) standing() []overspan.Attachment {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]overspan.Attachment, 0, len(l.attachments))
	for _, a := range l.attachments {
		if a.Committed && a.Registration != 0 {
			out = append(out, a)
		}
	}
	return out
}

// disown forgets under which registration the attachments' records were
// written, and at which revisions. It returns those that it changed.
func (l *local) disown() []overspan.Attachment {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []overspan.Attachment
	for id, a := range l.attachments {
		if !a.Committed || a.Registration == 0 {
			continue
		}
		a.Registration, a.Endpoint.CreateRevision, a.Endpoint.ModRevision = 0, 0, 0
		l.attachments[id] = a
		out = append(out, a)
	}
	if len(out) > 0 {
		l.version++
	}
	return out
}

// allAttachments returns the attachments, oldest first.
func (l *local) allAttachments() []overspan.Attachment {
	return l.filter(func(overspan.Attachment) bool { return true })
}

// inNetwork returns the attachments to one network, oldest first.
func (l *local) inNetwork(id overspan.NetworkID) []overspan.Attachment {
	return l.filter(func(a overspan.Attachment) bool { return a.Endpoint.Network == id })
}

// inSandbox returns the attachments of one sandbox, oldest first.
func (l *local) inSandbox(id overspan.SandboxID) []overspan.Attachment {
	return l.filter(func(a overspan.Attachment) bool { return a.Sandbox == id })
}

func (l *local) filter(keep func(overspan.Attachment) bool) []overspan.Attachment {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sortedAttachments(keep)
}

// sortedAttachments is called under mu.
func (l *local) sortedAttachments(keep func(overspan.Attachment) bool) []overspan.Attachment {
	var out []overspan.Attachment
	for _, a := range l.attachments {
		if keep(a) {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, func(a, b overspan.Attachment) int {
		return a.Endpoint.Created.Compare(b.Endpoint.Created)
	})
	return out
}
