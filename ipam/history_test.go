package ipam

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/overspan/overspan"
	"pgregory.net/rapid"
)

// A history is a cluster to which anything may happen, in any order.
type history struct {
	*cluster
	ids    []overspan.NodeID
	now    time.Time
	leases map[overspan.NodeID][]Lease
}

// drawNode draws a node that is up.
func (h *history) drawNode(t *rapid.T) *member {
	var up []overspan.NodeID
	for _, id := range h.ids {
		if !h.away[id] {
			up = append(up, id)
		}
	}
	if len(up) == 0 {
		t.Skip("all nodes are away")
	}
	return h.members[rapid.SampledFrom(up).Draw(t, "node")]
}

// attach asks for any address, or for a certain one. It must be lent one
// unless all are lent, or held by nodes that are away.
func (h *history) attach(t *rapid.T) {
	m := h.drawNode(t)
	lease, err := m.attach(context.Background(), Addrs{})
	if err == nil {
		h.leases[m.id] = append(h.leases[m.id], lease)
		return
	}
	if !errors.Is(err, overspan.ErrExhausted) {
		t.Fatal(err)
	}
	sp := spaceOf(h.network)
	for s := range h.network.Slots() {
		b, held := h.segment.Holder(s)
		if sp.lends(s) && h.segment.Endpoints.Get(s) == nil && (!held || !h.away[b.Node]) {
			t.Fatalf("slot %d is free, but %s was told: %v", s, m.id, err)
		}
	}
}

func (h *history) attachStatic(t *rapid.T) {
	m := h.drawNode(t)
	slot := overspan.Slot(rapid.Uint64Range(0, uint64(h.network.Slots())-1).Draw(t, "slot"))
	want := Addrs{IPv4: h.network.IPv4.Addr(slot)}
	if h.network.IPv6.IsValid() && rapid.Bool().Draw(t, "by its IPv6 address") {
		want = Addrs{IPv6: h.network.IPv6.Addr(slot)}
	}
	before := h.segment
	lease, err := m.attach(context.Background(), want)
	b, held := before.Holder(slot)
	var class error
	switch {
	case h.network.Reserved(slot) != "":
		class = overspan.ErrInvalid
	case before.Endpoints.Get(slot) != nil:
		class = overspan.ErrInUse
	case held && b.Node != m.id && h.away[b.Node]:
		class = overspan.ErrUnavailable
	}
	if !errors.Is(err, class) || err != nil && class == nil {
		t.Fatalf("slot %d on %s: got %v, want %v", slot, m.id, err, class)
	}
	if err == nil {
		h.leases[m.id] = append(h.leases[m.id], lease)
	}
}

func (h *history) detach(t *rapid.T) {
	m := h.drawNode(t)
	mine := h.leases[m.id]
	if len(mine) == 0 {
		t.Skip("nothing to detach")
	}
	i := rapid.IntRange(0, len(mine)-1).Draw(t, "which")
	m.detach(mine[i])
	h.leases[m.id] = append(mine[:i:i], mine[i+1:]...)
}

// restart loses all that a node's allocator knows but what the journal keeps.
func (h *history) restart(t *rapid.T) {
	m := h.drawNode(t)
	m.alloc = New(m, Config{Now: m.clock})
	for _, lease := range h.leases[m.id] {
		m.alloc.Adopt(h.network.ID, lease.Slots)
	}
}

// remove takes a node out of the cluster, with all that it had. It can come
// back as if it were new.
func (h *history) remove(t *rapid.T) {
	id := rapid.SampledFrom(h.ids).Draw(t, "node")
	h.change(func(s *overspan.Segment, _ int64) {
		for slot, e := range s.Endpoints.All() {
			if e.Node == id {
				s.Endpoints.Delete(slot)
			}
		}
		for first, b := range s.Blocks.All() {
			if b.Node == id {
				s.Blocks.Delete(first)
			}
		}
	})
	h.leases[id] = nil
	h.members[id].alloc.Forget(h.network.ID)
}

// giveBack deletes blocks that are idle for long enough.
func (h *history) giveBack(t *rapid.T) {
	m := h.drawNode(t)
	if err := m.Refresh(context.Background(), h.network.ID); err != nil {
		t.Fatal(err)
	}
	err := m.alloc.GiveBack(context.Background(), h.network.ID, func(_ context.Context, _ *overspan.Network, b overspan.Block) error {
		for s, e := range h.segment.Endpoints.All() {
			if b.Contains(s) {
				return fmt.Errorf("slot %d of %s is in use by %s", s, b.Range, e.Name)
			}
		}
		h.change(func(s *overspan.Segment, _ int64) { s.Blocks.Delete(b.First) })
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// check is what holds at any time.
func (h *history) check(t *rapid.T) {
	lent := map[overspan.Slot]overspan.NodeID{}
	for id, leases := range h.leases {
		for _, lease := range leases {
			for _, s := range lease.Slots {
				if other, twice := lent[s]; twice {
					t.Fatalf("slot %d is lent by %s and %s", s, other, id)
				}
				lent[s] = id
				if b, held := h.segment.Holder(s); !held || b.Node != id {
					t.Fatalf("slot %d is lent by %s, but held by %q", s, id, b.Node)
				}
				if e := h.segment.Endpoints.Get(s); e == nil || e.Node != id {
					t.Fatalf("slot %d is lent by %s, but has the record %v", s, id, e)
				}
			}
		}
	}
	for b := range h.segment.Blocks.Values() {
		if !b.IsBlock() {
			t.Fatalf("%s holds %s: not a block", b.Node, b.Range)
		}
	}
	for a := range h.segment.Blocks.Values() {
		for b := range h.segment.Blocks.Values() {
			if a.First != b.First && a.Overlaps(b.Range) {
				t.Fatalf("blocks %s of %s and %s of %s overlap", a.Range, a.Node, b.Range, b.Node)
			}
		}
	}
}

// TestHistories draws histories of attaches, detaches, departures, returns,
// restarts, removals and views that lag behind.
func TestHistories(t *testing.T) {
	specs := []Spec{
		{Subnets: []string{"10.0.0.0/29"}},
		{Subnets: []string{"10.0.0.0/26"}, Ranges: []string{"10.0.0.32/28"}, Gateways: []string{"10.0.0.62"}},
		{Subnets: []string{"10.0.0.0/24"}, Ranges: []string{"10.0.0.128/25"}, Aux: map[string]string{"a": "10.0.0.129", "b": "10.0.0.130"}},
		{Subnets: []string{"10.0.0.0/25", "fd00::/64"}, Gateways: []string{"10.0.0.126"}},
		{Subnets: []string{"10.0.0.0/24"}},
	}
	rapid.Check(t, func(rt *rapid.T) {
		h := &history{ids: nodes(rapid.IntRange(1, 6).Draw(rt, "nodes")), now: time.Unix(0, 0), leases: map[overspan.NodeID][]Lease{}}
		h.cluster = newCluster(t, network(t, rapid.SampledFrom(specs).Draw(rt, "network")))
		for _, id := range h.ids {
			h.join(id, func() time.Time { return h.now })
		}
		rt.Repeat(map[string]func(*rapid.T){
			"":              h.check,
			"attach":        h.attach,
			"attach more":   h.attach,
			"attach static": h.attachStatic,
			"detach":        h.detach,
			"give back":     h.giveBack,
			"restart":       h.restart,
			"remove":        h.remove,
			"lag":           func(t *rapid.T) { m := h.drawNode(t); m.seen = h.segment },
			"leave":         func(t *rapid.T) { h.away[h.drawNode(t).id] = true },
			"return":        func(t *rapid.T) { delete(h.away, rapid.SampledFrom(h.ids).Draw(t, "node")) },
			"time passes":   func(t *rapid.T) { h.now = h.now.Add(time.Duration(rapid.IntRange(1, 600).Draw(t, "s")) * time.Second) },
		})
	})
}
