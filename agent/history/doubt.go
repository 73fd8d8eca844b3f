package history

import (
	"context"
	"fmt"
	"time"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/await"
	"github.com/overspan/overspan/store"
)

// freezeEvery is the pause between two tries to freeze the cluster, or to look
// whether etcd has lost what it does not show.
const freezeEvery = time.Second

// checkBound is how long etcd may take to say why.
const checkBound = 4 * time.Second

// Run deals with doubts until ctx ends.
func (h *History) Run(ctx context.Context) error {
	for {
		doubted := h.cfg.Mirror.Doubted()
		h.looked() // what nobody has looked at yet may lead to a doubt
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
		await.Wake(h.cfg.Due)
		await.Wake(h.changed)
	}
}

// begin deals with an etcd that has lost its past: it freezes the cluster, unless
// an operator has accepted that loss already, and follows what etcd has now.
func (h *History) begin(ctx context.Context) error {
	why := overspan.Freeze{Reason: h.cfg.Mirror.Doubt(), Node: h.cfg.Self, NodeName: h.cfg.Name, Since: time.Now().UTC()}
	h.cfg.Log.Error("etcd has lost its past: nothing is deleted from the kernel, and the cluster is frozen until an operator accepts what etcd holds", "sign", why.Reason)
	h.mu.Lock()
	h.turn(h.outlook.doubt(why))
	now := h.outlook
	h.mu.Unlock()
	h.persist()
	await.Wake(h.changed)
	return h.cfg.Alone(ctx, func(ctx context.Context) error {
		for {
			accepted, err := store.Freeze(ctx, h.cfg.KV, h.cfg.Keys, store.FreezeRequest{Freeze: why, Meta: now.memory.Meta, Accepted: now.accepted})
			if err == nil && accepted > now.accepted {
				h.cfg.Log.Warn("what etcd has lost was accepted while this node was away", "acceptances", accepted)
			}
			if err == nil {
				h.forsake()
				h.cfg.Mirror.Renew()
				h.cfg.Restart(ctx)
				return nil
			}
			h.cfg.Log.Warn("cannot freeze the cluster; will try again", "error", err)
			if await.Sleep(ctx, freezeEvery) != nil {
				return nil
			}
		}
	})
}

// forsake disowns once more, now that nothing is on its way to etcd: what was when the
// doubt came may have been noted since, as of a registration that is void.
func (h *History) forsake() {
	h.mu.Lock()
	h.turn(h.outlook.disown())
	h.mu.Unlock()
	h.persist()
}

// ask finds out from etcd why a snapshot lacks what this node has written.
func (h *History) ask(ctx context.Context) {
	now := h.looked()
	if now.held == nil {
		return
	}
	verdict, err := h.judge(ctx, now)
	switch {
	case h.cfg.Mirror.Doubt() != "":
	case err != nil:
		h.cfg.Log.Warn("cannot tell why etcd lacks what this node has written; will ask again", "error", err)
		if await.Sleep(ctx, freezeEvery) == nil {
			await.Wake(h.work)
		}
	case verdict.forgot != "":
		h.cfg.Mirror.Suspect("etcd was rolled back: " + verdict.forgot)
	case !verdict.told:
		h.mu.Lock()
		h.outlook = h.outlook.excuse(now, h.cfg.Self)
		h.mu.Unlock()
	}
}

// A verdict says why a snapshot lacks what this node has written: etcd forgot
// it, others are about to tell that it did, or, if neither, it was taken rightly.
type verdict struct {
	forgot string // what
	told   bool   // a snapshot that tells of a freeze or an acceptance is to come
}

// judge asks etcd about the snapshot that is held. Etcd may be doubted afterwards for
// another reason.
func (h *History) judge(ctx context.Context, now outlook) (verdict, error) {
	ctx, cancel := context.WithTimeout(ctx, checkBound)
	defer cancel()
	node := now.held.Nodes[h.cfg.Self]
	var lost []overspan.Endpoint
	if len(now.lacking) > 0 {
		var err error
		lost, err = store.LostRecords(ctx, h.cfg.KV, h.cfg.Keys, h.cfg.Self, node.CreateRevision, now.lacking)
		if err != nil {
			return verdict{}, err
		}
	}
	// Asked last: of a freeze that follows what was lost, it tells.
	frozen, accepted, err := h.cfg.Mirror.Check(ctx)
	if err != nil {
		return verdict{}, err
	}
	if frozen != nil || accepted > now.accepted {
		return verdict{told: true}, nil
	}
	if node != nil && now.newest != nil && now.newest.Nodes[h.cfg.Self] != nil && node.CreateRevision < now.newest.Nodes[h.cfg.Self].CreateRevision {
		return verdict{forgot: "this node's registration is an older one"}, nil
	}
	for _, e := range lost {
		// One that was disconnected meanwhile is gone by this node's own hand.
		if a, here := h.cfg.Local.Attachment(e.ID); here && a.Registration != 0 {
			return verdict{forgot: fmt.Sprintf("the record of %s (%s) is gone, and nobody took it", e.Name, e.Addrs()[0])}, nil
		}
	}
	return verdict{}, nil
}
