package store

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

func TestEvict(t *testing.T) {
	forEachKV(t, func(t *testing.T, connect func(*testing.T) KV) {
		kv := connect(t)
		h1, h2 := open(t, kv, testConfig(1)), open(t, connect(t), testConfig(2))
		n := h1.create(t, testNetwork(1))
		b := h2.claim(t, n, 64, 64)
		before := dump(t, kv)
		odd := h2.endpoint(n, "odd", 64)
		odd.MAC = overspan.MAC{0x06, 1, 2, 3, 4, 5}
		e, err := h2.Attach(testContext(t), AttachRequest{Endpoint: odd, Network: n, Blocks: []overspan.Block{b}})
		mustDo(t, err)

		wantClass(t, h1.Evict(testContext(t), "demo", e), overspan.ErrInUse, "disconnect odd from network demo by force", "its node h2 is up: disconnect it there")
		mustDo(t, h2.stop())
		mustDo(t, h1.Evict(testContext(t), "demo", e))
		note := h1.keys.Eviction(nodeID(2), e.ID)
		if diff := cmp.Diff(without(before, h1.keys.Live(nodeID(2))), without(dump(t, kv), note)); diff != "" {
			t.Errorf("but for the note, after the eviction (-want +got):\n%s", diff)
		}
		wantClass(t, h1.Evict(testContext(t), "demo", e), overspan.ErrNotFound, "it is gone")

		h2 = open(t, connect(t), testConfig(2))
		notes, err := h2.Evictions(testContext(t))
		if err != nil || len(notes) != 1 {
			t.Fatalf("notes are %+v, %v; want one", notes, err)
		}
		v := notes[0]
		if v.Endpoint != e.ID || v.Name != "odd" || v.Network != n.ID || v.By != "h1" || v.Since.IsZero() {
			t.Errorf("note is %+v, want that h1 took odd off %s", v, n.Name)
		}
		for range 2 {
			mustDo(t, h2.DropEviction(testContext(t), v))
		}
		if left := mustList(t, kv, h2.keys.Evictions(nodeID(2)), 0).KVs; len(left) > 0 {
			t.Errorf("notes after they were dropped: %v", left)
		}
		h2.attach(t, n, b, "odd", 64)
	})
}

func TestEvictRefuses(t *testing.T) {
	forEachKVAndRow(t, []row{
		{"another endpoint under the same address", func(t *testing.T, connect func(*testing.T) KV) {
			kv := connect(t)
			h1, h2 := open(t, kv, testConfig(1)), open(t, kv, testConfig(2))
			n := h1.create(t, testNetwork(1))
			b := h2.claim(t, n, 64, 64)
			old := h2.attach(t, n, b, "old", 64)
			_, err := h2.Detach(testContext(t), old)
			mustDo(t, err)
			now := h2.attach(t, n, b, "new", 64)
			mustDo(t, h2.stop())
			before := dump(t, kv)
			wantClass(t, h1.Evict(testContext(t), "demo", old), overspan.ErrNotFound)
			stale := now
			stale.CreateRevision--
			wantClass(t, h1.Evict(testContext(t), "demo", stale), overspan.ErrConflict)
			if diff := cmp.Diff(without(before), without(dump(t, kv))); diff != "" {
				t.Errorf("a refused eviction has written (-want +got):\n%s", diff)
			}
		}},
		{"a node that is being removed", func(t *testing.T, connect func(*testing.T) KV) {
			kv := connect(t)
			h1, h2 := open(t, kv, testConfig(1)), open(t, kv, testConfig(2))
			n := h1.create(t, testNetwork(1))
			e := h2.attach(t, n, h2.claim(t, n, 64, 64), "web", 64)
			mustDo(t, h2.stop())
			mustTxn(t, kv, Txn{Then: []Op{Delete(Key(h1.keys.Node(nodeID(2))))}})
			wantClass(t, h1.Evict(testContext(t), "demo", e), overspan.ErrNotFound, "its node is being removed")
		}},
		{"while the cluster is frozen", func(t *testing.T, connect func(*testing.T) KV) {
			kv := connect(t)
			h1, h2 := open(t, kv, testConfig(1)), open(t, kv, testConfig(2))
			n := h1.create(t, testNetwork(1))
			e := h2.attach(t, n, h2.claim(t, n, 64, 64), "web", 64)
			mustDo(t, h2.stop())
			mustTxn(t, kv, Txn{Then: []Op{Put(h1.keys.Frozen(), mustMarshal(&overspanv1.Frozen{Reason: "etcd went back"}))}})
			wantClass(t, h1.Evict(testContext(t), "demo", e), overspan.ErrUnavailable, "the cluster is frozen: etcd went back")
		}},
	})
}
