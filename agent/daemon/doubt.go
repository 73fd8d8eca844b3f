package daemon

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

// run deals with doubts until ctx ends.
func (h *history) run(ctx context.Context) error {
	for {
		doubted := h.mirror.Doubted()
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
		await.Wake(h.due)
		await.Wake(h.changed)
	}
}

// begin deals with an etcd that has lost its past: it freezes the cluster, unless
// an operator has accepted that loss already, and follows what etcd has now.
func (h *history) begin(ctx context.Context) error {
	why := overspan.Freeze{Reason: h.mirror.Doubt(), Node: h.self, NodeName: h.name, Since: time.Now().UTC()}
	h.log.Error("etcd has lost its past: nothing is deleted from the kernel, and the cluster is frozen until an operator accepts what etcd holds", "sign", why.Reason)
	h.mu.Lock()
	h.turn(h.outlook.doubt(why))
	now := h.outlook
	h.mu.Unlock()
	h.persist()
	await.Wake(h.changed)
	return h.alone(ctx, func(ctx context.Context) error {
		for {
			accepted, err := store.Freeze(ctx, h.kv, h.keys, store.FreezeRequest{Freeze: why, Meta: now.memory.Meta, Accepted: now.accepted})
			if err == nil && accepted > now.accepted {
				h.log.Warn("what etcd has lost was accepted while this node was away", "acceptances", accepted)
			}
			if err == nil {
				h.forsake()
				h.mirror.Renew()
				h.restart(ctx)
				return nil
			}
			h.log.Warn("cannot freeze the cluster; will try again", "error", err)
			if await.Sleep(ctx, freezeEvery) != nil {
				return nil
			}
		}
	})
}

// forsake disowns once more, now that nothing is on its way to etcd: what was when the
// doubt came may have been noted since, as of a registration that is void.
func (h *history) forsake() {
	h.mu.Lock()
	h.turn(h.outlook.disown())
	h.mu.Unlock()
	h.persist()
}

// ask finds out from etcd why a snapshot lacks what this node has written.
func (h *history) ask(ctx context.Context) {
	now := h.looked()
	if now.held == nil {
		return
	}
	verdict, err := h.judge(ctx, now)
	switch {
	case h.mirror.Doubt() != "":
	case err != nil:
		h.log.Warn("cannot tell why etcd lacks what this node has written; will ask again", "error", err)
		if await.Sleep(ctx, freezeEvery) == nil {
			await.Wake(h.work)
		}
	case verdict.forgot != "":
		h.mirror.Suspect("etcd was rolled back: " + verdict.forgot)
	case !verdict.told:
		h.mu.Lock()
		h.outlook = h.outlook.excuse(now, h.self)
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
func (h *history) judge(ctx context.Context, now outlook) (verdict, error) {
	ctx, cancel := context.WithTimeout(ctx, requestBound)
	defer cancel()
	node := now.held.Nodes[h.self]
	var lost []overspan.Endpoint
	if len(now.lacking) > 0 {
		var err error
		lost, err = store.LostRecords(ctx, h.kv, h.keys, h.self, node.CreateRevision, now.lacking)
		if err != nil {
			return verdict{}, err
		}
	}
	// Asked last: of a freeze that follows what was lost, it tells.
	frozen, accepted, err := h.mirror.Check(ctx)
	if err != nil {
		return verdict{}, err
	}
	if frozen != nil || accepted > now.accepted {
		return verdict{told: true}, nil
	}
	if node != nil && now.newest != nil && now.newest.Nodes[h.self] != nil && node.CreateRevision < now.newest.Nodes[h.self].CreateRevision {
		return verdict{forgot: "this node's registration is an older one"}, nil
	}
	for _, e := range lost {
		// One that was disconnected meanwhile is gone by this node's own hand.
		if a, here := h.local.Attachment(e.ID); here && a.Registration != 0 {
			return verdict{forgot: fmt.Sprintf("the record of %s (%s) is gone, and nobody took it", e.Name, e.Addrs()[0])}, nil
		}
	}
	return verdict{}, nil
}
