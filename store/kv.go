package store

import (
	"context"
	"slices"
	"time"
)

// A KV is the part of etcd that Overspan uses. Etcd is the real one; Memory is
// a small one in memory. Both pass the suite in kv_test.go, so what is
// built on top needs no mock.
//
// Errors: one of class overspan.ErrUnavailable means that the server could not
// be reached or did not answer in time, or that ctx has ended; after a Txn with
// it, whether it was committed is unknown. After any other error it was not:
// overspan.ErrInvalid (a key put twice, too many operations), ErrNotFound (a
// lease), ErrDenied. Calls are bounded: a server that is away is reported
// within 5 s whatever ctx allows.
type KV interface {
	// Txn carries out one transaction. Compares, also those of nested
	// transactions, see the state before it. The same key put twice is an error.
	Txn(ctx context.Context, t Txn) (Result, error)

	// List returns all keys of a range at one revision: rev, or the newest
	// (linearizable) if rev is 0. It reads in pages. ErrCompacted if rev is
	// gone, ErrFuture if it has not come.
	List(ctx context.Context, r KeyRange, rev int64) (Listing, error)

	// Watch streams what happens to a range after revision after (exclusive)
	// until ctx ends. The channel is unbuffered; it is closed behind a batch
	// with Err, or when ctx ends. Nothing between two batches is left out.
	Watch(ctx context.Context, r KeyRange, after int64) <-chan Batch

	// Progress asks the server to tell every watch how far it is: each then
	// receives a batch without events. While the server catches a watch up it
	// may leave the question unanswered: ask again.
	Progress(ctx context.Context) error

	// Grant makes a lease, KeepAlive keeps it until ctx ends: its channel
	// closes when the lease is lost or ctx is done.
	Grant(ctx context.Context, ttl time.Duration) (LeaseID, error)
	KeepAlive(ctx context.Context, id LeaseID) (<-chan struct{}, error)
	Revoke(ctx context.Context, id LeaseID) error

	// Members asks each member for its health.
	Members(ctx context.Context) []Member

	// Endpoints names where the servers are, for errors.
	Endpoints() []string

	Close() error
}

// A LeaseID is etcd's; 0 is no lease.
type LeaseID int64

// A KeyRange is the keys from Key up to End, End excluded; just Key if End is "".
type KeyRange struct{ Key, End string }

// Prefix returns the range of all keys that begin with p.
func Prefix(p string) KeyRange {
	end := []byte(p)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i] < 0xff {
			end[i]++
			return KeyRange{Key: p, End: string(end[:i+1])}
		}
	}
	return KeyRange{Key: p, End: "\x00"}
}

// Key returns the range of one key.
func Key(k string) KeyRange { return KeyRange{Key: k} }

// A Txn is a guarded transaction: Then if every compare of If holds, else Else.
type Txn struct {
	If   []Cmp
	Then []Op
	Else []Op
}

// writes reports whether the transaction could change anything.
func (t Txn) writes() bool {
	return slices.ContainsFunc(slices.Concat(t.Then, t.Else), func(op Op) bool {
		return op.Kind == OpPut || op.Kind == OpDelete || op.Kind == OpTxn && op.Txn.writes()
	})
}

// A Field is what a Cmp looks at.
type Field int

// The fields.
const (
	FieldCreate Field = iota // create-revision; 0 where the key is absent
	FieldMod                 // mod-revision; 0 where the key is absent
)

// A Cmp demands that Field equal Rev, or be at least Rev, for every key of the
// range. A range without keys counts as one key with revision 0.
type Cmp struct {
	KeyRange
	Field   Field
	Rev     int64
	AtLeast bool
}

// Absent demands that no key of the range exists.
func Absent(r KeyRange) Cmp { return Cmp{KeyRange: r, Field: FieldCreate} }

// Created demands that the key exists with this create-revision.
func Created(key string, rev int64) Cmp { return Cmp{KeyRange: Key(key), Field: FieldCreate, Rev: rev} }

// Unchanged demands that the key's mod-revision is rev; 0 demands its absence.
func Unchanged(key string, rev int64) Cmp {
	return Cmp{KeyRange: Key(key), Field: FieldMod, Rev: rev}
}

// Present demands that the key exists.
func Present(key string) Cmp {
	return Cmp{KeyRange: Key(key), Field: FieldCreate, Rev: 1, AtLeast: true}
}

// NotBefore demands that the key's mod-revision is rev or higher.
func NotBefore(key string, rev int64) Cmp {
	return Cmp{KeyRange: Key(key), Field: FieldMod, Rev: rev, AtLeast: true}
}

// An OpKind is what an Op does.
type OpKind int

// The kinds of Op.
const (
	OpGet OpKind = iota
	OpPut
	OpDelete
	OpTxn
)

// An Op is one step of a transaction.
type Op struct {
	Kind  OpKind
	Range KeyRange
	Value []byte
	Lease LeaseID
	Txn   *Txn // of OpTxn
}

// Get reads a range; Limit-less, so only for ranges that are known to be small.
func Get(r KeyRange) Op { return Op{Kind: OpGet, Range: r} }

// Put writes a key.
func Put(key string, value []byte) Op { return Op{Kind: OpPut, Range: Key(key), Value: value} }

// PutLeased writes a key that lives as long as the lease.
func PutLeased(key string, value []byte, id LeaseID) Op {
	return Op{Kind: OpPut, Range: Key(key), Value: value, Lease: id}
}

// Delete removes a range of keys; none is no error.
func Delete(r KeyRange) Op { return Op{Kind: OpDelete, Range: r} }

// Nest is a transaction within one: it succeeds or fails alone.
func Nest(t Txn) Op { return Op{Kind: OpTxn, Txn: &t} }

// A Result is the outcome of a Txn: one response for each op of the branch taken.
type Result struct {
	OK        bool
	Revision  int64 // of the store after it
	ClusterID uint64
	Responses []Response
}

// A Response answers one Op.
type Response struct {
	KVs     []KeyValue // of a Get
	Deleted int64      // of a Delete
	Result  *Result    // of a Nest
}

// found collects the keys that a transaction has read.
func found(res Result) map[string]KeyValue {
	out := make(map[string]KeyValue)
	for _, resp := range res.Responses {
		for _, kv := range resp.KVs {
			out[kv.Key] = kv
		}
	}
	return out
}

// A KeyValue is one key as it stands at a revision.
type KeyValue struct {
	Key            string
	Value          []byte
	CreateRevision int64
	ModRevision    int64
	Lease          LeaseID
}

// A Listing is a range at one revision, sorted by key.
type Listing struct {
	Revision  int64
	ClusterID uint64
	KVs       []KeyValue
}

// A Batch is what a watch learned at once. All events of one revision come in
// one batch.
type Batch struct {
	// Revision is the watch's frontier: it has told everything up to here.
	Revision int64
	Events   []Event

	// Err ends the watch. ErrCompacted: list again.
	Err error
}

// An Event is one change of a key.
type Event struct {
	Deleted bool
	KeyValue
}

// A Member is an etcd server as it answered at one of its addresses.
type Member struct {
	Endpoint string
	ID       uint64 // 0 if it did not answer
	Version  string // "" if it did not answer
	Leader   bool
	Latency  time.Duration
	Err      error // why it is of no use; it may have answered nevertheless
}
