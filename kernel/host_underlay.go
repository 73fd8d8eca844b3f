package kernel

import (
	"bytes"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
)

// underlayObject is bpf/underlay.c, compiled.
//
//go:embed bpf/underlay.o
var underlayObject []byte

// What kernel/bpf/underlay.c calls its parts, but for UnderlayVTEPs.
const (
	underlayName  = "overspan_underlay"
	underlaysName = "overspan_ulays"
	vnisName      = "overspan_vnis"
)

// An underlayProgram is the program at the ingress of the underlay's device. It
// finds endpoints in the maps of the program at their ports, and has others of
// its own, which live as long as a device has it.
type underlayProgram struct {
	prog      *ebpf.Program
	id        ebpf.ProgramID
	tag       string
	underlays *ebpf.Map // index of a device → underlayEntry
	vteps     *ebpf.Map // IPv4 address → nothing
	vnis      *ebpf.Map // vniKey → number of the network
	way       *ebpf.Map // the ports', which close it
	others    []int     // indexes of the devices that had another as this one was loaded
}

// loadUnderlay loads the program, or takes over the one that a device has from
// an agent before this one, if that is the same version, over the same maps.
func (h *Host) loadUnderlay(p *portProgram) (*underlayProgram, error) {
	u, err := newUnderlayProgram(p)
	if err != nil {
		return nil, fmt.Errorf("load the program for the underlay: %w", err)
	}
	devices, err := h.route.underlayFilters(nil)
	if err != nil {
		u.close()
		return nil, err
	}
	for index, f := range devices {
		u.others = append(u.others, index)
		if f.tag != u.tag {
			continue
		}
		if found := openUnderlay(f.id, u, p); found != nil {
			u.close()
			return found, nil
		}
	}
	return u, nil
}

// An underlayLoad is what came of loading the program for the underlay.
type underlayLoad struct {
	program *underlayProgram // nil: it could not be loaded
	err     error            // why not
	at      time.Time
}

// loadAgainAfter is how long a program that could not be loaded, such as for want
// of memory, is not tried again: the verifier takes milliseconds.
const loadAgainAfter = 20 * time.Second

// loadBeside loads the program for the underlay beside that for ports.
func (h *Host) loadBeside(p *portProgram) {
	u, err := h.loadUnderlay(p)
	p.setBeside(u, err)
}

// setBeside notes what came of loading it.
func (p *portProgram) setBeside(u *underlayProgram, err error) {
	if err != nil {
		// What an agent before this one has told ports nobody could take back.
		err = errors.Join(err, p.closeWay())
	}
	p.beside.Store(&underlayLoad{u, err, time.Now()})
}

// underlay returns the program for the underlay; nil if there is none.
func (p *portProgram) underlay() *underlayProgram {
	if l := p.beside.Load(); l != nil {
		return l.program
	}
	return nil
}

// underlayProgram returns the program, or why there is none.
func (h *Host) underlayProgram() (*underlayProgram, error) {
	p, err := h.port()
	if err != nil {
		return nil, err
	}
	if u := p.underlay(); u != nil {
		return u, nil
	}
	if l := p.beside.Load(); l != nil {
		return nil, errors.Join(errNoProgram, l.err)
	}
	return nil, errNoProgram
}

// reloadUnderlay is underlayProgram that tries again where loading has failed some
// time ago.
func (h *Host) reloadUnderlay() (*underlayProgram, error) {
	p, err := h.port()
	if err != nil {
		return nil, err
	}
	h.loading.Lock()
	defer h.loading.Unlock()
	if l := p.beside.Load(); l != nil && l.program == nil && time.Since(l.at) >= loadAgainAfter {
		h.loadBeside(p)
	}
	return h.underlayProgram()
}

func newUnderlayProgram(p *portProgram) (*underlayProgram, error) {
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(underlayObject))
	if err != nil {
		return nil, err
	}
	all, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{
		MapReplacements: map[string]*ebpf.Map{portsName: p.ports, macsName: p.macs},
	})
	if err != nil {
		return nil, err
	}
	defer all.Close() // but for what is detached from it
	u := &underlayProgram{
		prog:      all.DetachProgram(underlayName),
		underlays: all.DetachMap(underlaysName),
		vteps:     all.DetachMap(UnderlayVTEPs),
		vnis:      all.DetachMap(vnisName),
		way:       p.way,
	}
	if u.id, u.tag, err = identify(u.prog); err != nil {
		u.close()
		return nil, err
	}
	return u, nil
}

// openUnderlay opens a program that is there, with its maps; nil if it is not
// what it seems, finds its endpoints elsewhere, or is gone meanwhile.
func openUnderlay(id ebpf.ProgramID, like *underlayProgram, p *portProgram) *underlayProgram {
	prog, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return nil
	}
	u := &underlayProgram{prog: prog, way: p.way}
	var ports, macs *ebpf.Map
	err = openMaps(prog, map[string]**ebpf.Map{
		underlaysName: &u.underlays, UnderlayVTEPs: &u.vteps, vnisName: &u.vnis, portsName: &ports, macsName: &macs,
	})
	if err == nil {
		u.id, u.tag, err = identify(prog)
	}
	same := err == nil && u.tag == like.tag && sameSize(u.underlays, like.underlays) &&
		sameSize(u.vteps, like.vteps) && sameSize(u.vnis, like.vnis) && sameMapOf(ports, p.ports) && sameMapOf(macs, p.macs)
	for _, m := range []*ebpf.Map{ports, macs} {
		if m != nil {
			m.Close()
		}
	}
	if !same {
		u.close()
		return nil
	}
	return u
}

func (u *underlayProgram) close() { closeAll(u.prog, u.underlays, u.vteps, u.vnis) }

// An underlayEntry is struct underlay of underlay.c: this node's address and the
// tunnel's UDP port, in network order.
type underlayEntry [8]byte

func encodeUnderlay(p Program) (e underlayEntry, err error) {
	if !p.IPv4.Is4() {
		return e, fmt.Errorf("the program for the underlay needs an IPv4 address, not %s", p.IPv4)
	}
	copy(e[:], p.IPv4.AsSlice())
	binary.BigEndian.PutUint16(e[4:], p.Port)
	return e, nil
}

func (e underlayEntry) decode() Program {
	return Program{
		Kind: ProgramUnderlay, IPv4: netip.AddrFrom4([4]byte(e[:4])), Port: binary.BigEndian.Uint16(e[4:]), Open: true,
	}
}

// set tells the program of a device, and ports that the tunnel's packets leave by
// it.
func (u *underlayProgram) set(index uint32, want Program) error {
	e, err := encodeUnderlay(want)
	if err != nil {
		return err
	}
	if !want.Open {
		return u.forget(index)
	}
	if err := u.underlays.Put(index, e); err != nil {
		return fmt.Errorf("write the entry of device %d: %w", index, err)
	}
	return u.setWay(wayOf(index, e))
}

// forget has the program take nothing at a device any more, and ports send nothing by
// it.
func (u *underlayProgram) forget(index uint32) error {
	if err := u.leaveWay(index); err != nil {
		return err
	}
	if err := u.underlays.Delete(index); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("delete the entry of device %d: %w", index, err)
	}
	return nil
}

// told returns what the program is told, of each device. One that ports do not send
// by is not open.
func (u *underlayProgram) told() (map[int]Program, error) {
	way, err := u.currentWay()
	if err != nil {
		return nil, err
	}
	out := map[int]Program{}
	var index uint32
	var e underlayEntry
	all := u.underlays.Iterate()
	for all.Next(&index, &e) {
		p := e.decode()
		p.Open = wayOf(index, e) == way
		out[int(index)] = p
	}
	if err := all.Err(); err != nil {
		return nil, fmt.Errorf("list the devices of the program for the underlay: %w", err)
	}
	return out, nil
}

// vniKey is a VNI as it stands in a header, with the byte behind it.
func vniKey(vni uint32) (key [4]byte) {
	binary.BigEndian.PutUint32(key[:], vni<<8)
	return key
}

func (u *underlayProgram) tellVNI(p Program) error {
	network, err := networkNumber(p.Bridge)
	if err == nil {
		err = u.vnis.Put(vniKey(p.VNI), network)
	}
	if err != nil {
		return fmt.Errorf("write the network of VNI %d: %w", p.VNI, err)
	}
	return nil
}

func (u *underlayProgram) forgetVNI(vni uint32) error {
	if err := u.vnis.Delete(vniKey(vni)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("delete the network of VNI %d: %w", vni, err)
	}
	return nil
}

// checkVNI drops the VNI of what is told of a tunnel if that does not lead to its
// network.
func (u *underlayProgram) checkVNI(told *Program) error {
	if told.VNI == 0 {
		return nil
	}
	var network uint64
	err := u.vnis.Lookup(vniKey(told.VNI), &network)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("look up the network of VNI %d: %w", told.VNI, err)
	}
	if want, failed := networkNumber(told.Bridge); err != nil || failed != nil || network != want {
		told.VNI = 0
	}
	return nil
}

// readVTEPs returns the set that the program asks.
func (u *underlayProgram) readVTEPs() (map[netip.Prefix]struct{}, error) {
	out := map[netip.Prefix]struct{}{}
	var vtep [4]byte
	var nothing uint8
	all := u.vteps.Iterate()
	for all.Next(&vtep, &nothing) {
		out[Single(netip.AddrFrom4(vtep))] = struct{}{}
	}
	if err := all.Err(); err != nil {
		return nil, fmt.Errorf("list %s: %w", UnderlayVTEPs, err)
	}
	return out, nil
}

// setVTEP carries out an op on an entry of the set.
func (h *Host) setVTEP(op Op) error {
	u, err := h.underlayProgram()
	if err != nil {
		return err
	}
	if o, ok := op.(AddSetEntry); ok {
		return u.setVTEP(o.Member, true)
	}
	return u.setVTEP(op.(DelSetEntry).Member, false)
}

// setVTEP adds an address to the set or deletes it.
func (u *underlayProgram) setVTEP(p netip.Prefix, in bool) error {
	a := p.Addr()
	if !a.Is4() || !p.IsSingleIP() {
		return fmt.Errorf("%s takes IPv4 addresses, not %s", UnderlayVTEPs, p)
	}
	if in {
		return u.vteps.Put(a.As4(), uint8(1))
	}
	if err := u.vteps.Delete(a.As4()); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return err
	}
	return nil
}

// clearVTEPs empties the set.
func (u *underlayProgram) clearVTEPs() error {
	all, err := u.readVTEPs()
	errs := []error{err}
	for p := range all {
		errs = append(errs, u.setVTEP(p, false))
	}
	return errors.Join(errs...)
}
