package ipam

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/overspan/overspan"
)

// A world is everything there is about one network: who holds what, what is
// lent, and what rests. All nodes are up and see it as it is.
type world struct {
	network *overspan.Network
	nodes   []overspan.NodeID
	blocks  map[overspan.Slot]overspan.Block
	lent    map[overspan.Slot]overspan.NodeID
	resting map[overspan.Slot]bool // of the holder
}

func (w world) clone() world {
	w.blocks, w.lent, w.resting = maps.Clone(w.blocks), maps.Clone(w.lent), maps.Clone(w.resting)
	return w
}

// key tells worlds apart.
func (w world) key() string {
	var b strings.Builder
	for _, first := range slices.Sorted(maps.Keys(w.blocks)) {
		fmt.Fprintf(&b, "%d+%d:%s ", first, w.blocks[first].Size, w.blocks[first].Node)
	}
	return fmt.Sprint(b.String(), w.lent, w.resting)
}

func (w world) view(self overspan.NodeID) View {
	v := View{
		Network: w.network, Self: self,
		Segment: &overspan.Segment{Blocks: overspan.SlotMapOf(w.blocks)},
		Resting: map[overspan.Slot]time.Time{},
		Up:      func(overspan.NodeID) bool { return true },
		Name:    func(id overspan.NodeID) string { return string(id) },
	}
	for s, node := range w.lent {
		v.Segment.Endpoints.Put(s, &overspan.Endpoint{Node: node})
	}
	for s := range w.resting {
		if b, ok := v.Segment.Holder(s); ok && b.Node == self {
			v.Resting[s] = time.Time{}
		}
	}
	return v
}

// hold adds a block; ok is false if it overlaps another.
func (w world) hold(r overspan.Range, node overspan.NodeID) (ok bool) {
	for _, b := range w.blocks {
		if b.Overlaps(r) {
			return false
		}
	}
	w.blocks[r.First] = overspan.Block{Range: r, Node: node}
	return r.IsBlock()
}

// lend does what a search does, with no one else about.
func (w world) lend(node overspan.NodeID) (world, error) {
	w = w.clone()
	r := Request{Refused: map[overspan.NodeID]uint64{}}
	for {
		d, err := Decide(w.view(node), r)
		switch d := d.(type) {
		case Take:
			b := w.blocks[d.Block.First]
			if _, twice := w.lent[d.Slot]; twice || !b.Contains(d.Slot) || b.Node != node || w.network.Reserved(d.Slot) != "" {
				return w, fmt.Errorf("slot %d is lent by %s out of %s", d.Slot, node, b.Range)
			}
			w.lent[d.Slot] = node
			delete(w.resting, d.Slot)
			return w, nil
		case Claim:
			if !w.hold(d.Range, node) {
				return w, fmt.Errorf("%s claims %s, which is held", node, d.Range)
			}
		case Ask:
			g, ok := Answer(w.view(d.Holder), overspan.Want{Holder: d.Holder, Asker: node})
			if !ok {
				return w, fmt.Errorf("%s refuses, although it has something", d.Holder)
			}
			if err := checkGrant(g); err != nil {
				return w, err
			}
			delete(w.blocks, g.From.First)
			w.hold(g.Give, node)
			for _, keep := range g.Keep {
				w.hold(keep, d.Holder)
			}
		default:
			return w, err
		}
	}
}

// next returns every world that one act leads to.
func (w world) next(t *testing.T) []world {
	var out []world
	lends := spaceOf(w.network)
	for _, node := range w.nodes {
		after, err := w.lend(node)
		full := uint64(len(w.lent)) == lends.count(lends.window)
		if full != errors.Is(err, overspan.ErrExhausted) || !full && err != nil {
			t.Fatalf("%s asks in %s: %v", node, w.key(), err)
		}
		out = append(out, after)
		for _, b := range Idle(w.view(node)) {
			after := w.clone()
			delete(after.blocks, b.First)
			out = append(out, after)
		}
	}
	for s := range w.lent {
		after := w.clone()
		delete(after.lent, s)
		after.resting[s] = true
		out = append(out, after)
	}
	for s := range w.resting {
		after := w.clone()
		delete(after.resting, s)
		out = append(out, after)
	}
	return out
}

// TestEveryWorld visits every state that tiny networks can get into by lending,
// releasing, resting and giving back on any node: an address is lent whenever
// one is free anywhere, and never twice.
func TestEveryWorld(t *testing.T) {
	for _, tc := range []struct {
		name   string
		spec   Spec
		nodes  int
		blocks map[string]string // at the start
	}{
		{name: "one address", spec: Spec{Subnets: []string{"10.0.0.0/30"}}, nodes: 3},
		{name: "two addresses", spec: Spec{Subnets: []string{"fd00::/126"}, NoIPv4: true}, nodes: 4},
		{name: "five addresses", spec: Spec{Subnets: []string{"10.0.0.0/29"}}, nodes: 2},
		{
			name: "an auxiliary address between", spec: Spec{Subnets: []string{"10.0.0.0/29"}, Aux: map[string]string{"a": "10.0.0.4"}},
			nodes: 3,
		},
		{name: "a range", spec: Spec{Subnets: []string{"10.0.0.0/28"}, Ranges: []string{"10.0.0.12/30"}}, nodes: 3},
		{
			name: "one block to split", spec: Spec{Subnets: []string{"10.0.0.0/29"}, Aux: map[string]string{"a": "10.0.0.5", "b": "10.0.0.6"}},
			nodes: 2, blocks: map[string]string{"0+8": "h1"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			start := world{
				network: network(t, tc.spec), nodes: nodes(tc.nodes),
				blocks: map[overspan.Slot]overspan.Block{}, lent: map[overspan.Slot]overspan.NodeID{}, resting: map[overspan.Slot]bool{},
			}
			for text, node := range tc.blocks {
				start.hold(block(t, text, overspan.NodeID(node)).Range, overspan.NodeID(node))
			}
			seen := map[string]bool{start.key(): true}
			for queue := []world{start}; len(queue) > 0; {
				w := queue[0]
				queue = queue[1:]
				for _, n := range w.next(t) {
					if !seen[n.key()] {
						seen[n.key()] = true
						queue = append(queue, n)
					}
				}
			}
			t.Logf("%d states", len(seen))
		})
	}
}

// TestEveryHistoryOfTwoStaleNodes lets two nodes decide on views of any age, in
// every order: the loser of a race looks again, and nothing is lent twice.
func TestEveryHistoryOfTwoStaleNodes(t *testing.T) {
	const steps = 7
	for history := range 1 << (2 * steps) {
		c := newCluster(t, network(t, Spec{Subnets: []string{"10.0.0.0/29"}}), "h1", "h2")
		lent := map[overspan.NodeID][]Lease{}
		for i := range steps {
			m := c.members[[]overspan.NodeID{"h1", "h2"}[history>>(2*i)&1]]
			if history>>(2*i)&2 == 0 {
				lease, err := m.attach(context.Background(), Addrs{})
				switch {
				case err == nil:
					lent[m.id] = append(lent[m.id], lease)
				case !errors.Is(err, overspan.ErrExhausted) || c.segment.Endpoints.Len() != 5:
					t.Fatalf("history %b, step %d: %v", history, i, err)
				}
			} else {
				if mine := lent[m.id]; len(mine) > 0 {
					m.detach(mine[0])
					lent[m.id] = mine[1:]
				}
				m.seen = c.segment // from now on it lags behind
			}
		}
	}
}
