package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/overspan/overspan"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Our program is a filter of the queueing discipline clsact. tcx would do the
// same, but takes a kernel of 2023 (6.6), and nobody is told when somebody
// detaches a program; filters are announced. Both outlive the agent.
const (
	// clsactHandle and clsactParent name a link's clsact (TC_H_CLSACT).
	clsactHandle = 0xffff0000
	clsactParent = 0xfffffff1

	// ingressParent is its ingress, egressParent its egress (TC_H_MIN_INGRESS,
	// TC_H_MIN_EGRESS).
	ingressParent = 0xfffffff2
	egressParent  = 0xfffffff3

	// portPref is the filter's place among those of a link of ours: before any
	// that is added without one. At others' devices it comes after those.
	portPref     = 91
	underlayPref = 65000

	// ourHandle is its handle there.
	ourHandle = 1
)

// A hook is where a program of ours hangs at the ingress of a link, and by which
// name it is known there.
type hook struct {
	pref uint32
	name string
}

func portHook() hook     { return hook{portPref, portName} }
func underlayHook() hook { return hook{underlayPref, underlayName} }

// head begins a message about the filter: it says where that is by its pref, and
// ETH_P_ALL in network order.
func (k hook) head(index int) *nl.TcMsg {
	return &nl.TcMsg{
		Family: unix.AF_UNSPEC, Ifindex: int32(index), Handle: ourHandle, Parent: ingressParent,
		Info: k.pref<<16 | unix.ETH_P_ALL<<8&0xff00,
	}
}

func addClsact(index int) message {
	head := &nl.TcMsg{Family: unix.AF_UNSPEC, Ifindex: int32(index), Handle: clsactHandle, Parent: clsactParent}
	return newMessage(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_EXCL, head, rtaText(nl.TCA_KIND, "clsact"))
}

// addFilter makes the filter, or changes the one that is there in one step; with
// NLM_F_EXCL it only makes it.
func (k hook) addFilter(index int, prog *ebpf.Program, flags int) message {
	return newMessage(unix.RTM_NEWTFILTER, unix.NLM_F_CREATE|flags, k.head(index),
		rtaText(nl.TCA_KIND, "bpf"),
		nest(nl.TCA_OPTIONS,
			rtaU32(nl.TCA_BPF_FD, uint32(prog.FD())),
			rtaText(nl.TCA_BPF_NAME, k.name),
			rtaU32(nl.TCA_BPF_FLAGS, nl.TCA_BPF_FLAG_ACT_DIRECT)),
	)
}

func (k hook) delFilter(index int) message {
	return newMessage(unix.RTM_DELTFILTER, 0, k.head(index), rtaText(nl.TCA_KIND, "bpf"))
}

// A filter is which program a filter of ours runs; zero if there is none.
type filter struct {
	id  ebpf.ProgramID
	tag string
}

// filter returns our filter at the ingress of a link.
func (c *conn) filter(index int, at hook) (filter, error) {
	head := at.head(index)
	head.Handle = 0 // a list of all that have the pref
	bodies, err := c.dump(newMessage(unix.RTM_GETTFILTER, 0, head))
	if errors.Is(err, unix.EINVAL) || errors.Is(err, errNoDevice) {
		return filter{}, nil // no clsact, or no such link any more
	}
	if err != nil {
		return filter{}, fmt.Errorf("list filters of link %d: %w", index, err)
	}
	for _, body := range bodies {
		if f := decodeFilter(body, at.name); f.id != 0 {
			return f, nil
		}
	}
	return filter{}, nil
}

// decodeFilter reads a filter; it is zero for all that do not bear our name.
func decodeFilter(b []byte, ours string) (f filter) {
	if len(b) < nl.SizeofTcMsg || binary.NativeEndian.Uint32(b[8:]) != ourHandle {
		return filter{}
	}
	name := ""
	for kind, v := range walk(b[nl.SizeofTcMsg:]) {
		if kind != nl.TCA_OPTIONS {
			continue
		}
		for kind, v := range walk(v) {
			switch kind {
			case nl.TCA_BPF_NAME:
				name = unix.ByteSliceToString(v)
			case nl.TCA_BPF_ID:
				f.id = ebpf.ProgramID(getU32(v))
			case nl.TCA_BPF_TAG:
				f.tag = tagText(v)
			}
		}
	}
	if name != ours {
		return filter{}
	}
	return f
}

// filterDevice returns the index of the link that a message about a filter or a
// queueing discipline is about.
func filterDevice(b []byte) int {
	if len(b) < nl.SizeofTcMsg {
		return 0
	}
	return int(int32(binary.NativeEndian.Uint32(b[4:])))
}

// setProgram tells the program of a link.
func (h *Host) setProgram(o SetProgram) error {
	if o.Want.Kind == ProgramUnderlay {
		return h.setUnderlay(o)
	}
	p, err := h.port()
	if err != nil {
		return err
	}
	f := finder{conn: h.route}
	d, err := f.ours(o.Dev)
	if err != nil {
		return err
	}
	if err := p.set(uint32(d.index), o.Want); err != nil {
		return err
	}
	return h.tellPeers(p, d)
}

func (h *Host) attachProgram(dev string) error {
	if !hasOurName(dev) {
		return h.attachUnderlay(dev)
	}
	p, err := h.port()
	if err != nil {
		return err
	}
	f := finder{conn: h.route}
	d, err := f.ours(dev)
	if err != nil {
		return err
	}
	return h.attachPort(d.index, p)
}

// attachPort gives a link the program. Where it has a clsact, or the older
// ingress, that is used: others' filters stay.
func (h *Host) attachPort(index int, p *portProgram) error {
	errs := h.route.execAll([]message{addClsact(index), portHook().addFilter(index, p.prog, 0)})
	if err := errs[0]; err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add clsact: %w", err)
	}
	if err := errs[1]; err != nil {
		return overspan.Errorf(overspan.ErrConflict, "add the filter with pref %d: %w: if another has that pref, remove it", portPref, err)
	}
	return nil
}

// delProgram takes the program off a link.
func (h *Host) delProgram(dev string) error {
	if !hasOurName(dev) {
		return h.delUnderlay(dev)
	}
	d, err := h.route.link(dev)
	if errors.Is(err, errNoDevice) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := checkOurs(d); err != nil {
		return err
	}
	if err := h.delFilter(d.index, portHook()); err != nil {
		return err
	}
	return h.forgetPort(d.index)
}

func (h *Host) delFilter(index int, at hook) error {
	err := h.route.exec(at.delFilter(index))
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, errNoDevice) {
		return fmt.Errorf("delete the filter: %w", err)
	}
	return nil
}

// forgetPort sees to it that nothing is passed on to a link any more.
func (h *Host) forgetPort(index int) error {
	p, err := h.port()
	if err != nil {
		return nil // there are no programs, so none was told anything
	}
	return p.forget(uint32(index))
}

// readPrograms reads which links have the program, and what it is told of them.
// A look at everything also finds what it is told of links that are gone, for
// Retire.
func (r *reader) readPrograms() error {
	p, err := r.port()
	if err != nil {
		return nil // there are none
	}
	var errs []error
	for _, d := range r.ours {
		if d.Kind != KindBridge {
			errs = append(errs, r.readProgram(p, d))
		}
	}
	if r.scope.All {
		errs = append(errs, r.readStrays(p))
	}
	return errors.Join(errs...)
}

func (r *reader) readProgram(p *portProgram, d device) error {
	f, err := r.route.filter(d.index, portHook())
	if err != nil {
		return err
	}
	told, known, err := p.get(uint32(d.index))
	if err != nil {
		return err
	}
	if known || f.id != 0 {
		told.Attached = f.id == p.id
		put(&r.state.Programs, d.name, told)
	}
	return nil
}

func (r *reader) readStrays(p *portProgram) error {
	all, err := p.indexes()
	if err != nil {
		return err
	}
	for _, index := range all {
		if _, there := r.ours[int(index)]; !there {
			put(&r.state.Doomed, strayName(index), struct{}{})
		}
	}
	return nil
}

// strayName is what a link that is gone is called, as ip(8) writes an index
// without a name.
func strayName(index uint32) string { return fmt.Sprintf("if%d", index) }

// sweepPorts takes away what the program is told of links that are gone: one that
// ends with its container tells nobody. Until then nothing is passed on to it.
func (h *Host) sweepPorts() error {
	p, err := h.port()
	if err != nil {
		return nil // there are no programs, so none was told anything
	}
	all, err := p.indexes()
	if err != nil {
		return err
	}
	var errs []error
	if u := p.underlay(); u != nil {
		errs = append(errs, h.sweepUnderlays(u))
	}
	for _, index := range all {
		d, err := h.route.linkAt(int(index))
		// A stranger that was moved here may have brought the same index along.
		if errors.Is(err, errNoDevice) || err == nil && !d.ours() {
			errs = append(errs, p.forget(index))
		}
	}
	return errors.Join(errs...)
}
