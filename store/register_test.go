package store

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

func TestOpenRegisters(t *testing.T) {
	forEachKV(t, func(t *testing.T, connect func(*testing.T) KV) {
		kv := connect(t)
		cfg := testConfig(1)
		r := open(t, kv, cfg)
		node, err := r.keys.node(mustList(t, kv, Key(r.keys.Node(cfg.Node.ID)), 0).KVs[0])
		if err != nil {
			t.Fatal(err)
		}
		want := cfg.Node
		want.CreateRevision, want.ModRevision = r.Registration(), r.Registration()
		if diff := cmp.Diff(want, node, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("registration (-want +got):\n%s", diff)
		}
		live := mustList(t, kv, Key(r.keys.Live(cfg.Node.ID)), 0).KVs
		if len(live) != 1 || live[0].Lease == 0 {
			t.Errorf("presence is %v, want one under a lease", live)
		}
		if err := r.stop(); err != nil {
			t.Errorf("run: %v", err)
		}
		if live := mustList(t, kv, r.keys.Lives(), 0).KVs; len(live) != 0 {
			t.Errorf("presence after a clean shutdown: %v, want none", live)
		}
		if nodes := mustList(t, kv, r.keys.Nodes(), 0).KVs; len(nodes) != 1 {
			t.Errorf("registrations after a clean shutdown: %v, want one", nodes)
		}
	})
}

func TestOpenAdoptsTheRegistration(t *testing.T) {
	forEachKV(t, func(t *testing.T, connect func(*testing.T) KV) {
		kv := connect(t)
		first := open(t, kv, testConfig(1))
		if err := first.stop(); err != nil {
			t.Fatal(err)
		}
		for name, known := range map[string]Identity{
			"known":                         {Registration: first.Registration()},
			"empty journal":                 {},
			"died before it was noted":      {Registration: 1, Instances: first.cfg.Presence.Instance},
			"two died before":               {Registration: 1, Instances: "earlier " + first.cfg.Presence.Instance + " later"},
			"known, and another run behind": {Registration: first.Registration(), Instances: "earlier other"},
		} {
			cfg := testConfig(1)
			cfg.Known = known
			cfg.Presence.Instance = first.cfg.Presence.Instance // as other rows know it
			r := open(t, kv, cfg)
			if r.Registration() != first.Registration() {
				t.Errorf("%s: registration %d, want %d", name, r.Registration(), first.Registration())
			}
			if err := r.stop(); err != nil {
				t.Error(err)
			}
		}
		cfg := testConfig(1)
		cfg.Known = Identity{Registration: 1, Instances: "another"}
		_, err := Open(testContext(t), kv, cfg)
		wantClass(t, err, overspan.ErrInUse, "this state directory is a copy")
	})
}

// A node that was removed registers anew, and the answer is lost: the next try
// finds its own registration, not a clone's.
func TestOpenKnowsItsOwnRegistrationWithoutAnAnswer(t *testing.T) {
	kv := NewFaulty(NewMemory(1))
	cfg := testConfig(1)
	cfg.Known = Identity{Registration: 1, Instances: "last run"}
	kv.InjectTxn(TxnPasses, TxnPasses, TxnUnanswered) // settings, look, registration
	if s, err := Open(testContext(t), kv, cfg); err == nil {
		t.Fatalf("opened as registration %d without an answer", s.Registration())
	}
	if len(mustList(t, kv, testKeys(t, "test").Nodes(), 0).KVs) != 1 {
		t.Fatal("the answer of another transaction than the registration was lost")
	}
	open(t, kv, cfg)
}

func TestOpenKeepsWhatANewerAgentRegistered(t *testing.T) {
	kv := NewMemory(1)
	first := open(t, kv, testConfig(1))
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	key := first.keys.Node(nodeID(1))
	value := strings.Replace(string(mustList(t, kv, Key(key), 0).KVs[0].Value), `{`, `{"novelty":{"a":1},`, 1)
	mustTxn(t, kv, Txn{Then: []Op{Put(key, []byte(value))}})

	r := open(t, kv, testConfig(1))
	changed := testNode(1)
	changed.MTU = 9000
	changed.Routes = []netip.Prefix{netip.MustParsePrefix("10.8.0.0/16")}
	if err := r.Update(testContext(t), changed); err != nil {
		t.Fatal(err)
	}
	now := mustList(t, kv, Key(key), 0).KVs[0]
	if !strings.Contains(string(now.Value), `"novelty":{"a":1}`) || !strings.Contains(string(now.Value), `"mtu":9000`) {
		t.Errorf("registration is %s, want the new MTU and the unknown field", now.Value)
	}
	if now.CreateRevision != r.Registration() {
		t.Errorf("create-revision is %d, want %d", now.CreateRevision, r.Registration())
	}
}

func TestOpenSetsTheClusterUpOnce(t *testing.T) {
	kv := NewMemory(1)
	a, b := open(t, kv, testConfig(1)), open(t, kv, testConfig(2))
	if a.Meta() != b.Meta() || a.Meta().ClusterID == "" {
		t.Errorf("two nodes see the settings %v and %v", a.Meta(), b.Meta())
	}
	newer := overspanv1.MetaRecord(a.Meta())
	newer.Schema = Schema + 1
	mustTxn(t, kv, Txn{Then: []Op{Put(a.keys.Meta(), mustMarshal(newer))}})
	_, err := Open(testContext(t), kv, testConfig(3))
	wantClass(t, err, overspan.ErrUnsupported, "upgrade")
}

func TestOpenRefusesAClone(t *testing.T) {
	t.Parallel()
	forEachKV(t, func(t *testing.T, connect func(*testing.T) KV) {
		kv := connect(t)
		first := open(t, kv, testConfig(1))

		t.Run("that sees the first agent run", func(t *testing.T) {
			cfg := testConfig(1)
			cfg.Alive = func(p overspan.Presence) bool { return p.PID == 101 }
			began := time.Now()
			_, err := Open(testContext(t), kv, cfg)
			wantClass(t, err, overspan.ErrInUse, "in use by agent pid 101", "this state directory is a copy")
			if took := time.Since(began); took > expiryGrace {
				t.Errorf("refused after %s, want at once", took)
			}
		})
		t.Run("on another machine", func(t *testing.T) {
			cfg := testConfig(1)
			cfg.Presence.BootID = "elsewhere"
			cfg.TTL = time.Nanosecond // leaves the grace
			ctx, cancel := context.WithTimeout(testContext(t), 2*expiryGrace)
			defer cancel()
			_, err := Open(ctx, kv, cfg)
			wantClass(t, err, overspan.ErrInUse, "in use by agent pid 101 on machine machine-1")
		})
		if err := first.Update(testContext(t), testNode(1)); err != nil {
			t.Errorf("the first agent was disturbed: %v", err)
		}
	})
}

func TestOpenTakesOver(t *testing.T) {
	t.Parallel()
	forEachKV(t, func(t *testing.T, connect func(*testing.T) KV) {
		t.Run("a dead agent's presence at once", func(t *testing.T) {
			kv := connect(t)
			dead, err := Open(testContext(t), kv, testConfig(1)) // never runs, never leaves
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			open(t, kv, testConfig(1))
			if took := time.Since(began); took > expiryGrace {
				t.Errorf("took over after %s, want at once", took)
			}
			// What the dead one may have sent last can no longer commit.
			_, err = start(t, dead).CreateNetwork(testContext(t), fixed(testNetwork(1)))
			wantClass(t, err, overspan.ErrFenced)
		})
		t.Run("a foreign one that expires", func(t *testing.T) {
			kv := connect(t)
			gone, err := Open(testContext(t), kv, testConfig(2))
			if err != nil {
				t.Fatal(err)
			}
			if m, ok := kv.(*Memory); ok { // has no clock
				m.Expire(gone.currentLease())
			}
			cfg := testConfig(2)
			cfg.Presence.BootID = "after a reboot"
			open(t, kv, cfg)
		})
	})
}

func TestOpenRefusesAnotherNodesVTEP(t *testing.T) {
	forEachKV(t, func(t *testing.T, connect func(*testing.T) KV) {
		kv := connect(t)
		first := open(t, kv, testConfig(1))
		before := dump(t, kv)
		cfg := testConfig(2)
		cfg.Node.VTEPs = testNode(1).VTEPs
		_, err := Open(testContext(t), kv, cfg)
		wantClass(t, err, overspan.ErrInUse, "VTEP address 192.0.2.1 is in use by node h1")
		if diff := cmp.Diff(before, dump(t, kv)); diff != "" {
			t.Errorf("the refused node left something behind (-want +got):\n%s", diff)
		}
		if err := first.stop(); err != nil {
			t.Fatal(err)
		}
		open(t, kv, cfg) // an absent node holds no address
	})
}

func TestOpenFinishesTheNodesRemoval(t *testing.T) {
	forEachKV(t, func(t *testing.T, connect func(*testing.T) KV) {
		kv := connect(t)
		first := open(t, kv, testConfig(1))
		n := first.create(t, testNetwork(1))
		first.attach(t, n, first.claim(t, n, 0, 64), "web", 2)
		if err := first.stop(); err != nil {
			t.Fatal(err)
		}
		mark := first.keys.Removing(nodeID(1))
		mustTxn(t, kv, Txn{Then: []Op{Delete(Key(first.keys.Node(nodeID(1)))), Put(mark, []byte("{}"))}})

		again := open(t, kv, testConfig(1))
		if again.Registration() <= first.Registration() {
			t.Errorf("registration %d is not newer than %d", again.Registration(), first.Registration())
		}
		if left := mustList(t, kv, again.keys.Interiors(), 0).KVs; len(left) > 0 {
			t.Errorf("left of the removed node: %v", left)
		}
		if left := mustList(t, kv, again.keys.Removals(), 0).KVs; len(left) > 0 {
			t.Errorf("marks after the node is back: %v", left)
		}
	})
}

func TestRunPutsThePresenceAgain(t *testing.T) {
	t.Parallel()
	forEachKV(t, func(t *testing.T, connect func(*testing.T) KV) {
		kv := connect(t)
		r := open(t, kv, testConfig(1))
		back := func(what string) {
			t.Helper()
			eventually(t, what, func() bool {
				kvs := mustList(t, kv, Key(r.keys.Live(nodeID(1))), 0).KVs
				return len(kvs) == 1 && kvs[0].Lease == r.currentLease()
			})
		}
		if err := kv.Revoke(testContext(t), r.currentLease()); err != nil {
			t.Fatal(err)
		}
		back("presence after its lease was lost")
		mustTxn(t, kv, Txn{Then: []Op{Delete(Key(r.keys.Live(nodeID(1))))}})
		r.Recheck()
		back("presence after somebody deleted it")
	})
}

func TestRunEndsWhenFenced(t *testing.T) {
	forEachKV(t, func(t *testing.T, connect func(*testing.T) KV) {
		t.Run("registration deleted", func(t *testing.T) {
			kv := connect(t)
			r := open(t, kv, testConfig(1))
			n := r.create(t, testNetwork(1))
			b := r.claim(t, n, 0, 64)
			mustTxn(t, kv, Txn{Then: []Op{Delete(Key(r.keys.Node(nodeID(1))))}})
			before := dump(t, kv)
			_, err := r.Attach(testContext(t), AttachRequest{Endpoint: r.endpoint(n, "web", 2), Network: n, Blocks: []overspan.Block{b}})
			wantClass(t, err, overspan.ErrFenced, "registration of node")
			wantClass(t, r.wait(t), overspan.ErrFenced)
			_, err = r.Claim(testContext(t), n, overspan.Range{First: 64, Size: 64}, false)
			wantClass(t, err, overspan.ErrFenced)
			after := dump(t, kv)
			delete(before, r.keys.Live(nodeID(1)))
			delete(after, r.keys.Live(nodeID(1)))
			if diff := cmp.Diff(before, after); diff != "" {
				t.Errorf("a fenced node has written (-want +got):\n%s", diff)
			}
		})
		t.Run("registration deleted while idle", func(t *testing.T) {
			kv := connect(t)
			r := open(t, kv, testConfig(2))
			mustTxn(t, kv, Txn{Then: []Op{Delete(Key(r.keys.Node(nodeID(2))))}})
			r.Recheck()
			wantClass(t, r.wait(t), overspan.ErrFenced, "registration of node")
			_, err := r.CreateNetwork(testContext(t), fixed(testNetwork(2)))
			wantClass(t, err, overspan.ErrFenced, "registration of node")
		})
		t.Run("presence of another agent", func(t *testing.T) {
			kv := connect(t)
			r := open(t, kv, testConfig(3))
			other := testConfig(3).Presence
			other.BootID = "elsewhere"
			value, err := Marshal(overspanv1.PresenceRecord(other))
			if err != nil {
				t.Fatal(err)
			}
			key := r.keys.Live(nodeID(3))
			mustTxn(t, kv, Txn{Then: []Op{Delete(Key(key))}})
			mustTxn(t, kv, Txn{Then: []Op{Put(key, value)}})
			r.Recheck()
			wantClass(t, r.wait(t), overspan.ErrFenced, "in use by agent pid 103 on machine machine-3")
		})
	})
}

func TestUpdateRefusesAnotherNodesVTEP(t *testing.T) {
	forEachKV(t, func(t *testing.T, connect func(*testing.T) KV) {
		h1, h2 := open(t, connect(t), testConfig(1)), open(t, connect(t), testConfig(2))
		for _, tt := range []struct {
			taker  run
			holder overspan.Node
		}{
			{h1, testNode(2)}, // which came later
			{h2, testNode(1)},
		} {
			n := tt.taker.cfg.Node
			n.VTEPs = tt.holder.VTEPs
			err := tt.taker.Update(testContext(t), n)
			wantClass(t, err, overspan.ErrInUse, "is in use by node "+tt.holder.Name)
		}
		mustDo(t, h2.stop())
		n := h1.cfg.Node
		n.VTEPs = testNode(2).VTEPs
		mustDo(t, h1.Update(testContext(t), n)) // an absent node holds no address
	})
}
