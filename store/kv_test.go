package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/overspan/overspan"
)

// A subject is a KV under test, with what the suite does behind its back.
type subject struct {
	KV
	prefix  string // no other test writes below it
	compact func(t *testing.T, rev int64)
	expire  func(t *testing.T, id LeaseID)
}

func (s subject) key(k string) string { return s.prefix + k }

// put writes keys in one transaction and returns its revision.
func (s subject) put(t *testing.T, keys ...string) int64 {
	t.Helper()
	var txn Txn
	for _, k := range keys {
		txn.Then = append(txn.Then, Put(s.key(k), []byte("value of "+k)))
	}
	return mustTxn(t, s, txn).Revision
}

func (s subject) remove(t *testing.T, key string) int64 {
	t.Helper()
	return mustTxn(t, s, Txn{Then: []Op{Delete(Key(s.key(key)))}}).Revision
}

func mustTxn(t *testing.T, kv KV, txn Txn) Result {
	t.Helper()
	res, err := kv.Txn(testContext(t), txn)
	if err != nil {
		t.Fatalf("transaction: %v", err)
	}
	return res
}

func mustList(t *testing.T, kv KV, r KeyRange, rev int64) Listing {
	t.Helper()
	l, err := kv.List(testContext(t), r, rev)
	if err != nil {
		t.Fatalf("list %v at %d: %v", r, rev, err)
	}
	return l
}

func keysOf(kvs []KeyValue) []string {
	var out []string
	for _, kv := range kvs {
		out = append(out, kv.Key[strings.LastIndexByte(kv.Key, '/')+1:])
	}
	return out
}

// TestKV is the suite that everything called KV passes.
func TestKV(t *testing.T) {
	t.Parallel()
	memory := NewMemory(1)
	server := newServer(t)
	kinds := []struct {
		name string
		subject
	}{
		{"memory", subject{
			KV:      memory,
			compact: func(_ *testing.T, rev int64) { memory.Compact(rev) },
			expire:  func(_ *testing.T, id LeaseID) { memory.Expire(id) },
		}},
		{"faultless", subject{
			KV:      NewFaulty(memory),
			compact: func(_ *testing.T, rev int64) { memory.Compact(rev) },
			expire:  func(_ *testing.T, id LeaseID) { memory.Expire(id) },
		}},
		{"etcd over a socket", etcdSubject(dialServer(t, server))},
		{"etcd in process", etcdSubject(inProcess(t, server))},
	}
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			for i, tt := range suite() {
				t.Run(tt.name, func(t *testing.T) {
					s := kind.subject
					s.prefix = fmt.Sprintf("/%s/%d/", kind.name, i)
					tt.run(t, s)
				})
			}
		})
	}
}

func inProcess(t *testing.T, s *Embedded) *Etcd {
	t.Helper()
	kv := s.KV()
	t.Cleanup(func() { closeKV(t, kv) })
	return kv
}

func etcdSubject(kv *Etcd) subject {
	return subject{
		KV: kv,
		compact: func(t *testing.T, rev int64) {
			t.Helper()
			client, err := kv.connect(testContext(t))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := client.Compact(testContext(t), rev); err != nil {
				t.Fatal(err)
			}
		},
		// etcd expires a lease that nobody keeps alive like one that is revoked.
		expire: func(t *testing.T, id LeaseID) {
			t.Helper()
			if err := kv.Revoke(testContext(t), id); err != nil {
				t.Fatal(err)
			}
		},
	}
}

type suiteTest struct {
	name string
	run  func(*testing.T, subject)
}

func suite() []suiteTest {
	return []suiteTest{
		{"a key bears the revisions of its creation and of its last change", testRevisions},
		{"a transaction takes Then or Else", testBranches},
		{"compares guard by creation, change and absence", testCompares},
		{"an empty range compare proves that no block overlaps", testOverlap},
		{"nested transactions succeed or fail alone, all on the state before", testNested},
		{"a key put twice is refused", testDuplicates},
		{"transactions have a size", testTooLarge},
		{"a get sees the puts before it, a delete counts", testReadYourWrites},
		{"a list reads the past", testListPast},
		{"a list reads many pages at one revision", testListPages},
		{"a watch tells everything after a revision", testWatchFromPast},
		{"a watch keeps a revision together", testWatchWholeRevisions},
		{"a watch catches up with more than fits a message", testWatchLarge},
		{"a watch ends with its context", testWatchEnds},
		{"a watch from before a compaction says so", testWatchCompacted},
		{"a compaction ahead of nobody changes nothing for a running watch", testWatchRunsThroughCompaction},
		{"progress reaches idle watches", testProgress},
		{"a lease takes its keys with it", testLease},
		{"what happens to keys of a lease that moves", testLeaseMoves},
		{"an unknown lease is refused", testLeaseUnknown},
		{"a context that has ended makes the outcome unknown", testCanceled},
		{"members answer", testMembers},
	}
}

func testRevisions(t *testing.T, s subject) {
	first := s.put(t, "a")
	second := s.put(t, "a", "b")
	if second != first+1 {
		t.Errorf("revisions %d then %d, want them to follow each other", first, second)
	}
	l := mustList(t, s, Prefix(s.prefix), 0)
	want := Listing{Revision: second, KVs: []KeyValue{
		{Key: s.key("a"), Value: []byte("value of a"), CreateRevision: first, ModRevision: second},
		{Key: s.key("b"), Value: []byte("value of b"), CreateRevision: second, ModRevision: second},
	}}
	if diff := gocmp.Diff(want, l, cmpopts.IgnoreFields(Listing{}, "ClusterID")); diff != "" {
		t.Errorf("listing (-want +got):\n%s", diff)
	}
	if l.ClusterID == 0 {
		t.Error("listing without a cluster id")
	}
	s.remove(t, "a")
	third := s.put(t, "a")
	if got := mustList(t, s, Key(s.key("a")), 0).KVs[0].CreateRevision; got != third {
		t.Errorf("created anew: create-revision %d, want %d", got, third)
	}
	idle := mustTxn(t, s, Txn{Then: []Op{Delete(Key(s.key("none")))}})
	if idle.Revision != third {
		t.Errorf("a delete of nothing made revision %d after %d", idle.Revision, third)
	}
}

func testBranches(t *testing.T, s subject) {
	txn := Txn{
		If:   []Cmp{Absent(Key(s.key("a")))},
		Then: []Op{Put(s.key("a"), []byte("mine"))},
		Else: []Op{Get(Key(s.key("a")))},
	}
	if res := mustTxn(t, s, txn); !res.OK || len(res.Responses) != 1 {
		t.Errorf("first: %+v, want success with one response", res)
	}
	res := mustTxn(t, s, txn)
	if res.OK || len(res.Responses) != 1 || len(res.Responses[0].KVs) != 1 || string(res.Responses[0].KVs[0].Value) != "mine" {
		t.Errorf("second: %+v, want failure and the key that is in the way", res)
	}
}

func testCompares(t *testing.T, s subject) {
	created := s.put(t, "a")
	changed := s.put(t, "a")
	s.put(t, "r/1", "r/2")
	a, none := s.key("a"), s.key("none")
	rows := []struct {
		name string
		cmp  Cmp
		want bool
	}{
		{"created then", Created(a, created), true},
		{"not created at its change", Created(a, changed), false},
		{"unchanged since", Unchanged(a, changed), true},
		{"changed since", Unchanged(a, created), false},
		{"present", Absent(Key(a)), false},
		{"absent", Absent(Key(none)), true},
		{"absent by mod-revision", Unchanged(none, 0), true},
		{"there", Present(a), true},
		{"not there", Present(none), false},
		{"not before its change", NotBefore(a, changed), true},
		{"not before its creation", NotBefore(a, created), true},
		{"before a later revision", NotBefore(a, changed+1), false},
		{"absent and before any", NotBefore(none, 1), false},
		{"absent and not before zero", NotBefore(none, 0), true},
		{"absent where a creation is demanded", Created(none, created), false},
		{"range with keys is not absent", Absent(Prefix(s.key("r/"))), false},
		{"empty range is absent", Absent(Prefix(s.key("e/"))), true},
		{"empty range where a revision is demanded", Cmp{KeyRange: Prefix(s.key("e/")), Rev: 7}, false},
		{"range created at one revision", Cmp{KeyRange: Prefix(s.key("r/")), Rev: changed + 1}, true},
		{"range end is exclusive", Absent(KeyRange{Key: s.key("q"), End: s.key("r/1")}), true},
		{"range begin is inclusive", Absent(KeyRange{Key: s.key("r/2"), End: s.key("r/3")}), false},
	}
	for _, row := range rows {
		if got := mustTxn(t, s, Txn{If: []Cmp{row.cmp}}).OK; got != row.want {
			t.Errorf("%s: %v, want %v", row.name, got, row.want)
		}
	}
	if got := mustTxn(t, s, Txn{If: []Cmp{rows[0].cmp, rows[1].cmp}}).OK; got {
		t.Error("two compares of which one fails hold")
	}
}

// testOverlap claims blocks as store does: a range compare for each size up to
// the block's own, the ancestor's key for each larger one.
func testOverlap(t *testing.T, s subject) {
	block := func(first, size int) string { return s.key(fmt.Sprintf("%02x/%016x", size, first)) }
	claim := func(first, size int) bool {
		txn := Txn{Then: []Op{Put(block(first, size), nil)}}
		for z := 1; z <= 64; z *= 2 {
			if z <= size {
				txn.If = append(txn.If, Absent(KeyRange{Key: block(first, z), End: block(first+size, z)}))
				continue
			}
			txn.If = append(txn.If, Absent(Key(block(first&^(z-1), z))))
		}
		return mustTxn(t, s, txn).OK
	}
	rows := []struct {
		first, size int
		want        bool
	}{
		{16, 16, true},
		{16, 16, false},
		{24, 1, false}, // inside
		{0, 64, false}, // around
		{0, 32, false},
		{32, 16, true}, // beside
		{0, 16, true},
		{48, 1, true},
		{48, 16, false},
	}
	for _, row := range rows {
		if got := claim(row.first, row.size); got != row.want {
			t.Errorf("claim %d+%d: %v, want %v", row.first, row.size, got, row.want)
		}
	}
}

func testNested(t *testing.T, s subject) {
	s.put(t, "taken")
	create := func(k string) Op {
		return Nest(Txn{
			If:   []Cmp{Absent(Key(s.key(k)))},
			Then: []Op{Put(s.key(k), []byte("new"))},
			Else: []Op{Get(Key(s.key(k)))},
		})
	}
	afterFirst := Nest(Txn{If: []Cmp{Absent(Key(s.key("first")))}, Then: []Op{Put(s.key("second"), nil)}})
	res := mustTxn(t, s, Txn{Then: []Op{create("first"), create("taken"), afterFirst}})
	var oks []bool
	for _, r := range res.Responses {
		oks = append(oks, r.Result.OK)
		if r.Result.Revision != res.Revision || r.Result.ClusterID != res.ClusterID {
			t.Errorf("nested result %+v, want revision and cluster of the whole, %+v", r.Result, res)
		}
	}
	if want := []bool{true, false, true}; !slices.Equal(oks, want) || !res.OK {
		t.Errorf("nested outcomes %v (whole %v), want %v", oks, res.OK, want)
	}
	kvs := mustList(t, s, Prefix(s.prefix), 0).KVs
	if want := []string{"first", "second", "taken"}; !slices.Equal(keysOf(kvs), want) {
		t.Errorf("keys %v, want %v", keysOf(kvs), want)
	}
	if kvs[0].CreateRevision != res.Revision || kvs[1].CreateRevision != res.Revision {
		t.Errorf("created at %d and %d, want both at %d", kvs[0].CreateRevision, kvs[1].CreateRevision, res.Revision)
	}
}

func testDuplicates(t *testing.T, s subject) {
	put := func(k string) Op { return Put(s.key(k), nil) }
	del := func(k string) Op { return Delete(Key(s.key(k))) }
	never := Absent(Key(s.key("x")))
	refused := map[string][]Op{
		"twice in a branch":            {put("a"), put("a")},
		"put and deleted":              {put("a"), del("a")},
		"deleted by range and put":     {Delete(Prefix(s.prefix)), put("a")},
		"in two nested ones":           {Nest(Txn{Then: []Op{put("a")}}), Nest(Txn{Then: []Op{put("a")}})},
		"in a branch that is not run":  {Nest(Txn{If: []Cmp{never}, Else: []Op{put("a")}}), put("a")},
		"outside and inside":           {put("a"), Nest(Txn{Then: []Op{put("a")}})},
		"deleted inside, put outside":  {put("a"), Nest(Txn{Then: []Op{del("a")}})},
		"deleted nested, then put so":  {Nest(Txn{Then: []Op{del("a")}}), Nest(Txn{Then: []Op{put("a")}})},
		"deep and in two nested trees": {Nest(Txn{Then: []Op{Nest(Txn{Then: []Op{put("a")}})}}), Nest(Txn{Else: []Op{put("a")}})},
	}
	for name, branch := range refused {
		for _, txn := range []Txn{{Then: branch}, {Else: branch}} {
			_, err := s.Txn(testContext(t), txn)
			if !errors.Is(err, overspan.ErrInvalid) || !strings.Contains(err.Error(), "duplicate key given in txn request") {
				t.Errorf("%s: error %v, want a duplicate key", name, err)
			}
		}
	}
	if got := keysOf(mustList(t, s, Prefix(s.prefix), 0).KVs); got != nil {
		t.Errorf("refused transactions left %v", got)
	}
	either := Txn{Then: []Op{Nest(Txn{Then: []Op{put("a")}, Else: []Op{put("a")}}), del("b"), del("b")}}
	mustTxn(t, s, either)
}

func testTooLarge(t *testing.T, s subject) {
	nested := func(n int) Txn {
		var txn Txn
		for i := range n {
			k := s.key(fmt.Sprint(i))
			txn.Then = append(txn.Then, Nest(Txn{
				If:   []Cmp{Absent(Key(k)), Absent(Key(k + "/name"))},
				Then: []Op{Put(k, nil), Put(k+"/name", nil)},
			}))
		}
		return txn
	}
	_, err := s.Txn(testContext(t), nested(127))
	if !errors.Is(err, overspan.ErrInvalid) {
		t.Errorf("127 nested pairs: error %v, want them refused", err)
	}
	res := mustTxn(t, s, nested(126))
	if i := slices.IndexFunc(res.Responses, func(r Response) bool { return !r.Result.OK }); i >= 0 {
		t.Errorf("nested transaction %d of 126 failed", i)
	}
	if _, err := s.Txn(testContext(t), Txn{Then: []Op{Put("", nil)}}); !errors.Is(err, overspan.ErrInvalid) {
		t.Errorf("empty key: error %v, want it refused", err)
	}
}

func testReadYourWrites(t *testing.T, s subject) {
	s.put(t, "a", "b", "c")
	res := mustTxn(t, s, Txn{Then: []Op{
		Put(s.key("n"), []byte("new")),
		Get(Prefix(s.prefix)),
		Delete(KeyRange{Key: s.key("a"), End: s.key("c")}),
		Delete(Key(s.key("none"))),
		Get(Prefix(s.prefix)),
	}})
	if got := keysOf(res.Responses[1].KVs); !slices.Equal(got, []string{"a", "b", "c", "n"}) {
		t.Errorf("first get: %v", got)
	}
	if got := res.Responses[2].Deleted; got != 2 {
		t.Errorf("deleted %d, want 2", got)
	}
	if got := res.Responses[3].Deleted; got != 0 {
		t.Errorf("deleted %d, want 0", got)
	}
	if got := keysOf(res.Responses[4].KVs); !slices.Equal(got, []string{"c", "n"}) {
		t.Errorf("second get: %v", got)
	}
}

func testListPast(t *testing.T, s subject) {
	first := s.put(t, "a", "b")
	second := s.remove(t, "a")
	third := s.put(t, "c")
	for rev, want := range map[int64][]string{first - 1: nil, first: {"a", "b"}, second: {"b"}, third: {"b", "c"}} {
		l := mustList(t, s, Prefix(s.prefix), rev)
		if !slices.Equal(keysOf(l.KVs), want) || l.Revision != rev {
			t.Errorf("at %d: %v of revision %d, want %v", rev, keysOf(l.KVs), l.Revision, want)
		}
	}
	if _, err := s.List(testContext(t), Prefix(s.prefix), third+100); !errors.Is(err, ErrFuture) {
		t.Errorf("list of the future: error %v, want ErrFuture", err)
	}
	s.compact(t, second)
	if _, err := s.List(testContext(t), Prefix(s.prefix), first); !errors.Is(err, ErrCompacted) {
		t.Errorf("list of the compacted: error %v, want ErrCompacted", err)
	}
	if got := keysOf(mustList(t, s, Prefix(s.prefix), second).KVs); !slices.Equal(got, []string{"b"}) {
		t.Errorf("list at the compacted revision itself: %v, want b", got)
	}
}

func testListPages(t *testing.T, s subject) {
	const n = 2*pageSize + 1
	var want []string
	for i := 0; i < n; i += 100 {
		var txn Txn
		for j := i; j < min(n, i+100); j++ {
			k := fmt.Sprintf("%06d", j)
			want = append(want, k)
			txn.Then = append(txn.Then, Put(s.key(k), nil))
		}
		mustTxn(t, s, txn)
	}
	if got := keysOf(mustList(t, s, Prefix(s.prefix), 0).KVs); !slices.Equal(got, want) {
		t.Errorf("listed %d keys, want %d, each once and in order", len(got), len(want))
	}
}

func testCanceled(t *testing.T, s subject) {
	ctx, cancel := context.WithCancel(testContext(t))
	cancel()
	if _, err := s.Txn(ctx, Txn{Then: []Op{Put(s.key("a"), nil)}}); !errors.Is(err, overspan.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("transaction: error %v, want ErrUnavailable by context.Canceled", err)
	}
	if _, err := s.List(ctx, Prefix(s.prefix), 0); !errors.Is(err, overspan.ErrUnavailable) {
		t.Errorf("list: error %v, want ErrUnavailable", err)
	}
}

func testMembers(t *testing.T, s subject) {
	members := s.Members(testContext(t))
	if len(members) != 1 || members[0].Err != nil || members[0].Version == "" || !members[0].Leader || members[0].Endpoint == "" {
		t.Errorf("members %+v, want one healthy leader", members)
	}
}
