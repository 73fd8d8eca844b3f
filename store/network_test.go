package store

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overspan/overspan"
)

// automatic chooses the first free /24 of 10.0.0.0/8 and the first free VNI.
func automatic(name string) func(Taken) (overspan.Network, error) {
	return func(taken Taken) (overspan.Network, error) {
		for i := range 255 {
			n := testNetwork(i)
			n.ID, n.Name = overspan.NetworkID(overspan.NewID()), name
			overlaps := slices.ContainsFunc(taken.Subnets, func(l Lease) bool { return l.Prefix.Overlaps(n.IPv4.Prefix) })
			if _, is := taken.VNIs[n.VNI]; !is && !overlaps {
				return n, nil
			}
		}
		return overspan.Network{}, overspan.Errorf(overspan.ErrExhausted, "no subnet is free")
	}
}

// without returns what a dump says apart from keys that every write changes.
func without(dump map[string]string, keys ...string) map[string]string {
	dump = maps.Clone(dump)
	maps.DeleteFunc(dump, func(k, _ string) bool {
		return slices.Contains(keys, k) || strings.Contains(k, "/flights/")
	})
	return dump
}

func TestCreateAndRemoveNetwork(t *testing.T) {
	forEachKV(t, func(t *testing.T, connect func(*testing.T) KV) {
		kv := connect(t)
		r := open(t, kv, testConfig(1))
		before := dump(t, kv)
		n := r.create(t, testNetwork(1))
		got, err := r.keys.network(mustList(t, kv, Key(r.keys.Network(n.ID)), 0).KVs[0])
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(*n, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			t.Errorf("record (-want +got):\n%s", diff)
		}
		b := r.claim(t, n, 0, 64)
		e := r.attach(t, n, b, "web", 2)
		if err := putAck(testContext(t), r, n, b.CreateRevision); err != nil {
			t.Fatal(err)
		}
		wantClass(t, r.RemoveNetwork(testContext(t), n), overspan.ErrInUse, "network net1 has active endpoints: web on h1; disconnect them first")
		if _, err := r.Detach(testContext(t), e); err != nil {
			t.Fatal(err)
		}
		if err := r.RemoveNetwork(testContext(t), n); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(without(before), without(dump(t, kv), r.keys.SubnetsVersion())); diff != "" {
			t.Errorf("keys after the removal (-want +got):\n%s", diff)
		}
		wantClass(t, r.RemoveNetwork(testContext(t), n), overspan.ErrNotFound, "network net1 not found")
		_, err = r.Claim(testContext(t), n, overspan.Range{Size: 1}, false)
		wantClass(t, err, overspan.ErrNotFound)
		wantClass(t, putAck(testContext(t), r, n, 1), overspan.ErrNotFound)
		r.create(t, testNetwork(1)) // all of it can be used again
	})
}

func TestCreateNetworkRefuses(t *testing.T) {
	local := func(n, node int) overspan.Network {
		out := testNetwork(n)
		out.Driver, out.VNI, out.Underlay, out.Node = overspan.DriverBridge, 0, "", nodeID(node)
		return out
	}
	named := func(n overspan.Network, name string) overspan.Network {
		n.Name = name
		return n
	}
	forEachKV(t, func(t *testing.T, connect func(*testing.T) KV) {
		kv := connect(t)
		r := open(t, kv, testConfig(1))
		r.create(t, named(testNetwork(1), "demo"))
		r.create(t, named(local(2, 1), "own"))
		before := dump(t, kv)
		for _, tt := range []struct {
			name    string
			network overspan.Network
			class   error
			text    string
		}{
			{"a global name", named(testNetwork(3), "demo"), overspan.ErrExists, "network with name demo already exists"},
			{"a local name that is global", named(local(3, 1), "demo"), overspan.ErrExists, "network with name demo already exists"},
			{"a global name that is local", named(testNetwork(3), "own"), overspan.ErrExists, "network with name own already exists"},
			{"a local name of the node", named(local(3, 1), "own"), overspan.ErrExists, "network with name own already exists"},
			{"a VNI", func() overspan.Network { n := testNetwork(3); n.VNI = 70001; return n }(), overspan.ErrExists, "VNI 70001 is taken by network demo"},
			{"a subnet", func() overspan.Network { n := testNetwork(3); n.IPv4 = testNetwork(1).IPv4; return n }(), overspan.ErrInUse, "subnet 10.0.1.0/24 overlaps 10.0.1.0/24 of network demo"},
			{"half a subnet", func() overspan.Network {
				n := testNetwork(3)
				n.IPv4 = overspan.Subnet{Prefix: netip.MustParsePrefix("10.0.1.128/25")}
				return n
			}(), overspan.ErrInUse, "overlaps"},
			{"nonsense", named(testNetwork(3), "-"), overspan.ErrInvalid, "name"},
		} {
			t.Run(tt.name, func(t *testing.T) {
				_, err := r.CreateNetwork(testContext(t), fixed(tt.network))
				wantClass(t, err, tt.class, tt.text)
			})
		}
		if diff := cmp.Diff(without(before), without(dump(t, kv))); diff != "" {
			t.Errorf("keys after the refusals (-want +got):\n%s", diff)
		}
		r.create(t, named(local(3, 2), "own")) // another node's
	})
}

func TestFrozenClusterLendsAndRemovesNothing(t *testing.T) {
	forEachKV(t, func(t *testing.T, connect func(*testing.T) KV) {
		kv := connect(t)
		r := open(t, kv, testConfig(1))
		n, leaving := r.create(t, testNetwork(1)), r.create(t, testNetwork(2))
		b := r.claim(t, n, 0, 64)
		gone, err := r.mark(testContext(t), leaving)
		if err != nil || !gone {
			t.Fatalf("mark a network: %t, %v", gone, err)
		}
		mustTxn(t, kv, Txn{Then: []Op{Put(r.keys.Frozen(), []byte(`{"reason":"etcd was rolled back"}`))}})
		before := dump(t, kv)
		for what, do := range map[string]func() error{
			"create": func() error { _, err := r.CreateNetwork(testContext(t), fixed(testNetwork(3))); return err },
			"claim": func() error {
				_, err := r.Claim(testContext(t), n, overspan.Range{First: 64, Size: 64}, false)
				return err
			},
			"attach": func() error {
				_, err := r.Attach(testContext(t), AttachRequest{Endpoint: r.endpoint(n, "web", 2), Network: n, Blocks: []overspan.Block{b}})
				return err
			},
			"want":           func() error { _, err := r.PutWant(testContext(t), n, nodeID(2), nil); return err },
			"remove":         func() error { return r.RemoveNetwork(testContext(t), n) },
			"finish removal": func() error { return r.RemoveNetwork(testContext(t), leaving) },
		} {
			t.Run(what, func(t *testing.T) {
				wantClass(t, do(), overspan.ErrUnavailable, "the cluster is frozen: etcd was rolled back: see ctl status, then accept what etcd holds with ctl cluster accept")
			})
		}
		if diff := cmp.Diff(without(before), without(dump(t, kv))); diff != "" {
			t.Errorf("keys after the refusals (-want +got):\n%s", diff)
		}
	})
}

// three opens sessions of three nodes.
func three(t *testing.T, connect func(*testing.T) KV) [3]run {
	t.Helper()
	var out [3]run
	for i := range out {
		out[i] = open(t, connect(t), testConfig(i+1))
	}
	return out
}

func TestOneOfThreeCreatorsOfANameWins(t *testing.T) {
	t.Parallel()
	forEachKV(t, func(t *testing.T, connect func(*testing.T) KV) {
		nodes := three(t, connect)
		for round := range 50 {
			name := fmt.Sprintf("round%d", round)
			var errs [3]error
			var wg sync.WaitGroup
			for i, r := range nodes {
				wg.Go(func() { _, errs[i] = r.CreateNetwork(testContext(t), automatic(name)) })
			}
			wg.Wait()
			won := 0
			for _, err := range errs {
				if err == nil {
					won++
					continue
				}
				wantClass(t, err, overspan.ErrExists, "network with name "+name+" already exists")
			}
			if won != 1 {
				t.Fatalf("%s: %d creators won", name, won)
			}
		}
		if got := len(mustList(t, nodes[0].kv, nodes[0].keys.Networks(), 0).KVs); got != 50 {
			t.Errorf("%d networks stand, want 50", got)
		}
	})
}

func TestAutomaticSubnetsNeverOverlap(t *testing.T) {
	forEachKV(t, func(t *testing.T, connect func(*testing.T) KV) {
		nodes := three(t, connect)
		var wg sync.WaitGroup
		for i := range 30 {
			wg.Go(func() {
				if _, err := nodes[i%3].CreateNetwork(testContext(t), automatic(fmt.Sprintf("n%d", i))); err != nil {
					t.Errorf("create n%d: %v", i, err)
				}
			})
		}
		wg.Wait()
		taken, _, err := nodes[0].taken(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		if len(taken.Subnets) != 30 || len(taken.VNIs) != 30 {
			t.Errorf("%d subnets and %d VNIs are leased, want 30 of each", len(taken.Subnets), len(taken.VNIs))
		}
		for i, a := range taken.Subnets {
			for _, b := range taken.Subnets[i+1:] {
				if a.Prefix.Overlaps(b.Prefix) {
					t.Errorf("%v overlaps %v", a, b)
				}
			}
		}
	})
}

func TestLateNetworkIsRemoved(t *testing.T) {
	t.Parallel()
	forEachKV(t, func(t *testing.T, connect func(*testing.T) KV) {
		kv := NewFaulty(connect(t))
		r := open(t, kv, testConfig(1))
		before := dump(t, kv)
		kv.InjectTxn(TxnPasses, TxnUnanswered, TxnHangs) // a read comes first
		ctx, cancel := context.WithTimeout(testContext(t), 100*time.Millisecond)
		defer cancel()
		_, err := r.CreateNetwork(ctx, fixed(testNetwork(1)))
		wantClass(t, err, overspan.ErrUnavailable, "create network net1: etcd unreachable")
		eventually(t, "the network to be removed", func() bool {
			return cmp.Equal(without(before), without(dump(t, kv), r.keys.SubnetsVersion()))
		})
	})
}

// TestHalfARemovalIsFinished cuts a removal off behind each of its
// transactions, and lets three nodes finish it at once.
func TestHalfARemovalIsFinished(t *testing.T) {
	t.Parallel()
	forEachKV(t, func(t *testing.T, connect func(*testing.T) KV) {
		nodes := three(t, connect)
		kv := NewFaulty(connect(t))
		r := open(t, kv, testConfig(9))
		before := dump(t, kv)
		for behind := 1; behind <= 3; behind++ {
			n := r.create(t, testNetwork(1))
			r.claim(t, n, 0, 64)
			if _, err := r.PutWant(testContext(t), n, nodeID(1), nil); err != nil {
				t.Fatal(err)
			}
			kv.InjectTxn(append(make([]TxnFault, behind), TxnHangs)...)
			ctx, cancel := context.WithCancel(testContext(t))
			var removal sync.WaitGroup
			var cut error
			removal.Go(func() { cut = r.RemoveNetwork(ctx, n) })
			eventually(t, "the removal to hang", func() bool { return kv.Outstanding() == 0 })
			cancel()
			removal.Wait()
			wantClass(t, cut, overspan.ErrUnavailable)

			marked, err := r.keys.network(mustList(t, kv, Key(r.keys.Network(n.ID)), 0).KVs[0])
			if err != nil {
				t.Fatal(err)
			}
			_, err = nodes[0].Claim(testContext(t), &marked, overspan.Range{First: 128, Size: 64}, false)
			wantClass(t, err, overspan.ErrNotFound, "network net1 is being removed")
			snap := &overspan.Snapshot{Networks: map[overspan.NetworkID]*overspan.Network{n.ID: &marked}}
			var wg sync.WaitGroup
			for _, other := range nodes {
				wg.Go(func() {
					if err := other.FinishRemovals(testContext(t), snap); err != nil {
						t.Errorf("finish the removal: %v", err)
					}
				})
			}
			wg.Wait()
			if diff := cmp.Diff(without(before), without(dump(t, kv), r.keys.SubnetsVersion())); diff != "" {
				t.Errorf("keys after the removal, cut off behind %d (-want +got):\n%s", behind, diff)
			}
		}
	})
}
