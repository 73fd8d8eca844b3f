package store

import (
	"context"
	"fmt"
	"slices"

	"github.com/overspan/overspan"
)

// maxLooks bounds how many endpoints are asked about at one moment: etcd allows 128
// operations in a transaction.
const maxLooks = 100

// LostRecords looks which of a node's endpoints etcd has lost: the record is gone
// or another's, while the registration under which it was written stands, the node
// is not being removed, and no eviction tells who took it. Registration is the
// create-revision of that. A record that cannot be read is not lost. Of many it
// returns some: one is a sign.
func LostRecords(ctx context.Context, kv KV, keys Keys, node overspan.NodeID, registration int64, endpoints []overspan.Endpoint) ([]overspan.Endpoint, error) {
	for some := range slices.Chunk(endpoints, maxLooks) {
		lost, err := lostRecords(ctx, kv, keys, node, registration, some)
		if err != nil || len(lost) > 0 {
			return lost, err
		}
	}
	return nil, nil
}

// lostRecords is LostRecords at one moment.
func lostRecords(ctx context.Context, kv KV, keys Keys, node overspan.NodeID, registration int64, endpoints []overspan.Endpoint) ([]overspan.Endpoint, error) {
	t := Txn{Then: []Op{Get(Key(keys.Node(node))), Get(Key(keys.Removing(node))), Get(keys.Evictions(node))}}
	for _, e := range endpoints {
		t.Then = append(t.Then, Get(Key(keys.Endpoint(e.Network, e.Slots[0]))))
	}
	res, err := kv.Txn(ctx, t)
	if err != nil {
		return nil, fmt.Errorf("look for the records of this node: %w", err)
	}
	kvs := found(res)
	_, removing := kvs[keys.Removing(node)]
	if removing || kvs[keys.Node(node)].CreateRevision != registration {
		return nil, nil
	}
	var lost []overspan.Endpoint
	for _, e := range endpoints {
		if _, evicted := kvs[keys.Eviction(node, e.ID)]; evicted {
			continue
		}
		kv, there := kvs[keys.Endpoint(e.Network, e.Slots[0])]
		now, err := keys.endpoint(kv)
		if !there || (err == nil && now.ID != e.ID) {
			lost = append(lost, e)
		}
	}
	return lost, nil
}
