package kernel

import (
	"context"
	"net/netip"
	"slices"

	"github.com/overspan/overspan"
)

// fakeNsfs is the device number of the namespaces of a Fake.
const fakeNsfs = 4

// MakeNetns makes a network namespace that is not ours, such as a container's,
// with interfaces beside lo.
func (f *Fake) MakeNetns(path string, interfaces ...string) overspan.NetnsID {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.makeNetns(path, interfaces...)
}

func (f *Fake) makeNetns(path string, interfaces ...string) overspan.NetnsID {
	before, ok := f.spaces[path]
	if ok {
		delete(f.inodes, before.id.Ino)
	} else {
		before.veths = make(map[string]struct{})
	}
	f.cookies++
	id := overspan.NetnsID{Dev: fakeNsfs, Ino: f.freeInode(), Boot: "fake", Cookie: f.cookies}
	f.inodes[id.Ino] = struct{}{}
	f.spaces[path] = fakeNetns{id: id, foreign: append([]string{"lo"}, interfaces...), veths: before.veths}
	return id
}

// freeInode returns the lowest inode that no namespace has: nsfs, too, lends them
// again.
func (f *Fake) freeInode() uint64 {
	ino := uint64(1)
	for _, taken := f.inodes[ino]; taken; _, taken = f.inodes[ino] {
		ino++
	}
	return ino
}

// enterNetns remembers in which namespace a veth's other end is, if it has one.
func (f *Fake) enterNetns(veth string) {
	if space, ok := f.spaces[f.state.Insides[veth].Netns]; ok {
		space.veths[veth] = struct{}{}
	}
}

// LoseNetns ends a namespace, and the veths into it, as the end of its last
// process would.
func (f *Fake) LoseNetns(path string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := f.state.Clone()
	f.loseNetns(path)
	f.hint(before)
}

func (f *Fake) loseNetns(path string) {
	space := f.spaces[path]
	for veth := range space.veths {
		if f.state.Insides[veth].Netns == path {
			f.state.dropLink(veth)
		}
	}
	delete(f.inodes, space.id.Ino)
	delete(f.spaces, path)
}

// Netns says which network namespace a path names; the error is of class
// ErrNotFound if there is none.
func (f *Fake) Netns(path string) (overspan.NetnsID, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	space, ok := f.spaces[path]
	if !ok {
		return overspan.NetnsID{}, noNetns(path)
	}
	return space.id, nil
}

// Interfaces returns the sorted names of all interfaces in the namespace at
// path, lo included.
func (f *Fake) Interfaces(path string) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.spaces[path]; !ok {
		return nil, noNetns(path)
	}
	names := f.interfaces(path)
	slices.Sort(names)
	return names, nil
}

// interfaces returns the names of the interfaces in a namespace.
func (f *Fake) interfaces(path string) []string {
	space := f.spaces[path]
	names := slices.Clone(space.foreign)
	for veth := range space.veths {
		switch inside := f.state.Insides[veth]; {
		case inside.Netns != path:
			delete(space.veths, veth) // it was deleted, or moved
		case !inside.Missing:
			names = append(names, inside.Name)
		}
	}
	return names
}

// Underlay returns the underlay device if spec is its name or one of its
// addresses.
func (f *Fake) Underlay(spec string) (Underlay, error) {
	isSpec := func(a netip.Addr) bool { return a.String() == spec }
	if spec != f.underlay.Device && !slices.ContainsFunc(f.underlay.Addrs, isSpec) {
		return Underlay{}, overspan.Errorf(overspan.ErrNotFound, "interface %s not found", spec)
	}
	return f.underlay, nil
}

// HostRoutes returns the routes that the Fake was made with.
func (f *Fake) HostRoutes() ([]netip.Prefix, error) { return slices.Clone(f.routes), nil }

// Guard returns that a Fake runs programs.
func (f *Fake) Guard() Guard { return Guard{Programs: true} }

// Shortcut returns the underlay device: a Fake runs its program, too.
func (f *Fake) Shortcut(netip.Addr) (Shortcut, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return Shortcut{Device: f.underlay.Device, Index: f.remade + 1}, nil
}

// RemakeUnderlay makes the underlay device anew, as others do: what was at its
// ingress is gone.
func (f *Fake) RemakeUnderlay() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.remade++
	delete(f.state.Programs, f.underlay.Device)
	for p := range f.watchers {
		p.add(Hint{Links: true})
	}
}

// PortDrops returns nothing: no frame passes.
func (f *Fake) PortDrops() (map[string]uint64, error) { return nil, nil }

// Advertised returns nothing: nobody advertises routers to a Fake.
func (f *Fake) Advertised() ([]string, error) { return nil, nil }

// OpenRouter returns nothing: a Fake forwards nothing.
func (f *Fake) OpenRouter(context.Context) ([]overspan.Family, error) { return nil, nil }

// CheckSupport returns nothing: a Fake lacks nothing.
func (f *Fake) CheckSupport(context.Context) []string { return nil }
