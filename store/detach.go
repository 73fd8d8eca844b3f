package store

import (
	"context"
	"fmt"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/internal/steps"
)

// Detach deletes everything that an endpoint owns and returns the revision at
// which it was gone. An endpoint that is gone already, or whose slot belongs to
// another by now, is none of this one's: that is success. An endpoint without
// revisions, as the journal keeps it, is looked up first; ErrCorrupt if its
// record cannot be read, for it may be another's.
func (s *Session) Detach(ctx context.Context, e overspan.Endpoint) (int64, error) {
	what := detachWhat(e)
	if len(e.Slots) == 0 {
		return 0, overspan.Errorf(overspan.ErrInvalid, "%s: it has no slot", what)
	}
	key := s.keys.Endpoint(e.Network, e.Slots[0])
	if e.CreateRevision == 0 {
		list, err := s.kv.List(ctx, Key(key), 0)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", what, err)
		}
		if e.CreateRevision, err = s.ownRecord(e, list.KVs); err != nil {
			return 0, fmt.Errorf("%s: %w", what, err)
		}
		if e.CreateRevision == 0 {
			return list.Revision, nil
		}
	}
	res, err := s.flights.fly(ctx, s.detach(e))
	if err != nil {
		return 0, err
	}
	if res.OK {
		return res.Revision, nil
	}
	created, err := s.ownRecord(e, res.Responses[0].KVs)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", what, err)
	}
	if created != 0 {
		return 0, overspan.Errorf(overspan.ErrConflict, "%s: its record was written again meanwhile", what)
	}
	return res.Revision, nil
}

// detach makes the request. All records of the endpoint were written at once,
// so the first one guards them all.
func (s *Session) detach(e overspan.Endpoint) *request {
	key := s.keys.Endpoint(e.Network, e.Slots[0])
	t := Txn{If: []Cmp{Created(key, e.CreateRevision)}, Else: []Op{Get(Key(key))}}
	for _, owned := range s.endpointKeys(e)[1:] {
		t.Then = append(t.Then, Delete(Key(owned)))
	}
	return &request{step: steps.Detach, what: detachWhat(e), witness: Delete(Key(key)), txn: t, shared: true}
}

func detachWhat(e overspan.Endpoint) string {
	return fmt.Sprintf("detach %s from network %s", e.Name, overspan.ShortID(e.Network))
}

// ownRecord returns the create-revision of the endpoint's record, 0 if what
// stands there is not its. A record that cannot be read may be: that is an error
// of class ErrCorrupt.
func (s *Session) ownRecord(e overspan.Endpoint, kvs []KeyValue) (int64, error) {
	if len(kvs) == 0 {
		return 0, nil
	}
	now, err := s.keys.endpoint(kvs[0])
	if err != nil || now.ID != e.ID {
		return 0, err
	}
	return now.CreateRevision, nil
}

// undoAttach takes an endpoint off again whose caller has given up.
func (s *Session) undoAttach(ctx context.Context, e overspan.Endpoint) {
	err := insist(ctx, func() error {
		_, err := s.Detach(ctx, e)
		return err
	})
	if err != nil {
		s.cfg.Log.Warn("late endpoint is left behind", "endpoint", e.Name, "network", overspan.ShortID(e.Network), "error", err)
		return
	}
	s.cfg.Log.Info("late endpoint detached", "endpoint", e.Name, "network", overspan.ShortID(e.Network))
	if s.cfg.Undone != nil {
		s.cfg.Undone(e)
	}
}
