package store

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/overspan/overspan"
)

// vouchAtOnce bounds of how many nodes one transaction asks.
const vouchAtOnce = 50

// vouch checks a listing that lacks endpoints of the snapshot, of whose deletion no
// watch has told. Writing an endpoint also rewrites its node's flight key, which
// only the node's removal deletes. So where the node is still registered as then,
// but its flight key is older than the missing records, etcd was rolled back.
func (f *feed) vouch(ctx context.Context, l Listing) error {
	seg := f.m.Trusted().Segment(f.network)
	if seg == nil {
		return nil // of no network, or of one that nobody has seen yet
	}
	gone := vanished(f.m.keys, seg, newPart(f.m.keys, l.KVs, nil))
	for nodes := range slices.Chunk(slices.Sorted(maps.Keys(gone)), vouchAtOnce) {
		var t Txn
		for _, n := range nodes {
			t.Then = append(t.Then, Get(Key(f.m.keys.Node(n))), Get(Key(f.m.keys.Flight(n))))
		}
		res, err := f.m.kv.Txn(ctx, t)
		if err != nil {
			return fmt.Errorf("ask about endpoints that are gone: %w", err)
		}
		kvs := found(res)
		for _, n := range nodes {
			if forgot(kvs[f.m.keys.Node(n)], kvs[f.m.keys.Flight(n)], gone[n]) {
				f.m.suspect(f.history, fmt.Sprintf("etcd was rolled back: what node %s wrote at revision %d is gone", overspan.ShortID(n), gone[n]))
				return overspan.Errorf(overspan.ErrUnavailable, "list %s: %s", f.keys.Key, f.m.Doubt())
			}
		}
	}
	return nil
}

// vanished returns the newest revision at which each node wrote an endpoint that
// is in a segment and not in a part. One that cannot be read is there.
func vanished(keys Keys, seg *overspan.Segment, now *part) map[overspan.NodeID]int64 {
	out := map[overspan.NodeID]int64{}
	for slot, e := range seg.Endpoints.All() {
		if _, bad := now.bad.rows[keys.Endpoint(e.Network, slot)]; bad {
			continue
		}
		if at := now.endpoints.Get(slot); at == nil || at.ID != e.ID {
			out[e.Node] = max(out[e.Node], e.ModRevision)
		}
	}
	return out
}

// forgot reports whether a node that wrote something at a revision is registered
// as then, but has flown last before it.
func forgot(node, flight KeyValue, wrote int64) bool {
	return node.Key != "" && node.CreateRevision <= wrote && flight.ModRevision < wrote
}
