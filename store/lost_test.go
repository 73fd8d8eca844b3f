package store

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overspan/overspan"
)

func TestLostRecords(t *testing.T) {
	kv := NewMemory(1)
	r := open(t, kv, testConfig(1))
	n := r.create(t, testNetwork(1))
	b := r.claim(t, n, 0, 64)
	ends := map[string]overspan.Endpoint{}
	var all []overspan.Endpoint
	for i, name := range []string{"stands", "gone", "foreign", "evicted", "unreadable"} {
		ends[name] = r.attach(t, n, b, name, overspan.Slot(2+i))
		all = append(all, ends[name])
	}
	key := func(name string) string { return r.keys.Endpoint(n.ID, ends[name].Slot) }
	foreign := string(mustList(t, kv, Key(key("foreign")), 0).KVs[0].Value)
	foreign = strings.ReplaceAll(foreign, string(ends["foreign"].ID), string(testID[overspan.EndpointID]('b', 1)))
	mustTxn(t, kv, Txn{Then: []Op{
		Delete(Key(key("gone"))), Put(key("foreign"), []byte(foreign)), Put(key("unreadable"), []byte("?")),
		Delete(Key(key("evicted"))), Put(r.keys.Eviction(nodeID(1), ends["evicted"].ID), []byte("{}")),
	}})
	lost := func(registration int64) []string {
		t.Helper()
		ends, err := LostRecords(testContext(t), kv, r.keys, nodeID(1), registration, all)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range ends {
			names = append(names, e.Name)
		}
		slices.Sort(names)
		return names
	}
	if diff := cmp.Diff([]string{"foreign", "gone"}, lost(r.Registration())); diff != "" {
		t.Errorf("lost (-want +got):\n%s", diff)
	}
	if names := lost(r.Registration() - 1); names != nil {
		t.Errorf("under another registration: %v are lost", names)
	}
	// One that is lost is found behind hundreds that were taken rightly.
	first := all
	all = append(slices.Repeat([]overspan.Endpoint{ends["evicted"]}, 250), ends["gone"])
	if diff := cmp.Diff([]string{"gone"}, lost(r.Registration())); diff != "" {
		t.Errorf("lost, of many (-want +got):\n%s", diff)
	}
	all = first
	mustTxn(t, kv, Txn{Then: []Op{Put(r.keys.Removing(nodeID(1)), []byte("{}"))}})
	if names := lost(r.Registration()); names != nil {
		t.Errorf("while the node is being removed: %v are lost", names)
	}
}

// A node that has written nothing since a backup was made writes nothing to what is
// restored from it, as soon as it has heard of a claim that is not in it.
func TestSessionEndsWhenAClaimIsForgotten(t *testing.T) {
	kv := NewMemory(1)
	a := open(t, kv, testConfig(1))
	n := a.create(t, testNetwork(1))
	var heard int64
	config := testConfig(2)
	config.Claimed = func() (int64, time.Time) { return heard, time.Time{} }
	b := open(t, kv, config)
	backup := mustList(t, kv, b.keys.All(), 0).Revision
	block, err := a.Claim(testContext(t), n, overspan.Range{Size: 64}, false)
	if err != nil {
		t.Fatal(err)
	}
	heard = block.ModRevision
	kv.RollbackAhead(backup)
	_, err = b.Claim(testContext(t), n, overspan.Range{Size: 64}, false)
	wantClass(t, err, ErrForgotten)
	if left := mustList(t, kv, b.keys.Segment(n.ID), 0).KVs; len(left) > 0 {
		t.Errorf("it was written: %v", left)
	}
	wantClass(t, b.stop(), ErrForgotten)
}

// Each claim is heard of within a second, and no more often than that.
func TestClaimsAreNoted(t *testing.T) {
	kv := NewMemory(1)
	config := testConfig(1)
	var heard time.Time
	config.Claimed = func() (int64, time.Time) { return 0, heard }
	s := open(t, kv, config)
	n := s.create(t, testNetwork(1))
	noted := func(first overspan.Slot) bool {
		t.Helper()
		b, err := s.Claim(testContext(t), n, overspan.Range{First: first, Size: 64}, false)
		if err != nil {
			t.Fatal(err)
		}
		kvs := mustList(t, kv, Key(s.keys.Claimed()), 0).KVs
		return len(kvs) == 1 && kvs[0].ModRevision == b.ModRevision
	}
	if !noted(0) {
		t.Error("the first claim is not noted")
	}
	heard = time.Now()
	if noted(64) {
		t.Error("a claim is noted though another was heard of just before")
	}
	heard = time.Now().Add(-claimedEvery)
	if !noted(128) {
		t.Error("a later claim is not noted")
	}
}

// A session tells an etcd that went back from an agent that uses its id.
func TestSessionEndsWhenEtcdHasForgotten(t *testing.T) {
	for _, tt := range []struct {
		name   string
		notice func(t *testing.T, r run, n *overspan.Network)
	}{
		{"at its next transaction", func(t *testing.T, r run, n *overspan.Network) {
			_, err := r.Claim(testContext(t), n, overspan.Range{Size: 64}, false)
			wantClass(t, err, ErrForgotten)
		}},
		{"while it is idle", func(_ *testing.T, r run, _ *overspan.Network) { r.Recheck() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			kv := NewMemory(1)
			r := open(t, kv, testConfig(1))
			backup := mustList(t, kv, r.keys.All(), 0).Revision
			n := r.create(t, testNetwork(1))
			kv.Rollback(backup)
			tt.notice(t, r, n)
			err := r.wait(t)
			wantClass(t, err, overspan.ErrFenced, "last transaction is gone from etcd")
			if !errors.Is(err, ErrForgotten) {
				t.Errorf("the session ends with %v, want ErrForgotten", err)
			}
		})
	}
}

func TestSessionEndsWhenAnotherWritesAsItsNode(t *testing.T) {
	kv := NewMemory(1)
	r := open(t, kv, testConfig(1))
	mustTxn(t, kv, Txn{Then: []Op{Put(r.keys.Flight(nodeID(1)), []byte(`{"sequence":"9","instance":"other"}`))}})
	_, err := r.CreateNetwork(testContext(t), fixed(testNetwork(1)))
	wantClass(t, err, overspan.ErrFenced, `instance "other" has written as this node: another agent uses its id`)
	if errors.Is(r.wait(t), ErrForgotten) {
		t.Error("taken for an etcd that has forgotten")
	}
}
