package store

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/overspan/overspan"
)

func TestAttachAndDetach(t *testing.T) {
	forEachKV(t, func(t *testing.T, connect func(*testing.T) KV) {
		r := open(t, connect(t), testConfig(1))
		network := testNetwork(1)
		network.IPv6 = overspan.Subnet{Prefix: netip.MustParsePrefix("fd00::/64")}
		n := r.create(t, network)
		b := r.claim(t, n, 0, 64)
		before := dump(t, r.kv)

		e := r.endpoint(n, "web", 2)
		e.Slots, e.IPv6, e.MAC = []overspan.Slot{2, 7}, n.IPv6.Addr(7), overspan.MAC{0x0a, 0, 0, 0, 0, 1}
		got, err := r.Attach(testContext(t), AttachRequest{Endpoint: e, Network: n, Blocks: []overspan.Block{b}})
		if err != nil {
			t.Fatal(err)
		}
		for _, slot := range e.Slots {
			stored, err := r.keys.endpoint(mustList(t, r.kv, Key(r.keys.Endpoint(n.ID, slot)), 0).KVs[0])
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(got, stored, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Errorf("record at slot %d (-want +got):\n%s", slot, diff)
			}
		}
		got.CreateRevision = 0 // as the journal knows it
		for range 2 {          // one that is gone is no error
			rev, err := r.Detach(testContext(t), got)
			if err != nil || rev == 0 {
				t.Fatalf("detach: revision %d, %v", rev, err)
			}
		}
		if diff := cmp.Diff(without(before), without(dump(t, r.kv))); diff != "" {
			t.Errorf("keys after detach (-want +got):\n%s", diff)
		}
	})
}

func TestAttachRefuses(t *testing.T) {
	forEachKV(t, func(t *testing.T, connect func(*testing.T) KV) {
		r, other := open(t, connect(t), testConfig(1)), open(t, connect(t), testConfig(2))
		n := r.create(t, testNetwork(1))
		b, far := r.claim(t, n, 0, 64), other.claim(t, n, 64, 64)
		mac := overspan.MAC{0x0a, 0, 0, 0, 0, 1}
		first := r.endpoint(n, "first", 2)
		first.MAC = mac
		if _, err := r.Attach(testContext(t), AttachRequest{Endpoint: first, Network: n, Blocks: []overspan.Block{b}}); err != nil {
			t.Fatal(err)
		}
		other.attach(t, n, far, "away", 70)
		before := dump(t, r.kv)
		for _, tt := range []struct {
			name   string
			change func(*AttachRequest)
			class  error
			text   string
		}{
			{"slot taken", func(a *AttachRequest) { a.Endpoint = r.endpoint(n, "web", 2) }, overspan.ErrInUse, "address already in use: 10.0.1.2 of network net1 belongs to first on h1"},
			{"name taken", func(a *AttachRequest) { a.Endpoint.Name = "away" }, overspan.ErrExists, "endpoint with name away already exists in network net1: away on h2"},
			{"MAC taken", func(a *AttachRequest) { a.Endpoint.MAC = mac }, overspan.ErrInUse, "MAC address 0a:00:00:00:00:01 of network net1 already in use by first on h1"},
			{"MAC in the derived space", func(a *AttachRequest) { a.Endpoint.MAC = n.MAC(9) }, overspan.ErrInvalid, "choose another"},
			{"slot of another node", func(a *AttachRequest) {
				a.Endpoint, a.Blocks = r.endpoint(n, "web", 71), []overspan.Block{{Range: far.Range, CreateRevision: 1}}
			}, overspan.ErrConflict, "block 64-127 of network net1 is no longer what this node held"},
			{"slot without a block", func(a *AttachRequest) { a.Blocks = nil }, overspan.ErrInvalid, "no block"},
			{"another node's endpoint", func(a *AttachRequest) { a.Endpoint.Node = nodeID(2) }, overspan.ErrInvalid, "not of this one"},
			{"network as it was before", func(a *AttachRequest) { old := *n; old.ModRevision--; a.Network = &old }, overspan.ErrConflict, "network net1 was changed meanwhile"},
			{"network that is none", func(a *AttachRequest) {
				none := *n
				none.ID = netID(7)
				a.Network, a.Endpoint.Network = &none, none.ID
			}, overspan.ErrNotFound, "network net1 not found"},
			{"record that nobody could read", func(a *AttachRequest) { a.Endpoint.Name = "-" }, overspan.ErrInvalid, "name"},
		} {
			t.Run(tt.name, func(t *testing.T) {
				a := AttachRequest{Endpoint: r.endpoint(n, "web", 3), Network: n, Blocks: []overspan.Block{b}}
				tt.change(&a)
				_, err := r.Attach(testContext(t), a)
				wantClass(t, err, tt.class, tt.text)
			})
		}
		if diff := cmp.Diff(without(before), without(dump(t, r.kv))); diff != "" {
			t.Errorf("keys after the refusals (-want +got):\n%s", diff)
		}
	})
}

func TestDetachOfAnUnreadableRecordIsNoSuccess(t *testing.T) {
	forEachKV(t, func(t *testing.T, connect func(*testing.T) KV) {
		r := open(t, connect(t), testConfig(1))
		n := r.create(t, testNetwork(1))
		e := r.attach(t, n, r.claim(t, n, 0, 64), "web", 2)
		key := r.keys.Endpoint(n.ID, 2)
		if _, err := r.kv.Txn(testContext(t), Txn{Then: []Op{Put(key, []byte(`{"id":"`))}}); err != nil {
			t.Fatal(err)
		}
		before := dump(t, r.kv)
		e.CreateRevision = 0
		_, err := r.Detach(testContext(t), e)
		wantClass(t, err, overspan.ErrCorrupt, "detach web from network", key)
		if diff := cmp.Diff(without(before), without(dump(t, r.kv))); diff != "" {
			t.Errorf("keys (-want +got):\n%s", diff)
		}
	})
}

func TestDetachLeavesAnotherEndpointAlone(t *testing.T) {
	forEachKV(t, func(t *testing.T, connect func(*testing.T) KV) {
		r := open(t, connect(t), testConfig(1))
		n := r.create(t, testNetwork(1))
		b := r.claim(t, n, 0, 64)
		old := r.attach(t, n, b, "web", 2)
		if _, err := r.Detach(testContext(t), old); err != nil {
			t.Fatal(err)
		}
		r.attach(t, n, b, "web", 2)
		before := dump(t, r.kv)
		for _, rev := range []int64{old.CreateRevision, 0} {
			old.CreateRevision = rev
			if _, err := r.Detach(testContext(t), old); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(without(before), without(dump(t, r.kv))); diff != "" {
			t.Errorf("keys (-want +got):\n%s", diff)
		}
	})
}
