package ipam

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/overspan/overspan"
)

// Claims is the cluster as the Allocator needs it.
type Claims interface {
	// View returns the newest that is known of a network, at once and without
	// I/O, all but Held, Resting and Waiting filled in. ErrNotFound if there is
	// no such network, ErrUnavailable if its interior is not known yet.
	View(ctx context.Context, network overspan.NetworkID) (View, error)

	// Refresh returns once View is at least as new as the moment of the call.
	Refresh(ctx context.Context, network overspan.NetworkID) error

	// Claim makes the range a block of this node; once it returns nil, View
	// shows the block. ErrConflict: another was faster.
	Claim(ctx context.Context, n *overspan.Network, r overspan.Range) error

	// Ask leaves a want with the holder, for one slot or (nil) for any, and
	// waits, for a bounded time, until it is answered. nil means that it was,
	// with yes or no, and that View shows what came of it; ErrUnavailable that
	// it was not, and that the want is withdrawn.
	Ask(ctx context.Context, n *overspan.Network, holder overspan.NodeID, slot *overspan.Slot) error
}

// A Lease is the slots that one endpoint uses. Until it is released the
// Allocator lends them to nobody else and gives them to no other node.
type Lease struct {
	Network *overspan.Network
	IPv4    netip.Addr // zero if the network has no IPv4
	IPv6    netip.Addr // zero if the network has no IPv6

	// Slots is one slot, or IPv4's and IPv6's where they differ.
	Slots []overspan.Slot

	// Blocks are those around the slots, each once. The attach compares their
	// epochs; if one has changed, release the lease and acquire again.
	Blocks []overspan.Block
}

// Config sets an Allocator's times. Zero values take the defaults.
type Config struct {
	Cooldown  time.Duration    // how long a released slot rests: 60 s
	IdleAfter time.Duration    // how long a block stays empty before it is given back: 5 min
	Now       func() time.Time // time.Now
}

// The default times.
const (
	DefaultCooldown  = time.Minute
	DefaultIdleAfter = 5 * time.Minute
)

// An Allocator lends this node's slots and answers the wants of others. It is
// safe for concurrent use.
type Allocator struct {
	claims Claims
	config Config

	mu      sync.Mutex // guards the map, not the ledgers in it
	ledgers map[overspan.NetworkID]*ledger
}

// New returns an Allocator that lends nothing yet. After a restart, Adopt tells
// it what is attached.
func New(claims Claims, config Config) *Allocator {
	if config.Cooldown == 0 {
		config.Cooldown = DefaultCooldown
	}
	if config.IdleAfter == 0 {
		config.IdleAfter = DefaultIdleAfter
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	return &Allocator{claims: claims, config: config, ledgers: map[overspan.NetworkID]*ledger{}}
}

func (a *Allocator) ledger(network overspan.NetworkID) *ledger {
	a.mu.Lock()
	defer a.mu.Unlock()
	l := a.ledgers[network]
	if l == nil {
		l = newLedger()
		a.ledgers[network] = l
	}
	return l
}

// Acquire lends an endpoint the addresses that it must have, or any. It claims
// a block or asks a holder where this node has nothing to lend, and waits for
// that as long as ctx allows. Errors are those of Decide and of Claims.
func (a *Allocator) Acquire(ctx context.Context, network overspan.NetworkID, want Addrs) (Lease, error) {
	v, err := a.claims.View(ctx, network)
	if err != nil {
		return Lease{}, fmt.Errorf("acquire an address: %w", err)
	}
	addrs, err := want.split(v.Network)
	if err != nil {
		return Lease{}, err
	}
	lease := Lease{Network: v.Network}
	for _, addr := range addrs {
		take, err := a.acquire(ctx, network, addr)
		if err != nil {
			a.Release(network, lease.Slots, false)
			return Lease{}, err
		}
		lease.Slots = append(lease.Slots, take.Slot)
		if len(lease.Blocks) == 0 || lease.Blocks[0] != take.Block {
			lease.Blocks = append(lease.Blocks, take.Block)
		}
	}
	lease.IPv4 = v.Network.IPv4.Addr(lease.Slots[0])
	lease.IPv6 = v.Network.IPv6.Addr(lease.Slots[len(lease.Slots)-1])
	return lease, nil
}

// Release returns slots: an endpoint is gone, or its attach failed. With rest
// they cool down before they are lent again while others are free; so does a
// slot at which the attach met a record that the view does not show.
func (a *Allocator) Release(network overspan.NetworkID, slots []overspan.Slot, rest bool) {
	l := a.ledger(network)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range slots {
		delete(l.held, s)
		if rest {
			l.resting[s] = a.config.Now().Add(a.config.Cooldown)
		}
	}
}

// Adopt marks slots as attached, as the journal remembers them after a restart.
func (a *Allocator) Adopt(network overspan.NetworkID, slots []overspan.Slot) {
	l := a.ledger(network)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hold(slots...)
}

// Forget drops what is known of a network that is gone.
func (a *Allocator) Forget(network overspan.NetworkID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.ledgers, network)
}

// acquire lends the slot of addr, or any slot if addr is the zero Addr.
//
// Whoever waits for any slot queues at the gate, so that a hundred attaches at
// once claim one block and not a hundred; no newcomer overtakes them.
func (a *Allocator) acquire(ctx context.Context, network overspan.NetworkID, addr netip.Addr) (Take, error) {
	l := a.ledger(network)
	s := &search{claims: a.claims, now: a.config.Now, network: network, ledger: l, request: Request{Addr: addr}}
	if addr.IsValid() {
		return s.run(ctx)
	}
	if take, ok := s.takeOrQueue(ctx); ok {
		return take, nil
	}
	defer l.leaveQueue()
	select {
	case l.gate <- struct{}{}:
		defer func() { <-l.gate }()
	case <-ctx.Done():
		return Take{}, overspan.Errorf(overspan.ErrUnavailable, "wait for an address in network %s: %w", overspan.ShortID(network), ctx.Err())
	}
	return s.run(ctx)
}
