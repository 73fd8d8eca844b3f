package daemon

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/await"
	"github.com/overspan/overspan/agent/local"
	"github.com/overspan/overspan/store"
)

// history tells what this node goes by. Outlook decides that, from what the mirror
// shows; history alone acts on it.
type history struct {
	log     *slog.Logger
	kv      store.KV
	keys    store.Keys
	journal *store.Journal
	mirror  *store.Mirror
	local   *local.Inventory
	self    overspan.NodeID
	name    string

	// alone runs f while this node has no session and none can be opened. Within it,
	// restart says that the revisions seen so far are void.
	alone   func(ctx context.Context, f func(context.Context) error) error
	restart func(context.Context)

	changed chan struct{} // size 1: what is shown may have changed
	work    chan struct{} // size 1: for run
	due     chan struct{} // size 1: endpoints may have to be published again

	mu       sync.Mutex // guards all below; the mirror's and local's are taken under it
	outlook  outlook
	stale    bool                  // the journal's snapshot may be shown
	called   bool                  // names may be answered from it
	disowned []overspan.Attachment // to be written to the journal
}

// newHistory returns the history of a daemon whose other parts are made. Saved is
// the journal's snapshot; nil if it has none.
func newHistory(d *Daemon, saved *overspan.Snapshot) *history {
	return &history{
		log:     d.log,
		kv:      d.kv,
		keys:    d.keys,
		journal: d.journal,
		mirror:  d.mirror,
		local:   d.local,
		self:    d.Self(),
		name:    d.cfg.NodeName,
		alone:   d.registrar.alone,
		restart: d.beginAnew,
		changed: make(chan struct{}, 1),
		work:    make(chan struct{}, 1),
		due:     d.publisher.due,
		outlook: outlook{saved: saved, accepted: d.journal.Identity().Accepted},
	}
}

// knowledge returns what this node knows now.
func (h *history) knowledge() knowledge {
	h.mu.Lock()
	defer h.mu.Unlock()
	k := knowledge{Doubted: h.mirror.Doubted()} // first: it closes if what follows is of a later history
	h.look()
	now := h.outlook
	k.Shown, k.Told, k.Names, k.Memory = now.shown, now.shown, now.shown, now.memory
	k.Held, k.Anew, k.Accepted = now.held != nil, now.anew, now.accepted
	if now.shown == nil && h.stale {
		k.Shown = now.saved
	}
	if now.shown == nil && (h.stale || h.called) {
		k.Names = now.saved
	}
	if h.mirror.Doubt() == "" {
		k.Etcd = now.newest
	}
	return k
}

// looked takes in what the mirror shows now, and returns the outlook then.
func (h *history) looked() outlook {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.look()
	return h.outlook
}

// look takes in what the mirror shows now; mu is held.
func (h *history) look() {
	if now := h.mirror.Trusted(); !h.outlook.has(now) {
		h.turn(h.outlook.take(now, h.self, h.local.Attachments()))
	}
}

// turn goes over to another outlook, and does what is to be done about it; mu is held.
func (h *history) turn(next outlook, do reaction) {
	h.outlook = next
	if do.Suspect != "" {
		h.mirror.Suspect(do.Suspect)
	}
	if do.Disown {
		h.disowned = append(h.disowned, h.local.Disown()...)
	}
	if do.Disown || do.Ask {
		await.Wake(h.work)
	}
}

// allowSaved lets the journal's snapshot stand in for one of etcd, and reports
// whether there is one.
func (h *history) allowSaved() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stale = true
	return h.outlook.saved != nil
}

// allowCalling lets names be answered from the journal's snapshot.
func (h *history) allowCalling() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.called = true
}

// registered is told of each new session: its registration is known, unless it
// is one of a history that came to be doubted as it was opened.
func (h *history) registered() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mirror.Doubt() == "" {
		h.outlook = h.outlook.registered()
	}
}

// forgotten is told of a session whose last transaction etcd has forgotten. Where
// it is older than a loss that is known already, that is no other.
func (h *history) forgotten(why string) {
	if !h.knowledge().Anew {
		h.mirror.Suspect(why)
	}
}

// persist writes to the journal what was disowned; what cannot be written is
// tried again when there is more. Until all is, noteSeen notes nothing.
func (h *history) persist() {
	h.mu.Lock()
	disowned := slices.Clone(h.disowned)
	h.mu.Unlock()
	var errs []error
	for _, a := range disowned {
		if now, here := h.local.Attachment(a.Endpoint.ID); here && now.Registration == 0 {
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
	now := store.Identity{ClusterID: cluster, Revision: revision, Accepted: h.outlook.accepted, Claimed: claimed}
	return now, cluster != 0 && len(h.disowned) == 0 && h.mirror.Doubt() == ""
}
