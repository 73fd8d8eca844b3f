package store

import (
	"strings"
	"testing"

	"github.com/overspan/overspan"
)

func TestDrain(t *testing.T) {
	forEachKV(t, func(t *testing.T, connect func(*testing.T) KV) {
		kv := connect(t)
		h1, h2 := open(t, kv, testConfig(1)), open(t, connect(t), testConfig(2))
		key := h1.keys.Node(nodeID(2))
		value := strings.Replace(string(mustList(t, kv, Key(key), 0).KVs[0].Value), `{`, `{"novelty":{"a":1},"publicKey":"k",`, 1)
		mustTxn(t, kv, Txn{Then: []Op{Put(key, []byte(value))}})
		says := func(after string, draining bool) {
			t.Helper()
			now := mustList(t, kv, Key(key), 0).KVs[0]
			n, err := h1.keys.node(now)
			if err != nil || n.Draining != draining || n.CreateRevision != h2.Registration() {
				t.Errorf("%s: registration is %+v, %v; want draining %t, the same one", after, n, err, draining)
			}
			for _, kept := range []string{`"novelty":{"a":1}`, `"publicKey":"k"`} {
				if !strings.Contains(string(now.Value), kept) {
					t.Errorf("%s: registration is %s, want it to keep %s", after, now.Value, kept)
				}
			}
		}

		got, err := h1.Drain(testContext(t), nodeID(2), true)
		if err != nil || got.Name != "h2" || !got.Draining {
			t.Errorf("drain returns %+v, %v", got, err)
		}
		says("drained by another", true)
		changed := testNode(2)
		changed.MTU = 9000
		mustDo(t, h2.Update(testContext(t), changed))
		says("updated by itself", true)
		mustDo(t, h2.stop())
		again := testConfig(2)
		again.Known.Registration = h2.Registration()
		h2 = open(t, connect(t), again)
		says("started again", true)
		for range 2 {
			if _, err := h2.Drain(testContext(t), nodeID(2), false); err != nil {
				t.Fatal(err)
			}
			says("undrained by itself", false)
		}

		if _, err := h1.Drain(testContext(t), nodeID(2), true); err != nil {
			t.Fatal(err)
		}
		mustDo(t, h2.stop())
		mustDo(t, h1.BeginNodeRemoval(testContext(t), got, false))
		_, err = h1.EndNodeRemoval(testContext(t), got)
		mustDo(t, err)
		_, err = h1.Drain(testContext(t), nodeID(2), true)
		wantClass(t, err, overspan.ErrNotFound)
		h2 = open(t, connect(t), again)
		n, err := h1.keys.node(mustList(t, kv, Key(key), 0).KVs[0])
		if err != nil || n.Draining {
			t.Errorf("registered anew after a removal: %+v, %v; want it undrained", n, err)
		}
	})
}
