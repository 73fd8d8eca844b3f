package daemon

import (
	"cmp"
	"hash/fnv"
	"slices"
	"time"

	"github.com/overspan/overspan"
)

// absences measures for how long nodes have been away, as far as this agent has
// seen it. It is pure but for what it remembers.
type absences struct {
	every time.Duration // between two looks
	last  time.Time     // of the last look that saw anything; zero: none since this node was blind
	away  map[overspan.NodeID]absence
}

// An absence is how long one node has been away. A node that comes back rewrites
// its registration, so one that was up between two looks starts from zero.
type absence struct {
	registration int64 // its mod-revision
	lasted       time.Duration
}

// look takes in a snapshot. The time since the last look counts for nodes that
// were away at both. A blind look is at a snapshot that may be stale: neither the
// time before it nor the time after it counts. No interval counts for more than two
// periods, since a process that was stopped saw nothing.
func (a *absences) look(at time.Time, s *overspan.Snapshot, blind bool) {
	if blind {
		a.last = time.Time{}
		return
	}
	var passed time.Duration
	if !a.last.IsZero() {
		passed = min(at.Sub(a.last), 2*a.every)
	}
	before := a.away
	a.last, a.away = at, make(map[overspan.NodeID]absence, len(before))
	for id, n := range s.Nodes {
		if n.Presence != nil {
			continue
		}
		now := absence{registration: n.ModRevision}
		if was := before[id]; was.registration == n.ModRevision {
			now.lasted = was.lasted + passed
		}
		a.away[id] = now
	}
}

// due returns, by id, the nodes that this node should remove now. The nodes that
// are up take turns, in an order that depends on the absent node, one period apart:
// so a thousand do not try at once, and the next one tries if the first cannot.
func (a *absences) due(s *overspan.Snapshot, self overspan.NodeID, after time.Duration) []*overspan.Node {
	var out []*overspan.Node
	for id, x := range a.away {
		n := s.Nodes[id]
		if n != nil && x.lasted >= after && x.lasted >= after+time.Duration(turn(s, id, self))*a.every {
			out = append(out, n)
		}
	}
	slices.SortFunc(out, func(a, b *overspan.Node) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// turn returns how many of the nodes that are up come before self where it is
// about a node: another order for each.
func turn(s *overspan.Snapshot, about, self overspan.NodeID) int {
	own, before := lot(about, self), 0
	for id, n := range s.Nodes {
		if n.Presence == nil || id == self {
			continue
		}
		if l := lot(about, id); l < own || l == own && id < self {
			before++
		}
	}
	return before
}

func lot(about, id overspan.NodeID) uint64 {
	h := fnv.New64a()
	h.Write([]byte(about))
	h.Write([]byte(id))
	return h.Sum64()
}
