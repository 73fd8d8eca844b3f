package store

import (
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// The functions below turn one key and its value into a noun with its
// revisions. A value that cannot be read, or that contradicts its key, is an
// error of class overspan.ErrCorrupt that names the key.

func (k Keys) meta(kv KeyValue) (overspan.Meta, error) {
	var rec overspanv1.Meta
	_, err := k.record(kv, KeyMeta, &rec)
	if err != nil {
		return overspan.Meta{}, err
	}
	m, err := rec.Noun()
	return m, atKey(kv, err)
}

// freeze reads the freeze. One that cannot be read is a freeze all the same.
func (k Keys) freeze(kv KeyValue) overspan.Freeze {
	var rec overspanv1.Frozen
	var f overspan.Freeze
	if _, err := k.record(kv, KeyFrozen, &rec); err != nil {
		f.Reason = err.Error()
	} else {
		f = rec.Noun()
	}
	f.Revision = kv.CreateRevision
	return f
}

func (k Keys) acceptances(kv KeyValue) (uint64, error) {
	var rec overspanv1.Accepted
	_, err := k.record(kv, KeyAccepted, &rec)
	return rec.GetCount(), err
}

func (k Keys) node(kv KeyValue) (overspan.Node, error) {
	var rec overspanv1.Node
	name, err := k.record(kv, KeyNode, &rec)
	if err != nil {
		return overspan.Node{}, err
	}
	n, err := rec.Noun()
	if err == nil && n.ID != name.Node {
		err = contradicts("id", rec.GetId())
	}
	n.CreateRevision, n.ModRevision = kv.CreateRevision, kv.ModRevision
	return n, atKey(kv, err)
}

// presence returns whose presence it is, too.
func (k Keys) presence(kv KeyValue) (overspan.NodeID, overspan.Presence, error) {
	var rec overspanv1.Presence
	name, err := k.record(kv, KeyLive, &rec)
	if err != nil {
		return "", overspan.Presence{}, err
	}
	p, err := rec.Noun()
	p.Revision = kv.CreateRevision
	return name.Node, p, atKey(kv, err)
}

func (k Keys) network(kv KeyValue) (overspan.Network, error) {
	var rec overspanv1.Network
	name, err := k.record(kv, KeyNetwork, &rec)
	if err != nil {
		return overspan.Network{}, err
	}
	n, err := rec.Noun()
	if err == nil && n.ID != name.Network {
		err = contradicts("id", rec.GetId())
	}
	n.CreateRevision, n.ModRevision = kv.CreateRevision, kv.ModRevision
	return n, atKey(kv, err)
}

func (k Keys) block(kv KeyValue) (overspan.Block, error) {
	var rec overspanv1.Block
	name, err := k.record(kv, KeyBlock, &rec)
	if err != nil {
		return overspan.Block{}, err
	}
	b, err := rec.Noun(name.Block)
	b.CreateRevision, b.ModRevision = kv.CreateRevision, kv.ModRevision
	return b, atKey(kv, err)
}

func (k Keys) endpoint(kv KeyValue) (overspan.Endpoint, error) {
	var rec overspanv1.Endpoint
	name, err := k.record(kv, KeyEndpoint, &rec)
	if err != nil {
		return overspan.Endpoint{}, err
	}
	e, err := rec.Noun()
	switch {
	case err != nil:
	case e.Network != name.Network:
		err = contradicts("network", rec.GetNetwork())
	case !slices.Contains(e.Slots, name.Slot):
		err = contradicts("slots", rec.GetSlots())
	}
	e.CreateRevision, e.ModRevision = kv.CreateRevision, kv.ModRevision
	return e, atKey(kv, err)
}

// want returns the create-revision of the asker's registration, too.
func (k Keys) want(kv KeyValue) (overspan.Want, int64, error) {
	var rec overspanv1.Want
	name, err := k.record(kv, KeyWant, &rec)
	if err != nil {
		return overspan.Want{}, 0, err
	}
	w, err := rec.Noun(name.Network, name.Node, name.Asker)
	w.CreateRevision = kv.CreateRevision
	return w, rec.GetRegistration(), atKey(kv, err)
}

// record reads a value whose key must be of a kind.
func (k Keys) record(kv KeyValue, kind KeyKind, rec proto.Message) (KeyName, error) {
	name, err := k.Parse(kv.Key)
	if err != nil {
		return KeyName{}, err
	}
	if name.Kind != kind {
		return KeyName{}, overspan.Errorf(overspan.ErrCorrupt, "key %q: not a %s", kv.Key, rec.ProtoReflect().Descriptor().Name())
	}
	return name, atKey(kv, Unmarshal(kv.Value, rec))
}

func contradicts(field string, value any) error {
	return overspan.Errorf(overspan.ErrCorrupt, "field %s is %v: contradicts the key", field, value)
}

func atKey(kv KeyValue, err error) error {
	if err == nil {
		return nil
	}
	return overspan.Errorf(overspan.ErrCorrupt, "key %s: %w", kv.Key, err)
}
