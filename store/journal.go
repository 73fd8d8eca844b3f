package store

import (
	"errors"
	"fmt"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"google.golang.org/protobuf/proto"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// lockTimeout is how long an agent that is just ending may keep the journal.
const lockTimeout = 2 * time.Second

// The buckets of the journal, and the keys of the first.
const (
	bucketIdentity    = "identity"
	bucketSandboxes   = "sandboxes"
	bucketAttachments = "attachments"
	bucketReleases    = "releases"
	bucketSnapshot    = "snapshot"

	keyNode         = "node"
	keyRegistration = "registration"
	keyInstance     = "instance"
	keyMachine      = "machine"
	keyClusterID    = "etcd-cluster-id"
	keyRevision     = "etcd-revision"
	keyAccepted     = "etcd-accepted"
	keyClaimed      = "etcd-claimed"
)

// A Journal is what a node must remember while its agent is not running: who it
// is, its sandboxes and what is plugged into them, what is still to be released
// in etcd, the last snapshot of its networks, and what the host was like before.
//
// Every change is on disk when its method returns. Values are records in JSON
// form; one that cannot be read is an error of class ErrCorrupt that names its
// bucket and key. Any number of goroutines may use a Journal.
type Journal struct {
	db   *bolt.DB
	id   Identity
	most int // endpoints of a network all of which SaveSnapshot keeps

	saving sync.Mutex         // guards saved
	saved  *overspan.Snapshot // what SaveSnapshot wrote last; nil if that is not known
}

// OpenJournal opens the journal at a path, and makes it if it is not there: then
// it draws a node id. The file is locked as long as it is open. ErrInUse names
// the process that has locked it: two agents may not share a state directory.
func OpenJournal(path string) (*Journal, error) {
	// Which pages are free is found out when it is opened, not written with
	// every change: a journal is small, and an attach waits for it.
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: lockTimeout, NoFreelistSync: true})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, overspan.Errorf(overspan.ErrInUse, "journal %s is in use by %s: two agents cannot share a state directory", path, lockHolder(path))
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrChecksum), errors.Is(err, berrors.ErrVersionMismatch):
		return nil, overspan.Errorf(overspan.ErrCorrupt, "open journal %s: %w; put a copy of it back, or move it away: this host then joins as a node of its own, without the endpoints that it had", path, err)
	case err != nil:
		return nil, fmt.Errorf("open journal %s: %w", path, err)
	}
	j := &Journal{db: db, most: endpointsMost}
	if err := j.setUp(); err != nil {
		return nil, errors.Join(fmt.Errorf("open journal %s: %w", path, err), db.Close())
	}
	return j, nil
}

func (j *Journal) setUp() error {
	return j.db.Update(func(tx *bolt.Tx) error {
		for _, name := range []string{bucketIdentity, bucketSandboxes, bucketAttachments, bucketReleases, bucketSnapshot, bucketFollowed, bucketFound} {
			if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return err
			}
		}
		identity := tx.Bucket([]byte(bucketIdentity))
		if identity.Get([]byte(keyNode)) == nil {
			if err := identity.Put([]byte(keyNode), []byte(overspan.NewID())); err != nil {
				return err
			}
		}
		var err error
		j.id, err = readIdentity(identity)
		return err
	})
}

// Close unlocks the journal.
func (j *Journal) Close() error { return j.db.Close() }

// Sandboxes returns all sandboxes.
func (j *Journal) Sandboxes() ([]overspan.Sandbox, error) {
	return all(j, bucketSandboxes, func(rec *overspanv1.Sandbox) (overspan.Sandbox, string, error) {
		s, err := rec.Noun()
		return s, string(s.ID), err
	})
}

// PutSandbox notes a sandbox.
func (j *Journal) PutSandbox(s overspan.Sandbox) error {
	return j.putRecord(bucketSandboxes, string(s.ID), overspanv1.SandboxRecord(s))
}

// DeleteSandbox forgets a sandbox; an unknown one is success.
func (j *Journal) DeleteSandbox(id overspan.SandboxID) error {
	return j.delete(bucketSandboxes, string(id))
}

// Attachments returns all attachments. Their endpoints have no revisions.
func (j *Journal) Attachments() ([]overspan.Attachment, error) {
	return all(j, bucketAttachments, func(rec *overspanv1.Attachment) (overspan.Attachment, string, error) {
		a, err := rec.Noun()
		return a, string(a.Endpoint.ID), err
	})
}

// PutAttachment notes an attachment.
func (j *Journal) PutAttachment(a overspan.Attachment) error {
	return j.putRecord(bucketAttachments, string(a.Endpoint.ID), overspanv1.AttachmentRecord(a))
}

// RewriteAttachment notes what has become of an attachment that the journal has;
// one that it does not have, because it is not noted yet or was detached
// meanwhile, is left so.
func (j *Journal) RewriteAttachment(a overspan.Attachment) error {
	value, err := Marshal(overspanv1.AttachmentRecord(a))
	if err != nil {
		return err
	}
	id := []byte(a.Endpoint.ID)
	return j.update(bucketAttachments, string(id), func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte(bucketAttachments))
		if b.Get(id) == nil {
			return nil
		}
		return b.Put(id, value)
	})
}

// PutAttachmentIn notes an attachment and the sandbox that it is in, in one step.
func (j *Journal) PutAttachmentIn(s overspan.Sandbox, a overspan.Attachment) error {
	sandbox, err := Marshal(overspanv1.SandboxRecord(s))
	if err != nil {
		return err
	}
	attachment, err := Marshal(overspanv1.AttachmentRecord(a))
	if err != nil {
		return err
	}
	return j.update(bucketAttachments, string(a.Endpoint.ID), func(tx *bolt.Tx) error {
		if err := tx.Bucket([]byte(bucketSandboxes)).Put([]byte(s.ID), sandbox); err != nil {
			return err
		}
		return tx.Bucket([]byte(bucketAttachments)).Put([]byte(a.Endpoint.ID), attachment)
	})
}

// DeleteAttachmentIn forgets an attachment that has come to nothing, and notes what
// its sandbox is without it, in one step; an unknown one is success.
func (j *Journal) DeleteAttachmentIn(s overspan.Sandbox, id overspan.EndpointID) error {
	sandbox, err := Marshal(overspanv1.SandboxRecord(s))
	if err != nil {
		return err
	}
	return j.update(bucketAttachments, string(id), func(tx *bolt.Tx) error {
		if err := tx.Bucket([]byte(bucketSandboxes)).Put([]byte(s.ID), sandbox); err != nil {
			return err
		}
		return tx.Bucket([]byte(bucketAttachments)).Delete([]byte(id))
	})
}

// Releases returns the endpoints that are still to be detached in etcd. They
// have no revisions.
func (j *Journal) Releases() ([]overspan.Endpoint, error) {
	return all(j, bucketReleases, func(rec *overspanv1.Endpoint) (overspan.Endpoint, string, error) {
		e, err := rec.Noun()
		return e, string(e.ID), err
	})
}

// Defer turns an attachment into a release to be done later, in one step.
func (j *Journal) Defer(e overspan.Endpoint) error {
	value, err := Marshal(overspanv1.EndpointRecord(e))
	if err != nil {
		return err
	}
	return j.update(bucketReleases, string(e.ID), func(tx *bolt.Tx) error {
		if err := tx.Bucket([]byte(bucketAttachments)).Delete([]byte(e.ID)); err != nil {
			return err
		}
		return tx.Bucket([]byte(bucketReleases)).Put([]byte(e.ID), value)
	})
}

// DeleteRelease forgets a release that is done; an unknown one is success.
func (j *Journal) DeleteRelease(id overspan.EndpointID) error {
	return j.delete(bucketReleases, string(id))
}

func (j *Journal) putRecord(bucket, key string, rec proto.Message) error {
	value, err := Marshal(rec)
	if err != nil {
		return err
	}
	return j.put(bucket, key, value)
}

func (j *Journal) put(bucket, key string, value []byte) error {
	return j.update(bucket, key, func(tx *bolt.Tx) error {
		return tx.Bucket([]byte(bucket)).Put([]byte(key), value)
	})
}

func (j *Journal) delete(bucket, key string) error {
	return j.update(bucket, key, func(tx *bolt.Tx) error {
		return tx.Bucket([]byte(bucket)).Delete([]byte(key))
	})
}

func (j *Journal) update(bucket, key string, change func(*bolt.Tx) error) error {
	if err := j.db.Update(change); err != nil {
		return fmt.Errorf("write %s/%s to the journal: %w", bucket, key, err)
	}
	return nil
}

// all reads every record of a bucket; noun also returns the key under which the
// record must stand.
func all[R any, M interface {
	*R
	proto.Message
}, N any](j *Journal, bucket string, noun func(M) (N, string, error)) ([]N, error) {
	var out []N
	err := j.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte(bucket)).ForEach(func(key, value []byte) error {
			rec := M(new(R))
			if err := Unmarshal(value, rec); err != nil {
				return corrupt(bucket, string(key), err)
			}
			n, id, err := noun(rec)
			if err == nil && id != string(key) {
				err = contradicts("id", id)
			}
			if err != nil {
				return corrupt(bucket, string(key), err)
			}
			out = append(out, n)
			return nil
		})
	})
	return out, err
}

func corrupt(bucket, key string, err error) error {
	return overspan.Errorf(overspan.ErrCorrupt, "journal key %s/%s: %w", bucket, key, err)
}
