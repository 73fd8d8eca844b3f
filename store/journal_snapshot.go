package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	bolt "go.etcd.io/bbolt"

	"github.com/overspan/overspan"
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

// endpointsMost bounds the networks of which the journal keeps all endpoints:
// reading them back delays the start of an agent by some 20 µs each.
const endpointsMost = 2048

// SaveSnapshot keeps what this node needs to know while etcd is away: settings,
// nodes, networks, and of the networks that are followed the blocks and the
// endpoints. Of a network with more than endpointsMost it keeps those endpoints
// alone that planning needs and blocks do not tell of, which are this node's own
// and exceptions. It writes, and looks at, only what has changed since the
// snapshot that it saved before; that only the revision has is not worth a write.
func (j *Journal) SaveSnapshot(snap *overspan.Snapshot, self overspan.NodeID) error {
	keys, err := NewKeys(journalCluster)
	if err != nil {
		return err
	}
	j.saving.Lock()
	defer j.saving.Unlock()
	old := j.saved
	if old == nil {
		old = &overspan.Snapshot{}
	}
	s := saver{keys: keys, self: self, most: j.most, put: map[string][]byte{}, del: map[string]struct{}{}}
	s.compare(old, snap)
	switch {
	case s.err != nil:
		return fmt.Errorf("save snapshot %d: %w", snap.Revision, s.err)
	case j.saved != nil && len(s.put)+len(s.del) == 0 && headOf(old).same(headOf(snap)):
		j.saved = snap
		return nil
	}
	s.raw(keySnapshot, headOf(snap), nil)
	err = j.db.Update(func(tx *bolt.Tx) error {
		bucket := tx.Bucket([]byte(bucketSnapshot))
		if j.saved == nil {
			return s.replace(bucket, headOf(snap))
		}
		return s.write(bucket)
	})
	if err != nil && !errors.Is(err, errSame) {
		j.saved = nil // what the file holds is not known any more
		return fmt.Errorf("save snapshot %d: %w", snap.Revision, err)
	}
	j.saved = snap
	return nil
}

func headOf(snap *overspan.Snapshot) savedHead {
	head := savedHead{Revision: snap.Revision, Bad: snap.Bad, Segments: make(map[overspan.NetworkID]savedSegment)}
	for id := range snap.Networks {
		if seg := snap.Segments.Get(id); seg != nil {
			head.Segments[id] = savedSegment{Revision: seg.Revision, Bad: seg.Bad}
		}
	}
	return head
}

// same reports whether two heads differ in their revisions at most.
func (h savedHead) same(o savedHead) bool {
	return slices.Equal(h.Bad, o.Bad) &&
		maps.EqualFunc(h.Segments, o.Segments, func(s, t savedSegment) bool { return s.Bad == t.Bad })
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
	}
	for id, saved := range head.Segments {
		snap.Segments.Put(id, &overspan.Segment{
			Revision: saved.Revision,
			Bad:      saved.Bad,
		})
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
		seg := snap.Segments.Get(name.Network)
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
