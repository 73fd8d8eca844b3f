package ipam

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"

	"github.com/overspan/overspan"
)

// spread is over how many of the lowest free positions the members of a
// network scatter their claims, so that nodes that start together do not race
// for the same one while addresses stay low.
const spread = 64

// listed bounds how many holders an error names.
const listed = 8

// A Request asks for one slot.
type Request struct {
	// Addr is the address that it must have; the zero Addr asks for any slot.
	Addr netip.Addr

	// Refused tells which holders said no, and how many free slots each seemed
	// to have when it did: it is asked again only when it seems to have more.
	Refused map[overspan.NodeID]uint64

	// Avoid are ranges that could not be claimed although they look free.
	Avoid []overspan.Range
}

// A Decision is what to do next to get a slot: a Take, a Claim or an Ask.
type Decision interface{ decision() }

// Take lends a slot of an own block. The attach compares the block's epoch.
type Take struct {
	Slot  overspan.Slot
	Block overspan.Block
}

// Claim makes a block of slots that nobody holds, and decides again.
type Claim struct{ overspan.Range }

// Ask leaves a want with a holder, for one slot or (nil) for any, and decides
// again once that is answered.
type Ask struct {
	Holder overspan.NodeID
	Slot   *overspan.Slot
}

func (Take) decision()  {}
func (Claim) decision() {}
func (Ask) decision()   {}

// Decide returns what gets the request a slot: the lowest free slot of an own
// block; else a block in unclaimed space; else an own slot that still rests;
// else a want with a holder that has much to spare. An address asked for
// is taken, claimed or wanted where it is.
//
// Errors: ErrInvalid for an address that is never lent, ErrInUse for one that
// is lent, ErrUnavailable if its holder is away, ErrExhausted if no slot can be
// had, ErrNotFound if the network is being removed.
func Decide(v View, r Request) (Decision, error) {
	if v.Network.Deleting {
		return nil, overspan.Errorf(overspan.ErrNotFound, "network %s is being removed", v.Network.Name)
	}
	if r.Addr.IsValid() {
		return v.decideExact(r)
	}
	sp := spaceOf(v.Network)
	free, resting := v.lowest(sp)
	if free != nil {
		return *free, nil
	}
	if block, ok := v.claimable(sp, r.Avoid); ok {
		return Claim{Range: block}, nil
	}
	if resting != nil {
		return *resting, nil
	}
	loads := v.loads(sp)
	if holder, ok := v.generous(loads, r.Refused); ok {
		return Ask{Holder: holder}, nil
	}
	return nil, v.exhausted(loads)
}

// lowest returns the lowest free slot of an own block that does not rest, and
// the lowest that does; nil where there is none. The second is only known when
// the first is nil.
func (v View) lowest(sp space) (free, resting *Take) {
	for _, b := range v.own() {
		if v.Segment.Endpoints.Count(b.Range) == int(b.Size) {
			continue
		}
		for s := range slotsOf(b.Range) {
			if !sp.lends(s) || v.used(s) {
				continue
			}
			if _, rests := v.Resting[s]; !rests {
				return &Take{Slot: s, Block: b}, nil
			}
			if resting == nil {
				resting = &Take{Slot: s, Block: b}
			}
		}
	}
	return nil, resting
}

// claimable returns the block to claim; ok is false if nothing that may be lent
// is unclaimed. A lone node takes the lowest position, members scatter.
func (v View) claimable(sp space, avoid []overspan.Range) (overspan.Range, bool) {
	taken := append([]overspan.Range(nil), avoid...)
	alone := true
	for b := range v.Segment.Blocks.Values() {
		taken = append(taken, b.Range)
		alone = alone && b.Node == v.Self
	}
	var free uint64
	for _, gap := range sp.unclaimed(taken) {
		free += sp.count(gap)
	}
	if free == 0 {
		return overspan.Range{}, false
	}
	var position uint64
	if !alone {
		position = scatter(v.Self)
	}
	for size := blockSize(free); size > 0; size /= 2 {
		gaps := sp.unclaimed(append(sp.barren(size), taken...))
		if block, ok := place(gaps, size, position); ok {
			return block, true
		}
	}
	return overspan.Range{}, false
}

// scatter returns a number below spread that is the same whenever the node asks.
func scatter(node overspan.NodeID) uint64 {
	h := fnv.New64a()
	h.Write([]byte(node))
	return h.Sum64() % spread
}

// generous returns a member to ask: one that is up, has more free slots than when
// it last refused, and more than half of what the richest has; ok is false if there
// is none. Among these the choice depends on the asker: otherwise all nodes that
// find a network full would queue at one holder.
func (v View) generous(loads []load, refused map[overspan.NodeID]uint64) (holder overspan.NodeID, ok bool) {
	var most uint64
	willing := slices.DeleteFunc(slices.Clone(loads), func(l load) bool {
		return l.node == v.Self || l.free() <= refused[l.node] || !v.Up(l.node)
	})
	for _, l := range willing {
		most = max(most, l.free())
	}
	if most == 0 {
		return "", false
	}
	willing = slices.DeleteFunc(willing, func(l load) bool { return l.free() <= most/2 })
	return slices.MinFunc(willing, func(a, b load) int {
		return cmp.Compare(affinity(v.Self, a.node), affinity(v.Self, b.node))
	}).node, true
}

// affinity returns a number that is the same whenever a node asks a holder.
func affinity(asker, holder overspan.NodeID) uint64 {
	h := fnv.New64a()
	h.Write([]byte(asker))
	h.Write([]byte(holder))
	return h.Sum64()
}

func (v View) exhausted(loads []load) error {
	var holders []string
	remedy := "disconnect an endpoint, or make a larger network"
	for _, l := range loads[:min(len(loads), listed)] {
		away := ""
		if l.node != v.Self && !v.Up(l.node) {
			away = ", away"
			remedy = fmt.Sprintf("disconnect an endpoint, make a larger network, or remove a node that is gone for good: ctl node rm %s", v.Name(l.node))
		}
		holders = append(holders, fmt.Sprintf("node %s holds %d (%d in use%s)", v.Name(l.node), l.held, l.used, away))
	}
	if rest := len(loads) - len(holders); rest > 0 {
		holders = append(holders, fmt.Sprintf("%d more nodes hold the rest", rest))
	}
	return overspan.Errorf(overspan.ErrExhausted,
		"network %s has no free address left in %s: %s; %s",
		v.Network.Name, dynamicPrefixes(v.Network), strings.Join(holders, ", "), remedy)
}

// dynamicPrefixes returns where a network's dynamic addresses come from, as text.
func dynamicPrefixes(n *overspan.Network) string {
	var out []string
	for _, s := range []overspan.Subnet{n.IPv4, n.IPv6} {
		switch {
		case s.Range.IsValid():
			out = append(out, s.Range.String())
		case s.IsValid():
			out = append(out, s.Prefix.String())
		}
	}
	return strings.Join(out, ", ")
}
