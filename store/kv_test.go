package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

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
			client, err := kv.connect()
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

// A reader collects what a watch says.
type reader struct {
	batches <-chan Batch
	at      int64
	events  []Event
	err     error
}

func (s subject) watch(t *testing.T, ctx context.Context, after int64) *reader { //nolint:revive // t first, as everywhere in tests
	t.Helper()
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

	r := s.watch(t, testContext(t), first)
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
	r := s.watch(t, testContext(t), start)
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

func testWatchEnds(t *testing.T, s subject) {
	ctx, cancel := context.WithCancel(testContext(t))
	r := s.watch(t, ctx, s.put(t, "a"))
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
	r := s.watch(t, testContext(t), first)
	if !r.next(t) || !errors.Is(r.err, ErrCompacted) {
		t.Fatalf("got %v and error %v, want ErrCompacted", r.summary(), r.err)
	}
	if r.next(t) {
		t.Error("the watch goes on after its error")
	}
	next := s.put(t, "b")
	for after, want := range map[int64][]string{last - 1: {"delete a", "put b"}, last: {"put b"}} {
		r = s.watch(t, testContext(t), after)
		r.until(t, next)
		if got := r.summary(); !slices.Equal(got, want) {
			t.Errorf("from the compacted revision %d on, after %d: %v, want %v", last, after, got, want)
		}
	}
}

func testWatchRunsThroughCompaction(t *testing.T, s subject) {
	r := s.watch(t, testContext(t), s.put(t, "a"))
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
	a := s.watch(t, ctx, start)
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
	id, err := s.Grant(ctx, 10*time.Second)
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
	r := s.watch(t, ctx, put.Revision)
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
