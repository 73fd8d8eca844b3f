package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/overspan/overspan"
)

// A reader collects what a watch says.
type reader struct {
	batches <-chan Batch
	at      int64
	events  []Event
	err     error
}

func (s subject) watch(ctx context.Context, after int64) *reader {
	return &reader{batches: s.Watch(ctx, Prefix(s.prefix), after), at: after}
}

// next reads a batch; false at the end of the watch.
func (r *reader) next(t *testing.T) bool {
	t.Helper()
	select {
	case b, ok := <-r.batches:
		if !ok {
			return false
		}
		if b.Err != nil {
			r.err = b.Err
			return true
		}
		if b.Revision < r.at {
			t.Errorf("frontier goes back from %d to %d", r.at, b.Revision)
		}
		for _, e := range b.Events {
			if e.ModRevision <= r.at || e.ModRevision > b.Revision {
				t.Errorf("event of revision %d in the batch after %d up to %d", e.ModRevision, r.at, b.Revision)
			}
		}
		r.at = b.Revision
		r.events = append(r.events, b.Events...)
		return true
	case <-testContext(t).Done():
		t.Fatal("no batch in time")
	}
	return false
}

// until reads up to a revision, which must have an event.
func (r *reader) until(t *testing.T, rev int64) {
	t.Helper()
	for r.at < rev {
		if !r.next(t) || r.err != nil {
			t.Fatalf("watch ended at %d before %d: %v", r.at, rev, r.err)
		}
	}
}

func (r *reader) summary() []string {
	var out []string
	for _, e := range r.events {
		what := "put"
		if e.Deleted {
			what = "delete"
		}
		out = append(out, what+" "+keysOf([]KeyValue{e.KeyValue})[0])
	}
	return out
}

func testWatchFromPast(t *testing.T, s subject) {
	first := s.put(t, "a")
	s.put(t, "b")
	s.remove(t, "a")
	last := s.put(t, "b")
	mustTxn(t, s, Txn{Then: []Op{Put("/elsewhere", nil)}})

	r := s.watch(testContext(t), first)
	r.until(t, last)
	want := []string{"put b", "delete a", "put b"}
	if diff := gocmp.Diff(want, r.summary()); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	e := r.events[2]
	wantEvent := Event{KeyValue: KeyValue{Key: s.key("b"), Value: []byte("value of b"), CreateRevision: first + 1, ModRevision: last}}
	if diff := gocmp.Diff(wantEvent, e); diff != "" {
		t.Errorf("event (-want +got):\n%s", diff)
	}
	if e := r.events[1]; e.Key != s.key("a") || e.ModRevision != first+2 {
		t.Errorf("delete event %+v, want key a at %d", e, first+2)
	}

	live := s.put(t, "c")
	r.until(t, live)
	if got := r.summary()[3:]; !slices.Equal(got, []string{"put c"}) {
		t.Errorf("live events %v", got)
	}
}

func testWatchWholeRevisions(t *testing.T, s subject) {
	start := s.put(t, "a")
	r := s.watch(testContext(t), start)
	var rev int64
	for range 20 {
		rev = s.put(t, "a", "b", "c", "d")
	}
	for r.at < rev {
		before := len(r.events)
		if !r.next(t) || r.err != nil {
			t.Fatalf("watch ended: %v", r.err)
		}
		count := map[int64]int{}
		for _, e := range r.events[before:] {
			count[e.ModRevision]++
		}
		for at, n := range count {
			if n != 4 {
				t.Errorf("revision %d: %d events in one batch, want 4", at, n)
			}
		}
	}
	if !slices.IsSortedFunc(r.events, func(a, b Event) int { return cmp.Compare(a.ModRevision, b.ModRevision) }) {
		t.Error("events out of order")
	}
}

func testWatchLarge(t *testing.T, s subject) {
	const revisions, keys = 8, 4
	value := make([]byte, 256<<10) // etcd takes 1.5 MiB in a transaction and sends 2 MiB at once
	start := s.put(t, "a")
	var rev int64
	for range revisions {
		var txn Txn
		for k := range keys {
			txn.Then = append(txn.Then, Put(s.key(fmt.Sprint(k)), value))
		}
		rev = mustTxn(t, s, txn).Revision
	}
	r := s.watch(testContext(t), start)
	r.until(t, rev)
	if len(r.events) != revisions*keys {
		t.Errorf("%d events, want %d", len(r.events), revisions*keys)
	}
	for i, e := range r.events {
		if want := start + 1 + int64(i/keys); e.ModRevision != want || len(e.Value) != len(value) {
			t.Errorf("event %d: revision %d with %d bytes, want %d with %d", i, e.ModRevision, len(e.Value), want, len(value))
		}
	}
}

func testWatchEnds(t *testing.T, s subject) {
	ctx, cancel := context.WithCancel(testContext(t))
	r := s.watch(ctx, s.put(t, "a"))
	r.until(t, s.put(t, "a"))
	cancel()
	for r.next(t) {
		if r.err != nil {
			t.Errorf("an end by context says %v", r.err)
		}
	}
}

func testWatchCompacted(t *testing.T, s subject) {
	first := s.put(t, "a")
	for range 5 {
		s.put(t, "a")
	}
	last := s.remove(t, "a")
	s.compact(t, last)
	r := s.watch(testContext(t), first)
	if !r.next(t) || !errors.Is(r.err, ErrCompacted) {
		t.Fatalf("got %v and error %v, want ErrCompacted", r.summary(), r.err)
	}
	if r.next(t) {
		t.Error("the watch goes on after its error")
	}
	next := s.put(t, "b")
	for after, want := range map[int64][]string{last - 1: {"delete a", "put b"}, last: {"put b"}} {
		r = s.watch(testContext(t), after)
		r.until(t, next)
		if got := r.summary(); !slices.Equal(got, want) {
			t.Errorf("from the compacted revision %d on, after %d: %v, want %v", last, after, got, want)
		}
	}
}

func testWatchRunsThroughCompaction(t *testing.T, s subject) {
	r := s.watch(testContext(t), s.put(t, "a"))
	rev := s.put(t, "b")
	r.until(t, rev)
	s.compact(t, rev)
	r.until(t, s.put(t, "c"))
	if got := r.summary(); !slices.Equal(got, []string{"put b", "put c"}) {
		t.Errorf("events %v", got)
	}
}

func testProgress(t *testing.T, s subject) {
	ctx := testContext(t)
	start := s.put(t, "a")
	a := s.watch(ctx, start)
	b := &reader{batches: s.Watch(ctx, Prefix(s.prefix+"nothing/"), start), at: start}
	a.until(t, s.put(t, "a"))
	rev := mustTxn(t, s, Txn{Then: []Op{Put("/elsewhere", nil)}}).Revision
	for _, r := range []*reader{a, b} {
		// A server that is still catching a watch up leaves a request
		// unanswered; hence one asks again, as the mirror does.
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for r.at < rev {
			if err := s.Progress(ctx); err != nil {
				t.Fatal(err)
			}
			select {
			case got := <-r.batches:
				if got.Err != nil || len(got.Events) > 0 {
					t.Fatalf("batch %+v, want progress", got)
				}
				r.at = got.Revision
			case <-tick.C:
			case <-ctx.Done():
				t.Fatalf("no progress beyond %d, want %d", r.at, rev)
			}
		}
	}
}

func testLease(t *testing.T, s subject) {
	ctx := testContext(t)
	id, err := s.Grant(ctx, 5*time.Second)
	if err != nil || id == 0 {
		t.Fatalf("grant: lease %x, error %v", id, err)
	}
	lost, err := s.KeepAlive(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	put := mustTxn(t, s, Txn{Then: []Op{PutLeased(s.key("a"), nil, id), PutLeased(s.key("b"), nil, id), Put(s.key("c"), nil)}})
	if got := mustList(t, s, Key(s.key("a")), 0).KVs[0].Lease; got != id {
		t.Errorf("key under lease %x, want %x", got, id)
	}
	r := s.watch(ctx, put.Revision)
	s.expire(t, id)
	r.until(t, put.Revision+1)
	if got := r.summary(); !slices.Equal(got, []string{"delete a", "delete b"}) {
		t.Errorf("events %v, want both deletes in one revision", got)
	}
	select {
	case <-lost:
	case <-ctx.Done():
		t.Error("the keepalive did not say that the lease is lost")
	}
	if err := s.Revoke(ctx, id); !errors.Is(err, overspan.ErrNotFound) {
		t.Errorf("revoke what is gone: error %v, want ErrNotFound", err)
	}
}

func testLeaseMoves(t *testing.T, s subject) {
	ctx := testContext(t)
	id, err := s.Grant(ctx, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	keepCtx, stop := context.WithCancel(ctx)
	ended, err := s.KeepAlive(keepCtx, id)
	if err != nil {
		t.Fatal(err)
	}
	stop()
	select {
	case <-ended:
	case <-ctx.Done():
		t.Error("a keepalive does not end with its context")
	}
	mustTxn(t, s, Txn{Then: []Op{PutLeased(s.key("a"), nil, id), PutLeased(s.key("b"), nil, id)}})
	s.put(t, "a") // without the lease
	if err := s.Revoke(ctx, id); err != nil {
		t.Fatal(err)
	}
	if got := keysOf(mustList(t, s, Prefix(s.prefix), 0).KVs); !slices.Equal(got, []string{"a"}) {
		t.Errorf("keys %v, want a alone", got)
	}
}

func testLeaseUnknown(t *testing.T, s subject) {
	ctx := testContext(t)
	const none = LeaseID(0x7777)
	if _, err := s.Txn(ctx, Txn{Then: []Op{PutLeased(s.key("a"), nil, none)}}); !errors.Is(err, overspan.ErrNotFound) {
		t.Errorf("put under no lease: error %v, want ErrNotFound", err)
	}
	lost, err := s.KeepAlive(ctx, none)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-lost:
	case <-ctx.Done():
		t.Error("keepalive of no lease goes on")
	}
}
