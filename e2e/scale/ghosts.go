package scale

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
	"github.com/overspan/overspan/store"
)

// Ghosts are nodes that exist in etcd alone: registered, away, with blocks of a
// network and some endpoints in each. To an agent they are as real as any; no
// processor works for them.
type Ghosts struct {
	Network *overspan.Network
	Blocks  overspan.Range // the slots that they hold: whole blocks of 64
	Each    int            // endpoints in each block, at most 62
	One     bool           // one ghost holds all blocks, not each its own
}

// putsPerTxn stays below etcd's limit of 128 operations.
const putsPerTxn = 100

// Haunt writes ghosts into the etcd of a cluster.
func Haunt(ctx context.Context, kv store.KV, cluster string, g Ghosts) error {
	keys, err := store.NewKeys(cluster)
	if err != nil {
		return err
	}
	w := writer{ctx: ctx, kv: kv}
	var id overspan.NodeID
	for i := range int(g.Blocks.Size / overspan.MaxBlockSize) {
		if i == 0 || !g.One {
			id = overspan.NodeID(overspan.NewID())
			w.put(keys.Node(id), overspanv1.NodeRecord(overspan.Node{
				ID: id, Name: fmt.Sprintf("ghost%d", i), MTU: 1500,
				VTEPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 98, byte(i >> 8), byte(i)})},
			}))
		}
		block := overspan.BlockAt(g.Blocks.First+overspan.Slot(i*overspan.MaxBlockSize), overspan.MaxBlockSize)
		w.put(keys.Block(g.Network.ID, block), overspanv1.BlockRecord(overspan.Block{Range: block, Node: id}))
		for j := range g.Each {
			slot := block.First + overspan.Slot(j)
			if g.Network.Reserved(slot) != "" {
				continue
			}
			name := fmt.Sprintf("ghost%d-%d", slot, j)
			e := overspan.Endpoint{
				ID: overspan.EndpointID(overspan.NewID()), Network: g.Network.ID, Node: id, Name: name,
				Slot: slot, Slots: []overspan.Slot{slot}, IPv4: g.Network.IPv4.Addr(slot), MAC: g.Network.MAC(slot),
				Sandbox: name, Interface: "eth0", Created: time.Now().UTC(),
			}
			w.put(keys.Endpoint(g.Network.ID, slot), overspanv1.EndpointRecord(e))
			w.put(keys.EndpointName(g.Network.ID, name), &overspanv1.Reference{Network: string(g.Network.ID), Slot: uint64(slot), Endpoint: string(e.ID)})
		}
	}
	w.flush()
	return w.err
}

// Lend gives each node a block of a network, of size slots, one after the other from
// first on: what each would hold by and by had it joined a network with room.
func Lend(ctx context.Context, kv store.KV, cluster string, n *overspan.Network, nodes []*Node, first overspan.Slot, size int) error {
	keys, err := store.NewKeys(cluster)
	if err != nil {
		return err
	}
	w := writer{ctx: ctx, kv: kv}
	for i, node := range nodes {
		b := overspan.Block{Range: overspan.BlockAt(first+overspan.Slot(i*size), uint64(size)), Node: node.Self()}
		w.put(keys.Block(n.ID, b.Range), overspanv1.BlockRecord(b))
	}
	w.flush()
	return w.err
}

// A writer puts records, many to a transaction, until the first error.
type writer struct {
	ctx context.Context
	kv  store.KV
	ops []store.Op
	err error
}

func (w *writer) put(key string, record proto.Message) {
	value, err := store.Marshal(record)
	if w.err == nil {
		w.err = err
	}
	w.ops = append(w.ops, store.Put(key, value))
	if len(w.ops) == putsPerTxn {
		w.flush()
	}
}

func (w *writer) flush() {
	if w.err != nil || len(w.ops) == 0 {
		return
	}
	_, w.err = w.kv.Txn(w.ctx, store.Txn{Then: w.ops})
	w.ops = nil
}

// Claim makes a block a ghost's, and returns when the claim was sent: it commits
// within the next millisecond, as a rule before it is answered.
func Claim(ctx context.Context, kv store.KV, cluster string, n *overspan.Network, r overspan.Range, ghost overspan.NodeID) (time.Time, error) {
	keys, err := store.NewKeys(cluster)
	if err != nil {
		return time.Time{}, err
	}
	w := writer{ctx: ctx, kv: kv}
	w.put(keys.Block(n.ID, r), overspanv1.BlockRecord(overspan.Block{Range: r, Node: ghost}))
	sent := time.Now()
	w.flush()
	return sent, w.err
}
