package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"

	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// errSame ends a transaction that would change nothing.
var errSame = errors.New("nothing has changed")

// A saver collects the records that lead from one snapshot in the journal to
// the next, and the first that cannot be written.
type saver struct {
	keys Keys
	self overspan.NodeID
	most int // endpoints of a network that is kept whole
	put  map[string][]byte
	del  map[string]struct{} // before anything is put
	err  error
}

func (s *saver) add(key string, create, mod int64, rec proto.Message) {
	value, err := Marshal(rec)
	s.raw(key, savedRecord{Create: create, Mod: mod, Record: value}, err)
}

func (s *saver) raw(key string, saved any, err error) {
	if err == nil {
		s.put[key], err = json.Marshal(saved)
	}
	if err != nil && s.err == nil {
		s.err = fmt.Errorf("key %s: %w", key, err)
	}
}

func (s *saver) remove(key string) { s.del[key] = struct{}{} }

// compare collects what differs. What two snapshots share is not looked at.
func (s *saver) compare(old, now *overspan.Snapshot) {
	s.compareCluster(old, now)
	s.compareNodes(old, now)
	for id := range overspan.Changes(old.Networks, now.Networks) {
		if n := now.Networks[id]; n != nil {
			s.add(s.keys.Network(id), n.CreateRevision, n.ModRevision, overspanv1.NetworkRecord(*n))
		} else {
			s.remove(s.keys.Network(id))
		}
		if old.Segments.Get(id) == now.Segments.Get(id) { // else below
			s.segment(interior(old, id), interior(now, id))
		}
	}
	for id := range now.Segments.Changes(old.Segments) {
		s.segment(interior(old, id), interior(now, id))
	}
}

func (s *saver) compareCluster(old, now *overspan.Snapshot) {
	if now.Meta != old.Meta {
		s.remove(s.keys.Meta())
		if now.Meta != (overspan.Meta{}) { // a snapshot may be older than the cluster's settings
			s.add(s.keys.Meta(), 0, 0, overspanv1.MetaRecord(now.Meta))
		}
	}
	if now.Frozen != old.Frozen {
		s.remove(s.keys.Frozen())
		if now.Frozen != nil {
			s.add(s.keys.Frozen(), now.Frozen.Revision, now.Frozen.Revision, overspanv1.FrozenRecord(*now.Frozen))
		}
	}
	if now.Accepted != old.Accepted {
		s.remove(s.keys.Accepted())
		if now.Accepted != 0 {
			s.add(s.keys.Accepted(), 0, 0, &overspanv1.Accepted{Count: now.Accepted})
		}
	}
}

func (s *saver) compareNodes(old, now *overspan.Snapshot) {
	for id := range overspan.Changes(old.Nodes, now.Nodes) {
		if n := now.Nodes[id]; n != nil {
			s.node(old.Nodes[id], n)
			continue
		}
		s.remove(s.keys.Node(id))
		s.remove(s.keys.Live(id))
	}
}

func (s *saver) node(was, n *overspan.Node) {
	if was != nil && was.Presence != nil {
		s.remove(s.keys.Live(n.ID))
	}
	s.add(s.keys.Node(n.ID), n.CreateRevision, n.ModRevision, overspanv1.NodeRecord(*n))
	if n.Presence != nil {
		s.add(s.keys.Live(n.ID), n.Presence.Revision, n.Presence.Revision, overspanv1.PresenceRecord(*n.Presence))
	}
}

// An inside is a network and its segment, both zero where one is not known.
type inside struct {
	network *overspan.Network
	segment overspan.Segment
}

func interior(snap *overspan.Snapshot, id overspan.NetworkID) inside {
	n, seg := snap.Networks[id], snap.Segments.Get(id)
	if n == nil || seg == nil {
		return inside{}
	}
	return inside{network: n, segment: *seg}
}

// whole reports whether the journal has all endpoints of a network.
func (s *saver) whole(i inside) bool { return i.segment.Endpoints.Len() <= s.most }

// keeps returns the endpoint at a slot if the journal has it.
func (s *saver) keeps(i inside, slot overspan.Slot) *overspan.Endpoint {
	e := i.segment.Endpoints.Get(slot)
	if e == nil || e.Node != s.self && !i.network.IsException(*e) && !s.whole(i) {
		return nil
	}
	return e
}

func (s *saver) segment(old, now inside) {
	for first := range now.segment.Blocks.Changes(old.segment.Blocks) {
		if b, was := old.segment.Blocks.Lookup(first); was {
			s.remove(s.keys.Block(old.network.ID, b.Range))
		}
		if b, is := now.segment.Blocks.Lookup(first); is {
			s.add(s.keys.Block(now.network.ID, b.Range), b.CreateRevision, b.ModRevision, overspanv1.BlockRecord(b))
		}
	}
	s.endpoints(old, now, now.segment.Endpoints.Changes(old.segment.Endpoints))
	if s.whole(old) != s.whole(now) {
		// What has not changed comes or goes all the same.
		s.endpoints(old, now, now.segment.Endpoints.Changes(overspan.SlotMap[*overspan.Endpoint]{}))
	}
}

func (s *saver) endpoints(old, now inside, slots iter.Seq[overspan.Slot]) {
	for slot := range slots {
		if e := s.keeps(old, slot); e != nil {
			s.remove(s.keys.Endpoint(old.network.ID, slot))
		}
		if e := s.keeps(now, slot); e != nil {
			s.add(s.keys.Endpoint(now.network.ID, slot), e.CreateRevision, e.ModRevision, overspanv1.EndpointRecord(*e))
		}
	}
}

// write carries out what was collected.
func (s *saver) write(bucket *bolt.Bucket) error {
	for key := range s.del {
		if _, again := s.put[key]; again {
			continue
		}
		if err := bucket.Delete([]byte(key)); err != nil {
			return err
		}
	}
	for key, value := range s.put {
		if bytes.Equal(bucket.Get([]byte(key)), value) {
			continue
		}
		if err := bucket.Put([]byte(key), value); err != nil {
			return err
		}
	}
	return nil
}

// replace makes a bucket hold what was put and nothing else; errSame if it would
// only learn of later revisions.
func (s *saver) replace(bucket *bolt.Bucket, head savedHead) error {
	same, there := true, 0
	clear(s.del)
	err := bucket.ForEach(func(key, value []byte) error {
		there++
		now, stays := s.put[string(key)]
		if !stays {
			s.remove(string(slices.Clone(key)))
		}
		if string(key) == keySnapshot {
			var was savedHead
			same = same && json.Unmarshal(value, &was) == nil && was.same(head)
			return nil
		}
		same = same && stays && bytes.Equal(value, now)
		return nil
	})
	if err != nil {
		return err
	}
	if same && there == len(s.put) {
		return errSame
	}
	return s.write(bucket)
}
