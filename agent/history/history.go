// Package history decides which past a node goes by: what etcd tells, what this node
// remembers while etcd may have lost it, or what the journal holds until etcd answers.
// Where etcd has lost its past, it freezes the cluster.
package history

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

// Config is what a History looks at and acts on.
type Config struct {
	Log     *slog.Logger
	KV      store.KV
	Keys    store.Keys
	Journal *store.Journal
	Mirror  *store.Mirror
	Local   *local.Inventory
	Self    overspan.NodeID
	Name    string             // of this node
	Saved   *overspan.Snapshot // the journal's; nil if it has none

	// Alone runs f while this node has no session and none can be opened. Within it,
	// Restart says that the revisions seen so far are void.
	Alone   func(ctx context.Context, f func(context.Context) error) error
	Restart func(context.Context)

	Due chan struct{} // size 1: endpoints may have to be published again
}

// A History tells what this node goes by. Its outlook decides that, from what the mirror
// shows; the History alone acts on it.
type History struct {
	cfg Config

	changed chan struct{} // size 1: what is shown may have changed
	work    chan struct{} // size 1: for Run

	mu       sync.Mutex // guards all below; the mirror's and local's are taken under it
	outlook  outlook
	stale    bool                  // the journal's snapshot may be shown
	called   bool                  // names may be answered from it
	disowned []overspan.Attachment // to be written to the journal
}

// New makes a History; Run runs it.
func New(cfg Config) *History {
	return &History{
		cfg:     cfg,
		changed: make(chan struct{}, 1),
		work:    make(chan struct{}, 1),
		outlook: outlook{saved: cfg.Saved, accepted: cfg.Journal.Identity().Accepted},
	}
}

// Changed is sent to when what is shown may have changed; one goroutine may receive.
func (h *History) Changed() <-chan struct{} { return h.changed }

// Knowledge returns what this node knows now.
func (h *History) Knowledge() Knowledge {
	h.mu.Lock()
	defer h.mu.Unlock()
	k := Knowledge{Doubted: h.cfg.Mirror.Doubted()} // first: it closes if what follows is of a later history
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
	if h.cfg.Mirror.Doubt() == "" {
		k.Etcd = now.newest
	}
	return k
}

// looked takes in what the mirror shows now, and returns the outlook then.
func (h *History) looked() outlook {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.look()
	return h.outlook
}

// look takes in what the mirror shows now; mu is held.
func (h *History) look() {
	if now := h.cfg.Mirror.Trusted(); !h.outlook.has(now) {
		h.turn(h.outlook.take(now, h.cfg.Self, h.cfg.Local.Attachments()))
	}
}

// turn goes over to another outlook, and does what is to be done about it; mu is held.
func (h *History) turn(next outlook, do reaction) {
	h.outlook = next
	if do.Suspect != "" {
		h.cfg.Mirror.Suspect(do.Suspect)
	}
	if do.Disown {
		h.disowned = append(h.disowned, h.cfg.Local.Disown()...)
	}
	if do.Disown || do.Ask {
		await.Wake(h.work)
	}
}

// AllowSaved lets the journal's snapshot stand in for one of etcd, and reports
// whether there is one.
func (h *History) AllowSaved() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stale = true
	return h.outlook.saved != nil
}

// AllowCalling lets names be answered from the journal's snapshot.
func (h *History) AllowCalling() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.called = true
}

// Registered is told of each new session: its registration is known, unless it
// is one of a history that came to be doubted as it was opened.
func (h *History) Registered() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cfg.Mirror.Doubt() == "" {
		h.outlook = h.outlook.registered()
	}
}

// Forgotten is told of a session whose last transaction etcd has forgotten. Where
// it is older than a loss that is known already, that is no other.
func (h *History) Forgotten(why string) {
	if !h.Knowledge().Anew {
		h.cfg.Mirror.Suspect(why)
	}
}

// persist writes to the journal what was disowned; what cannot be written is
// tried again when there is more. Until all is, NoteSeen notes nothing.
func (h *History) persist() {
	h.mu.Lock()
	disowned := slices.Clone(h.disowned)
	h.mu.Unlock()
	var errs []error
	for _, a := range disowned {
		if now, here := h.cfg.Local.Attachment(a.Endpoint.ID); here && now.Registration == 0 {
			errs = append(errs, h.cfg.Journal.RewriteAttachment(now)) // it may be detached at this moment
		}
	}
	if err := errors.Join(errs...); err != nil {
		h.cfg.Log.Error("cannot note in the journal that endpoints are to be published again", "error", err)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.disowned = h.disowned[len(disowned):]
}

// NoteSeen keeps in the journal which etcd is followed, how far, and the
// acceptances. What a restarted agent needs to remember must be in the journal
// before.
func (h *History) NoteSeen(last store.Identity) store.Identity {
	now, trusted := h.seen()
	if !trusted || now == last {
		return last
	}
	// Not under the lock: who reads a snapshot does not wait for the disk. What
	// was true of etcd before a doubt stays true of it.
	if err := h.cfg.Journal.SetSeen(now); err != nil {
		h.cfg.Log.Error("cannot note in the journal which etcd is followed", "error", err)
		return last
	}
	return now
}

// seen returns which etcd is followed and how far; false while that must not be
// noted.
func (h *History) seen() (store.Identity, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	cluster, revision := h.cfg.Mirror.Seen()
	claimed, _ := h.cfg.Mirror.Claimed()
	now := store.Identity{ClusterID: cluster, Revision: revision, Accepted: h.outlook.accepted, Claimed: claimed}
	return now, cluster != 0 && len(h.disowned) == 0 && h.cfg.Mirror.Doubt() == ""
}
