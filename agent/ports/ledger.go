package ports

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/overspan/overspan"
)

// drawTries is how often a port is drawn that is free at some of the addresses
// that it is wanted at, but not at all.
const drawTries = 32

// A Ledger holds the host ports of this node's sandboxes, each by a socket that
// is bound and serves nobody: the rules take the packets before they come to it.
// So neither another sandbox nor another program of the host gets the port, and
// no process has to run for it. The sockets are in the network namespace of the
// process. A Ledger is safe for concurrent use.
type Ledger struct {
	mu     sync.Mutex // guards owners
	owners map[overspan.SandboxID]*holding
}

// A holding is what one sandbox has published.
type holding struct {
	name    string // of the sandbox, for people
	sockets map[overspan.Port]int
	refused map[overspan.Port]error // what could not be bound again, and why
	before  *holding                // what the sandbox has besides; nil: nothing
}

// NewLedger returns a ledger that holds nothing.
func NewLedger() *Ledger {
	return &Ledger{owners: make(map[overspan.SandboxID]*holding)}
}

// Reserve takes a port for each spec at each of the addresses that it is wanted
// at: where it names none, all of the node's of each of families. It takes all
// of them or, with ErrInUse or ErrInvalid, none. A drawn port is the same in
// both families. What the sandbox has taken before stays, and is not returned.
func (l *Ledger) Reserve(id overspan.SandboxID, name string, specs []Spec, families ...overspan.Family) ([]overspan.Port, error) {
	taken, err := l.reserve(id, name, specs, families)
	return taken, explain(err)
}

func (l *Ledger) reserve(id overspan.SandboxID, name string, specs []Spec, families []overspan.Family) ([]overspan.Port, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := &holding{name: name, sockets: make(map[overspan.Port]int), before: l.owners[id]}
	// Chosen ports first: a drawn one must not be in their way.
	ordered := slices.Clone(specs)
	slices.SortStableFunc(ordered, func(a, b Spec) int { return choice(a) - choice(b) })
	for _, spec := range ordered {
		if err := l.take(h, spec, families); err != nil {
			h.close()
			return nil, err
		}
	}
	if len(h.sockets) == 0 {
		return nil, nil
	}
	taken := slices.SortedFunc(maps.Keys(h.sockets), overspan.Port.Compare)
	if h.before != nil {
		maps.Copy(h.before.sockets, h.sockets)
	} else {
		l.owners[id] = h
	}
	return taken, nil
}

// choice is how much choice there is of a spec's host port.
func choice(s Spec) int {
	if s.First == 0 {
		return 1 << 16
	}
	return int(s.Last - s.First)
}

// take binds the first host port that a spec allows.
func (l *Ledger) take(h *holding, spec Spec, families []overspan.Family) error {
	ips, err := addresses(spec, families)
	if err != nil {
		return err
	}
	if spec.First == 0 {
		return l.draw(h, spec, ips)
	}
	for port := int(spec.First); port <= int(spec.Last); port++ {
		if err = l.bindAll(h, spec, ips, uint16(port)); err == nil || !errors.Is(err, unix.EADDRINUSE) {
			return err
		}
	}
	if spec.First != spec.Last {
		return noneFree{spec, err}
	}
	return err
}

// draw lets the kernel choose a port at the first address, from its ephemeral
// range, until that is free at the others too.
func (l *Ledger) draw(h *holding, spec Spec, ips []netip.Addr) error {
	var err error
	for range drawTries {
		p := overspan.Port{Protocol: spec.Protocol, Port: spec.Port, HostIP: ips[0]}
		var fd int
		if fd, p.HostPort, err = bind(p); err != nil {
			return &refusal{port: p, err: err}
		}
		h.sockets[p] = fd
		if err = l.bindAll(h, spec, ips[1:], p.HostPort); err == nil {
			return nil
		}
		h.drop(p)
		if !errors.Is(err, unix.EADDRINUSE) {
			return err
		}
	}
	return err
}

// bindAll binds a port at all of some addresses, or at none.
func (l *Ledger) bindAll(h *holding, spec Spec, ips []netip.Addr, port uint16) error {
	var done []overspan.Port
	for _, ip := range ips {
		p := overspan.Port{Protocol: spec.Protocol, Port: spec.Port, HostIP: ip, HostPort: port}
		if h.before.has(p) {
			continue
		}
		fd, _, err := bind(p)
		if err != nil {
			for _, d := range done {
				h.drop(d)
			}
			return l.refusal(p, err, h)
		}
		h.sockets[p] = fd
		done = append(done, p)
	}
	return nil
}

// addresses lists where a spec is to be bound.
func addresses(spec Spec, families []overspan.Family) ([]netip.Addr, error) {
	if spec.HostIP.IsValid() {
		if !slices.Contains(families, overspan.FamilyOf(spec.HostIP)) {
			return nil, overspan.Errorf(overspan.ErrInvalid, "publish %s: the network has no %s", spec, overspan.FamilyOf(spec.HostIP))
		}
		if spec.HostIP == netip.IPv6Loopback() {
			return nil, overspan.Errorf(overspan.ErrInvalid, "publish %s: the kernel does not route ::1 to a container; publish at 127.0.0.1, or at an address of the host", spec)
		}
		return []netip.Addr{spec.HostIP}, nil
	}
	var out []netip.Addr
	for _, f := range families {
		if f == overspan.IPv6 {
			out = append(out, netip.IPv6Unspecified())
		} else {
			out = append(out, netip.IPv4Unspecified())
		}
	}
	return out, nil
}

// Restore binds again what a sandbox had published when the agent last ran.
// What cannot be bound is tried again by Retry; its rules stand meanwhile.
func (l *Ledger) Restore(id overspan.SandboxID, name string, ports []overspan.Port) {
	if len(ports) == 0 {
		return
	}
	h := &holding{name: name, sockets: make(map[overspan.Port]int), refused: make(map[overspan.Port]error)}
	for _, p := range ports {
		h.refused[p] = nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.owners[id] = h
	h.retry()
}

// Retry binds what could not be bound before, and returns what still cannot be,
// a sentence each.
func (l *Ledger) Retry() []string {
	refused := l.retry()
	var conflicts []string
	for i, err := range explainAll(refused) {
		conflicts = append(conflicts, fmt.Sprintf("port %s of sandbox %s is not held: %v", refused[i].port, refused[i].wanted, err))
	}
	slices.Sort(conflicts)
	return conflicts
}

func (l *Ledger) retry() (refused []*refusal) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, h := range l.owners {
		h.retry()
		for p, err := range h.refused {
			again := l.refusal(p, err, nil)
			again.wanted = h.name
			refused = append(refused, again)
		}
	}
	return refused
}

func (h *holding) retry() {
	for p := range h.refused {
		fd, _, err := bind(p)
		if err != nil {
			h.refused[p] = err
			continue
		}
		h.sockets[p] = fd
		delete(h.refused, p)
	}
}

// Keep lets go of all that a sandbox has published but some; of one that holds
// nothing there is nothing to do.
func (l *Ledger) Keep(id overspan.SandboxID, ports []overspan.Port) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.owners[id]
	if h == nil {
		return
	}
	kept := make(map[overspan.Port]struct{}, len(ports))
	for _, p := range ports {
		kept[p] = struct{}{}
	}
	other := func(p overspan.Port) bool {
		_, keep := kept[p]
		return !keep
	}
	for p := range h.sockets {
		if other(p) {
			h.drop(p)
		}
	}
	maps.DeleteFunc(h.refused, func(p overspan.Port, _ error) bool { return other(p) })
	if len(h.sockets)+len(h.refused) == 0 {
		delete(l.owners, id)
	}
}

// Close lets go of everything.
func (l *Ledger) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, h := range l.owners {
		h.close()
	}
	clear(l.owners)
}

// refusal notes that a port could not be bound, and who of ours is in the way: the
// same request, which has taken pending so far, or one of our sandboxes.
func (l *Ledger) refusal(p overspan.Port, err error, pending *holding) *refusal {
	r := &refusal{port: p, err: err}
	r.rival, _ = pending.inTheWayOf(p)
	for _, h := range l.owners {
		if _, is := h.inTheWayOf(p); is {
			r.holder = "sandbox " + h.name
		}
	}
	return r
}

// inTheWayOf returns a port that is held, and with which another cannot be bound.
func (h *holding) inTheWayOf(p overspan.Port) (overspan.Port, bool) {
	if h == nil {
		return overspan.Port{}, false
	}
	for held := range h.sockets {
		if held.Protocol == p.Protocol && held.HostPort == p.HostPort && overlap(held.HostIP, p.HostIP) {
			return held, true
		}
	}
	return overspan.Port{}, false
}

// overlap reports whether a port cannot be bound at both of two addresses.
func overlap(a, b netip.Addr) bool {
	return overspan.FamilyOf(a) == overspan.FamilyOf(b) && (a == b || a.IsUnspecified() || b.IsUnspecified())
}

// has reports whether a port is held, or would be if it could be bound.
func (h *holding) has(p overspan.Port) bool {
	if h == nil {
		return false
	}
	_, held := h.sockets[p]
	_, refused := h.refused[p]
	return held || refused
}

func (h *holding) drop(p overspan.Port) {
	closeSocket(h.sockets[p])
	delete(h.sockets, p)
}

func (h *holding) close() {
	for p := range h.sockets {
		h.drop(p)
	}
}
