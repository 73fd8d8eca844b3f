package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// Recheck makes a running session look at once whether it is still registered
// and present, for instance because a snapshot does not show it so. It would
// find out by itself within the presence's TTL.
func (s *Session) Recheck() { poke(s.recheck) }

// keepPresence keeps the lease alive and the presence key in place. It returns
// nil when ctx ends, and an error of class ErrFenced when the registration is
// gone or another agent holds the presence.
func (s *Session) keepPresence(ctx context.Context) error {
	for ctx.Err() == nil {
		err := s.holdLease(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		s.cfg.Log.Info("presence was lost")
		if err := s.regain(ctx); err != nil {
			return err
		}
	}
	return nil
}

// holdLease returns nil when the presence needs to be put again.
func (s *Session) holdLease(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lost, err := s.kv.KeepAlive(ctx, s.currentLease())
	if err != nil {
		s.cfg.Log.Debug("lease cannot be kept", "error", err)
		return nil
	}
	tick := time.NewTicker(s.cfg.TTL)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-lost:
			return nil
		case <-tick.C:
		case <-s.recheck:
		}
		present, err := s.present(ctx)
		switch {
		case errors.Is(err, overspan.ErrUnavailable), errors.Is(err, overspan.ErrDenied):
			s.cfg.Log.Debug("presence cannot be checked", "error", err)
		case err != nil:
			return err
		case !present:
			return nil
		}
	}
}

// present reports whether the presence is in place.
func (s *Session) present(ctx context.Context) (bool, error) {
	at, err := s.check(ctx)
	if err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return at.live.CreateRevision == s.since, nil
}

// Check asks etcd whether the node is still this session's. An error of class
// ErrFenced says that it is not; of class ErrUnavailable that etcd does not answer.
func (s *Session) Check(ctx context.Context) error {
	_, err := s.check(ctx)
	return err
}

// check looks, and tells whether the node is still this session's.
func (s *Session) check(ctx context.Context) (standing, error) {
	floor := s.flights.floor.Load() // before the question: flights go on
	at, err := s.look(ctx)
	if err != nil {
		return at, err
	}
	return at, s.stands(at, floor)
}

// stands tells whether the node is still this session's. Floor is what the
// mod-revision of its flight key had reached before etcd was asked.
func (s *Session) stands(at standing, floor int64) error {
	if at.node.CreateRevision != s.registration {
		return unregistered(s.cfg.Node.ID)
	}
	if at.flight.ModRevision < floor {
		return forgotten(s.cfg.Node.ID)
	}
	if at.live.Key == "" {
		return nil
	}
	_, holder, err := s.keys.presence(at.live)
	if err != nil {
		return overspan.Errorf(overspan.ErrFenced, "presence was overwritten: %w", err)
	}
	if !s.isSelf(holder) {
		return overspan.Errorf(overspan.ErrFenced, "%w", s.inUse(holder))
	}
	return nil
}

// regain puts the presence again under a new lease, as soon as etcd answers.
func (s *Session) regain(ctx context.Context) error {
	for attempt := 0; ; attempt++ {
		err := s.announce(ctx)
		if err == nil || errors.Is(err, overspan.ErrFenced) {
			return err
		}
		s.cfg.Log.Debug("presence cannot be put", "error", err)
		if pause(ctx, firstPause, attempt) != nil {
			return nil
		}
	}
}

// announce is one attempt to put the presence. What an attempt without an
// answer may have left behind is in this run's name and replaced by the next; one
// that is carried out only after that changes nothing, or it would put the presence
// under a lease that nobody keeps alive.
func (s *Session) announce(ctx context.Context) error {
	at, err := s.check(ctx)
	if err != nil {
		return err
	}
	live, err := Marshal(overspanv1.PresenceRecord(s.cfg.Presence))
	if err != nil {
		return err
	}
	lease, err := s.kv.Grant(ctx, s.cfg.TTL)
	if err != nil {
		return fmt.Errorf("grant the lease of node %s: %w", s.cfg.Node.Name, err)
	}
	id := s.cfg.Node.ID
	res, err := s.kv.Txn(ctx, Txn{
		If: []Cmp{
			Created(s.keys.Node(id), s.registration),
			Unchanged(s.keys.Live(id), at.live.ModRevision),
		},
		Then: []Op{PutLeased(s.keys.Live(id), live, lease)},
	})
	if err != nil {
		return err
	}
	if !res.OK {
		return overspan.Errorf(overspan.ErrConflict, "presence of node %s was changed meanwhile", s.cfg.Node.Name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lease, s.since = lease, at.live.CreateRevision
	if s.since == 0 {
		s.since = res.Revision
	}
	return nil
}
