package kernel

import (
	"bytes"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"github.com/overspan/overspan"
)

//go:generate bpf/compile.sh bpf/port.o
//go:generate bpf/compile.sh bpf/underlay.o

// portObject is bpf/port.c, compiled.
//
//go:embed bpf/port.o
var portObject []byte

// What kernel/bpf/port.c calls its parts.
const (
	portName  = "overspan_port"
	portsName = "overspan_ports"
	macsName  = "overspan_macs"
	dropsName = "overspan_drops"
)

// Kinds and flags of an entry, as port.c has them.
const (
	entryVeth  = 1
	entryVXLAN = 2

	entryOpen     = 1
	entryIsolated = 2
)

// A portProgram is the program that links of ours have at their ingress, and the
// maps that it looks things up in. It is one for all links, loaded once: to
// attach it to one more takes neither the verifier nor its memory again.
//
// The maps are pinned nowhere. They live as long as a link has the program, and
// are found again by it.
type portProgram struct {
	prog  *ebpf.Program
	id    ebpf.ProgramID
	tag   string
	ports *ebpf.Map   // index of a link → portEntry
	macs  *ebpf.Map   // network and MAC → index of the link behind which it is
	peers *ebpf.Map   // network and MAC → VTEP of the node that has it
	way   *ebpf.Map   // 0 → wayEntry
	drops *ebpf.Map   // reason → frames, for each CPU
	full  atomic.Bool // peers has had no room for one

	beside atomic.Pointer[underlayLoad] // the one for the underlay, which looks things up in the same maps; nil: not loaded yet
}

// loadPort loads the program, or takes over the one that links of ours have from
// an agent before this one, if that is the same version.
func (h *Host) loadPort() (*portProgram, error) {
	p, err := newPortProgram()
	if err != nil {
		return nil, fmt.Errorf("load the program for ports: %w", err)
	}
	found, err := h.findPort(p)
	if err != nil {
		p.close()
		return nil, err
	}
	if found != nil {
		p.close()
		p = found
	}
	h.loadBeside(p)
	h.loaded.Store(p)
	return p, nil
}

func newPortProgram() (*portProgram, error) {
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(portObject))
	if err != nil {
		return nil, err
	}
	return loadPortProgram(spec)
}

func loadPortProgram(spec *ebpf.CollectionSpec) (*portProgram, error) {
	all, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, err
	}
	defer all.Close() // but for what is detached from it
	p := &portProgram{
		prog:  all.DetachProgram(portName),
		ports: all.DetachMap(portsName),
		macs:  all.DetachMap(macsName),
		peers: all.DetachMap(peersName),
		way:   all.DetachMap(wayName),
		drops: all.DetachMap(dropsName),
	}
	if err := p.identify(); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *portProgram) identify() (err error) {
	p.id, p.tag, err = identify(p.prog)
	return err
}

// findPort finds the program that links of ours have, if it is of the version of
// like; nil if none has it. The tag is the kernel's own digest of its
// instructions.
func (h *Host) findPort(like *portProgram) (*portProgram, error) {
	links, err := h.route.links(0)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	for _, d := range links {
		if !d.ours() || d.leaving() || d.Kind == KindBridge {
			continue
		}
		f, err := h.route.filter(d.index, portHook())
		if err != nil {
			return nil, err
		}
		if f.id == 0 || f.tag != like.tag {
			continue
		}
		if p := openPort(f.id, like); p != nil {
			return p, nil
		}
	}
	return nil, nil
}

// openPort opens a program that is there, with its maps; nil if it is not what
// it seems, or gone meanwhile.
func openPort(id ebpf.ProgramID, like *portProgram) *portProgram {
	prog, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return nil
	}
	p := &portProgram{prog: prog}
	if p.identify() == nil && p.openMaps() == nil && p.tag == like.tag && sameSizes(p.maps(), like.maps()) {
		return p
	}
	p.close()
	return nil
}

func (p *portProgram) openMaps() error {
	return openMaps(p.prog, map[string]**ebpf.Map{
		portsName: &p.ports, macsName: &p.macs, peersName: &p.peers, wayName: &p.way, dropsName: &p.drops,
	})
}

func (p *portProgram) maps() []*ebpf.Map {
	return []*ebpf.Map{p.ports, p.macs, p.peers, p.way, p.drops}
}

func (p *portProgram) close() {
	if u := p.underlay(); u != nil {
		u.close()
	}
	closeAll(p.prog, p.maps()...)
}

// closePort lets go of the program; links keep it.
func (h *Host) closePort() {
	if p := h.loaded.Load(); p != nil {
		p.close()
	}
}

// A macKey is a key of the map of MACs: network and MAC. The zero MAC stands for
// every station that is not on this node.
type macKey [16]byte

func macKeyOf(p Program) (macKey, error) {
	network, err := networkNumber(p.Bridge)
	if p.Kind == ProgramPort {
		return macKeyIn(network, p.MAC), err
	}
	return macKeyIn(network, overspan.MAC{}), err
}

func macKeyIn(network uint64, mac overspan.MAC) (key macKey) {
	binary.NativeEndian.PutUint64(key[:], network)
	copy(key[8:], mac[:])
	return key
}

func (k macKey) network() uint64 { return binary.NativeEndian.Uint64(k[:]) }

func (k macKey) mac() overspan.MAC { return overspan.MAC(k[8:14]) }

// networkNumber is how the program knows a network: by the digits in the names
// of its bridge and its VXLAN device.
func networkNumber(dev string) (uint64, error) {
	_, digits, _ := strings.Cut(strings.TrimPrefix(dev, overspan.LinkPrefix), "-")
	n, err := strconv.ParseUint(digits, 16, 64)
	if err != nil {
		return 0, fmt.Errorf("%s is no device of a network of ours", dev)
	}
	return n, nil
}

// bridgePrefix begins the names of our bridges.
const bridgePrefix = overspan.LinkPrefix + "b-"

// A portEntry is struct port of port.c.
type portEntry [48]byte

// Where its parts are.
const (
	atNetwork = 0
	atIPv6    = 8
	atIPv4    = 24
	atMAC     = 28
	atGateway = 34
	atKind    = 40
	atFlags   = 41
	atHasIPv4 = 42
	atHasIPv6 = 43
	atVNI     = 44
)

func encodePort(p Program) (e portEntry, err error) {
	network, err := networkNumber(p.Bridge)
	binary.NativeEndian.PutUint64(e[atNetwork:], network)
	if p.IPv6.IsValid() {
		copy(e[atIPv6:], p.IPv6.AsSlice())
		e[atHasIPv6] = 1
	}
	if p.IPv4.IsValid() {
		copy(e[atIPv4:], p.IPv4.AsSlice())
		e[atHasIPv4] = 1
	}
	copy(e[atMAC:], p.MAC[:])
	copy(e[atGateway:], p.Gateway[:])
	e[atKind] = entryVeth
	if p.Kind == ProgramTunnel {
		e[atKind] = entryVXLAN
		vni := vniKey(p.VNI)
		copy(e[atVNI:], vni[:])
	}
	if p.Open {
		e[atFlags] |= entryOpen
	}
	if p.Isolated {
		e[atFlags] |= entryIsolated
	}
	return e, err
}

func (e portEntry) decode() Program {
	p := Program{
		Kind:     ProgramPort,
		Bridge:   fmt.Sprintf("%s%010x", bridgePrefix, binary.NativeEndian.Uint64(e[atNetwork:])),
		MAC:      overspan.MAC(e[atMAC:atGateway]),
		Gateway:  overspan.MAC(e[atGateway:atKind]),
		Open:     e[atFlags]&entryOpen != 0,
		Isolated: e[atFlags]&entryIsolated != 0,
	}
	if e[atKind] == entryVXLAN {
		p.Kind = ProgramTunnel
		p.VNI = binary.BigEndian.Uint32(e[atVNI:]) >> 8
	}
	if e[atHasIPv4] != 0 {
		p.IPv4 = netip.AddrFrom4([4]byte(e[atIPv4:atMAC]))
	}
	if e[atHasIPv6] != 0 {
		p.IPv6 = netip.AddrFrom16([16]byte(e[atIPv6:atIPv4]))
	}
	return p
}

// get returns what the program is told of a link; ok is false if nothing. One
// that others do not find is not open.
func (p *portProgram) get(index uint32) (Program, bool, error) {
	var e portEntry
	err := p.ports.Lookup(index, &e)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return Program{}, false, nil
	}
	if err != nil {
		return Program{}, false, fmt.Errorf("look up the entry of link %d: %w", index, err)
	}
	told := e.decode()
	at, err := p.linkOf(told)
	told.Open = told.Open && at == index
	if u := p.underlay(); err == nil && u != nil {
		err = u.checkVNI(&told)
	}
	return told, true, err
}

// linkOf returns the index of the link that a port's MAC is found behind, 0 for
// none.
func (p *portProgram) linkOf(told Program) (index uint32, err error) {
	key, err := macKeyOf(told)
	if err == nil {
		err = p.macs.Lookup(key, &index)
	}
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return 0, fmt.Errorf("look up where %s is: %w", told.MAC, err)
	}
	return index, nil
}

// set tells the program of a link. What leads to it under another MAC goes first,
// what leads to it comes last.
func (p *portProgram) set(index uint32, want Program) error {
	entry, err := encodePort(want)
	if err != nil {
		return err
	}
	key, err := macKeyOf(want)
	if err != nil {
		return err
	}
	have, known, err := p.get(index)
	if err != nil {
		return err
	}
	if known {
		was, err := macKeyOf(have)
		if err == nil && (was != key || have.VNI != want.VNI || !want.Open) {
			err = p.withdraw(index, have)
		}
		if err != nil {
			return err
		}
	}
	if err := p.ports.Put(index, entry); err != nil {
		return fmt.Errorf("write the entry of link %d: %w", index, err)
	}
	if !want.Open {
		return nil
	}
	if err := p.macs.Put(key, index); err != nil {
		return fmt.Errorf("write where %s is: %w", want.MAC, err)
	}
	if u := p.underlay(); want.VNI != 0 && u != nil {
		return u.tellVNI(want)
	}
	return nil
}

// withdraw takes away what leads to a link, unless that leads to another one by
// now.
func (p *portProgram) withdraw(index uint32, told Program) error {
	at, err := p.linkOf(told)
	if err != nil || at != index {
		return err
	}
	if u := p.underlay(); told.VNI != 0 && u != nil {
		if err := u.forgetVNI(told.VNI); err != nil {
			return err
		}
	}
	key, err := macKeyOf(told)
	if err == nil && told.Kind == ProgramTunnel {
		err = p.forgetPeers(key.network())
	}
	if err == nil {
		err = p.macs.Delete(key)
	}
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("delete where %s is: %w", told.MAC, err)
	}
	return nil
}

// forget takes away all that the program is told of a link.
func (p *portProgram) forget(index uint32) error {
	told, known, err := p.get(index)
	if err != nil || !known {
		return err
	}
	if err := p.withdraw(index, told); err != nil {
		return err
	}
	if err := p.ports.Delete(index); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("delete the entry of link %d: %w", index, err)
	}
	return nil
}

// indexes lists the links that the program is told of.
func (p *portProgram) indexes() ([]uint32, error) {
	var out []uint32
	var index uint32
	var e portEntry
	all := p.ports.Iterate()
	for all.Next(&index, &e) {
		out = append(out, index)
	}
	if err := all.Err(); err != nil {
		return nil, fmt.Errorf("list the entries of the program: %w", err)
	}
	return out, nil
}

// dropReasons are what the program counts frames for that it drops, as port.c has
// them in order.
func dropReasons() []string { return []string{"state", "mac", "type", "arp", "ipv4", "ipv6", "nd"} }

// PortDrops returns how many frames programs have dropped, by reason, since the
// first link has had this version of them; nothing where there are none.
func (h *Host) PortDrops() (map[string]uint64, error) {
	p := h.loaded.Load()
	if p == nil {
		return nil, nil
	}
	out := map[string]uint64{}
	for i, reason := range dropReasons() {
		var cpus []uint64
		if err := p.drops.Lookup(uint32(i), &cpus); err != nil {
			return nil, fmt.Errorf("look up how many frames were dropped: %w", err)
		}
		for _, n := range cpus {
			out[reason] += n
		}
	}
	return out, nil
}
