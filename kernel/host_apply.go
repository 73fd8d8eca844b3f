package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netns"

	"github.com/overspan/overspan"
)

// Apply carries out ops in order. An op that fails ends its own branch: what
// builds on it is skipped, everything else is still tried. The error is an
// *ApplyError. What is already so is no error.
func (h *Host) Apply(ctx context.Context, ops []Op) error {
	run := applying{failed: broken{}}
	for len(ops) > 0 {
		if err := ctx.Err(); err != nil {
			h.owe(ops...) // the rules before a flush may have been loaded
			return run.end(ops, err)
		}
		if run.skips(ops[0]) {
			h.log.Debug("op skipped", "op", ops[0])
			ops = ops[1:]
			continue
		}
		n := countEntries(ops, run.failed)
		if n > 0 {
			h.applyEntries(ops[:n], run.fail)
			ops = ops[n:]
			continue
		}
		n = max(1, countTable(ops, run.failed))
		for _, op := range ops[:n] {
			h.log.Debug("op", "op", op)
		}
		if err := h.applyAtOnce(ctx, ops[:n]); err != nil {
			for _, op := range ops[:n] {
				if !run.skips(op) {
					run.fail(op, err)
				}
			}
		}
		ops = ops[n:]
	}
	return run.err()
}

// countEntries returns how many ops at the front are entries that can be tried.
func countEntries(ops []Op, failed broken) int {
	for i, op := range ops {
		if !isEntry(op) || failed.blocks(op) {
			return i
		}
	}
	return len(ops)
}

// countTable returns how many ops at the front are about one table and can be
// tried: its chains, and then its jumps.
func countTable(ops []Op, failed broken) int {
	first, ok := opTable(ops[0])
	if !ok {
		return 0
	}
	for i, op := range ops {
		t, _ := opTable(op)
		if _, loads := op.(LoadChains); t != first || loads && i > 0 || failed.blocks(op) {
			return i
		}
	}
	return len(ops)
}

// opTable returns the table that an op changes which can travel with others.
func opTable(op Op) (t table, ok bool) {
	switch o := op.(type) {
	case LoadChains:
		return table{o.Family, o.Table}, true
	case AddJump:
		return o.Key.table(), true
	case DelJump:
		return o.Key.table(), true
	}
	return table{}, false
}

// isEntry reports whether an op is about an entry: these are small, alike and
// many, so that they travel together.
func isEntry(op Op) bool {
	switch op.(type) {
	case SetFDB, DelFDB, AddStatic, DelStatic, SetNeigh, DelNeigh, AddSetEntry, DelSetEntry:
		return true
	}
	return false
}

// applyEntries carries out entries in as few sends as they fit in.
func (h *Host) applyEntries(ops []Op, fail func(Op, error)) {
	finder := finder{conn: h.route}
	route, sets := pack{conn: h.route}, pack{conn: h.netfilter}
	teller := h.newTeller()
	for _, op := range ops {
		switch op.(type) {
		case AddSetEntry, DelSetEntry:
			if setOf(op) != UnderlayVTEPs {
				sets.add(op, setEntryMessage(op))
			} else if err := h.setVTEP(op); err != nil {
				fail(op, err)
			}
		default:
			m, d, err := entryMessage(op, &finder)
			if err == nil && m != nil {
				if untold := teller.tell(op, d); untold != nil {
					fail(op, untold) // the device is told all the same
				}
			}
			switch {
			case err != nil:
				fail(op, err)
			case m != nil:
				h.echoes.expect(d.index, op)
				route.add(op, m)
			}
		}
	}
	route.send(fail)
	sets.send(fail)
}

// setOf returns the set that an entry's op is about.
func setOf(op Op) string {
	if o, ok := op.(AddSetEntry); ok {
		return o.Set
	}
	return op.(DelSetEntry).Set
}

// A pack is messages that travel together, each with the op that it stands for.
type pack struct {
	conn *conn
	ops  []Op
	msgs []message
}

func (p *pack) add(op Op, m message) {
	p.ops = append(p.ops, op)
	p.msgs = append(p.msgs, m)
}

func (p *pack) send(fail func(Op, error)) {
	if len(p.msgs) == 0 {
		return
	}
	for i, err := range p.conn.execAll(p.msgs) {
		if err != nil && !alreadySo(p.ops[i], err) {
			fail(p.ops[i], err)
		}
	}
}

// applyAtOnce carries out what is about one table, or one op of another kind.
func (h *Host) applyAtOnce(ctx context.Context, ops []Op) error {
	if t, ok := opTable(ops[0]); ok {
		return h.withTool(t.family, func(tool *ruleTool) error { return h.setTable(ctx, tool, t.name, ops) })
	}
	return h.applyOne(ctx, ops[0])
}

func (h *Host) applyOne(ctx context.Context, op Op) error {
	switch o := op.(type) {
	case AddNetns:
		return h.addPin(o.Path)
	case DelNetns:
		return h.delPin(o.Path)
	case AddLink:
		return h.addLink(ctx, o)
	case SetLink:
		return h.setLink(o)
	case DelLink:
		return h.delLink(o.Name)
	case DoomLink:
		return h.doomLink(o.Name)
	case Retire:
		return h.Retire(ctx)
	case SetInside:
		return h.setInside(o)
	case SetSysctl:
		if err := h.mayForward(o.Path); err != nil {
			return err
		}
		return h.writeSysctl(o.Path, o.Value)
	case AddAddr:
		return h.addAddr(o.Addr)
	case DelAddr:
		return h.delAddr(o.Addr)
	case SetProgram:
		return h.setProgram(o)
	case AttachProgram:
		return h.attachProgram(o.Dev)
	case DelProgram:
		return h.delProgram(o.Dev)
	case AddSet:
		return h.addSet(o)
	case DelSet:
		return h.delSet(o.Name)
	case FlushFlows:
		return h.flushFlows(o)
	case DelTable:
		return h.delTable(o)
	case AddChain, DelChains:
		return h.applyRules(ctx, op)
	}
	return fmt.Errorf("unknown op %T", op)
}

// mayForward refuses to make a router of a host that has no rules of a family to
// say between whom.
func (h *Host) mayForward(path string) error {
	for family, forwards := range map[overspan.Family]string{overspan.IPv4: ForwardIPv4, overspan.IPv6: ForwardIPv6} {
		if path == forwards && h.rules[family] == nil {
			return overspan.Errorf(overspan.ErrUnsupported, "%s stays as it is: the %s packet filter tools are missing (package iptables)", path, family)
		}
	}
	return nil
}

// sysctlFile returns the file of a sysctl below /proc/sys. Device names hold no
// slash, so the path is taken as it is.
func sysctlFile(path string) (string, error) {
	if !filepath.IsLocal(path) {
		return "", fmt.Errorf("%s is no sysctl", path)
	}
	return filepath.Join("/proc/sys", path), nil
}

// writeSysctl writes a setting of the host's namespace.
func (h *Host) writeSysctl(path, value string) error {
	file, err := sysctlFile(path)
	if err != nil {
		return err
	}
	// What /proc/sys/net shows depends on the thread that opens it.
	return do(h.ns, func() error { return os.WriteFile(file, []byte(value), 0) })
}

// readSysctls reads settings of the host's namespace. One that does not exist
// is left out: its device is not there yet.
func (h *Host) readSysctls(paths []string) (map[string]string, error) {
	return readSysctlsIn(h.ns, paths)
}

// readSysctlsIn reads settings of a namespace.
func readSysctlsIn(ns netns.NsHandle, paths []string) (map[string]string, error) {
	values := map[string]string{}
	if len(paths) == 0 {
		return values, nil
	}
	err := do(ns, func() error {
		var errs []error
		for _, path := range paths {
			file, err := sysctlFile(path)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			raw, err := os.ReadFile(file)
			switch {
			case err == nil:
				values[path] = strings.TrimSpace(string(raw))
			case !errors.Is(err, os.ErrNotExist):
				errs = append(errs, err)
			}
		}
		return errors.Join(errs...)
	})
	return values, err
}
