package store

import "github.com/overspan/overspan"

// breaches reports whether events cannot continue what this range has told: a key
// is created that exists already, or changed or deleted that does not, or a block is
// made inside another. Then the watch has resumed on an etcd that was restored or
// emptied. Such an etcd counts its revisions anew; once it has passed the old one, no
// revision shows this.
func (p *part) breaches(events []Event) bool {
	there := map[string]bool{} // whether a key is, by what the events say of it
	var made []overspan.Range
	var network overspan.NetworkID
	for _, e := range events {
		name, err := p.keys.Parse(e.Key)
		if err != nil {
			continue
		}
		was, told := there[e.Key]
		if !told {
			was, told = p.holds(e.Key, name)
		}
		created := !e.Deleted && e.CreateRevision == e.ModRevision
		if told && was == created {
			return true
		}
		if created && name.Kind == KeyBlock {
			made, network = append(made, name.Block), name.Network
		}
		there[e.Key] = !e.Deleted
	}
	for _, r := range made {
		for slot := range overspan.MaxBlockSize {
			held, ok := p.blocks.Lookup(overspan.BlockAt(r.First, overspan.MaxBlockSize).First + overspan.Slot(slot))
			if !ok || !held.Overlaps(r) {
				continue
			}
			// One that is split goes in the transaction that makes its parts.
			if _, told := there[p.keys.Block(network, held.Range)]; !told {
				return true
			}
		}
	}
	return false
}

// holds reports whether a key is there, as far as this range has told; known is
// false where that cannot be said: of a record that could not be read, nor of those
// below meta, about which meta's own feed asks.
func (p *part) holds(key string, name KeyName) (held, known bool) {
	if _, bad := p.bad.rows[key]; bad {
		return false, false
	}
	switch name.Kind {
	case KeyClaimed:
		held = p.claimedAt != 0
	case KeyNode:
		_, held = p.nodes.rows[name.Node]
	case KeyLive:
		_, held = p.lives.rows[name.Node]
	case KeyNetwork:
		_, held = p.networks.rows[name.Network]
	case KeyBlock:
		b, ok := p.blocks.Lookup(name.Block.First)
		held = ok && b.Range == name.Block
	case KeyEndpoint:
		_, held = p.endpoints.Lookup(name.Slot)
	case KeyWant:
		_, held = p.wants.rows[wantKey{name.Node, name.Asker}]
	default:
		return false, false
	}
	return held, true
}
