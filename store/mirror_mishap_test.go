package store

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overspan/overspan"
)

func TestMirrorKeepsWhatABadRecordSaid(t *testing.T) {
	w := scribe{NewMemory(1), testKeys(t, "bad")}
	faulty := NewFaulty(w)
	m := startMirror(t, faulty, w.keys, MirrorConfig{}, 1)
	waitRevision(t, m, w.write(t, w.node(1, 1), w.endpoint(1, 1, 9), w.endpoint(1, 1, 10)))
	rev := w.write(t, Put(w.keys.Node(nodeID(1)), []byte("{")), Put(w.keys.Node(nodeID(2)), []byte("no")),
		Put(w.keys.Endpoint(netID(1), 9), []byte("{}")), Put(w.keys.Segment(netID(1)).Key+"rubbish", nil))

	check := func(s *overspan.Snapshot) {
		t.Helper()
		if n := s.Nodes[nodeID(1)]; n == nil || n.Version != "1" {
			t.Errorf("node 1 is %+v, want what it said before", n)
		}
		if n := s.Nodes[nodeID(2)]; n != nil {
			t.Errorf("node 2 is %+v, want none", n)
		}
		seg := s.Segments.Get(netID(1))
		if seg.Bad != 2 || seg.Endpoints.Get(9) == nil || seg.Endpoints.Get(10) == nil {
			t.Errorf("segment %+v, want 2 bad records and both endpoints", seg)
		}
		var bad []string
		for _, b := range s.Bad {
			bad = append(bad, b.Key)
			if b.Err == "" {
				t.Errorf("bad record %s without an error", b.Key)
			}
		}
		want := []string{
			w.keys.Endpoint(netID(1), 9), w.keys.Segment(netID(1)).Key + "rubbish",
			w.keys.Node(nodeID(1)), w.keys.Node(nodeID(2)),
		}
		if diff := cmp.Diff(want, bad); diff != "" {
			t.Errorf("bad records (-want +got):\n%s", diff)
		}
	}
	check(waitRevision(t, m, rev))

	faulty.DropWatches(ErrCompacted) // a listing keeps them as well
	rev = w.write(t, w.node(3, 1))
	check(waitRevision(t, m, rev))

	rev = w.write(t, w.node(1, 2), Delete(Key(w.keys.Node(nodeID(2)))), w.endpoint(1, 1, 9), Delete(Key(w.keys.Segment(netID(1)).Key+"rubbish")))
	s := waitRevision(t, m, rev)
	if len(s.Bad) != 0 || s.Segments.Get(netID(1)).Bad != 0 || s.Nodes[nodeID(1)].Version != "2" {
		t.Errorf("after the repair: bad %v, node %+v", s.Bad, s.Nodes[nodeID(1)])
	}
}

// lossy is a KV whose watches leave out the events of some keys.
type lossy struct {
	KV
	leaveOut string
}

func (l lossy) Watch(ctx context.Context, r KeyRange, after int64) <-chan Batch {
	out := make(chan Batch)
	in := l.KV.Watch(ctx, r, after)
	go func() {
		defer close(out)
		for b := range in {
			var kept []Event
			for _, e := range b.Events {
				if !strings.Contains(e.Key, l.leaveOut) {
					kept = append(kept, e)
				}
			}
			b.Events = kept
			select {
			case out <- b:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

func TestMirrorFindsLostEvents(t *testing.T) {
	w := scribe{NewMemory(1), testKeys(t, "lossy")}
	m := startMirror(t, lossy{w, "/nodes/"}, w.keys, MirrorConfig{Resync: 20 * time.Millisecond})
	waitRevision(t, m, 1)
	rev := w.write(t, w.node(1, 1), w.node(2, 1))
	eventually(t, "the lost events are found", func() bool { return len(m.Snapshot().Nodes) == 2 })
	if n := m.LostEvents(); n != 2 {
		t.Errorf("%d lost events, want 2", n)
	}
	if diff := diffSnapshots(w.expected(t, rev), waitRevision(t, m, rev)); diff != "" {
		t.Errorf("snapshot (-want +got):\n%s", diff)
	}
}

func TestMirrorIsStaleWhileEtcdIsAway(t *testing.T) {
	w := scribe{NewMemory(1), testKeys(t, "away")}
	faulty := NewFaulty(w)
	m := startMirror(t, faulty, w.keys, MirrorConfig{Probe: 10 * time.Millisecond})
	before := waitRevision(t, m, w.write(t, w.node(1, 1)))
	if since, err := m.Stale(); err != nil || !since.IsZero() {
		t.Errorf("stale since %v: %v, want fresh", since, err)
	}
	faulty.SetDown(true)
	eventually(t, "stale", func() bool { _, err := m.Stale(); return err != nil })
	since, err := m.Stale()
	if !errors.Is(err, overspan.ErrUnavailable) || since.IsZero() || time.Since(since) > testTimeout {
		t.Errorf("stale since %v: %v", since, err)
	}
	if m.Snapshot() != before {
		t.Error("the snapshot did not stay")
	}
	ctx, cancel := context.WithTimeout(testContext(t), 50*time.Millisecond)
	defer cancel()
	if err := m.WaitRevision(ctx, before.Revision+1); !errors.Is(err, overspan.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("wait: error %v, want ErrUnavailable by the deadline", err)
	}
	rev := w.write(t, w.node(2, 1))
	faulty.SetDown(false)
	waitRevision(t, m, rev)
	eventually(t, "fresh again", func() bool { _, err := m.Stale(); return err == nil })
}

// hesitant is a KV that lists one range only when it may.
type hesitant struct {
	KV
	at  string
	may chan struct{}
}

func (h hesitant) List(ctx context.Context, r KeyRange, rev int64) (Listing, error) {
	if r.Key == h.at {
		select {
		case <-h.may:
		case <-ctx.Done():
			return Listing{}, ctx.Err()
		}
	}
	return h.KV.List(ctx, r, rev)
}

func TestMirrorPublishesNothingHalfListed(t *testing.T) {
	w := scribe{NewMemory(1), testKeys(t, "half")}
	rev := w.write(t, w.node(1, 1), w.network(1, 1), w.endpoint(1, 1, 9), w.endpoint(2, 1, 9))
	slow := hesitant{w, w.keys.Segment(netID(1)).Key, make(chan struct{})}
	m := startMirror(t, slow, w.keys, MirrorConfig{}, 1)
	short, cancel := context.WithTimeout(testContext(t), 100*time.Millisecond)
	defer cancel()
	if err := m.WaitRevision(short, rev); err == nil || m.Snapshot() != nil {
		t.Errorf("a first snapshot without a followed network: %+v", m.Snapshot())
	}
	close(slow.may)
	waitRevision(t, m, rev)

	// Later ones go on without a network that is not listed yet.
	slow = hesitant{w, w.keys.Segment(netID(2)).Key, make(chan struct{})}
	m = startMirror(t, slow, w.keys, MirrorConfig{}, 1)
	waitRevision(t, m, rev)
	m.Follow(netID(2))
	rev = w.write(t, w.node(2, 1))
	eventually(t, "a snapshot goes past", func() bool { m.want(rev); return m.Snapshot().Revision >= rev })
	if m.Snapshot().Segments.Get(netID(2)) != nil {
		t.Error("a segment that was not listed")
	}
	close(slow.may)
	if s := waitRevision(t, m, rev); s.Segments.Get(netID(2)).Endpoints.Len() != 1 {
		t.Errorf("segment %+v, want its endpoint", s.Segments.Get(netID(2)))
	}
}

func TestMirrorSurvivesARestartOfEtcd(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	server := startServer(t, dir)
	kv, err := Dial(DialConfig{Endpoints: server.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	defer closeKV(t, kv)
	w := scribe{kv, testKeys(t, "restart")}
	m := NewMirror(kv, w.keys, MirrorConfig{Probe: 500 * time.Millisecond})
	m.Follow(netID(1))
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { m.Run(ctx) })
	defer wg.Wait()
	defer cancel()
	waitRevision(t, m, w.write(t, w.node(1, 1), w.endpoint(1, 1, 9)))

	server.Close()
	eventually(t, "stale", func() bool { _, err := m.Stale(); return err != nil })
	if _, err := m.Stale(); !strings.Contains(err.Error(), "etcd unreachable at unix://"+dir) {
		t.Errorf("stale: %v, want the endpoint that is unreachable", err)
	}
	server = startServer(t, dir)
	defer server.Close()
	rev := w.write(t, w.node(2, 1), w.endpoint(1, 1, 10))
	if diff := diffSnapshots(w.expected(t, rev, 1), waitRevision(t, m, rev)); diff != "" {
		t.Errorf("after the restart (-want +got):\n%s", diff)
	}
	eventually(t, "fresh again", func() bool { _, err := m.Stale(); return err == nil })
}
