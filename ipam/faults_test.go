package ipam

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/overspan/overspan"
)

// faulty is a member whose Claims go wrong where a field is set.
type faulty struct {
	*member
	view    func() error
	claim   func(overspan.Range) error
	ask     func(holder overspan.NodeID) error
	refresh func() error
}

func (f *faulty) View(ctx context.Context, id overspan.NetworkID) (View, error) {
	if f.view != nil {
		if err := f.view(); err != nil {
			return View{}, err
		}
	}
	return f.member.View(ctx, id)
}

func (f *faulty) Claim(ctx context.Context, n *overspan.Network, r overspan.Range) error {
	if f.claim != nil {
		if err := f.claim(r); err != nil {
			return err
		}
	}
	return f.member.Claim(ctx, n, r)
}

func (f *faulty) Ask(ctx context.Context, n *overspan.Network, holder overspan.NodeID, slot *overspan.Slot) error {
	if f.ask != nil {
		if err := f.ask(holder); err != nil {
			return err
		}
	}
	return f.member.Ask(ctx, n, holder, slot)
}

func (f *faulty) Refresh(ctx context.Context, id overspan.NetworkID) error {
	if f.refresh != nil {
		return f.refresh()
	}
	return f.member.Refresh(ctx, id)
}

// breakable returns the cluster's member, with an allocator over Claims that
// can be made to fail.
func (c *cluster) breakable(id overspan.NodeID) *faulty {
	m := c.members[id]
	f := &faulty{member: m}
	m.alloc = New(f, Config{Now: m.clock})
	return f
}

// give makes a node hold a block, as if it had claimed it.
func (c *cluster) give(t testing.TB, text string, node overspan.NodeID) {
	t.Helper()
	b := block(t, text, node)
	if err := c.members[node].Claim(t.Context(), c.network, b.Range); err != nil {
		t.Fatal(err)
	}
}

func TestClaimThatNeverSucceeds(t *testing.T) {
	unreadable := overspan.Range{First: 0, Size: 64} // stands in etcd, but no view shows it
	c := newCluster(t, network(t, Spec{Subnets: []string{"10.0.0.0/24"}}), "h1")
	h1 := c.breakable("h1")
	claims := 0
	h1.claim = func(r overspan.Range) error {
		claims++
		if r.Overlaps(unreadable) {
			return overspan.Errorf(overspan.ErrConflict, "overlap")
		}
		return nil
	}
	lease, err := h1.attach(t.Context(), Addrs{})
	if err != nil || lease.IPv4 != addr("10.0.0.64") || claims > 20 {
		t.Errorf("after %d claims: %s, %v, want 10.0.0.64", claims, lease.IPv4, err)
	}
	_, err = h1.attach(t.Context(), Addrs{IPv4: addr("10.0.0.5")})
	if !errors.Is(err, overspan.ErrUnavailable) || !strings.Contains(err.Error(), "10.0.0.5 of network demo cannot be claimed") {
		t.Errorf("an address within: %v", err)
	}
}

// TestNetworkThatGoes lets the view fail at each look: the class of the error
// arrives, and nothing is lent.
func TestNetworkThatGoes(t *testing.T) {
	for looks := range 4 {
		c := newCluster(t, network(t, Spec{Subnets: []string{"10.0.0.0/29"}}), "h1", "h2")
		c.give(t, "0+8", "h2")
		h1 := c.breakable("h1")
		left := looks
		h1.view = func() error {
			if left--; left < 0 {
				return overspan.Errorf(overspan.ErrNotFound, "network demo not found")
			}
			return nil
		}
		if lease, err := h1.attach(t.Context(), Addrs{}); !errors.Is(err, overspan.ErrNotFound) {
			t.Errorf("after %d looks: %s, %v", looks, lease.IPv4, err)
		}
	}
	c := newCluster(t, network(t, Spec{Subnets: []string{"10.0.0.0/29"}}), "h1", "h2")
	h1 := c.breakable("h1")
	h1.view = func() error { return overspan.Errorf(overspan.ErrNotFound, "network demo not found") }
	if err := h1.answer(t.Context(), overspan.Want{Holder: "h1", Asker: "h2"}); !errors.Is(err, overspan.ErrNotFound) {
		t.Errorf("grants: %v", err)
	}
	if err := h1.alloc.GiveBack(t.Context(), "net", nil); !errors.Is(err, overspan.ErrNotFound) {
		t.Errorf("give back: %v", err)
	}
}

func TestClaimThatFails(t *testing.T) {
	c := newCluster(t, network(t, Spec{Subnets: []string{"10.0.0.0/24"}}), "h1")
	h1 := c.breakable("h1")
	h1.claim = func(overspan.Range) error {
		return overspan.Errorf(overspan.ErrUnavailable, "etcd cannot be reached")
	}
	for _, want := range []Addrs{{}, {IPv4: addr("10.0.0.5")}} {
		_, err := h1.attach(t.Context(), want)
		if !errors.Is(err, overspan.ErrUnavailable) || !strings.Contains(err.Error(), "of network demo: etcd cannot be reached") {
			t.Errorf("got %v", err)
		}
	}
	h1.claim = nil
	if lease, err := h1.attach(t.Context(), Addrs{IPv4: addr("10.0.0.5")}); err != nil {
		t.Errorf("afterwards: %s, %v", lease.IPv4, err)
	}
}

// TestHolderThatDoesNotAnswer is passed over where another can be asked.
func TestHolderThatDoesNotAnswer(t *testing.T) {
	c := newCluster(t, network(t, Spec{Subnets: []string{"10.0.0.0/29"}}), "h1", "h2", "h3")
	c.give(t, "0+2", "h1")
	c.give(t, "2+2", "h2")
	c.give(t, "4+4", "h3")
	h1 := c.breakable("h1")
	h1.ask = func(holder overspan.NodeID) error {
		if holder == "h3" {
			return overspan.Errorf(overspan.ErrUnavailable, "no answer within 2 s")
		}
		return nil
	}
	if lease, err := h1.attach(t.Context(), Addrs{}); err != nil || lease.IPv4 != addr("10.0.0.3") {
		t.Errorf("got %s, %v, want one of h2's", lease.IPv4, err)
	}
	_, err := h1.attach(t.Context(), Addrs{IPv4: addr("10.0.0.5")})
	if !errors.Is(err, overspan.ErrUnavailable) || !strings.Contains(err.Error(), "ask node h3, which holds address 10.0.0.5 of network demo: no answer") {
		t.Errorf("an address of h3's: %v", err)
	}
	h1.refresh = func() error { return overspan.Errorf(overspan.ErrUnavailable, "etcd cannot be reached") }
	if _, err := h1.attach(t.Context(), Addrs{}); !errors.Is(err, overspan.ErrUnavailable) {
		t.Errorf("without etcd: %v", err)
	}
}

// TestGrantWhileAsking proves that a node answers others while it waits for an
// answer itself, and that who waits behind it can give up.
func TestGrantWhileAsking(t *testing.T) {
	c := newCluster(t, network(t, Spec{Subnets: []string{"10.0.0.0/29"}, Ranges: []string{"10.0.0.4/30"}}), "h1", "h2")
	c.give(t, "2+2", "h1") // outside the range: to give, but not to lend
	c.give(t, "4+4", "h2")
	h1 := c.breakable("h1")
	asking, answer := make(chan struct{}), make(chan struct{})
	h1.ask = func(overspan.NodeID) error {
		close(asking)
		<-answer
		return nil
	}
	var asker sync.WaitGroup
	asker.Go(func() {
		if _, err := h1.attach(context.Background(), Addrs{}); err != nil {
			t.Error(err)
		}
	})
	<-asking

	if _, err := c.members["h2"].attach(t.Context(), Addrs{IPv4: addr("10.0.0.3")}); err != nil {
		t.Errorf("h1 asks, and cannot be asked: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h1.attach(ctx, Addrs{}); !errors.Is(err, overspan.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("given up in the queue: %v", err)
	}
	close(answer)
	asker.Wait()
	if got := h1.alloc.ledger("net").waiting; got != 0 {
		t.Errorf("%d still wait", got)
	}
}

func TestOneAddressForTwo(t *testing.T) {
	c := newCluster(t, network(t, Spec{Subnets: []string{"10.0.0.0/24"}}), "h1")
	errs := make(chan error, 8)
	for range cap(errs) {
		go func() {
			_, err := c.members["h1"].attach(context.Background(), Addrs{IPv4: addr("10.0.0.5")})
			errs <- err
		}()
	}
	lent := 0
	for range cap(errs) {
		switch err := <-errs; {
		case err == nil:
			lent++
		case !errors.Is(err, overspan.ErrInUse):
			t.Error(err)
		}
	}
	if lent != 1 {
		t.Errorf("10.0.0.5 is lent %d times", lent)
	}
}

// TestOneClaimForMany lets many attach at once: their node claims no more
// blocks than they fill.
func TestOneClaimForMany(t *testing.T) {
	c := newCluster(t, network(t, Spec{Subnets: []string{"10.0.0.0/16"}}), "h1")
	var attaches sync.WaitGroup
	for range 126 {
		attaches.Go(func() {
			if _, err := c.members["h1"].attach(context.Background(), Addrs{}); err != nil {
				t.Error(err)
			}
		})
	}
	attaches.Wait()
	if got := c.segment.Blocks.Len(); got != 2 {
		t.Errorf("126 endpoints take %d blocks of 64, want 2", got)
	}
}

func TestCooldown(t *testing.T) {
	now := time.Unix(0, 0)
	c := newCluster(t, network(t, Spec{Subnets: []string{"10.0.0.0/29"}}))
	h1 := c.join("h1", func() time.Time { return now })
	attach := func(want string) Lease {
		t.Helper()
		lease, err := h1.attach(t.Context(), Addrs{})
		if err != nil || lease.IPv4 != addr(want) {
			t.Fatalf("got %s, %v, want %s", lease.IPv4, err, want)
		}
		return lease
	}
	two := attach("10.0.0.2")
	h1.detach(two)
	three := attach("10.0.0.3")
	h1.detach(three)
	now = now.Add(DefaultCooldown - 1)
	attach("10.0.0.4")
	now = now.Add(1)
	attach("10.0.0.2")
	attach("10.0.0.3")
	attach("10.0.0.5")
	h1.detach(attach("10.0.0.6"))
	attach("10.0.0.6") // nothing else is free
}
