package store

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/overspan/overspan"
)

// Memory is etcd as Overspan uses it, in memory: tests of what is built on KV
// run against it. It keeps every revision until Compact, so that reads and
// watches of the past work. Leases do not expire by the clock but by Expire.
//
// Any number of agents may share one Memory; Close ends nothing.
type Memory struct {
	mu        sync.Mutex // guards all fields below
	cluster   uint64
	revision  int64
	compacted int64
	base      map[string]KeyValue // the state before revision compacted
	log       []Event             // what happened from there on, in order
	state     map[string]KeyValue // the state now

	leases    map[LeaseID]chan struct{} // closed when the lease ends
	lastLease LeaseID

	progress uint64        // counts the calls of Progress
	wake     chan struct{} // closed and replaced when watches have something to tell
}

// NewMemory returns an empty store of a cluster id; two stores with one id are
// one cluster to those who compare it.
func NewMemory(clusterID uint64) *Memory {
	return &Memory{
		cluster:  clusterID,
		revision: 1, // like a fresh etcd
		base:     map[string]KeyValue{},
		state:    map[string]KeyValue{},
		leases:   map[LeaseID]chan struct{}{},
		wake:     make(chan struct{}),
	}
}

// List implements KV.
func (m *Memory) List(ctx context.Context, r KeyRange, rev int64) (Listing, error) {
	if err := alive(ctx, "list "+r.Key); err != nil {
		return Listing{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	state := m.state
	switch {
	case rev == 0:
		rev = m.revision
	case rev > m.revision:
		return Listing{}, ErrFuture
	case rev < m.compacted:
		return Listing{}, ErrCompacted
	case rev < m.revision:
		state = m.stateAt(rev)
	}
	return Listing{Revision: rev, ClusterID: m.cluster, KVs: within(state, r)}, nil
}

// stateAt replays the log up to a revision that is still kept.
func (m *Memory) stateAt(rev int64) map[string]KeyValue {
	state := maps.Clone(m.base)
	for _, e := range m.log {
		if e.ModRevision > rev {
			break
		}
		e.apply(state)
	}
	return state
}

func (e Event) apply(state map[string]KeyValue) {
	if e.Deleted {
		delete(state, e.Key)
		return
	}
	state[e.Key] = e.KeyValue
}

// Watch implements KV.
func (m *Memory) Watch(ctx context.Context, r KeyRange, after int64) <-chan Batch {
	out := make(chan Batch)
	m.mu.Lock()
	progress := m.progress
	m.mu.Unlock()
	go func() { // ends with ctx, as the contract of Watch has it
		defer close(out)
		for {
			b, wake := m.next(r, after, &progress)
			if wake == nil {
				select {
				case out <- b:
				case <-ctx.Done():
					return
				}
				if b.Err != nil {
					return
				}
				after = b.Revision
				continue
			}
			select {
			case <-wake:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// next returns what a watch has to tell, or else a channel that closes when
// that may have changed.
func (m *Memory) next(r KeyRange, after int64, progress *uint64) (Batch, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if after+1 < m.compacted {
		return Batch{Err: ErrCompacted}, nil
	}
	var events []Event
	from, _ := slices.BinarySearchFunc(m.log, after+1, func(e Event, rev int64) int { return int(e.ModRevision - rev) })
	for _, e := range m.log[from:] {
		if r.contains(e.Key) {
			events = append(events, e)
		}
	}
	if len(events) > 0 {
		return Batch{Revision: m.revision, Events: events}, nil
	}
	if *progress != m.progress && m.revision >= after {
		*progress = m.progress
		return Batch{Revision: m.revision}, nil
	}
	return Batch{}, m.wake
}

// notify wakes the watches; mu is held.
func (m *Memory) notify() {
	close(m.wake)
	m.wake = make(chan struct{})
}

// Progress implements KV.
func (m *Memory) Progress(ctx context.Context) error {
	if err := alive(ctx, "request progress"); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.progress++
	m.notify()
	return nil
}

// Grant implements KV. The lease lasts until Revoke or Expire, whatever ttl.
func (m *Memory) Grant(ctx context.Context, _ time.Duration) (LeaseID, error) {
	if err := alive(ctx, "grant lease"); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lastLease++
	m.leases[m.lastLease] = make(chan struct{})
	return m.lastLease, nil
}

// KeepAlive implements KV.
func (m *Memory) KeepAlive(ctx context.Context, id LeaseID) (<-chan struct{}, error) {
	if err := alive(ctx, "keep lease alive"); err != nil {
		return nil, err
	}
	m.mu.Lock()
	ended := m.leases[id]
	m.mu.Unlock()
	lost := make(chan struct{})
	if ended == nil {
		close(lost)
		return lost, nil
	}
	go func() { // ends with ctx, as the contract of KeepAlive has it
		defer close(lost)
		select {
		case <-ended:
		case <-ctx.Done():
		}
	}()
	return lost, nil
}

// Revoke implements KV.
func (m *Memory) Revoke(ctx context.Context, id LeaseID) error {
	if err := alive(ctx, "revoke lease"); err != nil {
		return err
	}
	if !m.Expire(id) {
		return errNoLease(id)
	}
	return nil
}

// Expire ends a lease and deletes its keys in one revision, as if nobody had
// kept it alive. It reports whether there was one.
func (m *Memory) Expire(id LeaseID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	ended, ok := m.leases[id]
	if !ok {
		return false
	}
	delete(m.leases, id)
	close(ended)
	w := m.begin()
	for _, kv := range within(m.state, Prefix("")) {
		if kv.Lease == id {
			w.delete(Key(kv.Key))
		}
	}
	w.commit()
	return true
}

// Compact forgets what was before a revision: reads of older ones, and watches
// that would have to tell of older ones, fail with ErrCompacted.
func (m *Memory) Compact(rev int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	rev = min(rev, m.revision)
	if rev <= m.compacted {
		return
	}
	m.base = m.stateAt(rev - 1)
	m.log = slices.DeleteFunc(m.log, func(e Event) bool { return e.ModRevision < rev })
	m.compacted = rev
	m.notify()
}

// Rollback restores the state at a revision that is still kept and counts on
// from there, as an etcd does that was restored from a backup.
func (m *Memory) Rollback(rev int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state = m.stateAt(rev)
	m.log = slices.DeleteFunc(slices.Clone(m.log), func(e Event) bool { return e.ModRevision > rev })
	m.revision = rev
	m.notify()
}

// RollbackAhead restores the state at a revision that is still kept, and counts on
// from a higher one than has ever been, as etcdutl does with --bump-revision and
// --mark-compacted: watches end, and no revision tells that anything is lost.
func (m *Memory) RollbackAhead(rev int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state = m.stateAt(rev)
	m.base, m.log = maps.Clone(m.state), nil
	m.revision += 1000
	m.compacted = m.revision
	m.notify()
}

// Replace makes it another, empty store, as if somebody had set up etcd anew
// under the address of the old one. No lease is left.
func (m *Memory) Replace(clusterID uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cluster, m.revision, m.compacted = clusterID, 1, 0
	m.base, m.state, m.log = map[string]KeyValue{}, map[string]KeyValue{}, nil
	for _, ended := range m.leases {
		close(ended)
	}
	clear(m.leases)
	m.notify()
}

// Members implements KV: one member, in good health.
func (m *Memory) Members(context.Context) []Member {
	return []Member{{Endpoint: "memory", Version: "memory", Leader: true}}
}

// Endpoints implements KV.
func (m *Memory) Endpoints() []string { return []string{"memory"} }

// Close implements KV. The store and its watches go on for those who share it.
func (m *Memory) Close() error { return nil }

// contains reports whether a key lies in the range.
func (r KeyRange) contains(key string) bool {
	switch r.End {
	case "":
		return key == r.Key
	case "\x00":
		return key >= r.Key
	}
	return key >= r.Key && key < r.End
}

// within returns the keys of a range, sorted.
func within(state map[string]KeyValue, r KeyRange) []KeyValue {
	if r.End == "" {
		if kv, ok := state[r.Key]; ok {
			return []KeyValue{kv}
		}
		return nil
	}
	var out []KeyValue
	for key, kv := range state {
		if r.contains(key) {
			out = append(out, kv)
		}
	}
	slices.SortFunc(out, func(a, b KeyValue) int { return bytes.Compare([]byte(a.Key), []byte(b.Key)) })
	return out
}

// alive refuses what is asked for under a context that has ended, as a call
// over the network would.
func alive(ctx context.Context, what string) error {
	if err := ctx.Err(); err != nil {
		return overspan.Errorf(overspan.ErrUnavailable, "%s: %w", what, err)
	}
	return nil
}

func errNoLease(id LeaseID) error {
	return overspan.Errorf(overspan.ErrNotFound, "lease %x not found", int64(id))
}
