package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// journalCluster is the cluster in whose layout the journal keeps a snapshot;
// the keys stay within the file.
const journalCluster = "journal"

// keySnapshot holds the revisions of the snapshot; all other keys of its bucket
// are keys of etcd.
const keySnapshot = "snapshot"

// A savedRecord is a record together with what etcd said of its key.
type savedRecord struct {
	Create int64           `json:"create,string,omitempty"`
	Mod    int64           `json:"mod,string,omitempty"`
	Record json.RawMessage `json:"record"`
}

// A savedHead is what a snapshot says beside its records.
type savedHead struct {
	Revision int64                               `json:"revision,string"`
	Bad      []overspan.BadRecord                `json:"bad,omitempty"`
	Segments map[overspan.NetworkID]savedSegment `json:"segments"`
}

type savedSegment struct {
	Revision int64 `json:"revision,string"`
	Bad      int   `json:"bad,omitempty"`
}

// errSame ends a transaction that would change nothing.
var errSame = errors.New("nothing has changed")

// SaveSnapshot keeps what planning this node's networks needs while etcd is
// away: settings, nodes, networks, and of the networks that are followed the
// blocks, and those endpoints that blocks do not tell of, which are this node's
// own and exceptions. It writes only what has changed.
func (j *Journal) SaveSnapshot(snap *overspan.Snapshot, self overspan.NodeID) error {
	records, err := savedRecords(snap, self)
	if err != nil {
		return fmt.Errorf("save snapshot %d: %w", snap.Revision, err)
	}
	err = j.db.Update(func(tx *bolt.Tx) error {
		return replaceAll(tx.Bucket([]byte(bucketSnapshot)), records)
	})
	if err != nil && !errors.Is(err, errSame) {
		return fmt.Errorf("save snapshot %d: %w", snap.Revision, err)
	}
	return nil
}

// replaceAll makes a bucket hold the records and nothing else; errSame if it
// would only learn of later revisions, which is not worth a write.
func replaceAll(bucket *bolt.Bucket, records map[string][]byte) error {
	same := bucket.Get([]byte(keySnapshot)) != nil
	var stale [][]byte
	err := bucket.ForEach(func(key, _ []byte) error {
		if _, stays := records[string(key)]; !stays {
			stale = append(stale, slices.Clone(key))
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, key := range stale {
		same = false
		if err := bucket.Delete(key); err != nil {
			return err
		}
	}
	for key, value := range records {
		if bytes.Equal(bucket.Get([]byte(key)), value) {
			continue
		}
		same = same && key == keySnapshot
		if err := bucket.Put([]byte(key), value); err != nil {
			return err
		}
	}
	if same {
		return errSame
	}
	return nil
}

// A saver collects the records of a snapshot, and the first that cannot be
// written.
type saver struct {
	out map[string][]byte
	err error
}

func (s *saver) add(key string, create, mod int64, rec proto.Message) {
	value, err := Marshal(rec)
	s.raw(key, savedRecord{Create: create, Mod: mod, Record: value}, err)
}

func (s *saver) raw(key string, saved any, err error) {
	if err == nil {
		s.out[key], err = json.Marshal(saved)
	}
	if err != nil && s.err == nil {
		s.err = fmt.Errorf("key %s: %w", key, err)
	}
}

func savedRecords(snap *overspan.Snapshot, self overspan.NodeID) (map[string][]byte, error) {
	keys, err := NewKeys(journalCluster)
	if err != nil {
		return nil, err
	}
	s := saver{out: make(map[string][]byte)}
	head := savedHead{Revision: snap.Revision, Bad: snap.Bad, Segments: make(map[overspan.NetworkID]savedSegment)}
	if snap.Meta != (overspan.Meta{}) { // a snapshot may be older than the cluster's settings
		s.add(keys.Meta(), 0, 0, overspanv1.MetaRecord(snap.Meta))
	}
	if snap.Frozen != nil {
		s.add(keys.Frozen(), snap.Frozen.Revision, snap.Frozen.Revision, overspanv1.FrozenRecord(*snap.Frozen))
	}
	if snap.Accepted != 0 {
		s.add(keys.Accepted(), 0, 0, &overspanv1.Accepted{Count: snap.Accepted})
	}
	for id, n := range snap.Nodes {
		s.add(keys.Node(id), n.CreateRevision, n.ModRevision, overspanv1.NodeRecord(*n))
		if n.Presence != nil {
			s.add(keys.Live(id), n.Presence.Revision, n.Presence.Revision, overspanv1.PresenceRecord(*n.Presence))
		}
	}
	for id, n := range snap.Networks {
		s.add(keys.Network(id), n.CreateRevision, n.ModRevision, overspanv1.NetworkRecord(*n))
		seg := snap.Segments[id]
		if seg == nil {
			continue
		}
		head.Segments[id] = savedSegment{Revision: seg.Revision, Bad: seg.Bad}
		for b := range seg.Blocks.Values() {
			s.add(keys.Block(id, b.Range), b.CreateRevision, b.ModRevision, overspanv1.BlockRecord(b))
		}
		for slot, e := range seg.Endpoints.All() {
			if e.Node == self || n.IsException(*e) {
				s.add(keys.Endpoint(id, slot), e.CreateRevision, e.ModRevision, overspanv1.EndpointRecord(*e))
			}
		}
	}
	s.raw(keySnapshot, head, nil)
	return s.out, s.err
}

// Snapshot returns the snapshot that was saved last, without the wants and the
// endpoints that SaveSnapshot leaves out; nil if none was.
func (j *Journal) Snapshot() (*overspan.Snapshot, error) {
	keys, err := NewKeys(journalCluster)
	if err != nil {
		return nil, err
	}
	var snap *overspan.Snapshot
	err = j.db.View(func(tx *bolt.Tx) error {
		bucket := tx.Bucket([]byte(bucketSnapshot))
		value := bucket.Get([]byte(keySnapshot))
		if value == nil {
			return nil
		}
		var head savedHead
		if err := json.Unmarshal(value, &head); err != nil {
			return corrupt(bucketSnapshot, keySnapshot, err)
		}
		snap = emptySnapshot(head)
		// Keys come in their order: live/ before nodes/, net/ before networks/.
		presences := make(map[overspan.NodeID]*overspan.Presence)
		err := bucket.ForEach(func(key, value []byte) error {
			if string(key) == keySnapshot {
				return nil
			}
			var saved savedRecord
			if err := json.Unmarshal(value, &saved); err != nil {
				return corrupt(bucketSnapshot, string(key), err)
			}
			kv := KeyValue{Key: string(key), Value: saved.Record, CreateRevision: saved.Create, ModRevision: saved.Mod}
			if err := restore(keys, kv, snap, presences); err != nil {
				return corrupt(bucketSnapshot, string(key), err)
			}
			return nil
		})
		for id, p := range presences {
			if n := snap.Nodes[id]; n != nil {
				n.Presence = p
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return snap, nil
}

func emptySnapshot(head savedHead) *overspan.Snapshot {
	snap := &overspan.Snapshot{
		Revision: head.Revision,
		Bad:      head.Bad,
		Nodes:    make(map[overspan.NodeID]*overspan.Node),
		Networks: make(map[overspan.NetworkID]*overspan.Network),
		Segments: make(map[overspan.NetworkID]*overspan.Segment),
	}
	for id, saved := range head.Segments {
		snap.Segments[id] = &overspan.Segment{
			Revision: saved.Revision,
			Bad:      saved.Bad,
		}
	}
	return snap
}

// restore puts one saved record into its place in a snapshot.
func restore(keys Keys, kv KeyValue, snap *overspan.Snapshot, presences map[overspan.NodeID]*overspan.Presence) error {
	name, err := keys.Parse(kv.Key)
	if err != nil {
		return err
	}
	switch name.Kind {
	case KeyMeta:
		snap.Meta, err = keys.meta(kv)
	case KeyFrozen:
		f := keys.freeze(kv)
		snap.Frozen = &f
	case KeyAccepted:
		snap.Accepted, err = keys.acceptances(kv)
	case KeyNode:
		var n overspan.Node
		n, err = keys.node(kv)
		snap.Nodes[n.ID] = &n
	case KeyLive:
		var p overspan.Presence
		_, p, err = keys.presence(kv)
		presences[name.Node] = &p
	case KeyNetwork:
		var n overspan.Network
		n, err = keys.network(kv)
		snap.Networks[n.ID] = &n
	case KeyBlock, KeyEndpoint:
		seg := snap.Segments[name.Network]
		if seg == nil {
			return contradicts("segments", name.Network)
		}
		return restoreInside(keys, kv, name, seg)
	default:
		return overspan.Errorf(overspan.ErrCorrupt, "nothing of a snapshot")
	}
	return err
}

func restoreInside(keys Keys, kv KeyValue, name KeyName, seg *overspan.Segment) error {
	if name.Kind == KeyBlock {
		b, err := keys.block(kv)
		seg.Blocks.Put(b.First, b)
		return err
	}
	e, err := keys.endpoint(kv)
	seg.Endpoints.Put(name.Slot, &e)
	return err
}
