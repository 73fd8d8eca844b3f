package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/overspan/overspan"
)

// A Taken prefix may not be used for a new subnet.
type Taken struct {
	Prefix netip.Prefix
	By     string // for messages: "network demo", "a route of node h1"
}

// Settle chooses the automatic subnets of a plan, and checks that those given
// overlap nothing. It changes nothing, so that it can be called again when a
// chosen subnet turns out to be taken meanwhile.
//
// Errors: ErrInUse if a given subnet overlaps, ErrExhausted if a pool is used
// up, ErrInvalid if the outcome has no address to lend.
func (p Plan) Settle(pools overspan.Pools, taken []Taken) (v4, v6 overspan.Subnet, err error) {
	pool4 := pools.Bridge
	if p.Driver == overspan.DriverOverlay {
		pool4 = pools.Overlay
	}
	if v4, err = settle(p.IPv4, p.AutoIPv4, pool4, taken); err != nil {
		return overspan.Subnet{}, overspan.Subnet{}, err
	}
	if v6, err = settle(p.IPv6, p.AutoIPv6, pools.IPv6, taken); err != nil {
		return overspan.Subnet{}, overspan.Subnet{}, err
	}
	return v4, v6, checkLendable(v4, v6)
}

func settle(given overspan.Subnet, auto bool, pool overspan.Pool, taken []Taken) (overspan.Subnet, error) {
	if auto {
		prefix, err := Choose(pool, taken)
		if err != nil {
			return overspan.Subnet{}, err
		}
		s := overspan.Subnet{Prefix: prefix}
		s.Gateway = defaultGateway(s)
		return s, nil
	}
	if !given.IsValid() {
		return given, nil
	}
	return given, Conflict(given.Prefix, taken)
}

// Conflict returns an error of class ErrInUse that names what the prefix
// overlaps; nil if that is nothing.
func Conflict(p netip.Prefix, taken []Taken) error {
	for _, t := range taken {
		if t.Prefix.Overlaps(p) {
			return overspan.Errorf(overspan.ErrInUse, "subnet %s overlaps %s of %s: choose another subnet", p, t.Prefix, t.By)
		}
	}
	return nil
}

// CheckPool refuses a pool from which no subnet can be cut.
func CheckPool(pool overspan.Pool) error {
	if !pool.Prefix.IsValid() || pool.Prefix != pool.Prefix.Masked() {
		return overspan.Errorf(overspan.ErrInvalid, "invalid address pool %s: want a prefix without host bits, such as 10.0.0.0/8", pool.Prefix)
	}
	if pool.Bits < pool.Prefix.Bits() {
		return overspan.Errorf(overspan.ErrInvalid, "invalid address pool %s: no subnet of /%d fits into it", pool.Prefix, pool.Bits)
	}
	if err := checkLength(pool.Prefix.Addr(), pool.Bits); err != nil {
		return fmt.Errorf("address pool %s: %w", pool.Prefix, err)
	}
	return checkUsable("address pool", pool.Prefix)
}

// Choose returns the lowest subnet of a pool that overlaps nothing taken. The
// cost is that of sorting what is taken, however large the pool is.
func Choose(pool overspan.Pool, taken []Taken) (netip.Prefix, error) {
	if err := CheckPool(pool); err != nil {
		return netip.Prefix{}, err
	}
	var inside []Taken
	for _, t := range taken {
		if t.Prefix.Overlaps(pool.Prefix) {
			inside = append(inside, Taken{Prefix: t.Prefix.Masked(), By: t.By})
		}
	}
	slices.SortFunc(inside, func(a, b Taken) int { return a.Prefix.Compare(b.Prefix) })

	// The candidate only moves up, past whatever it overlaps. Prefixes nest or
	// are disjoint, so the end of the larger one is where the next can start.
	candidate := netip.PrefixFrom(pool.Prefix.Addr(), pool.Bits)
	for _, t := range inside {
		if !t.Prefix.Overlaps(candidate) {
			if candidate.Addr().Less(t.Prefix.Addr()) {
				break
			}
			continue
		}
		next := lastAddr(larger(candidate, t.Prefix)).Next()
		if !next.IsValid() || !pool.Prefix.Contains(next) {
			return netip.Prefix{}, poolExhausted(pool, inside)
		}
		candidate = netip.PrefixFrom(next, pool.Bits)
	}
	return candidate, nil
}

func poolExhausted(pool overspan.Pool, inside []Taken) error {
	var holders []string
	for _, t := range inside[:min(len(inside), listed)] {
		holders = append(holders, fmt.Sprintf("%s by %s", t.Prefix, t.By))
	}
	if rest := len(inside) - len(holders); rest > 0 {
		holders = append(holders, fmt.Sprintf("%d more", rest))
	}
	return overspan.Errorf(overspan.ErrExhausted,
		"address pool %s has no free /%d left: taken are %s; give a subnet outside it, or remove a network",
		pool.Prefix, pool.Bits, strings.Join(holders, ", "))
}

func larger(a, b netip.Prefix) netip.Prefix {
	if a.Bits() <= b.Bits() {
		return a
	}
	return b
}

// lastAddr returns the highest address of a prefix.
func lastAddr(p netip.Prefix) netip.Addr {
	raw := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < len(raw)*8; bit++ {
		raw[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(raw) // the slice has an address's length
	return last
}
