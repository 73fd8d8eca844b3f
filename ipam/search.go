package ipam

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/overspan/overspan"
)

// A search gets one slot: it decides, acts, and decides again, until it can
// take one or nobody has one.
type search struct {
	claims  Claims
	now     func() time.Time
	network overspan.NetworkID
	ledger  *ledger
	request Request

	fresh   bool            // the view is newer than the last doubt about it
	lost    overspan.Range  // the claim that lost a race last
	pending []overspan.Slot // held while it is claimed or asked for by its address
}

// takeOrQueue takes a slot that is at hand, unless others already wait; else it
// joins them: the caller then leaves the queue.
func (s *search) takeOrQueue(ctx context.Context) (Take, bool) {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	if s.ledger.waiting == 0 {
		// An error is found again, and told, by the search that follows.
		_, d, _ := s.decide(ctx)
		if take, ok := d.(Take); ok {
			return take, true
		}
	}
	s.ledger.waiting++
	return Take{}, false
}

func (s *search) run(ctx context.Context) (Take, error) {
	defer s.abandon()
	for {
		v, d, err := s.next(ctx)
		switch d := d.(type) {
		case Take:
			return d, nil
		case Claim:
			err = s.claim(ctx, v, d.Range)
		case Ask:
			err = s.ask(ctx, v, d)
		default:
			if s.fresh || !mayBeStale(err) {
				return Take{}, err
			}
			err = s.refresh(ctx)
		}
		if err != nil {
			return Take{}, err
		}
	}
}

// mayBeStale reports whether an error may come from a view that is too old: it
// speaks of what others hold.
func mayBeStale(err error) bool {
	return errors.Is(err, overspan.ErrExhausted) || errors.Is(err, overspan.ErrInUse) || errors.Is(err, overspan.ErrUnavailable)
}

func (s *search) next(ctx context.Context) (View, Decision, error) {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	return s.decide(ctx)
}

// decide makes one decision and marks what it takes. A slot that is claimed or
// asked for by its address is held meanwhile, lest it be lent to an endpoint
// that takes any. The caller holds the ledger's lock; of the view only the
// network and the nodes may be used after that.
func (s *search) decide(ctx context.Context) (View, Decision, error) {
	v, err := s.claims.View(ctx, s.network)
	if err != nil {
		return View{}, nil, fmt.Errorf("look for a free address: %w", err)
	}
	s.release()
	d, err := Decide(s.ledger.complete(v, s.now()), s.request)
	switch d := d.(type) {
	case Take:
		s.ledger.hold(d.Slot)
	case Claim:
		if s.request.Addr.IsValid() {
			s.pending = []overspan.Slot{d.First}
		}
	case Ask:
		if d.Slot != nil {
			s.pending = []overspan.Slot{*d.Slot}
		}
	}
	s.ledger.hold(s.pending...)
	return v, d, err
}

// release ends the hold on a slot that is not had yet. The caller holds the
// ledger's lock.
func (s *search) release() {
	for _, slot := range s.pending {
		delete(s.ledger.held, slot)
	}
	s.pending = nil
}

func (s *search) abandon() {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	s.release()
}

func (s *search) refresh(ctx context.Context) error {
	if err := s.claims.Refresh(ctx, s.network); err != nil {
		return fmt.Errorf("look for a free address: %w", err)
	}
	s.fresh = true
	return nil
}

// claim tries to get a block. A range that is lost twice running is avoided:
// something that the view cannot show stands there.
func (s *search) claim(ctx context.Context, v View, r overspan.Range) error {
	err := s.claims.Claim(ctx, v.Network, r)
	if err == nil {
		return nil
	}
	if !errors.Is(err, overspan.ErrConflict) {
		return fmt.Errorf("claim slots %s of network %s: %w", r, v.Network.Name, err)
	}
	if s.lost == r {
		s.request.Avoid = append(s.request.Avoid, r)
	}
	s.lost = r
	return s.refresh(ctx)
}

// ask wants something of a holder. One that does not answer counts as one that
// refuses where another could be asked.
func (s *search) ask(ctx context.Context, v View, a Ask) error {
	err := s.claims.Ask(ctx, v.Network, a.Holder, a.Slot)
	switch {
	case err == nil:
		s.fresh = true
	case a.Slot != nil:
		return fmt.Errorf("ask node %s, which holds address %s of network %s: %w", v.Name(a.Holder), s.request.Addr, v.Network.Name, err)
	case !errors.Is(err, overspan.ErrUnavailable):
		return fmt.Errorf("ask node %s for addresses of network %s: %w", v.Name(a.Holder), v.Network.Name, err)
	default:
		if err := s.refresh(ctx); err != nil {
			return err
		}
	}
	return s.noteAnswer(ctx, a.Holder)
}

// noteAnswer remembers how much the holder seemed to have left when it had
// answered. Where it granted something, this is not needed any more.
func (s *search) noteAnswer(ctx context.Context, holder overspan.NodeID) error {
	v, err := s.claims.View(ctx, s.network)
	if err != nil {
		return fmt.Errorf("look for a free address: %w", err)
	}
	if s.request.Refused == nil {
		s.request.Refused = map[overspan.NodeID]uint64{}
	}
	s.request.Refused[holder] = 0
	for _, l := range v.loads(spaceOf(v.Network)) {
		if l.node == holder {
			s.request.Refused[holder] = l.free()
		}
	}
	return nil
}
