package history

import (
	"maps"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/local"
)

// recall merges memory, the last snapshot before etcd lost its past, with what etcd
// holds now. Where both have a record of one thing, or blocks that overlap, etcd's
// counts only if it was written after the freeze: then only living nodes write, and
// only what they hold. Otherwise memory's counts. Revisions are etcd's present ones.
// recall is pure.
func recall(memory, now *overspan.Snapshot) *overspan.Snapshot {
	since := func(revision int64) bool { return revision > now.Frozen.Revision }
	out := *now
	if memory.Meta != (overspan.Meta{}) {
		out.Meta = memory.Meta
	}
	out.Nodes = recallNodes(memory.Nodes, now.Nodes, since)
	out.Networks = maps.Clone(now.Networks)
	for id, n := range memory.Networks {
		if was := now.Networks[id]; was == nil || !since(was.ModRevision) {
			out.Networks[id] = n
		}
	}
	out.Segments = now.Segments
	for id, seg := range memory.Segments.All() {
		out.Segments.Put(id, recallSegment(seg, now.Segments.Get(id), since))
	}
	return &out
}

// recallNodes leaves presence to now: who is up, memory cannot know.
func recallNodes(memory, now map[overspan.NodeID]*overspan.Node, since func(int64) bool) map[overspan.NodeID]*overspan.Node {
	out := maps.Clone(now)
	for id, n := range memory {
		is := now[id]
		if is != nil && since(is.ModRevision) {
			continue
		}
		remembered := *n
		remembered.Presence = nil
		if is != nil {
			remembered.Presence = is.Presence
		}
		out[id] = &remembered
	}
	return out
}

// recallSegment puts together the interior of a network; now is nil while it is
// not known.
func recallSegment(memory, now *overspan.Segment, since func(int64) bool) *overspan.Segment {
	out := overspan.Segment{Blocks: memory.Blocks, Endpoints: memory.Endpoints, Bad: memory.Bad}
	if now == nil {
		return &out
	}
	out.Revision, out.Wants, out.Bad = now.Revision, now.Wants, max(memory.Bad, now.Bad)
	for first, b := range now.Blocks.All() {
		rivals := overlapping(&out, b.Range)
		if len(rivals) > 0 && !since(b.ModRevision) {
			continue
		}
		for _, r := range rivals {
			out.Blocks.Delete(r.First)
			keepAround(&out, r, b.Range)
		}
		out.Blocks.Put(first, b)
	}
	for slot, e := range now.Endpoints.All() {
		if out.Endpoints.Get(slot) == nil || since(e.ModRevision) {
			out.Endpoints.Put(slot, e)
		}
	}
	return &out
}

// overlapping returns the blocks of a segment that share a slot with a block.
func overlapping(seg *overspan.Segment, r overspan.Range) []overspan.Block {
	var out []overspan.Block
	for i := range r.Size {
		b, ok := seg.Holder(r.First + overspan.Slot(i))
		if ok && (len(out) == 0 || out[len(out)-1].Range != b.Range) {
			out = append(out, b)
		}
	}
	return out
}

// keepAround puts what a hole leaves of a block, as blocks of the same holder.
func keepAround(seg *overspan.Segment, b overspan.Block, hole overspan.Range) {
	switch {
	case b.Last() < hole.First || hole.Last() < b.First:
		seg.Blocks.Put(b.First, b)
	case hole.First <= b.First && b.Last() <= hole.Last():
	default:
		b.Size /= 2
		keepAround(seg, b, hole)
		b.First += overspan.Slot(b.Size)
		keepAround(seg, b, hole)
	}
}

// unproven is memory as it is shown while etcd tells nothing that could be
// trusted: frozen, whatever etcd says of it, and without revisions, which belong
// to a history that is over.
func unproven(memory *overspan.Snapshot, why overspan.Freeze) *overspan.Snapshot {
	return recall(memory, &overspan.Snapshot{
		Frozen:   &why,
		Accepted: memory.Accepted,
		Nodes:    map[overspan.NodeID]*overspan.Node{},
		Networks: map[overspan.NetworkID]*overspan.Network{},
	})
}

// suspects returns what of this node's own etcd does not show, though it stood
// there under the registration that still stands: endpoints whose record is gone
// or another's, or whose whole network is, which nobody can remove while they
// stand. Last is what was looked at before: networks that are the same in both
// are not looked at again; nil if nothing was.
func suspects(last, now *overspan.Snapshot, self overspan.NodeID, attachments local.Attachments) []overspan.Endpoint {
	node := now.Nodes[self]
	if node == nil {
		return nil
	}
	var out []overspan.Endpoint
	for _, a := range attachments.ConcernedBy(last, now) {
		e := &a.Endpoint
		seg := now.Segments.Get(e.Network)
		if !a.Committed || a.Registration != node.CreateRevision {
			continue
		}
		// The interior may be one that was read before: each range is read by itself.
		if now.Networks[e.Network] == nil && len(now.Bad) == 0 && now.Revision >= e.ModRevision {
			if last == nil || last.Networks[e.Network] != nil {
				out = append(out, *e)
			}
			continue
		}
		if seg == nil || seg.Bad > 0 || seg.Revision < e.ModRevision {
			continue
		}
		if last != nil && last.Segments.Get(e.Network) == seg {
			continue
		}
		if at := seg.Endpoints.Get(e.Slot); at == nil || at.ID != e.ID {
			out = append(out, *e)
		}
	}
	return out
}

// unregistered reports whether this node was registered in one snapshot and is
// not, or otherwise, in the next.
func unregistered(last, now *overspan.Snapshot, self overspan.NodeID) bool {
	if last == nil || last.Nodes[self] == nil {
		return false
	}
	n := now.Nodes[self]
	return n == nil || n.CreateRevision != last.Nodes[self].CreateRevision
}
