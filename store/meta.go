package store

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"net/netip"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// Schema is the version of the layout of keys and records that this code
// writes. A field that is added does not change it; what an older agent would
// do wrong does.
const Schema = 1

// DefaultMeta returns what a new cluster is set up with: /24s of 10.0.0.0/8 for
// overlay networks, /24s of 172.16.0.0/12 for bridges, /64s of a /48 that is
// drawn at random (RFC 4193), and VNIs away from those that others start with.
func DefaultMeta() overspan.Meta {
	ula := [16]byte{0xfd}
	rand.Read(ula[1:6]) // never fails: crypto/rand, Go 1.24
	return overspan.Meta{
		Schema:    Schema,
		ClusterID: overspan.NewID(),
		Pools: overspan.Pools{
			Overlay: overspan.Pool{Prefix: netip.MustParsePrefix("10.0.0.0/8"), Bits: 24},
			Bridge:  overspan.Pool{Prefix: netip.MustParsePrefix("172.16.0.0/12"), Bits: 24},
			IPv6:    overspan.Pool{Prefix: netip.PrefixFrom(netip.AddrFrom16(ula), 48), Bits: 64},
		},
		VNIs: overspan.VNIRange{First: 1 << 16, Last: 1<<17 - 1},
	}
}

// openMeta reads what the cluster was set up with, and sets it up if nobody has.
func openMeta(ctx context.Context, kv KV, keys Keys, wish overspan.Meta) (overspan.Meta, error) {
	rec := overspanv1.MetaRecord(withDefaults(wish))
	if _, err := rec.Noun(); err != nil {
		return overspan.Meta{}, overspan.Errorf(overspan.ErrInvalid, "set up the cluster: %s", err)
	}
	value, err := Marshal(rec)
	if err != nil {
		return overspan.Meta{}, err
	}
	res, err := kv.Txn(ctx, Txn{
		If:   []Cmp{Absent(Key(keys.Meta()))},
		Then: []Op{Put(keys.Meta(), value), Get(Key(keys.Meta()))},
		Else: []Op{Get(Key(keys.Meta()))},
	})
	if err != nil {
		return overspan.Meta{}, fmt.Errorf("read the cluster's settings: %w", err)
	}
	return readMeta(keys, found(res)[keys.Meta()])
}

// readMeta refuses a newer schema before it reads what it may not understand.
func readMeta(keys Keys, kv KeyValue) (overspan.Meta, error) {
	var rec overspanv1.Meta
	if _, err := keys.record(kv, KeyMeta, &rec); err != nil {
		return overspan.Meta{}, err
	}
	if rec.GetSchema() > Schema {
		return overspan.Meta{}, overspan.Errorf(overspan.ErrUnsupported,
			"key %s: the cluster has schema %d, this agent (%s) knows up to %d: upgrade it", kv.Key, rec.GetSchema(), overspan.Version, Schema)
	}
	return keys.meta(kv)
}

func withDefaults(m overspan.Meta) overspan.Meta {
	d := DefaultMeta()
	return overspan.Meta{
		Schema:    cmp.Or(m.Schema, d.Schema),
		ClusterID: cmp.Or(m.ClusterID, d.ClusterID),
		Pools: overspan.Pools{
			Overlay: cmp.Or(m.Pools.Overlay, d.Pools.Overlay),
			Bridge:  cmp.Or(m.Pools.Bridge, d.Pools.Bridge),
			IPv6:    cmp.Or(m.Pools.IPv6, d.Pools.IPv6),
		},
		VNIs: cmp.Or(m.VNIs, d.VNIs),
	}
}
