package ipam

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/overspan/overspan"
)

// Grants answers the wants that name this node, the oldest first. For each it
// calls answer, which carries the answer out: a nil Grant is a refusal. Until
// answer returns and the view shows what came of it, the slots that are given
// are lent to nobody here. Errors of single wants are joined.
//
// It never waits for an Acquire, so that nodes may ask each other.
func (a *Allocator) Grants(ctx context.Context, network overspan.NetworkID, wants []overspan.Want,
	answer func(context.Context, *overspan.Network, overspan.Want, *Grant) error,
) error {
	oldest := slices.SortedFunc(slices.Values(wants), func(a, b overspan.Want) int {
		return cmp.Or(cmp.Compare(a.CreateRevision, b.CreateRevision), cmp.Compare(a.Asker, b.Asker))
	})
	var errs []error
	for _, w := range oldest {
		if err := a.grant(ctx, network, w, answer); err != nil {
			errs = append(errs, fmt.Errorf("answer want of node %s in network %s: %w", overspan.ShortID(w.Asker), overspan.ShortID(network), err))
		}
	}
	return errors.Join(errs...)
}

func (a *Allocator) grant(ctx context.Context, network overspan.NetworkID, w overspan.Want,
	answer func(context.Context, *overspan.Network, overspan.Want, *Grant) error,
) error {
	n, g, err := a.offer(ctx, network, w)
	if err == nil && g == nil {
		// A view that is too old may show a slot as used that is free again.
		if err = a.claims.Refresh(ctx, network); err == nil {
			n, g, err = a.offer(ctx, network, w)
		}
	}
	if err != nil {
		return err
	}
	if g == nil {
		return answer(ctx, n, w, nil)
	}
	defer a.ledger(network).putBack(g.Give)
	if err := answer(ctx, n, w, g); err != nil {
		return err
	}
	return a.claims.Refresh(ctx, network)
}

// offer decides what to give and sets it aside; nil is nothing.
func (a *Allocator) offer(ctx context.Context, network overspan.NetworkID, w overspan.Want) (*overspan.Network, *Grant, error) {
	l := a.ledger(network)
	l.mu.Lock()
	defer l.mu.Unlock()
	v, err := a.claims.View(ctx, network)
	if err != nil {
		return nil, nil, err
	}
	g, ok := Answer(l.complete(v, a.config.Now()), w)
	if !ok {
		return v.Network, nil, nil
	}
	l.setAside(g.Give)
	return v.Network, &g, nil
}

// GiveBack hands the blocks that have been empty for long enough to release,
// which deletes them. Meanwhile nothing of them is lent. Call it now and then:
// a block counts as empty from the first call that finds it so.
func (a *Allocator) GiveBack(ctx context.Context, network overspan.NetworkID,
	release func(context.Context, *overspan.Network, overspan.Block) error,
) error {
	return a.giveBack(ctx, network, release, func(l *ledger, v View, now time.Time) []overspan.Block {
		return l.emptySince(Idle(v), now.Add(-a.config.IdleAfter), now)
	})
}

// Drain hands every block that is empty to release, however short it has been
// so: this node wants no more endpoints.
func (a *Allocator) Drain(ctx context.Context, network overspan.NetworkID,
	release func(context.Context, *overspan.Network, overspan.Block) error,
) error {
	return a.giveBack(ctx, network, release, func(_ *ledger, v View, _ time.Time) []overspan.Block {
		return Vacant(v)
	})
}

func (a *Allocator) giveBack(ctx context.Context, network overspan.NetworkID,
	release func(context.Context, *overspan.Network, overspan.Block) error,
	choose func(*ledger, View, time.Time) []overspan.Block,
) error {
	n, blocks, err := a.retire(ctx, network, choose)
	if err != nil || len(blocks) == 0 {
		return err
	}
	var errs []error
	for _, b := range blocks {
		defer a.ledger(network).putBack(b.Range)
		if err := release(ctx, n, b); err != nil {
			errs = append(errs, fmt.Errorf("give back slots %s of network %s: %w", b.Range, n.Name, err))
		}
	}
	errs = append(errs, a.claims.Refresh(ctx, network))
	return errors.Join(errs...)
}

// retire sets aside the blocks to give back.
func (a *Allocator) retire(ctx context.Context, network overspan.NetworkID,
	choose func(*ledger, View, time.Time) []overspan.Block,
) (*overspan.Network, []overspan.Block, error) {
	l := a.ledger(network)
	l.mu.Lock()
	defer l.mu.Unlock()
	v, err := a.claims.View(ctx, network)
	if err != nil {
		return nil, nil, err
	}
	now := a.config.Now()
	blocks := choose(l, l.complete(v, now), now)
	for _, b := range blocks {
		l.setAside(b.Range)
	}
	return v.Network, blocks, nil
}
