package daemon

import (
	"cmp"
	"hash/fnv"
	"maps"
	"slices"
	"time"

	"github.com/overspan/overspan"
)

// absences measures for how long nodes have been away, as far as this agent has
// seen it. It is pure but for what it remembers.
type absences struct {
	every time.Duration                      // between two looks
	last  time.Time                          // of the last look; zero: none yet
	nodes map[overspan.NodeID]*overspan.Node // as seen last
	away  map[overspan.NodeID]time.Duration
}

// see takes in a snapshot between two looks: a node that was up there starts from
// zero.
func (a *absences) see(s *overspan.Snapshot) {
	if s == nil || overspan.SameMap(a.nodes, s.Nodes) {
		return
	}
	a.nodes = s.Nodes
	maps.DeleteFunc(a.away, func(id overspan.NodeID, _ time.Duration) bool {
		n := s.Nodes[id]
		return n == nil || n.Presence != nil
	})
}

// look takes in a snapshot that is not stale. The time since the last look counts
// for nodes that were away at both. After more than a missed look nothing counts
// that was before: who knows which nodes were up while this one did not see them.
func (a *absences) look(at time.Time, s *overspan.Snapshot) {
	passed, before := at.Sub(a.last), a.away
	if a.last.IsZero() || passed > 5*a.every/2 {
		before = nil
	}
	a.last, a.nodes, a.away = at, s.Nodes, make(map[overspan.NodeID]time.Duration, len(before))
	for id, n := range s.Nodes {
		if n.Presence != nil {
			continue
		}
		a.away[id] = 0
		if lasted, known := before[id]; known {
			a.away[id] = lasted + passed
		}
	}
}

// due returns, by id, the nodes that this node should remove now. The nodes that
// are up take turns, in an order that depends on the absent node, one period apart:
// so a thousand do not try at once, and the next one tries if the first cannot.
func (a *absences) due(s *overspan.Snapshot, self overspan.NodeID, after time.Duration) []*overspan.Node {
	var out []*overspan.Node
	for id, lasted := range a.away {
		n := s.Nodes[id]
		if n != nil && lasted >= after && lasted >= after+time.Duration(turn(s, id, self))*a.every {
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
