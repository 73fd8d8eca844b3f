package kernel

import (
	"encoding/hex"
	"errors"
	"slices"

	"github.com/cilium/ebpf"
)

// identify asks the kernel under which id it has a program, and which it is.
func identify(prog *ebpf.Program) (ebpf.ProgramID, string, error) {
	info, err := prog.Info()
	if err != nil {
		return 0, "", err
	}
	id, ok := info.ID()
	if !ok {
		return 0, "", errors.New("the kernel tells no ids of programs")
	}
	return id, info.Tag, nil
}

// tagText writes a program's tag as the kernel's tools do.
func tagText(tag []byte) string { return hex.EncodeToString(tag) }

// openMaps opens the maps of a program that have the given names.
func openMaps(prog *ebpf.Program, named map[string]**ebpf.Map) error {
	info, err := prog.Info()
	if err != nil {
		return err
	}
	ids, _ := info.MapIDs()
	for _, id := range ids {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			return err
		}
		about, err := m.Info()
		if err != nil {
			m.Close()
			return err
		}
		if to := named[about.Name]; to != nil && *to == nil {
			*to = m
		} else {
			m.Close()
		}
	}
	return nil
}

// sameSize reports whether a map is like another.
func sameSize(a, b *ebpf.Map) bool {
	return a != nil && a.Type() == b.Type() && a.KeySize() == b.KeySize() && a.ValueSize() == b.ValueSize()
}

// sameSizes reports whether each of some maps is like another.
func sameSizes(a, b []*ebpf.Map) bool { return slices.EqualFunc(a, b, sameSize) }

// sameMapOf reports whether both are one map of the kernel's.
func sameMapOf(a, b *ebpf.Map) bool {
	if a == nil {
		return false
	}
	x, err := a.Info()
	if err != nil {
		return false
	}
	y, err := b.Info()
	if err != nil {
		return false
	}
	first, ok := x.ID()
	second, too := y.ID()
	return ok && too && first == second
}

// closeAll lets go of a program and of those of its maps that are there.
func closeAll(prog *ebpf.Program, maps ...*ebpf.Map) {
	prog.Close()
	for _, m := range maps {
		if m != nil {
			m.Close()
		}
	}
}
