package store

import (
	"fmt"
	"strconv"
	"strings"

	bolt "go.etcd.io/bbolt"

	"github.com/overspan/overspan"
)

// An Identity is what the journal keeps of a node.
type Identity struct {
	Node         overspan.NodeID
	Registration int64  // create-revision of the last registration; 0: none yet
	Instances    string // of the run that noted it and of those since, with spaces between
	Machine      string // id of the machine that it ran on; "": not known
	ClusterID    uint64 // etcd's; 0: none seen yet
	Revision     int64  // the highest that was seen of that etcd
	Accepted     uint64 // how often an operator had accepted what etcd had become
	Claimed      int64  // revision of the last claim that was heard of
}

func readIdentity(b *bolt.Bucket) (Identity, error) {
	id := Identity{
		Node:      overspan.NodeID(b.Get([]byte(keyNode))),
		Instances: string(b.Get([]byte(keyInstance))),
		Machine:   string(b.Get([]byte(keyMachine))),
	}
	if !overspan.IsID(string(id.Node)) {
		return Identity{}, corrupt(bucketIdentity, keyNode, fmt.Errorf("%q is not 64 hex digits", id.Node))
	}
	cluster, err := readNumber(b, keyClusterID)
	if err != nil {
		return Identity{}, err
	}
	registration, err := readNumber(b, keyRegistration)
	if err != nil {
		return Identity{}, err
	}
	revision, err := readNumber(b, keyRevision)
	if err != nil {
		return Identity{}, err
	}
	if id.Accepted, err = readNumber(b, keyAccepted); err != nil {
		return Identity{}, err
	}
	claimed, err := readNumber(b, keyClaimed)
	if err != nil {
		return Identity{}, err
	}
	id.ClusterID, id.Registration, id.Revision, id.Claimed = cluster, int64(registration), int64(revision), int64(claimed)
	return id, nil
}

// readNumber reads a decimal number; 0 if there is none.
func readNumber(b *bolt.Bucket, key string) (uint64, error) {
	text := b.Get([]byte(key))
	if text == nil {
		return 0, nil
	}
	n, err := strconv.ParseUint(string(text), 10, 64)
	if err != nil {
		return 0, corrupt(bucketIdentity, key, err)
	}
	return n, nil
}

// Identity returns who the node is, as the journal said when it was opened: the
// registration is the last that was noted, the instances are those of the runs since.
func (j *Journal) Identity() Identity { return j.id }

// maxInstances bounds how many runs a journal names that have noted no registration.
const maxInstances = 32

// AddInstance notes the instance of this run. It belongs before Open, so that a
// registration of which the journal does not know yet is recognised by it.
func (j *Journal) AddInstance(instance string) error {
	return j.update(bucketIdentity, keyInstance, func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte(bucketIdentity))
		runs := append(strings.Fields(string(b.Get([]byte(keyInstance)))), instance)
		runs = runs[max(0, len(runs)-maxInstances):]
		return b.Put([]byte(keyInstance), []byte(strings.Join(runs, " ")))
	})
}

// SetMachine notes the id of the machine that the journal is used on: on another
// it is a copy.
func (j *Journal) SetMachine(id string) error {
	return j.put(bucketIdentity, keyMachine, []byte(id))
}

// SetRegistration notes the create-revision of the node's registration, and the run
// that has it: those before are of no more interest.
func (j *Journal) SetRegistration(rev int64, instance string) error {
	return j.update(bucketIdentity, keyRegistration, func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte(bucketIdentity))
		if err := b.Put([]byte(keyInstance), []byte(instance)); err != nil {
			return err
		}
		return b.Put([]byte(keyRegistration), strconv.AppendInt(nil, rev, 10))
	})
}

// SetSeen notes of an identity what this node has seen of etcd: which one, how far,
// how many acceptances of what it had become, and the last claim.
func (j *Journal) SetSeen(seen Identity) error {
	return j.update(bucketIdentity, keyRevision, func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte(bucketIdentity))
		for key, value := range map[string]uint64{
			keyClusterID: seen.ClusterID, keyRevision: uint64(seen.Revision), keyAccepted: seen.Accepted, keyClaimed: uint64(seen.Claimed),
		} {
			if err := b.Put([]byte(key), strconv.AppendUint(nil, value, 10)); err != nil {
				return err
			}
		}
		return nil
	})
}
