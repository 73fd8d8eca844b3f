package store

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/overspan/overspan"
)

// TestMirrorHearsThatAWatchGoesOnInAnotherHistory: etcd goes back and passes its
// old revision again before the watches are there again, so that these go on as if
// nothing had happened. What they tell cannot be, and is not believed.
func TestMirrorHearsThatAWatchGoesOnInAnotherHistory(t *testing.T) {
	block := func(first overspan.Slot, size uint64) overspan.Range { return overspan.Range{First: first, Size: size} }
	for name, tell := range map[string]func(w scribe) Op{
		"a block within a block":          func(w scribe) Op { return w.block(1, 1, block(0, 2)) },
		"a block around a block":          func(w scribe) Op { return w.block(1, 1, block(0, 16)) },
		"the same block once more":        func(w scribe) Op { return w.block(1, 2, block(0, 8)) },
		"an endpoint in another's place":  func(w scribe) Op { return w.endpoint(1, 2, 3) },
		"a node that is there":            func(w scribe) Op { return w.node(1, 2) },
		"a presence that is there":        func(w scribe) Op { return w.presence(1, 2) },
		"a network that is there":         func(w scribe) Op { return w.network(1, 2) },
		"a want that waits for an answer": func(w scribe) Op { return w.want(1, 1, 2) },
		"another node changed":            func(w scribe) Op { return w.node(3, 2) },
		"another node gone":               func(w scribe) Op { return Delete(Key(w.keys.Node(nodeID(3)))) },
		"another's presence gone":         func(w scribe) Op { return Delete(Key(w.keys.Live(nodeID(3)))) },
		"another network changed":         func(w scribe) Op { return w.network(2, 2) },
		"another block acknowledged":      func(w scribe) Op { return w.block(1, 3, block(8, 8)) },
		"another endpoint gone":           func(w scribe) Op { return Delete(Key(w.keys.Endpoint(netID(1), 9))) },
	} {
		t.Run(name, func(t *testing.T) {
			// A question that was on its way may tell of the same: once more, then.
			sign := ""
			for range 10 {
				if sign = goesOnInAnotherHistory(t, tell); strings.Contains(sign, "unseen at") {
					return
				}
			}
			t.Errorf("told by %q; want that the watch tells", sign)
		})
	}
}

// goesOnInAnotherHistory has a mirror follow an etcd that goes back, passes its old
// revision and then tells something. It returns by what sign that was noticed.
func goesOnInAnotherHistory(t *testing.T, tell func(w scribe) Op) (sign string) {
	t.Helper()
	memory := NewMemory(1)
	w := scribe{memory, testKeys(t, "breach")}
	backup := w.write(t, w.settings(1))
	m := startMirror(t, memory, w.keys, MirrorConfig{Probe: time.Hour}, 1)
	rev := w.write(t, w.node(1, 1), w.presence(1, 1), w.network(1, 1), w.block(1, 1, overspan.Range{Size: 8}), w.endpoint(1, 1, 3), w.want(1, 1, 2))
	for i := range 5 {
		rev = w.write(t, w.node(2, i))
	}
	waitRevision(t, m, rev)
	if err := m.WaitSegment(testContext(t), netID(1), rev); err != nil {
		t.Fatal(err)
	}
	if err := m.Sync(testContext(t)); err != nil {
		t.Fatal(err)
	}
	before := m.Snapshot()

	memory.Rollback(backup)
	w.write(t, Put(w.keys.Frozen(), []byte("{}")))
	w.write(t, w.node(3, 1), w.presence(3, 1), w.network(2, 1), w.block(1, 3, overspan.Range{First: 8, Size: 8}), w.endpoint(1, 3, 9))
	for i := range 10 {
		w.write(t, Put("/elsewhere", []byte{byte(i)}))
	}
	w.write(t, tell(w))
	eventually(t, "the doubt", func() bool { return m.Doubt() != "" })
	now := m.Snapshot()
	was, is := before.Segment(netID(1)), now.Segment(netID(1))
	if !reflect.DeepEqual(now.Nodes, before.Nodes) || !reflect.DeepEqual(now.Networks, before.Networks) ||
		!reflect.DeepEqual(is.Wants, was.Wants) || !is.Blocks.Equal(was.Blocks) || !is.Endpoints.Equal(was.Endpoints) {
		t.Errorf("a snapshot of two histories was published: %+v", now)
	}
	return m.Doubt()
}

// TestMirrorBelievesWhatFollows: what sessions do to blocks and endpoints breaches
// nothing, also if it is told at once.
func TestMirrorBelievesWhatFollows(t *testing.T) {
	memory := NewMemory(1)
	w := scribe{memory, testKeys(t, "follows")}
	w.write(t, w.node(1, 1), w.network(1, 1), w.block(1, 1, overspan.Range{First: 0, Size: 8}), w.endpoint(1, 1, 3))
	l, err := memory.List(t.Context(), w.keys.Segment(netID(1)), 0)
	if err != nil {
		t.Fatal(err)
	}
	p := newPart(w.keys, l.KVs, nil)
	whole := w.keys.Block(netID(1), overspan.Range{First: 0, Size: 8})
	w.write(t, Delete(Key(whole)), w.block(1, 1, overspan.Range{First: 0, Size: 4}), w.block(1, 2, overspan.Range{First: 4, Size: 4}))
	w.write(t, w.block(1, 2, overspan.Range{First: 4, Size: 4})) // asks to be acknowledged
	w.write(t, Delete(Key(w.keys.Endpoint(netID(1), 3))))
	w.write(t, w.endpoint(1, 1, 3))
	w.write(t, Delete(Key(w.keys.Block(netID(1), overspan.Range{First: 0, Size: 4}))))
	w.write(t, w.block(1, 1, overspan.Range{First: 0, Size: 1}))
	b := <-memory.Watch(t.Context(), w.keys.Segment(netID(1)), l.Revision)
	if p.breaches(b.Events) {
		t.Errorf("what follows is not believed at once: %+v", b.Events)
	}
	for _, e := range b.Events {
		p.apply(e)
	}
	for i := range b.Events {
		if p.breaches(b.Events[i : i+1]) {
			return // told once more, it cannot be
		}
	}
	t.Error("nothing that is told once more breaches anything")
}
