package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/store"
)

// freezeEvery is the pause between two tries to freeze the cluster, or to look
// whether etcd has lost what it does not show.
const freezeEvery = time.Second

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

	// alone runs f while this node has no session, and none is opened. Restart is
	// told, within it, that the revisions of before are over.
	alone   func(ctx context.Context, f func(context.Context) error) error
	restart func(context.Context)

	changed chan struct{} // size 1: what is shown may have changed
	work    chan struct{} // size 1: for run
	due     chan struct{} // size 1: endpoints may have to be published again

	mu       sync.Mutex         // guards all below; the mirror's and local's are taken under it
	saved    *overspan.Snapshot // the journal's, for the case that etcd is away
	stale    bool               // saved may be shown
	newest   *overspan.Snapshot // of the mirror, as it was looked at last
	shown    *overspan.Snapshot
	memory   *overspan.Snapshot // nil: etcd is taken at its word
	accepted uint64             // acceptances that this node knows
	anew     bool               // the registration that etcd has may be one that this node does not know
	held     *overspan.Snapshot // not shown yet: it lacks what this node has written
	lacking  []overspan.Endpoint
	excused  map[overspan.EndpointID]struct{} // lacking, and etcd told that it has not lost them
	expelled int64                            // registration that etcd told that it has not lost
	disowned []overspan.Attachment            // to be written to the journal
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
	h.look()
	if h.shown == nil && h.stale {
		return h.saved
	}
	return h.shown
}

// told returns what this node goes by once etcd has told something, or was
// doubted.
func (h *history) told() *overspan.Snapshot {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.look()
	return h.shown
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

// registered is told of each new session: its registration is known.
func (h *history) registered() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.anew = false
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
	if h.memory == nil && now.Frozen == nil && now.Accepted <= h.accepted && h.lacks(now) {
		wake(h.work)
		return
	}
	h.held = nil
	switch {
	case now.Frozen != nil && h.memory == nil:
		h.remember()
	case now.Frozen == nil && h.memory != nil:
		h.memory = nil
	case now.Accepted > h.accepted:
		// An operator has spoken while this node did not listen.
		h.disown()
	}
	if now.Frozen == nil {
		h.accepted = max(h.accepted, now.Accepted)
	}
	h.newest, h.shown = now, now
	if h.memory != nil {
		h.shown = recall(h.memory, now)
	}
}

// lacks holds a snapshot that shows less of this node than it has written; mu is
// held.
func (h *history) lacks(now *overspan.Snapshot) bool {
	lacking := suspects(h.newest, now, h.self, h.local.standing())
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

// run deals with doubts until ctx ends.
func (h *history) run(ctx context.Context) error {
	for {
		doubted := h.mirror.Doubted()
		h.snapshot()
		select {
		case <-ctx.Done():
			return nil
		case <-doubted:
			if err := h.begin(ctx); err != nil {
				return err
			}
		case <-h.work:
			h.persist()
			h.ask(ctx)
		}
		wake(h.due)
		wake(h.changed)
	}
}

// begin deals with an etcd that has lost its past: it freezes the cluster, unless
// an operator has accepted that loss already, and follows what etcd has now.
func (h *history) begin(ctx context.Context) error {
	why := overspan.Freeze{Reason: h.mirror.Doubt(), Node: h.self, NodeName: h.name, Since: time.Now().UTC()}
	h.log.Error("etcd has lost its past: nothing is deleted from the kernel, and the cluster is frozen until an operator accepts what etcd holds", "sign", why.Reason)
	h.mu.Lock()
	h.remember()
	h.newest, h.held = nil, nil
	h.shown = unproven(h.memory, why)
	memory, accepted := h.memory, h.accepted
	h.mu.Unlock()
	h.persist()
	wake(h.changed)
	return h.alone(ctx, func(ctx context.Context) error {
		for {
			now, err := store.Freeze(ctx, h.kv, h.keys, store.FreezeRequest{Freeze: why, Meta: memory.Meta, Accepted: accepted})
			if err == nil && now > accepted {
				h.log.Warn("what etcd has lost was accepted while this node was away", "acceptances", now)
			}
			if err == nil {
				h.mirror.Renew()
				h.restart(ctx)
				return nil
			}
			h.log.Warn("cannot freeze the cluster; will try again", "error", err)
			if sleep(ctx, freezeEvery) != nil {
				return nil
			}
		}
	})
}

// ask finds out from etcd why a snapshot lacks what this node has written.
func (h *history) ask(ctx context.Context) {
	h.mu.Lock()
	h.look()
	held, lacking, shown := h.held, h.lacking, h.shown
	h.mu.Unlock()
	if held == nil {
		return
	}
	why, err := h.forgot(ctx, shown, held, lacking)
	switch {
	case h.mirror.Doubt() != "":
		return
	case err != nil:
		h.log.Warn("cannot tell why etcd lacks what this node has written; will ask again", "error", err)
		if sleep(ctx, freezeEvery) == nil {
			wake(h.work)
		}
		return
	case why != "":
		h.mirror.Suspect("etcd was rolled back: " + why)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.excused = map[overspan.EndpointID]struct{}{}
	for _, e := range lacking {
		h.excused[e.ID] = struct{}{}
	}
	if shown != nil && shown.Nodes[h.self] != nil {
		h.expelled = shown.Nodes[h.self].CreateRevision
	}
	h.held = nil
}

// forgot says what etcd has lost of this node's; "" if nothing. Etcd may be
// doubted afterwards for another reason.
func (h *history) forgot(ctx context.Context, shown, held *overspan.Snapshot, lacking []overspan.Endpoint) (why string, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestBound)
	defer cancel()
	if err := h.mirror.Check(ctx); err != nil {
		return "", err
	}
	node := held.Nodes[h.self]
	if node != nil && shown != nil && shown.Nodes[h.self] != nil && node.CreateRevision < shown.Nodes[h.self].CreateRevision {
		return "this node's registration is an older one", nil
	}
	if len(lacking) == 0 {
		return "", nil
	}
	lost, err := store.LostRecords(ctx, h.kv, h.keys, h.self, node.CreateRevision, lacking)
	for _, e := range lost {
		// One that was disconnected meanwhile is gone by this node's own hand.
		if a, here := h.local.attachment(e.ID); here && a.Registration != 0 {
			return fmt.Sprintf("the record of %s (%s) is gone, and nobody took it", e.Name, e.Addrs()[0]), nil
		}
	}
	return "", err
}

// persist writes to the journal what was disowned.
func (h *history) persist() {
	h.mu.Lock()
	disowned := h.disowned
	h.disowned = nil
	h.mu.Unlock()
	var errs []error
	for _, a := range disowned {
		if now, here := h.local.attachment(a.Endpoint.ID); here && now.Registration == 0 {
			errs = append(errs, h.journal.PutAttachment(now))
		}
	}
	if err := errors.Join(errs...); err != nil {
		h.log.Error("cannot note in the journal that endpoints are to be published again", "error", err)
	}
}

// noteSeen keeps in the journal which etcd is followed, how far, and the
// acceptances. What a restarted agent needs to remember must be in the journal
// before.
func (h *history) noteSeen(last store.Identity) store.Identity {
	h.mu.Lock()
	defer h.mu.Unlock()
	cluster, revision := h.mirror.Seen()
	now := store.Identity{ClusterID: cluster, Revision: revision, Accepted: h.accepted}
	if cluster == 0 || now == last || len(h.disowned) > 0 || h.mirror.Doubt() != "" {
		return last
	}
	if err := h.journal.SetSeen(now.ClusterID, now.Revision, now.Accepted); err != nil {
		h.log.Error("cannot note in the journal which etcd is followed", "error", err)
		return last
	}
	return now
}
