package store

import (
	"cmp"
	"iter"
	"maps"
	"reflect"
	"slices"
	"unique"

	"github.com/overspan/overspan"
)

// A part is what one watched range says at its frontier: the nouns of its
// readable records. Each range fills only its own tables. The owner of a part
// changes it; what it gave to a snapshot it never changes again.
type part struct {
	keys Keys

	meta       overspan.Meta
	frozen     *overspan.Freeze // nil: not frozen
	accepted   uint64
	acceptedAt int64 // revision of the last acceptance
	claimedAt  int64 // mod-revision of the key claimed; no snapshot shows it

	nodes     table[overspan.NodeID, *overspan.Node] // without presence
	lives     table[overspan.NodeID, *overspan.Presence]
	touched   map[overspan.NodeID]struct{} // by either since the last snapshot; nil: any may be
	networks  table[overspan.NetworkID, *overspan.Network]
	blocks    overspan.SlotMap[overspan.Block]
	endpoints overspan.SlotMap[*overspan.Endpoint]
	wants     table[wantKey, overspan.Want]

	// bad has the error of each record that could not be read. Where there was
	// a good one before, its noun is kept: what a bad one should have said is
	// unknown.
	bad table[string, string]
}

type wantKey struct{ holder, asker overspan.NodeID }

// newPart reads a listing. Nouns of records that are unreadable now come from
// old, which may be nil; so does what has not changed inside a network, so that
// snapshots before and after share it.
func newPart(keys Keys, kvs []KeyValue, old *part) *part {
	p := &part{keys: keys}
	for _, kv := range kvs {
		p.put(kv)
	}
	if old != nil {
		for key := range p.bad.rows {
			p.keep(key, old)
		}
		p.blocks = shared(old.blocks, p.blocks, func(a, b overspan.Block) bool { return a == b })
		p.endpoints = shared(old.endpoints, p.endpoints, func(a, b *overspan.Endpoint) bool { return reflect.DeepEqual(a, b) })
	}
	return p
}

// apply follows one event.
func (p *part) apply(e Event) {
	if e.Deleted {
		p.remove(e.Key)
		return
	}
	p.put(e.KeyValue)
}

func (p *part) put(kv KeyValue) {
	if err := p.read(kv); err != nil {
		p.bad.put(kv.Key, err.Error())
		return
	}
	p.bad.remove(kv.Key)
}

// read puts a record's noun into its table; after an error nothing has changed.
func (p *part) read(kv KeyValue) error {
	name, err := p.keys.Parse(kv.Key)
	if err != nil {
		return err
	}
	switch name.Kind {
	case KeyMeta:
		var m overspan.Meta
		if m, err = p.keys.meta(kv); err == nil {
			p.meta = m
		}
	case KeyFrozen:
		f := p.keys.freeze(kv)
		p.frozen = &f
	case KeyAccepted:
		var n uint64
		if n, err = p.keys.acceptances(kv); err == nil {
			p.accepted, p.acceptedAt = n, kv.ModRevision
		}
	case KeyClaimed:
		p.claimedAt = kv.ModRevision
	case KeyNode:
		var n overspan.Node
		if n, err = p.keys.node(kv); err == nil {
			p.nodes.put(name.Node, &n)
			p.touch(name.Node)
		}
	case KeyLive:
		var l overspan.Presence
		if _, l, err = p.keys.presence(kv); err == nil {
			p.lives.put(name.Node, &l)
			p.touch(name.Node)
		}
	case KeyNetwork:
		var n overspan.Network
		if n, err = p.keys.network(kv); err == nil {
			p.networks.put(name.Network, &n)
		}
	case KeyBlock:
		var b overspan.Block
		if b, err = p.keys.block(kv); err == nil {
			b.Node = intern(b.Node)
			p.blocks.Put(name.Block.First, b)
		}
	case KeyEndpoint:
		var e overspan.Endpoint
		if e, err = p.keys.endpoint(kv); err == nil {
			e.Network, e.Node = intern(e.Network), intern(e.Node)
			p.endpoints.Put(name.Slot, &e)
		}
	case KeyWant:
		var w overspan.Want
		if w, _, err = p.keys.want(kv); err == nil {
			p.wants.put(wantKey{name.Node, name.Asker}, w)
		}
	}
	return err
}

func (p *part) remove(key string) {
	p.bad.remove(key)
	name, err := p.keys.Parse(key)
	if err != nil {
		return
	}
	switch name.Kind {
	case KeyMeta:
		p.meta = overspan.Meta{}
	case KeyFrozen:
		p.frozen = nil
	case KeyAccepted:
		p.accepted, p.acceptedAt = 0, 0
	case KeyClaimed:
		p.claimedAt = 0
	case KeyNode:
		p.nodes.remove(name.Node)
		p.touch(name.Node)
	case KeyLive:
		p.lives.remove(name.Node)
		p.touch(name.Node)
	case KeyNetwork:
		p.networks.remove(name.Network)
	case KeyBlock:
		// A block that is split goes in the transaction that puts a smaller
		// one at the same first slot.
		if p.blocks.Get(name.Block.First).Range == name.Block {
			p.blocks.Delete(name.Block.First)
		}
	case KeyEndpoint:
		p.endpoints.Delete(name.Slot)
	case KeyWant:
		p.wants.remove(wantKey{name.Node, name.Asker})
	}
}

func (p *part) touch(id overspan.NodeID) {
	if p.touched != nil {
		p.touched[id] = struct{}{}
	}
}

// keep takes the noun of one key over from old, if it has one.
func (p *part) keep(key string, old *part) {
	name, err := p.keys.Parse(key)
	if err != nil {
		return
	}
	switch name.Kind {
	case KeyMeta:
		p.meta = old.meta
	case KeyAccepted:
		p.accepted, p.acceptedAt = old.accepted, old.acceptedAt
	case KeyNode:
		keepRow(&p.nodes, &old.nodes, name.Node)
	case KeyLive:
		keepRow(&p.lives, &old.lives, name.Node)
	case KeyNetwork:
		keepRow(&p.networks, &old.networks, name.Network)
	case KeyBlock:
		if old.blocks.Get(name.Block.First).Range == name.Block {
			keepSlot(&p.blocks, old.blocks, name.Block.First)
		}
	case KeyEndpoint:
		keepSlot(&p.endpoints, old.endpoints, name.Slot)
	case KeyWant:
		keepRow(&p.wants, &old.wants, wantKey{name.Node, name.Asker})
	}
}

// differences counts the records in which two parts of one range differ, of
// which the newer was made with the older at hand.
func (p *part) differences(o *part) int {
	n := p.nodes.differences(&o.nodes) + p.lives.differences(&o.lives) + p.networks.differences(&o.networks) +
		count(p.blocks.Changes(o.blocks)) + count(p.endpoints.Changes(o.endpoints)) + p.wants.differences(&o.wants) +
		p.bad.differences(&o.bad)
	if p.meta != o.meta {
		n++
	}
	if !reflect.DeepEqual(p.frozen, o.frozen) {
		n++
	}
	if p.accepted != o.accepted {
		n++
	}
	return n
}

// segment returns the interior of a network as a snapshot shows it.
func (p *part) segment(frontier int64) *overspan.Segment {
	return &overspan.Segment{
		Revision:  frontier,
		Blocks:    p.blocks,
		Endpoints: p.endpoints,
		Wants: slices.SortedFunc(maps.Values(p.wants.rows), func(a, b overspan.Want) int {
			return cmp.Or(cmp.Compare(a.Holder, b.Holder), cmp.Compare(a.Asker, b.Asker))
		}),
		Bad: len(p.bad.rows),
	}
}

// keepSlot copies a slot's value unless there is one already.
func keepSlot[V comparable](to *overspan.SlotMap[V], from overspan.SlotMap[V], s overspan.Slot) {
	v, ok := from.Lookup(s)
	if _, taken := to.Lookup(s); ok && !taken {
		to.Put(s, v)
	}
}

// shared returns what fresh holds, as old with as few changes as possible.
func shared[V comparable](old, fresh overspan.SlotMap[V], same func(a, b V) bool) overspan.SlotMap[V] {
	out := old
	for s := range fresh.Changes(old) {
		now, there := fresh.Lookup(s)
		was, before := old.Lookup(s)
		switch {
		case !there:
			out.Delete(s)
		case !before || !same(was, now):
			out.Put(s, now)
		}
	}
	return out
}

func count[T any](seq iter.Seq[T]) (n int) {
	for range seq {
		n++
	}
	return n
}

// intern returns the string that stands for all equal ones: tens of thousands of
// endpoints name the same network and few nodes.
func intern[S ~string](s S) S { return S(unique.Make(string(s)).Value()) }
