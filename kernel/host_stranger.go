package kernel

import (
	"errors"
	"fmt"

	"github.com/overspan/overspan"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A device of others is known by its name and index alone. Of all that hangs on
// it only the filter under our name and pref is ours.

// underlayFilters returns which devices of others have the program, by their
// index; those of ours are left out.
func (c *conn) underlayFilters(ours map[int]device) (map[int]filter, error) {
	all, err := c.dump(newMessage(unix.RTM_GETQDISC, 0, &nl.TcMsg{Family: unix.AF_UNSPEC}))
	if err != nil {
		return nil, fmt.Errorf("list queueing disciplines: %w", err)
	}
	out := map[int]filter{}
	for _, body := range all {
		index := filterDevice(body)
		if _, is := ours[index]; is || !takesFilters(body) {
			continue
		}
		f, err := c.filter(index, underlayHook())
		if err != nil {
			return nil, err
		}
		if f.id != 0 {
			out[index] = f
		}
	}
	return out, nil
}

// takesFilters reports whether a message is about a clsact, or the older ingress.
func takesFilters(b []byte) bool {
	kind := qdiscKind(b)
	return kind == "clsact" || kind == "ingress"
}

func qdiscKind(b []byte) string {
	for kind, v := range walk(b[min(len(b), nl.SizeofTcMsg):]) {
		if kind == nl.TCA_KIND {
			return unix.ByteSliceToString(v)
		}
	}
	return ""
}

// aboutUnderlay reports whether a message is about a filter at our place among
// those of a device of others, or the end of what such filters hang on.
func aboutUnderlay(kind uint16, b []byte) bool {
	if kind == unix.RTM_DELQDISC {
		return takesFilters(b)
	}
	return len(b) >= nl.SizeofTcMsg && getU32(b[16:20])>>16 == underlayPref
}

// stranger finds a device of others.
func (h *Host) stranger(dev string) (device, error) {
	d, err := h.route.link(dev)
	switch {
	case errors.Is(err, errNoDevice):
		return d, overspan.Errorf(overspan.ErrNotFound, "interface %s not found", dev)
	case err != nil:
		return d, fmt.Errorf("look up %s: %w", dev, err)
	case d.ours():
		return d, overspan.Errorf(overspan.ErrInvalid, "%s is one of our own links", dev)
	}
	return d, nil
}

func (h *Host) setUnderlay(o SetProgram) error {
	u, err := h.underlayProgram()
	if err != nil {
		return err
	}
	d, err := h.stranger(o.Dev)
	if err != nil {
		return err
	}
	return u.set(uint32(d.index), o.Want)
}

// obstructed says what keeps the program from a device of others; "" if nothing
// does, or the device has it.
func (h *Host) obstructed(d device) (string, error) {
	f, err := h.route.filter(d.index, underlayHook())
	if err != nil || f.id != 0 {
		return "", err
	}
	all, err := h.route.dump(newMessage(unix.RTM_GETQDISC, 0, &nl.TcMsg{Family: unix.AF_UNSPEC, Ifindex: int32(d.index)}))
	if err != nil {
		return "", fmt.Errorf("list queueing disciplines: %w", err)
	}
	for _, body := range all {
		if filterDevice(body) == d.index && takesFilters(body) && qdiscBlock(body) != 0 {
			return fmt.Sprintf("%s shares its filters with other devices (tc block %d)", d.name, qdiscBlock(body)), nil
		}
	}
	head := &nl.TcMsg{Family: unix.AF_UNSPEC, Ifindex: int32(d.index), Parent: ingressParent, Info: underlayPref << 16}
	filters, err := h.route.dump(newMessage(unix.RTM_GETTFILTER, 0, head))
	if errors.Is(err, unix.EINVAL) || errors.Is(err, errNoDevice) {
		return "", nil // no clsact, or no such link any more
	}
	if err != nil {
		return "", fmt.Errorf("list filters of %s: %w", d.name, err)
	}
	if len(filters) > 0 {
		return fmt.Sprintf("somebody else has a filter with pref %d at %s", underlayPref, d.name), nil
	}
	return "", nil
}

// tcaIngressBlock is the attribute of the block that a clsact's ingress shares
// with others: linux/rtnetlink.h, TCA_INGRESS_BLOCK.
const tcaIngressBlock = 13

// qdiscBlock returns the block whose filters a queueing discipline asks; 0: its
// own alone.
func qdiscBlock(b []byte) uint32 {
	for kind, v := range walk(b[min(len(b), nl.SizeofTcMsg):]) {
		if kind == tcaIngressBlock {
			return getU32(v)
		}
	}
	return 0
}

// attachUnderlay gives a device of others the program. A filter of somebody else
// in its place stays.
func (h *Host) attachUnderlay(dev string) error {
	u, err := h.underlayProgram()
	if err != nil {
		return err
	}
	d, err := h.stranger(dev)
	if err != nil {
		return err
	}
	was, err := h.route.filter(d.index, underlayHook())
	if err != nil {
		return err
	}
	flags := unix.NLM_F_EXCL
	if was.id != 0 {
		flags = 0
	}
	errs := h.route.execAll([]message{addClsact(d.index), underlayHook().addFilter(d.index, u.prog, flags)})
	if err := errs[0]; err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add clsact: %w", err)
	}
	if err := errs[1]; err != nil {
		return overspan.Errorf(overspan.ErrConflict, "add the filter with pref %d to %s: %w: if another has that pref, remove it", underlayPref, dev, err)
	}
	return nil
}

// delUnderlay takes the program off a device of others. While the kernel adds or
// deletes a clsact, a device that is up drops for some milliseconds what it is to
// send (dev_deactivate in net/sched/sch_generic.c): so it stays for the next time.
func (h *Host) delUnderlay(dev string) error {
	d, err := h.route.link(dev)
	if errors.Is(err, errNoDevice) {
		return nil
	}
	if err != nil {
		return err
	}
	f, err := h.route.filter(d.index, underlayHook())
	if err != nil {
		return err
	}
	if f.id != 0 {
		err = h.delFilter(d.index, underlayHook())
	}
	if f.id != 0 && err == nil && h.config.Leaving {
		err = h.delEmptyClsact(d.index)
	}
	if u, failed := h.underlayProgram(); failed == nil {
		err = errors.Join(err, u.forget(uint32(d.index)))
	}
	return err
}

// delEmptyClsact deletes a device's clsact unless somebody has a filter there,
// for what comes in or goes out. Who made it cannot be seen; empty it does
// nothing.
func (h *Host) delEmptyClsact(index int) error {
	all, err := h.route.dump(newMessage(unix.RTM_GETQDISC, 0, &nl.TcMsg{Family: unix.AF_UNSPEC, Ifindex: int32(index)}))
	if err != nil {
		return fmt.Errorf("list queueing disciplines: %w", err)
	}
	for _, body := range all {
		if filterDevice(body) != index || qdiscKind(body) != "clsact" {
			continue
		}
		for _, parent := range []uint32{ingressParent, egressParent} {
			filters, err := h.route.dump(newMessage(unix.RTM_GETTFILTER, 0, &nl.TcMsg{Family: unix.AF_UNSPEC, Ifindex: int32(index), Parent: parent}))
			if err != nil {
				return fmt.Errorf("list filters: %w", err)
			}
			if len(filters) > 0 {
				return nil
			}
		}
		head := &nl.TcMsg{Family: unix.AF_UNSPEC, Ifindex: int32(index), Handle: clsactHandle, Parent: clsactParent}
		if err := h.route.exec(newMessage(unix.RTM_DELQDISC, 0, head)); err != nil {
			return fmt.Errorf("delete the empty clsact: %w", err)
		}
	}
	return nil
}

// readUnderlays reads which devices of others have the program, and what it is
// told of them. Of devices that it is told nothing of it looks at those that had
// another as it was loaded: one of an agent before, whose ports have gone, or of
// another version. A look at everything finds all.
func (r *reader) readUnderlays() error {
	// Where it cannot be loaded, one of an agent before this one may still be there.
	u, missing := r.underlayProgram()
	told := map[int]Program{}
	if missing == nil {
		var err error
		if told, err = u.told(); err != nil {
			return err
		}
	}
	found, err := r.otherUnderlays(u)
	if err != nil {
		return err
	}
	for index := range found {
		if _, known := told[index]; !known {
			told[index] = Program{Kind: ProgramUnderlay}
		}
	}
	var errs []error
	for index, program := range told {
		errs = append(errs, r.readUnderlay(u, index, program))
	}
	return errors.Join(errs...)
}

// otherUnderlays returns which devices of others have a program of ours, whichever.
// Without a look at everything some may be missing. U may be nil.
func (r *reader) otherUnderlays(u *underlayProgram) (map[int]filter, error) {
	if r.scope.All {
		return r.route.underlayFilters(r.ours)
	}
	if u == nil {
		return nil, nil
	}
	out := map[int]filter{}
	for _, index := range u.others {
		f, err := r.route.filter(index, underlayHook())
		if err != nil {
			return nil, err
		}
		if f.id != 0 {
			out[index] = f
		}
	}
	return out, nil
}

func (r *reader) readUnderlay(u *underlayProgram, index int, told Program) error {
	d, err := r.route.linkAt(index)
	if errors.Is(err, errNoDevice) {
		put(&r.state.Doomed, strayName(uint32(index)), struct{}{})
		return nil
	}
	if err != nil {
		return fmt.Errorf("look up device %d: %w", index, err)
	}
	f, err := r.route.filter(index, underlayHook())
	if err != nil {
		return err
	}
	if told.Attached = u != nil && f.id == u.id; !hasOurName(d.name) {
		put(&r.state.Programs, d.name, told)
	}
	return nil
}

// sweepUnderlays takes away what the program is told of devices that are gone.
func (h *Host) sweepUnderlays(u *underlayProgram) error {
	told, err := u.told()
	if err != nil {
		return err
	}
	var errs []error
	for index := range told {
		if _, err := h.route.linkAt(index); errors.Is(err, errNoDevice) {
			errs = append(errs, u.forget(uint32(index)))
		}
	}
	return errors.Join(errs...)
}
