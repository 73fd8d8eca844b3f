package ipam

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/overspan/overspan"
)

// cluster is a small etcd that holds one network: it carries claims, yields and
// attaches out by the rules that store's transactions prove, and knows nothing
// of who should get what.
type cluster struct {
	t testing.TB

	mu       sync.Mutex
	network  *overspan.Network
	segment  *overspan.Segment // replaced, never changed
	revision int64
	away     map[overspan.NodeID]bool
	members  map[overspan.NodeID]*member
}

// member is one node: its Claims over the cluster, its Allocator, and a view
// that may be old.
type member struct {
	*cluster
	id    overspan.NodeID
	alloc *Allocator
	clock func() time.Time
	seen  *overspan.Segment // nil: always the newest

	// wants, if set, take the wants that others leave; otherwise they are
	// answered in the caller's goroutine.
	wants chan wanted
}

type wanted struct {
	want overspan.Want
	done chan struct{}
}

func newCluster(t testing.TB, n *overspan.Network, nodes ...overspan.NodeID) *cluster {
	t.Helper()
	c := &cluster{
		t: t, network: n, revision: 1,
		segment: &overspan.Segment{},
		away:    map[overspan.NodeID]bool{},
		members: map[overspan.NodeID]*member{},
	}
	for _, id := range nodes {
		c.join(id, time.Now)
	}
	return c
}

func (c *cluster) join(id overspan.NodeID, clock func() time.Time) *member {
	m := &member{cluster: c, id: id, clock: clock}
	m.alloc = New(m, Config{Now: clock})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.members[id] = m
	return m
}

// change makes the next revision. The caller holds mu.
func (c *cluster) change(f func(s *overspan.Segment, revision int64)) {
	c.revision++
	next := &overspan.Segment{Revision: c.revision, Blocks: c.segment.Blocks, Endpoints: c.segment.Endpoints}
	f(next, c.revision)
	c.segment = next
}

// View is the member's view, as far as Claims has to fill it in.
func (m *member) View(context.Context, overspan.NetworkID) (View, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	seg := m.seen
	if seg == nil {
		seg = m.segment
	}
	return View{
		Network: m.network, Segment: seg, Self: m.id,
		Up:   func(id overspan.NodeID) bool { m.mu.Lock(); defer m.mu.Unlock(); return !m.away[id] },
		Name: func(id overspan.NodeID) string { return string(id) },
	}, nil
}

// Refresh makes a view that lags behind new.
func (m *member) Refresh(ctx context.Context, _ overspan.NetworkID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.seen != nil {
		m.seen = m.segment
	}
	return ctx.Err()
}

func (m *member) Claim(ctx context.Context, _ *overspan.Network, r overspan.Range) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !r.IsBlock() {
		m.t.Errorf("claim of %s, size %d: not a block", r, r.Size)
	}
	for b := range m.segment.Blocks.Values() {
		if b.Overlaps(r) {
			return overspan.Errorf(overspan.ErrConflict, "slots %s overlap %s of %s", r, b.Range, b.Node)
		}
	}
	m.change(func(s *overspan.Segment, rev int64) { m.put(s, r, m.id, rev) })
	return ctx.Err()
}

func (m *member) put(s *overspan.Segment, r overspan.Range, node overspan.NodeID, rev int64) {
	s.Blocks.Put(r.First, overspan.Block{Range: r, Node: node, CreateRevision: rev, ModRevision: rev})
	if m.seen != nil {
		m.seen = s
	}
}

func (m *member) Ask(ctx context.Context, n *overspan.Network, holder overspan.NodeID, slot *overspan.Slot) error {
	m.mu.Lock()
	other, away := m.members[holder], m.away[holder]
	m.mu.Unlock()
	if away || other == nil {
		return overspan.Errorf(overspan.ErrUnavailable, "node %s does not answer", holder)
	}
	w := overspan.Want{Network: n.ID, Holder: holder, Asker: m.id, Slot: slot}
	if other.wants == nil {
		if err := other.answer(ctx, w); err != nil {
			return err
		}
		return m.Refresh(ctx, n.ID)
	}
	done := make(chan struct{})
	select {
	case other.wants <- wanted{want: w, done: done}:
	case <-ctx.Done():
		return overspan.Errorf(overspan.ErrUnavailable, "node %s is busy: %w", holder, ctx.Err())
	}
	select {
	case <-done:
		return m.Refresh(ctx, n.ID)
	case <-ctx.Done():
		return overspan.Errorf(overspan.ErrUnavailable, "node %s does not answer: %w", holder, ctx.Err())
	}
}

// answer is the holder's side: the transaction that yields.
func (m *member) answer(ctx context.Context, w overspan.Want) error {
	return m.alloc.Grants(ctx, m.network.ID, []overspan.Want{w}, func(_ context.Context, _ *overspan.Network, w overspan.Want, g *Grant) error {
		if g == nil {
			return nil
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		if err := checkGrant(*g); err != nil {
			m.t.Error(err)
		}
		if m.segment.Blocks.Get(g.From.First) != g.From {
			return nil // another of this node's transactions changed the block
		}
		for s, e := range m.segment.Endpoints.All() {
			if g.Give.Contains(s) {
				m.t.Errorf("%s gives %s to %s, but %s has slot %d", m.id, g.Give, w.Asker, e.Name, s)
			}
		}
		m.change(func(s *overspan.Segment, rev int64) {
			s.Blocks.Delete(g.From.First)
			for _, r := range g.Keep {
				m.put(s, r, m.id, rev)
			}
			m.put(s, g.Give, w.Asker, rev)
		})
		return nil
	})
}

// checkGrant verifies that a grant takes its block apart without rest.
func checkGrant(g Grant) error {
	parts := append([]overspan.Range{g.Give}, g.Keep...)
	slices.SortFunc(parts, byFirst)
	next := g.From.First
	for _, p := range parts {
		if !p.IsBlock() || p.First != next {
			return fmt.Errorf("grant from %s gives %s and keeps %s: not its parts", g.From.Range, g.Give, g.Keep)
		}
		next += overspan.Slot(p.Size)
	}
	if next != g.From.Last()+1 {
		return fmt.Errorf("grant from %s gives %s and keeps %s: something is missing", g.From.Range, g.Give, g.Keep)
	}
	return nil
}

// attach acquires and commits, again when its transaction loses a race.
func (m *member) attach(ctx context.Context, want Addrs) (Lease, error) {
	for {
		lease, err := m.alloc.Acquire(ctx, m.network.ID, want)
		if err != nil {
			return Lease{}, err
		}
		if m.commit(lease) {
			return lease, nil
		}
		m.alloc.Release(m.network.ID, lease.Slots, false)
		if err := m.Refresh(ctx, m.network.ID); err != nil {
			return Lease{}, err
		}
	}
}

// commit is the attach transaction: it reports whether its guards held.
func (m *member) commit(lease Lease) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range lease.Blocks {
		if m.segment.Blocks.Get(b.First) != b || b.Node != m.id {
			return false
		}
	}
	for _, slot := range lease.Slots {
		if !slices.ContainsFunc(lease.Blocks, func(b overspan.Block) bool { return b.Contains(slot) }) {
			m.t.Errorf("%s: no block of the lease guards slot %d", m.id, slot)
		}
		if why := m.network.Reserved(slot); why != "" {
			m.t.Errorf("%s: slot %d is lent, but it is %s", m.id, slot, why)
		}
		if m.segment.Endpoints.Get(slot) != nil {
			return false
		}
	}
	e := &overspan.Endpoint{
		Node: m.id, Name: fmt.Sprintf("ep-%d", m.revision), Slots: lease.Slots, Slot: lease.Slots[0],
		IPv4: lease.IPv4, IPv6: lease.IPv6,
	}
	m.change(func(s *overspan.Segment, _ int64) {
		for _, slot := range lease.Slots {
			s.Endpoints.Put(slot, e)
		}
	})
	return true
}

// detach removes the endpoint of a lease and lets its slots rest.
func (m *member) detach(lease Lease) {
	m.mu.Lock()
	m.change(func(s *overspan.Segment, _ int64) {
		for _, slot := range lease.Slots {
			s.Endpoints.Delete(slot)
		}
	})
	m.mu.Unlock()
	m.alloc.Release(m.network.ID, lease.Slots, true)
}

// serve answers wants until ctx ends.
func (m *member) serve(ctx context.Context) {
	for {
		select {
		case w := <-m.wants:
			if err := m.answer(ctx, w.want); err != nil && ctx.Err() == nil {
				m.t.Error(err)
			}
			close(w.done)
		case <-ctx.Done():
			return
		}
	}
}

// network makes a network out of a subnet, a gateway and more, as ParseSpec does.
func network(t testing.TB, spec Spec) *overspan.Network {
	t.Helper()
	spec.Name = "demo"
	p, err := ParseSpec(spec)
	if err != nil {
		t.Fatal(err)
	}
	return &overspan.Network{ID: "net", Name: "demo", Driver: p.Driver, IPv4: p.IPv4, IPv6: p.IPv6}
}

func nodes(n int) []overspan.NodeID {
	var out []overspan.NodeID
	for i := range n {
		out = append(out, overspan.NodeID(fmt.Sprintf("h%d", i+1)))
	}
	return out
}

func addr(s string) netip.Addr {
	if s == "" {
		return netip.Addr{}
	}
	return netip.MustParseAddr(s)
}
