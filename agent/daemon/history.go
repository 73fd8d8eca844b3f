package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/store"
)

// history decides what this node goes by: what the mirror shows, or, where etcd
// may have lost its past, memory and what etcd shows beside it. It holds back a
// snapshot that lacks what this node has written until etcd was asked why.
//
//	doubt → memory → {not frozen} meta/frozen put → the mirror starts anew
//	      → memory merged with what etcd has now → accepted: memory ends
type history struct {
	log     *slog.Logger
	kv      store.KV
	keys    store.Keys
	journal *store.Journal
	mirror  *store.Mirror
	local   *local
	self    overspan.NodeID
	name    string

	// alone runs f while this node has no session and none can be opened. Within it,
	// restart says that the revisions seen so far are void.
	alone   func(ctx context.Context, f func(context.Context) error) error
	restart func(context.Context)

	changed chan struct{} // size 1: what is shown may have changed
	work    chan struct{} // size 1: for run
	due     chan struct{} // size 1: endpoints may have to be published again

	mu       sync.Mutex         // guards all below; the mirror's and local's are taken under it
	saved    *overspan.Snapshot // the journal's, for the case that etcd is away; nil once etcd has told something
	stale    bool               // saved may be shown
	called   bool               // names may be answered from saved
	newest   *overspan.Snapshot // of the mirror, as it was looked at last
	shown    *overspan.Snapshot
	memory   *overspan.Snapshot               // nil: etcd is taken at its word
	accepted uint64                           // acceptances that this node knows
	anew     bool                             // etcd may hold a registration that this node does not know
	held     *overspan.Snapshot               // not shown yet: it lacks what this node has written
	lacking  []overspan.Endpoint              // what held does not show
	excused  map[overspan.EndpointID]struct{} // lacking, and rightly gone, as etcd said
	expelled int64                            // a registration that is rightly gone, as etcd said
	disowned []overspan.Attachment            // to be written to the journal
}

// newHistory returns the history of a daemon whose other parts are made. Saved is
// the journal's snapshot; nil if it has none.
func newHistory(d *Daemon, saved *overspan.Snapshot) *history {
	return &history{
		log:      d.log,
		kv:       d.kv,
		keys:     d.keys,
		journal:  d.journal,
		mirror:   d.mirror,
		local:    d.local,
		self:     d.Self(),
		name:     d.cfg.NodeName,
		alone:    d.registrar.alone,
		restart:  d.beginAnew,
		changed:  make(chan struct{}, 1),
		work:     make(chan struct{}, 1),
		due:      d.publisher.due,
		saved:    saved,
		accepted: d.journal.Identity().Accepted,
	}
}

// allowSaved lets the journal's snapshot stand in for one of etcd, and reports
// whether there is one.
func (h *history) allowSaved() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stale = true
	return h.saved != nil
}

// snapshot returns what this node goes by; nil before anything is known.
func (h *history) snapshot() *overspan.Snapshot {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.shownOrSaved(h.stale)
}

// shownOrSaved returns what is shown, or else the journal's snapshot if that may
// stand in; mu is held.
func (h *history) shownOrSaved(may bool) *overspan.Snapshot {
	h.look()
	if h.shown == nil && may {
		return h.saved
	}
	return h.shown
}

// allowCalling lets names be answered from the journal's snapshot.
func (h *history) allowCalling() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.called = true
}

// calling returns what names are answered from; nil before anything is known.
func (h *history) calling() *overspan.Snapshot {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.shownOrSaved(h.stale || h.called)
}

// told returns what this node goes by once etcd has told something, or was
// doubted.
func (h *history) told() *overspan.Snapshot {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.look()
	return h.shown
}

// believed returns the newest snapshot of etcd alone that is trusted; nil if
// there is none.
func (h *history) believed() *overspan.Snapshot {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.look()
	if h.mirror.Doubt() != "" {
		return nil
	}
	return h.newest
}

// holds reports whether a snapshot is held back.
func (h *history) holds() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.look()
	return h.held != nil
}

// remembered returns the last snapshot before etcd lost its past; nil while it
// is taken at its word.
func (h *history) remembered() *overspan.Snapshot {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.memory
}

// trusts reports whether etcd is taken at its word, or what it lost is known to
// all, so that this node may register there; doubted closes when it is no more.
func (h *history) trusts() (doubted <-chan struct{}, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	doubted = h.mirror.Doubted()
	h.look()
	return doubted, h.newest != nil && h.newest == h.mirror.Trusted()
}

// forgiving reports whether this node may take up a registration that it does
// not know, since etcd has gone back to one.
func (h *history) forgiving() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.anew
}

// registered is told of each new session: its registration is known, unless it
// is one of a history that came to be doubted as it was opened.
func (h *history) registered() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mirror.Doubt() == "" {
		h.anew = false
	}
}

// forgotten is told of a session whose last transaction etcd has forgotten. Where
// it is older than a loss that is known already, that is no other.
func (h *history) forgotten(why string) {
	if !h.forgiving() {
		h.mirror.Suspect(why)
	}
}

// known returns how many acceptances this node knows.
func (h *history) known() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.accepted
}

// look takes in what the mirror shows now; mu is held.
func (h *history) look() {
	now := h.mirror.Trusted()
	if now == nil || now == h.newest || now == h.held {
		return
	}
	if h.memory == nil && h.newest != nil {
		if why := turned(h.accepted, now); why != "" {
			// What the mirror has may be of two histories: it has to start anew.
			h.mirror.Suspect(why)
			return
		}
	}
	if h.memory == nil && now.Frozen == nil && now.Accepted <= h.accepted && h.lacks(now) {
		wake(h.work)
		return
	}
	h.held = nil
	switch {
	case now.Frozen != nil && h.memory == nil && h.newest != nil:
		// Others have found out first. This node's session is of the history
		// before and ends, as it does where the node finds out by itself.
		h.mirror.Suspect(cmp.Or(now.Frozen.Reason, "the cluster is frozen"))
		return
	case now.Frozen != nil && h.memory == nil:
		h.remember()
	case now.Frozen == nil && h.memory != nil:
		h.memory = nil
	case now.Accepted > h.accepted && h.newest != nil:
		// An operator has spoken while this node did not listen. Its watches and
		// its session are of the history before: what they miss would look like
		// another loss, and freeze the cluster again.
		h.mirror.Suspect("etcd had lost its past, and an operator has accepted that")
		return
	case now.Accepted > h.accepted:
		// So it was before this agent has seen anything of etcd.
		h.disown()
	}
	if now.Frozen == nil {
		h.accepted = max(h.accepted, now.Accepted)
	}
	h.newest, h.shown, h.saved = now, now, nil
	if h.memory != nil {
		h.shown = recall(h.memory, now)
	}
}

// turned says why a snapshot that follows others tells of an etcd that has lost
// its past; "" if it does not. Accepted is what this node knew of.
func turned(accepted uint64, now *overspan.Snapshot) string {
	switch {
	case now.Frozen != nil:
		return fmt.Sprintf("node %s has frozen the cluster: %s", now.Frozen.NodeName, now.Frozen.Reason)
	case now.Accepted > accepted:
		return "an operator has accepted what etcd holds, and this node did not see it frozen"
	}
	return ""
}

// lacks holds a snapshot that shows less of this node than it has written; mu is
// held.
func (h *history) lacks(now *overspan.Snapshot) bool {
	lacking := suspects(h.newest, now, h.self, h.local.attached())
	for _, e := range lacking {
		if _, excused := h.excused[e.ID]; !excused {
			h.held, h.lacking = now, lacking
			return true
		}
	}
	if unregistered(h.shown, now, h.self) && h.shown.Nodes[h.self].CreateRevision != h.expelled {
		h.held, h.lacking = now, nil
		return true
	}
	return false
}

// remember begins a memory; mu is held.
func (h *history) remember() {
	switch {
	case h.shown != nil:
		h.memory = h.shown
	case h.saved != nil:
		h.memory = h.saved
	default:
		h.memory = &overspan.Snapshot{}
	}
	h.disown()
}

// disown forgets under which registration the records of this node's endpoints
// were written: each is to be looked for, and published again where it is gone.
// mu is held.
func (h *history) disown() {
	h.disowned = append(h.disowned, h.local.disown()...)
	h.anew = true
	h.excused = nil
	wake(h.work)
}

// persist writes to the journal what was disowned; what cannot be written is
// tried again when there is more. Until all is, noteSeen notes nothing.
func (h *history) persist() {
	h.mu.Lock()
	disowned := slices.Clone(h.disowned)
	h.mu.Unlock()
	var errs []error
	for _, a := range disowned {
		if now, here := h.local.attachment(a.Endpoint.ID); here && now.Registration == 0 {
			errs = append(errs, h.journal.RewriteAttachment(now)) // it may be detached at this moment
		}
	}
	if err := errors.Join(errs...); err != nil {
		h.log.Error("cannot note in the journal that endpoints are to be published again", "error", err)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.disowned = h.disowned[len(disowned):]
}

// noteSeen keeps in the journal which etcd is followed, how far, and the
// acceptances. What a restarted agent needs to remember must be in the journal
// before.
func (h *history) noteSeen(last store.Identity) store.Identity {
	now, trusted := h.seen()
	if !trusted || now == last {
		return last
	}
	// Not under the lock: who reads a snapshot does not wait for the disk. What
	// was true of etcd before a doubt stays true of it.
	if err := h.journal.SetSeen(now); err != nil {
		h.log.Error("cannot note in the journal which etcd is followed", "error", err)
		return last
	}
	return now
}

// seen returns which etcd is followed and how far; false while that must not be
// noted.
func (h *history) seen() (store.Identity, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	cluster, revision := h.mirror.Seen()
	claimed, _ := h.mirror.Claimed()
	now := store.Identity{ClusterID: cluster, Revision: revision, Accepted: h.accepted, Claimed: claimed}
	return now, cluster != 0 && len(h.disowned) == 0 && h.mirror.Doubt() == ""
}
