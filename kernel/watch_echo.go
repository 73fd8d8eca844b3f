package kernel

import (
	"maps"
	"net/netip"
	"sync"
	"time"

	"github.com/overspan/overspan"
	"golang.org/x/sys/unix"
)

// echoLife is how long the kernel may take to announce what this Host did.
const echoLife = 2 * time.Second

// echoes are the entries that this Host wrote in the last seconds. The kernel
// announces them too, mostly without saying who wrote them. An event that shows
// an entry as last written here is no news.
type echoes struct {
	mu       sync.Mutex // guards all below
	now, old map[echoKey]echo
	since    time.Time // of now; old is of the echoLife before
}

// An echoKey is a forwarding entry of a device, or of the bridge behind a port,
// or a neighbour.
type echoKey struct {
	index  int
	mac    overspan.MAC
	bridge bool
	ip     netip.Addr // of a neighbour, which is not found by its MAC
}

// An echo is what was written: an entry that leads to dst, or none.
type echo struct {
	deleted bool
	dst     netip.Addr
}

// expect notes an op on an entry of a device that is about to be carried out.
// The kernel tells who changed a neighbour, but not who deleted it.
func (e *echoes) expect(index int, op Op) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.turn(time.Now())
	switch o := op.(type) {
	case SetFDB:
		put(&e.now, echoKey{index: index, mac: o.Key.MAC}, echo{dst: o.Dst})
	case DelFDB:
		put(&e.now, echoKey{index: index, mac: o.Key.MAC}, echo{deleted: true})
	case AddStatic:
		put(&e.now, echoKey{index: index, mac: o.Key.MAC, bridge: true}, echo{})
	case DelStatic:
		put(&e.now, echoKey{index: index, mac: o.Key.MAC, bridge: true}, echo{deleted: true})
	case SetNeigh:
		delete(e.now, echoKey{index: index, ip: o.Key.IP})
		delete(e.old, echoKey{index: index, ip: o.Key.IP})
	case DelNeigh:
		put(&e.now, echoKey{index: index, ip: o.Key.IP}, echo{deleted: true})
	}
}

// hears reports whether an event says no more than what was written here.
func (e *echoes) hears(kind uint16, got entry) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	key := echoKey{index: got.index, mac: got.mac, bridge: got.bridge}
	if got.family != unix.AF_BRIDGE {
		key = echoKey{index: got.index, ip: got.dst}
	}
	want, ok := e.now[key]
	if !ok {
		want, ok = e.old[key]
	}
	switch {
	case !ok:
		return false
	case want.deleted:
		return kind == unix.RTM_DELNEIGH
	case got.bridge:
		return kind == unix.RTM_NEWNEIGH && got.isStatic()
	}
	// Older kernels (6.1) announce an entry of a VXLAN device twice, once without
	// where it leads to.
	return kind == unix.RTM_NEWNEIGH && got.lasting() && got.other == "" && (got.dst == want.dst || !got.dst.IsValid())
}

// forget drops what is too old to be announced any more.
func (e *echoes) forget(now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.turn(now)
}

// turn is called under mu.
func (e *echoes) turn(now time.Time) {
	if now.Sub(e.since) < echoLife {
		return
	}
	e.old, e.now, e.since = e.now, nil, now
}

// generations tells nftables changes of our own tools from those of others, by
// nftables' generation number. The process id in the event is of no use inside a
// PID namespace.
type generations struct {
	mu      sync.Mutex // guards all below
	running int        // tools of ours
	ours    map[uint32]time.Time
	waiting map[uint32]func() // heard of while a tool ran: what to do if it was not ours
}

// begin notes that a tool of ours runs.
func (g *generations) begin() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running++
}

// end notes that it has ended, and which generations there were before and after.
// If others made changes meanwhile, none counts as ours.
func (g *generations) end(before, after uint32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running--
	if _, heard := g.waiting[after]; heard && after == before+1 {
		delete(g.waiting, after)
	} else if after == before+1 {
		now := time.Now()
		maps.DeleteFunc(g.ours, func(_ uint32, at time.Time) bool { return now.Sub(at) > echoLife })
		put(&g.ours, after, now)
	}
	if g.running > 0 {
		return
	}
	for _, foreign := range g.waiting {
		foreign()
	}
	g.waiting = nil
}

// heard calls foreign if a generation is not ours: now, or when the tool has ended
// that may have made it.
func (g *generations) heard(generation uint32, foreign func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, ours := g.ours[generation]
	switch {
	case ours:
		delete(g.ours, generation)
	case g.running > 0:
		put(&g.waiting, generation, foreign)
	default:
		foreign()
	}
}
