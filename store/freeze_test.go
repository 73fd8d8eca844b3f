package store

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// rolledBack is what node n says of an etcd that has lost its past.
func rolledBack(n int, known uint64) FreezeRequest {
	meta := DefaultMeta()
	meta.ClusterID = testID[string]('c', 1)
	return FreezeRequest{
		Freeze:   overspan.Freeze{Reason: "etcd was rolled back", Node: nodeID(n), NodeName: testNode(n).Name, Since: time.Unix(1e9, 0).UTC()},
		Meta:     meta,
		Accepted: known,
	}
}

func TestTheFirstToNoticeFreezes(t *testing.T) {
	forEachKV(t, func(t *testing.T, connect func(*testing.T) KV) {
		kv, keys := connect(t), testKeys(t, "test")
		for n := 1; n <= 2; n++ {
			if accepted, err := Freeze(testContext(t), kv, keys, rolledBack(n, 0)); err != nil || accepted != 0 {
				t.Fatalf("freeze by node %d: %d accepted, %v", n, accepted, err)
			}
		}
		frozen := mustList(t, kv, Key(keys.Frozen()), 0).KVs
		want := rolledBack(1, 0).Freeze
		want.Revision = frozen[0].CreateRevision
		if diff := cmp.Diff(want, keys.freeze(frozen[0])); diff != "" {
			t.Errorf("the freeze (-want +got):\n%s", diff)
		}
		meta, err := keys.meta(mustList(t, kv, Key(keys.Meta()), 0).KVs[0])
		if err != nil || meta.ClusterID != testID[string]('c', 1) {
			t.Errorf("the settings were not brought back: %+v, %v", meta, err)
		}
	})
}

func TestFreezeLeavesTheSettingsThatStand(t *testing.T) {
	kv := NewMemory(1)
	r := open(t, kv, testConfig(1))
	if _, err := Freeze(testContext(t), kv, r.keys, rolledBack(1, 0)); err != nil {
		t.Fatal(err)
	}
	meta, err := r.keys.meta(mustList(t, kv, Key(r.keys.Meta()), 0).KVs[0])
	if err != nil || meta != r.Meta() {
		t.Errorf("the settings are %+v, want %+v; %v", meta, r.Meta(), err)
	}
}

// Who was away while an operator spoke does not ask for the same word again.
func TestFreezeKnowsThatItWasAccepted(t *testing.T) {
	kv, keys := NewMemory(1), testKeys(t, "test")
	mustTxn(t, kv, Txn{Then: []Op{Put(keys.Accepted(), []byte(`{"count":"3"}`))}})
	if accepted, err := Freeze(testContext(t), kv, keys, rolledBack(1, 2)); err != nil || accepted != 3 {
		t.Errorf("freeze after an acceptance that the node missed: %d, %v", accepted, err)
	}
	if left := mustList(t, kv, Key(keys.Frozen()), 0).KVs; len(left) > 0 {
		t.Errorf("frozen all the same: %s", left[0].Value)
	}
	if accepted, err := Freeze(testContext(t), kv, keys, rolledBack(1, 3)); err != nil || accepted != 3 {
		t.Errorf("freeze after an acceptance that the node knows: %d, %v", accepted, err)
	}
	if len(mustList(t, kv, Key(keys.Frozen()), 0).KVs) != 1 {
		t.Error("not frozen")
	}
}

func TestAccept(t *testing.T) {
	forEachKV(t, func(t *testing.T, connect func(*testing.T) KV) {
		keys := testKeys(t, "test")
		r := three(t, connect)
		kv := r[0].kv
		memory := &overspan.Snapshot{Nodes: map[overspan.NodeID]*overspan.Node{
			nodeID(1): {ID: nodeID(1), Name: "h1", Presence: &overspan.Presence{}},
			nodeID(4): {ID: nodeID(4), Name: "h4", Presence: &overspan.Presence{}},
			nodeID(5): {ID: nodeID(5), Name: "h5"},
		}}
		accept := func(force bool) (uint64, []NodeReport, error) {
			return Accept(testContext(t), kv, keys, AcceptRequest{By: nodeID(1), Known: 6, Memory: memory, Force: force})
		}
		_, _, err := accept(true)
		wantClass(t, err, overspan.ErrNotFound, "not frozen")

		if _, err := Freeze(testContext(t), kv, keys, rolledBack(1, 6)); err != nil {
			t.Fatal(err)
		}
		frozen := keys.freeze(mustList(t, kv, Key(keys.Frozen()), 0).KVs[0])
		report := func(n int, failures ...string) {
			t.Helper()
			p := overspan.Report{NodeName: testNode(n).Name, Since: time.Unix(1e9, 0).UTC(), Networks: 1, Blocks: 2, Endpoints: 3, Failures: failures}
			if err := r[n-1].PutReport(testContext(t), frozen, p); err != nil {
				t.Fatal(err)
			}
		}
		report(1)
		report(2, "10.0.0.7 belongs to web on h3")
		_, _, err = accept(false)
		wantClass(t, err, overspan.ErrUnavailable, "node h2 could not publish all that it holds: 10.0.0.7 belongs to web on h3; "+
			"node h3 has not published again what it holds; node h4 was up and has not come back; wait for that, see ctl status, or accept with --force")
		report(2)
		report(3)
		_, _, err = accept(false)
		wantClass(t, err, overspan.ErrUnavailable, "node h4 was up and has not come back; wait")

		count, reports, err := accept(true)
		if err != nil || count != 7 {
			t.Fatalf("accept: %d, %v", count, err)
		}
		full := &overspan.Report{Since: time.Unix(1e9, 0).UTC(), Networks: 1, Blocks: 2, Endpoints: 3}
		named := func(name string) *overspan.Report { p := *full; p.NodeName = name; return &p }
		if diff := cmp.Diff([]NodeReport{
			{Node: nodeID(1), Name: "h1", Up: true, Report: named("h1")},
			{Node: nodeID(2), Name: "h2", Up: true, Report: named("h2")},
			{Node: nodeID(3), Name: "h3", Up: true, Report: named("h3")},
			{Node: nodeID(4), Name: "h4"},
			{Node: nodeID(5), Name: "h5"},
		}, reports); diff != "" {
			t.Errorf("reports (-want +got):\n%s", diff)
		}
		if left := mustList(t, kv, keys.Reports(), 0).KVs; len(left) > 0 {
			t.Errorf("%d reports are left", len(left))
		}
		wantClass(t, r[0].PutReport(testContext(t), frozen, *full), overspan.ErrNotFound, "the freeze is over")
		if n := countAccepted(keys, found(mustTxn(t, kv, Txn{Then: []Op{Get(Key(keys.Accepted()))}}))); n != 7 {
			t.Errorf("etcd counts %d acceptances, want 7", n)
		}
	})
}

func TestLateFreezeLeavesWhatWasReportedSince(t *testing.T) {
	line := NewFaulty(NewMemory(1))
	r := open(t, line, testConfig(1))
	_, err := Freeze(testContext(t), line, r.keys, rolledBack(2, 0))
	mustDo(t, err)
	line.InjectTxn(TxnPasses, TxnLate) // the look, the freeze
	_, err = Freeze(testContext(t), line, r.keys, rolledBack(1, 0))
	wantClass(t, err, overspan.ErrUnavailable)
	_, err = Freeze(testContext(t), line, r.keys, rolledBack(1, 0))
	mustDo(t, err)
	mustDo(t, r.PutReport(testContext(t), r.freezeOf(t, line), overspan.Report{NodeName: "h1", Endpoints: 3, Since: time.Unix(1e9, 0).UTC()}))
	before := dump(t, line)
	if _, err := line.Deliver(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, dump(t, line)); diff != "" {
		t.Errorf("the late freeze (-want +got):\n%s", diff)
	}
}

func TestLateReportReplacesNoNewerOne(t *testing.T) {
	line := NewFaulty(NewMemory(1))
	r := open(t, line, testConfig(1))
	_, err := Freeze(testContext(t), line, r.keys, rolledBack(1, 0))
	mustDo(t, err)
	frozen := r.freezeOf(t, line)
	line.InjectTxn(TxnLate)
	bad := overspan.Report{NodeName: "h1", Failures: []string{"web1 of network demo"}, Since: time.Unix(1e9, 0).UTC()}
	wantClass(t, r.PutReport(testContext(t), frozen, bad), overspan.ErrUnavailable)
	mustDo(t, r.PutReport(testContext(t), frozen, overspan.Report{NodeName: "h1", Endpoints: 3, Since: time.Unix(1e9, 0).UTC()}))
	if _, err := line.Deliver(testContext(t)); err != nil {
		t.Fatal(err)
	}
	var rec overspanv1.Report
	mustDo(t, Unmarshal(mustList(t, line, Key(r.keys.Report(nodeID(1))), 0).KVs[0].Value, &rec))
	if got := rec.Noun(); len(got.Failures) > 0 || got.Endpoints != 3 {
		t.Errorf("the report is %+v, want the newer one, without failures", got)
	}
}

// freezeOf returns the freeze that stands.
func (r run) freezeOf(t *testing.T, kv KV) overspan.Freeze {
	t.Helper()
	return r.keys.freeze(mustList(t, kv, Key(r.keys.Frozen()), 0).KVs[0])
}
