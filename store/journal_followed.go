package store

import (
	bolt "go.etcd.io/bbolt"

	"github.com/overspan/overspan"
)

// bucketFollowed holds the networks in which this node may hold blocks.
const bucketFollowed = "followed"

// PutFollowed notes a network before a first block is claimed there, so that
// whatever happens then, a restarted agent looks for the block.
func (j *Journal) PutFollowed(n overspan.NetworkID) error {
	known := false
	err := j.db.View(func(tx *bolt.Tx) error {
		known = tx.Bucket([]byte(bucketFollowed)).Get([]byte(n)) != nil
		return nil
	})
	if err != nil || known {
		return err
	}
	return j.put(bucketFollowed, string(n), []byte{})
}

// DeleteFollowed forgets a network in which this node holds nothing any more.
func (j *Journal) DeleteFollowed(n overspan.NetworkID) error {
	return j.delete(bucketFollowed, string(n))
}

// Followed returns the networks in which this node may hold blocks.
func (j *Journal) Followed() ([]overspan.NetworkID, error) {
	var ids []overspan.NetworkID
	err := j.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte(bucketFollowed)).ForEach(func(key, _ []byte) error {
			ids = append(ids, overspan.NetworkID(key))
			return nil
		})
	})
	return ids, err
}
