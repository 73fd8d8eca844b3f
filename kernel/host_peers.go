package kernel

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/overspan/overspan"
	"golang.org/x/sys/unix"
)

// Ports send what is for another node past the VXLAN device, where the underlay lets
// them: kernel/bpf/port.c. Which node that is they are told beside the device, with
// each of its forwarding entries over IPv4, as long as they are told of the device:
// an entry that they are not told of counts as another than it should be.

// What kernel/bpf/port.c calls the maps of it.
const (
	peersName = "overspan_peers"
	wayName   = "overspan_way"
)

// peerKey returns the key of a forwarding entry's MAC among the peers.
func peerKey(k FDBKey) (key macKey, err error) {
	network, err := networkNumber(k.Dev)
	return macKeyIn(network, k.MAC), err
}

// hasTunnel reports whether ports of a device's network are told of that device.
func (p *portProgram) hasTunnel(d device) (bool, error) {
	told, known, err := p.get(uint32(d.index))
	if err != nil || !known || told.Kind != ProgramTunnel || !told.Open {
		return false, err
	}
	network, err := networkNumber(told.Bridge)
	if err != nil {
		return false, err
	}
	own, err := networkNumber(d.name)
	return own == network, err
}

// tellPeer tells ports where a MAC is; nowhere, without a VTEP over IPv4.
func (p *portProgram) tellPeer(k FDBKey, vtep netip.Addr) error {
	if !vtep.Is4() {
		return p.forgetPeer(k)
	}
	key, err := peerKey(k)
	if err == nil {
		err = p.peers.Put(key, vtep.As4())
	}
	if errors.Is(err, unix.E2BIG) {
		p.full.Store(true)
		return nil // the device sends what is for the rest
	}
	if err != nil {
		return fmt.Errorf("tell ports where %s is: %w", k.MAC, err)
	}
	return nil
}

func (p *portProgram) forgetPeer(k FDBKey) error {
	key, err := peerKey(k)
	if err == nil {
		err = p.peers.Delete(key)
	}
	if err == nil {
		p.full.Store(false)
	}
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("have ports forget where %s is: %w", k.MAC, err)
	}
	return nil
}

// forgetPeers takes away what ports are told of a whole network.
func (p *portProgram) forgetPeers(network uint64) error {
	var gone []macKey
	var key macKey
	var vtep [4]byte
	all := p.peers.Iterate()
	for all.Next(&key, &vtep) {
		if key.network() == network {
			gone = append(gone, key)
		}
	}
	errs := []error{all.Err()}
	p.full.Store(false)
	for _, key := range gone {
		if err := p.peers.Delete(key); !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("have ports forget a network: %w", err)
	}
	return nil
}

// A teller knows of which devices ports are told, each asked about once.
type teller struct {
	ports   *portProgram // nil: there are no programs
	tunnels map[int]bool // by the device's index

	// What was last looked up: there may be tens of thousands, and none is to cost
	// memory of its own.
	key  macKey
	vtep [4]byte
}

func (h *Host) newTeller() teller {
	p, err := h.port()
	if err != nil {
		p = nil
	}
	return teller{ports: p, tunnels: map[int]bool{}}
}

// knows reports whether ports are told of a device.
func (t *teller) knows(d device) (bool, error) {
	told, asked := t.tunnels[d.index]
	if t.ports == nil || asked {
		return told, nil
	}
	told, err := t.ports.hasTunnel(d)
	if err == nil {
		t.tunnels[d.index] = told
	}
	return told, err
}

// tell tells ports of an op on a forwarding entry, if they are told of its device.
func (t *teller) tell(op Op, d device) error {
	var key FDBKey
	var vtep netip.Addr
	switch o := op.(type) {
	case SetFDB:
		key, vtep = o.Key, o.Dst
	case DelFDB:
		key = o.Key
	default:
		return nil
	}
	if told, err := t.knows(d); err != nil || !told || !isStation(key.MAC) {
		return err
	}
	return t.ports.tellPeer(key, vtep)
}

// peer returns the VTEP that ports send frames for a MAC to; invalid if they leave
// that to the VXLAN device.
func (t *teller) peer(k FDBKey) (netip.Addr, error) {
	var err error
	if t.key, err = peerKey(k); err == nil {
		err = t.ports.peers.Lookup(&t.key, &t.vtep)
	}
	switch {
	case errors.Is(err, ebpf.ErrKeyNotExist):
		return netip.Addr{}, nil
	case err != nil:
		return netip.Addr{}, fmt.Errorf("look up where ports send frames for %s: %w", k.MAC, err)
	}
	return netip.AddrFrom4(t.vtep), nil
}

// isStation reports whether ports look for a MAC among the peers: groups are the
// bridge's.
func isStation(mac overspan.MAC) bool { return !mac.IsZero() && mac[0]&1 == 0 }

// tellPeers tells ports of all forwarding entries that a VXLAN device has.
func (h *Host) tellPeers(p *portProgram, d device) error {
	if told, err := p.hasTunnel(d); err != nil || !told {
		return err
	}
	found, err := h.route.entries(unix.AF_BRIDGE, d.index, 0, func(s *State, e entry) {
		if e.isFDB() && isStation(e.mac) {
			put(&s.FDB, FDBKey{Dev: d.name, MAC: e.mac}, e.dest())
		}
	})
	errs := []error{err}
	for key, to := range found.FDB {
		errs = append(errs, p.tellPeer(key, to.VTEP))
	}
	return errors.Join(errs...)
}

// readPeers notes in forwarding entries where ports send their frames, if that is not
// where the device does.
func (r *reader) readPeers() error {
	links, teller := finder{conn: r.route}, r.newTeller()
	for key, to := range r.state.FDB {
		d, err := links.ours(key.Dev)
		if errors.Is(err, errNoDevice) || errors.Is(err, overspan.ErrExists) {
			continue // gone meanwhile, or another's by now
		}
		known := false
		if err == nil {
			known, err = teller.knows(d)
		}
		if err != nil {
			return err
		}
		if !known || !isStation(key.MAC) {
			continue
		}
		told, err := teller.peer(key)
		if err != nil {
			return err
		}
		if told == to.VTEP || !told.IsValid() && (!to.VTEP.Is4() || teller.ports.full.Load()) {
			continue
		}
		to.Ports = orNone(told)
		r.state.FDB[key] = to
	}
	if r.scope.All && teller.ports != nil {
		return r.readStrayPeers(teller.ports)
	}
	return nil
}

// peersAtOnce is how many entries are read in one call.
const peersAtOnce = 4096

// readStrayPeers notes what ports are told of a VXLAN device's network and the device
// has no entry for.
func (r *reader) readStrayPeers(p *portProgram) error {
	names := map[uint64]string{}
	for _, d := range r.ours {
		if network, err := networkNumber(d.name); err == nil && d.Kind == KindVXLAN {
			names[network] = d.name
		}
	}
	keys, vteps := make([]macKey, peersAtOnce), make([][4]byte, peersAtOnce)
	var at ebpf.MapBatchCursor
	for {
		n, err := p.peers.BatchLookup(&at, keys, vteps, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("list what ports are told of other nodes: %w", err)
		}
		for i, key := range keys[:n] {
			k := FDBKey{Dev: names[key.network()], MAC: key.mac()}
			if _, there := r.state.FDB[k]; !there && k.Dev != "" {
				put(&r.state.FDB, k, Dest{Ports: netip.AddrFrom4(vteps[i]).String()})
			}
		}
		if err != nil {
			return nil // that was the last
		}
	}
}

func orNone(a netip.Addr) string {
	if !a.IsValid() {
		return "none"
	}
	return a.String()
}

// A wayEntry is struct way of port.c: by which device the tunnel's packets leave,
// this node's address, and the UDP port.
type wayEntry struct {
	Index uint32
	VTEP  [4]byte
	Port  [2]byte
	_     [2]byte
}

func wayOf(index uint32, e underlayEntry) wayEntry {
	return wayEntry{Index: index, VTEP: [4]byte(e[:4]), Port: [2]byte(e[4:6])}
}

// closeWay has packets of the tunnel leave by no device past the packet filter.
func (p *portProgram) closeWay() error {
	if err := p.way.Put(uint32(0), wayEntry{}); err != nil {
		return fmt.Errorf("tell ports of no device: %w", err)
	}
	return nil
}

// setWay has packets of the tunnel leave by a device.
func (u *underlayProgram) setWay(w wayEntry) error {
	if err := u.way.Put(uint32(0), w); err != nil {
		return fmt.Errorf("tell ports of device %d: %w", w.Index, err)
	}
	return nil
}

// currentWay returns by which device they leave now.
func (u *underlayProgram) currentWay() (w wayEntry, err error) {
	if err := u.way.Lookup(uint32(0), &w); err != nil {
		return w, fmt.Errorf("look up by which device the tunnel's packets leave: %w", err)
	}
	return w, nil
}

// leaveWay has them leave by a device no more.
func (u *underlayProgram) leaveWay(index uint32) error {
	w, err := u.currentWay()
	if err != nil || w.Index != index {
		return err
	}
	return u.setWay(wayEntry{})
}
