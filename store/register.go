package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// expiryGrace is what etcd may take beyond the TTL to let a lease go.
const expiryGrace = 5 * time.Second

// A standing is what etcd holds of a node at one revision. A key that is absent
// is the zero KeyValue.
type standing struct {
	revision                     int64
	node, live, removing, flight KeyValue
}

// enter registers the node and announces it. It looks, and acts on what it saw
// in one transaction, until nobody came between.
func (s *Session) enter(ctx context.Context) error {
	var patience time.Time // until when a foreign presence is waited for
	for attempt := 0; ; attempt++ {
		at, err := s.look(ctx)
		switch {
		case err != nil:
			return fmt.Errorf("register node %s: %w", s.cfg.Node.Name, err)
		case at.removing.Key != "":
			s.cfg.Log.Info("finishing the removal of this node")
			if _, err := FinishNodeRemoval(ctx, s.kv, s.keys, s.cfg.Node.ID); err != nil {
				return fmt.Errorf("register node %s: its removal is still under way: %w", s.cfg.Node.Name, err)
			}
			continue
		case at.live.Key != "":
			if patience.IsZero() {
				patience = time.Now().Add(s.cfg.TTL + expiryGrace)
			}
			if err := s.displace(ctx, at, patience); err != nil {
				return err
			}
			continue
		}
		done, err := s.register(ctx, at)
		if err != nil || done {
			return err
		}
		if err := pause(ctx, firstPause, attempt); err != nil {
			return overspan.Errorf(overspan.ErrUnavailable, "register node %s: %w", s.cfg.Node.Name, err)
		}
	}
}

// look reads everything that etcd holds of the node at once.
func (s *Session) look(ctx context.Context) (standing, error) {
	id := s.cfg.Node.ID
	res, err := s.kv.Txn(ctx, Txn{Then: []Op{
		Get(Key(s.keys.Node(id))), Get(Key(s.keys.Live(id))),
		Get(Key(s.keys.Removing(id))), Get(Key(s.keys.Flight(id))),
	}})
	if err != nil {
		return standing{}, err
	}
	kvs := found(res)
	return standing{
		revision: res.Revision,
		node:     kvs[s.keys.Node(id)],
		live:     kvs[s.keys.Live(id)],
		removing: kvs[s.keys.Removing(id)],
		flight:   kvs[s.keys.Flight(id)],
	}, nil
}

// register writes registration, presence and flight key in one transaction;
// false if somebody came between. From then on nothing that was sent under an
// older flight key can commit.
func (s *Session) register(ctx context.Context, at standing) (bool, error) {
	if err := s.mayAdopt(at); err != nil {
		return false, err
	}
	if err := s.checkVTEPs(ctx, s.cfg.Node, 0); err != nil {
		return false, err
	}
	// Only now: what came before may have taken longer than a lease lives.
	lease, err := s.kv.Grant(ctx, s.cfg.TTL)
	if err != nil {
		return false, fmt.Errorf("grant the lease of node %s: %w", s.cfg.Node.Name, err)
	}
	done, err := s.commit(ctx, at, lease)
	if errors.Is(err, overspan.ErrNotFound) {
		return false, nil // the lease: on a busy machine it may have expired by now
	}
	if !done || err != nil {
		s.giveBack(ctx, lease)
		return false, err
	}
	// Two nodes with one address may have looked at the same moment: the one
	// that came later yields.
	if err := s.checkVTEPs(ctx, s.cfg.Node, s.since); err != nil {
		s.giveBack(ctx, lease)
		return false, errors.Join(err, s.withdraw(ctx, at))
	}
	return true, nil
}

// commit is the transaction of register.
func (s *Session) commit(ctx context.Context, at standing, lease LeaseID) (bool, error) {
	id := s.cfg.Node.ID
	node, err := nodeValue(at.node, s.cfg.Node)
	if err != nil {
		return false, err
	}
	live, err := Marshal(overspanv1.PresenceRecord(s.cfg.Presence))
	if err != nil {
		return false, err
	}
	var record []Op
	if !bytes.Equal(node, at.node.Value) { // else every node would be told of nothing
		record = append(record, Put(s.keys.Node(id), node))
	}
	sequence := lastSequence(at.flight) + 1
	res, err := s.kv.Txn(ctx, Txn{
		If: []Cmp{
			Unchanged(s.keys.Node(id), at.node.ModRevision),
			Absent(Key(s.keys.Live(id))),
			Absent(Key(s.keys.Removing(id))),
			Unchanged(s.keys.Flight(id), at.flight.ModRevision),
		},
		Then: append(record,
			PutLeased(s.keys.Live(id), live, lease),
			Put(s.keys.Flight(id), mustMarshal(&overspanv1.Flight{Sequence: sequence, Instance: s.cfg.Presence.Instance})),
		),
	})
	if err != nil || !res.OK {
		return false, err
	}
	s.lease, s.since = lease, res.Revision
	s.registration = at.node.CreateRevision
	if s.registration == 0 {
		s.registration = res.Revision
	}
	s.flights = &flights{
		kv: s.kv, keys: s.keys, log: s.cfg.Log, timeout: flightTimeout, backoff: firstPause,
		node: id, instance: s.cfg.Presence.Instance, registration: s.registration, claimed: s.cfg.Claimed,
		in: make(chan *request), ended: make(chan struct{}),
	}
	s.flights.note(sequence, res.Revision)
	return true, nil
}

// withdraw takes a registration back that was not there before, unless it was
// taken up since.
func (s *Session) withdraw(ctx context.Context, at standing) error {
	if at.node.Key != "" {
		return nil
	}
	id := s.cfg.Node.ID
	_, err := s.kv.Txn(ctx, Txn{
		If:   []Cmp{Created(s.keys.Node(id), s.registration), Unchanged(s.keys.Flight(id), s.flights.floor.Load())},
		Then: []Op{Delete(Key(s.keys.Node(id))), Delete(Key(s.keys.Flight(id)))},
	})
	return err
}

// mayAdopt refuses a registration that neither this state directory knows nor one of
// the runs since has made. A journal without a registration adopts whatever
// stands: its agent died between registering and noting it, or lost its disk.
func (s *Session) mayAdopt(at standing) error {
	known := s.cfg.Known
	if at.node.Key == "" || known.Registration == 0 || at.node.CreateRevision == known.Registration {
		return nil
	}
	var last overspanv1.Flight
	if at.flight.Key != "" && Unmarshal(at.flight.Value, &last) == nil {
		own := append(strings.Fields(known.Instances), s.cfg.Presence.Instance) // an attempt of this run, whose answer was lost
		if slices.Contains(own, last.GetInstance()) {
			return nil
		}
	}
	return overspan.Errorf(overspan.ErrInUse,
		"node id %s was registered anew by another agent since this state directory was used: this state directory is a copy; delete it to join as a node of its own",
		overspan.ShortID(s.cfg.Node.ID))
}

// nodeValue writes the registration: a new one begins undrained.
func nodeValue(old KeyValue, n overspan.Node) ([]byte, error) {
	if old.Key == "" {
		n.Draining = false
		return Marshal(overspanv1.NodeRecord(n))
	}
	value, err := redescribe(old.Value, n)
	return value, atKey(old, err)
}

// lastSequence reads the flight key. One that cannot be read starts anew: that
// it differs in instance is enough to tell flights apart.
func lastSequence(kv KeyValue) uint64 {
	var last overspanv1.Flight
	if kv.Key == "" || Unmarshal(kv.Value, &last) != nil {
		return 0
	}
	return last.GetSequence()
}

// displace deals with a presence that stands in the way: it takes it away if
// its agent is known to be dead, waits for it to expire, and refuses when it
// stays.
func (s *Session) displace(ctx context.Context, at standing, patience time.Time) error {
	_, holder, err := s.keys.presence(at.live)
	if err == nil {
		if s.isSelf(holder) || s.isDead(holder) {
			s.cfg.Log.Info("taking over the presence of a dead agent", "pid", holder.PID, "instance", holder.Instance)
			return s.evict(ctx, at.live)
		}
		if s.isHere(holder) {
			return s.inUse(holder)
		}
	}
	s.cfg.Log.Info("waiting for another agent's presence to expire", "machine", holder.MachineID, "pid", holder.PID)
	wait, cancel := context.WithDeadline(ctx, patience)
	defer cancel()
	gone := s.awaitGone(wait, at.live.Key, at.revision)
	switch {
	case gone == nil:
		return nil
	case ctx.Err() != nil:
		return overspan.Errorf(overspan.ErrUnavailable, "register node %s: %w", s.cfg.Node.Name, ctx.Err())
	case wait.Err() != nil && err != nil:
		return err
	case wait.Err() != nil:
		return s.inUse(holder)
	}
	return gone
}

// isSelf reports whether a presence is of this very run: an earlier session of
// it, or an attempt to open one whose answer was lost.
func (s *Session) isSelf(p overspan.Presence) bool {
	return p.Instance == s.cfg.Presence.Instance
}

// isHere reports whether a presence names a process that this agent could see.
func (s *Session) isHere(p overspan.Presence) bool {
	own := s.cfg.Presence
	return p.BootID == own.BootID && p.PIDSpace == own.PIDSpace
}

func (s *Session) isDead(p overspan.Presence) bool {
	return s.isHere(p) && s.cfg.Alive != nil && !s.cfg.Alive(p)
}

func (s *Session) inUse(p overspan.Presence) error {
	where := "machine " + p.MachineID
	if s.isHere(p) {
		where = "this machine"
	}
	return overspan.Errorf(overspan.ErrInUse,
		"node id %s is in use by agent pid %d on %s: this state directory is a copy; delete it to join as a node of its own",
		overspan.ShortID(s.cfg.Node.ID), p.PID, where)
}

// evict deletes a presence unless it has changed hands.
func (s *Session) evict(ctx context.Context, live KeyValue) error {
	_, err := s.kv.Txn(ctx, Txn{
		If:   []Cmp{Created(live.Key, live.CreateRevision)},
		Then: []Op{Delete(Key(live.Key))},
	})
	if err != nil {
		return fmt.Errorf("take over the presence of node %s: %w", s.cfg.Node.Name, err)
	}
	return nil
}

// awaitGone returns nil once a key that stood at a revision has been deleted.
func (s *Session) awaitGone(ctx context.Context, key string, after int64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for batch := range s.kv.Watch(ctx, Key(key), after) {
		if batch.Err != nil {
			return batch.Err
		}
		for _, e := range batch.Events {
			if e.Deleted {
				return nil
			}
		}
	}
	return ctx.Err()
}

// checkVTEPs refuses an address that another node that is present uses: peers
// could not tell the two apart. Entered is the create-revision of the presence with
// which the node has announced the addresses, 0 if it has not yet: of two that
// entered at once, the one whose presence is older stays.
func (s *Session) checkVTEPs(ctx context.Context, n overspan.Node, entered int64) error {
	if len(n.VTEPs) == 0 {
		return nil
	}
	nodes, err := s.kv.List(ctx, s.keys.Nodes(), 0)
	if err != nil {
		return fmt.Errorf("check the VTEP address of node %s: %w", n.Name, err)
	}
	// A thousand nodes that start together would read a million records: only
	// those that have the address in them are looked at, most often none.
	suspects := slices.DeleteFunc(nodes.KVs, func(kv KeyValue) bool {
		return kv.Key == s.keys.Node(n.ID) || !slices.ContainsFunc(n.VTEPs, func(a netip.Addr) bool {
			return bytes.Contains(kv.Value, []byte(`"`+a.String()+`"`))
		})
	})
	if len(suspects) == 0 {
		return nil
	}
	lives, err := s.kv.List(ctx, s.keys.Lives(), 0)
	if err != nil {
		return fmt.Errorf("check the VTEP address of node %s: %w", n.Name, err)
	}
	present := make(map[string]int64)
	for _, kv := range lives.KVs {
		present[kv.Key] = kv.CreateRevision
	}
	for _, kv := range suspects {
		other, err := s.keys.node(kv)
		if err != nil {
			continue // a registration that cannot be read is reported by the mirror
		}
		since, up := present[s.keys.Live(other.ID)]
		if !up || (entered != 0 && since > entered) {
			continue
		}
		for _, a := range n.VTEPs {
			if other.VTEP(overspan.FamilyOf(a)) == a {
				return overspan.Errorf(overspan.ErrInUse,
					"VTEP address %s is in use by node %s (%s): give this node another --advertise-address", a, other.Name, overspan.ShortID(other.ID))
			}
		}
	}
	return nil
}
