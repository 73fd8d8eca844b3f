package store

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

func TestMirrorDoubtsAnEtcdThatWentBack(t *testing.T) {
	memory := NewMemory(1)
	w := scribe{memory, testKeys(t, "back")}
	backup := w.write(t, w.node(1, 1))
	m := startMirror(t, memory, w.keys, MirrorConfig{Probe: 10 * time.Millisecond})
	rev := w.write(t, w.node(2, 1))
	before := waitRevision(t, m, rev)

	memory.Rollback(backup)
	eventually(t, "the doubt", func() bool { return m.Doubt() != "" })
	if _, err := m.Stale(); err == nil || !strings.Contains(err.Error(), "rolled back") {
		t.Errorf("stale: %v, want that etcd was rolled back", err)
	}
	if err := m.WaitRevision(testContext(t), rev+1); !errors.Is(err, overspan.ErrUnavailable) {
		t.Errorf("wait: error %v, want ErrUnavailable", err)
	}
	for i := range 5 { // past the old revision again
		w.write(t, Delete(Prefix(w.keys.Nodes().Key)), w.network(i+1, 1))
	}
	if err := m.Sync(testContext(t)); !errors.Is(err, overspan.ErrUnavailable) {
		t.Errorf("sync: error %v, want ErrUnavailable", err)
	}
	if got := m.Snapshot(); got != before {
		t.Errorf("a snapshot of a doubtful etcd was published: %+v", got)
	}
}

func TestMirrorDoubtsAnEtcdThatIsNotTheOneOfTheLastRun(t *testing.T) {
	tests := []struct {
		name string
		cfg  MirrorConfig
		text string
	}{
		{"another cluster", MirrorConfig{ClusterID: 2}, "replaced"},
		{"an older revision", MirrorConfig{ClusterID: 1, Revision: 1000}, "rolled back"},
		{"no settings", MirrorConfig{ClusterID: 1, Settings: testID[string]('c', 1)}, "emptied"},
		{"fewer acceptances", MirrorConfig{ClusterID: 1, Accepted: 1}, "counts 0 acceptances, after 1"},
		{"an older claim", MirrorConfig{ClusterID: 1, Claimed: 1}, "last claim is of revision 0, after one of 1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := startMirror(t, NewMemory(1), testKeys(t, "other"), tt.cfg)
			eventually(t, "the doubt", func() bool { return strings.Contains(m.Doubt(), tt.text) })
			if s := m.Snapshot(); s != nil {
				t.Errorf("snapshot %+v, want none", s)
			}
		})
	}
}

// settings writes what the cluster was set up with.
func (w scribe) settings(n int) Op {
	meta := DefaultMeta()
	meta.ClusterID = testID[string]('c', n)
	return record(w.keys.Meta(), overspanv1.MetaRecord(meta))
}

func (w scribe) accepted(count uint64) Op {
	return record(w.keys.Accepted(), &overspanv1.Accepted{Count: count})
}

func TestMirrorDoubtsSettingsThatChange(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(w scribe) Op
		text   string
	}{
		{"gone", func(w scribe) Op { return Delete(w.keys.All()) }, "emptied"},
		{"another cluster's", func(w scribe) Op { return w.settings(2) }, "set up as cluster c00000000000, not c00000000000"},
		{"fewer acceptances", func(w scribe) Op { return w.accepted(2) }, "counts 2 acceptances, after 3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := scribe{NewMemory(1), testKeys(t, "settings")}
			w.write(t, w.settings(1), w.accepted(3), w.node(1, 1), w.network(1, 1))
			// The watch alone tells: no probe comes before it.
			m := startMirror(t, w, w.keys, MirrorConfig{Probe: time.Hour}, 1)
			eventually(t, "a snapshot", func() bool { return m.Snapshot() != nil })
			before := m.Snapshot()
			w.write(t, tt.change(w))
			eventually(t, "the doubt", func() bool { return strings.Contains(m.Doubt(), tt.text) })
			if s := m.Snapshot(); s.Meta != before.Meta || s.Accepted != before.Accepted {
				t.Errorf("settings of a doubtful etcd were published: %+v", s)
			}
		})
	}
}

func TestMirrorDoubtsNoSettingsThatCannotBeRead(t *testing.T) {
	w := scribe{NewMemory(1), testKeys(t, "unread")}
	w.write(t, w.settings(1), w.accepted(3))
	m := startMirror(t, w, w.keys, MirrorConfig{Probe: 10 * time.Millisecond})
	waitRevision(t, m, w.write(t, Put(w.keys.Meta(), []byte("?")), Put(w.keys.Accepted(), []byte("?"))))
	for range 3 {
		if _, _, err := m.Check(testContext(t)); err != nil {
			t.Errorf("an unreadable record made it doubt: %v", err)
		}
	}
}

// A renewed mirror shows what etcd holds now, though it is less, and nobody
// takes a revision of the one history for one of the other.
// Claims in networks that a mirror does not follow tell it that etcd went back.
func TestMirrorFollowsClaims(t *testing.T) {
	memory := NewMemory(1)
	w := scribe{memory, testKeys(t, "claims")}
	claim := func() int64 { return w.write(t, record(w.keys.Claimed(), &overspanv1.Claimed{})) }
	first := claim()
	m := startMirror(t, memory, w.keys, MirrorConfig{Probe: 10 * time.Millisecond})
	waitRevision(t, m, first)
	if rev, heard := m.Claimed(); rev != first || !heard.IsZero() {
		t.Errorf("the last claim is of revision %d, heard of at %s; want %d, before the mirror began", rev, heard, first)
	}
	begin := time.Now()
	second := claim()
	eventually(t, "the claim is heard of", func() bool { rev, heard := m.Claimed(); return rev == second && !heard.Before(begin) })
	memory.RollbackAhead(first)
	eventually(t, "the doubt", func() bool { return strings.Contains(m.Doubt(), "last claim") })
	if rev, _ := m.Claimed(); rev != second {
		t.Errorf("the last claim is of revision %d, want %d", rev, second)
	}
}

func TestMirrorRenewed(t *testing.T) {
	memory := NewMemory(1)
	w := scribe{memory, testKeys(t, "renew")}
	backup := w.write(t, w.settings(1), w.node(1, 1), w.network(1, 1), w.block(1, 1, overspan.Range{Size: 64}))
	m := startMirror(t, memory, w.keys, MirrorConfig{Probe: 10 * time.Millisecond}, 1)
	rev := w.write(t, w.node(2, 1), w.endpoint(1, 1, 9), w.accepted(1))
	waitRevision(t, m, rev)
	doubted := m.Doubted()

	ctx, cancel := context.WithCancel(testContext(t))
	waits := make(chan error, 2)
	var wg sync.WaitGroup
	wg.Go(func() { waits <- m.WaitRevision(ctx, rev+100) })
	wg.Go(func() { waits <- m.WaitSegment(ctx, netID(1), rev+100) })
	defer wg.Wait()
	defer cancel()
	memory.Rollback(backup)
	for range 2 {
		if err := <-waits; !errors.Is(err, overspan.ErrUnavailable) || !strings.Contains(err.Error(), "rolled back") {
			t.Errorf("wait that a rollback met: %v", err)
		}
	}
	<-doubted
	late := w.write(t, w.node(3, 1))
	m.Renew()
	if err := m.Sync(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if diff := diffSnapshots(w.expected(t, late, 1), m.Snapshot()); diff != "" {
		t.Errorf("the new history (-want +got):\n%s", diff)
	}
	if m.Doubt() != "" {
		t.Errorf("still in doubt: %s", m.Doubt())
	}
	rev = w.write(t, w.endpoint(1, 1, 10))
	if diff := diffSnapshots(w.expected(t, rev, 1), waitRevision(t, m, rev)); diff != "" {
		t.Errorf("it goes on (-want +got):\n%s", diff)
	}
	if _, err := m.Stale(); err != nil {
		t.Errorf("stale: %v", err)
	}
	memory.Rollback(backup)
	eventually(t, "another doubt", func() bool { return m.Doubt() != "" })
}

// Renewals, doubts and waits at once end with the newest history.
func TestMirrorRenewedAgainAndAgain(t *testing.T) {
	memory := NewMemory(1)
	w := scribe{memory, testKeys(t, "again")}
	backup := w.write(t, w.settings(1), w.node(1, 1), w.network(1, 1))
	m := startMirror(t, memory, w.keys, MirrorConfig{Probe: time.Millisecond}, 1)
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(testContext(t))
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if m.Sync(ctx) != nil {
					continue
				}
				if s := m.Snapshot(); s != nil && s.Segments.Get(netID(1)) == nil {
					t.Error("a snapshot without a network that is followed")
				}
			}
		})
	}
	for i := range 50 {
		w.write(t, w.endpoint(1, 1, i+2))
		w.write(t, w.endpoint(1, 1, i+100))
		memory.Rollback(backup)
		m.Renew()
	}
	cancel()
	wg.Wait()
	eventually(t, "trust", func() bool {
		if m.Doubt() != "" {
			m.Renew()
		}
		return m.Sync(testContext(t)) == nil
	})
	if diff := diffSnapshots(w.expected(t, backup, 1), m.Snapshot()); diff != "" {
		t.Errorf("after it all (-want +got):\n%s", diff)
	}
}

// A listing that a watch has not led to may lack what was detached meanwhile, and
// may not lack what only an etcd that forgot can lack.
func TestMirrorVouchesForWhatIsGone(t *testing.T) {
	memory := NewMemory(1)
	flight := func(n int) Op { return Put(testKeys(t, "vouch").Flight(nodeID(n)), []byte("{}")) }
	w := scribe{memory, testKeys(t, "vouch")}
	w.write(t, w.settings(1), w.node(1, 1), w.node(2, 1), w.network(1, 1))
	w.write(t, w.endpoint(1, 1, 6), flight(1))
	faulty := NewFaulty(memory)
	m := startMirror(t, faulty, w.keys, MirrorConfig{Probe: time.Hour}, 1)
	rev := w.write(t, w.endpoint(1, 2, 7), flight(2))
	waitRevision(t, m, rev)

	faulty.SetDown(true)
	w.write(t, Delete(Key(w.keys.Endpoint(netID(1), 6))), flight(1))
	rev = w.write(t, Delete(Key(w.keys.Endpoint(netID(1), 7))), Delete(Key(w.keys.Node(nodeID(2)))), Delete(Key(w.keys.Flight(nodeID(2)))))
	memory.Compact(rev)
	faulty.SetDown(false)
	if diff := diffSnapshots(w.expected(t, rev, 1), waitRevision(t, m, rev)); diff != "" {
		t.Errorf("after a compaction (-want +got):\n%s", diff)
	}

	memory = NewMemory(1)
	w.KV = memory
	w.write(t, w.settings(1), w.node(1, 1), w.network(1, 1))
	backup := w.write(t, w.endpoint(1, 1, 5), flight(1))
	m = startMirror(t, memory, w.keys, MirrorConfig{Probe: time.Hour}, 1)
	before := waitRevision(t, m, w.write(t, w.endpoint(1, 1, 6), flight(1)))
	memory.RollbackAhead(backup)
	eventually(t, "the doubt", func() bool { return strings.Contains(m.Doubt(), "is gone") })
	if seg := m.Snapshot().Segments.Get(netID(1)); !seg.Endpoints.Equal(before.Segments.Get(netID(1)).Endpoints) {
		t.Error("a snapshot that lacks an endpoint was published")
	}
}

// Others were faster: when the mirror looks again, etcd has gone back and come
// farther than the mirror has ever seen it.
func TestMirrorDoubtsWhatItCannotHaveMissed(t *testing.T) {
	for _, tt := range []struct {
		name string
		tell func(w scribe) []Op
		text string
	}{
		{"a freeze", func(w scribe) []Op { return []Op{Put(w.keys.Frozen(), []byte("{}"))} }, "frozen at revision 3, unseen at"},
		{"an acceptance", func(w scribe) []Op { return []Op{w.accepted(1)} }, "accepted at revision 3, unseen at"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			memory := NewMemory(1)
			w := scribe{memory, testKeys(t, "overtaken")}
			backup := w.write(t, w.settings(1))
			faulty := NewFaulty(memory)
			m := startMirror(t, faulty, w.keys, MirrorConfig{Probe: 10 * time.Millisecond})
			rev := int64(0)
			for i := range 5 {
				rev = w.write(t, w.node(1, i))
			}
			waitRevision(t, m, rev)
			if err := m.Sync(testContext(t)); err != nil {
				t.Fatal(err)
			}
			faulty.SetDown(true)
			memory.Rollback(backup)
			w.write(t, tt.tell(w)...)
			for i := range 10 {
				w.write(t, w.node(2, i))
			}
			faulty.SetDown(false)
			eventually(t, "the doubt", func() bool { return strings.Contains(m.Doubt(), tt.text) })
			if n := m.Snapshot().Nodes[nodeID(2)]; n != nil {
				t.Error("a snapshot of two histories was published")
			}
		})
	}
}

// What a feed of an old history could not read says nothing of the new one, where
// nobody would report that it can be read again.
func TestMirrorForgetsWhatAnOldHistoryLacked(t *testing.T) {
	memory := NewMemory(1)
	w := scribe{memory, testKeys(t, "old")}
	w.write(t, w.settings(1))
	m := startMirror(t, memory, w.keys, MirrorConfig{})
	old := m.currentHistory()
	m.Renew()
	if err := m.Sync(testContext(t)); err != nil {
		t.Fatal(err)
	}
	m.report(old, w.keys.Nodes().Key, errors.New("read of the past"))
	if _, err := m.Stale(); err != nil {
		t.Errorf("stale: %v", err)
	}
	now := m.currentHistory()
	m.report(now, w.keys.Nodes().Key, errors.New("read of today"))
	m.forget(old, w.keys.Nodes().Key)
	if _, err := m.Stale(); err == nil {
		t.Error("a feed that ended has taken another's error with it")
	}
	m.report(now, w.keys.Nodes().Key, nil)
}
