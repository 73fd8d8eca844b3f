package kernel

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/overspan/overspan"
	"golang.org/x/sys/unix"
)

// Read returns what the kernel holds of ours within the scope. If parts could
// not be read it returns the others, with Partial set, and the errors.
//
// The containers' ends are read of those veths that the scope's Endpoints tell
// the namespace of: the kernel has no way back from an interface to a path.
func (h *Host) Read(ctx context.Context, scope Scope) (State, error) {
	r := reader{Host: h, scope: scope, ours: map[int]device{}, seen: map[int]device{}}
	parts := []func() error{r.readLinks, r.readEndpoints, r.readAddrs, r.readFDB, r.readNeighs, r.readPrograms, r.readEntries, r.readPeers, r.readInsides, r.readRest}
	if len(scope.Chains) > 0 && !scope.All && !scope.Global {
		parts = append(parts, r.readSingleChains)
	}
	if len(scope.Sets) > 0 && !scope.All && !scope.Global {
		parts = append(parts, r.readSingleSets)
	}
	if scope.Tables {
		parts = append(parts, func() (err error) {
			r.state.Tables, err = r.readTables()
			return err
		})
	}
	if scope.All || scope.Global {
		parts = append(parts, func() error { return r.readGlobal(ctx) })
	}
	var errs []error
	for _, part := range parts {
		err := ctx.Err()
		if err == nil {
			err = part()
		}
		errs = append(errs, err)
	}
	err := errors.Join(errs...)
	r.state.Partial, r.state.NoIPv6 = err != nil, r.noIPv6
	if err != nil {
		err = fmt.Errorf("read the kernel's network state: %w", err)
	}
	return r.state, err
}

// A reader fills a State for a scope.
type reader struct {
	*Host
	scope Scope
	state State
	ours  map[int]device // in scope and not doomed, by index
	seen  map[int]device // whatever was looked at, by index
}

// readLinks finds the links of all networks in scope. It lists every link of
// the host: a port that was taken off its bridge is still to be found.
func (r *reader) readLinks() error {
	if !r.scope.All && len(r.scope.Networks) == 0 {
		return nil
	}
	all, err := r.route.links(0)
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	for _, d := range all {
		r.seen[d.index] = d
	}
	for _, d := range all {
		if d.ours() && (r.scope.All || d.leaving() || r.scope.takesNetworkOf(d.name, d.Link)) {
			r.take(d)
		}
	}
	return nil
}

// readEndpoints finds the veths of single endpoints, and their static entries.
func (r *reader) readEndpoints() error {
	var errs []error
	for _, key := range r.scope.Endpoints {
		name := overspan.VethName(key.Endpoint)
		if _, ok := r.state.Links[name]; ok {
			continue
		}
		d, err := r.route.link(name)
		if errors.Is(err, errNoDevice) || err == nil && !d.ours() {
			continue
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("look up %s: %w", name, err))
			continue
		}
		r.take(d)
		errs = append(errs, r.readStaticsOf(d))
	}
	return errors.Join(errs...)
}

func (r *reader) readStaticsOf(d device) error {
	if d.master == 0 {
		return nil
	}
	found, err := r.route.entries(unix.AF_BRIDGE, d.index, 0, r.takeFDB)
	if err != nil {
		return fmt.Errorf("list static entries of %s: %w", d.name, err)
	}
	r.state.Take(found)
	return nil
}

// take puts a link of ours into the state.
func (r *reader) take(d device) {
	if d.leaving() {
		put(&r.state.Doomed, d.name, struct{}{})
		return
	}
	l := d.Link
	if d.master != 0 {
		l.under(r.master(d.master))
	}
	if d.Kind == KindVeth {
		l.MAC = overspan.MAC{}
	}
	put(&r.state.Links, d.name, l)
	r.ours[d.index] = d
}

// under notes the bridge that a link is a port of. The kernel closes all ports of
// one that is down, and opens them again.
func (l *Link) under(bridge device) {
	l.Master = bridge.name
	l.Port.Closed = l.Port.Closed && bridge.Up
}

func (r *reader) master(index int) device {
	if d, ok := r.seen[index]; ok {
		return d
	}
	d, err := r.route.linkAt(index)
	if err != nil {
		return device{} // gone meanwhile, and the port with it on its way out
	}
	r.seen[index] = d
	return d
}

// each calls f for the links of a kind that belong to whole networks.
func (r *reader) each(kind LinkKind, f func(device) error) error {
	var errs []error
	for _, d := range r.ours {
		if d.Kind == kind {
			errs = append(errs, f(d))
		}
	}
	return errors.Join(errs...)
}

func (r *reader) readAddrs() error {
	takeAll := func(index int) error {
		found, err := r.route.addrs(index)
		if err != nil {
			return fmt.Errorf("list addresses: %w", err)
		}
		for _, a := range found {
			if d, ok := r.ours[a.index]; ok && d.Kind == KindBridge {
				put(&r.state.Addrs, Addr{Dev: d.name, Prefix: a.prefix}, struct{}{})
			}
		}
		return nil
	}
	if r.scope.All {
		return takeAll(0)
	}
	return r.each(KindBridge, func(d device) error { return takeAll(d.index) })
}

// readFDB reads the entries of VXLAN devices and the bridges' static ones.
func (r *reader) readFDB() error {
	takeAll := func(index, bridge int) error {
		found, err := r.route.entries(unix.AF_BRIDGE, index, bridge, r.takeFDB)
		if err != nil {
			return fmt.Errorf("list forwarding entries: %w", err)
		}
		r.state.Take(found)
		return nil
	}
	if r.scope.All {
		return takeAll(0, 0)
	}
	return errors.Join(
		r.each(KindVXLAN, func(d device) error { return takeAll(d.index, 0) }),
		r.each(KindBridge, func(d device) error { return takeAll(0, d.index) }),
	)
}

func (r *reader) takeFDB(s *State, e entry) {
	d, ok := r.ours[e.index]
	switch {
	case !ok:
	case d.Kind == KindVXLAN && e.isFDB():
		put(&s.FDB, FDBKey{Dev: d.name, MAC: e.mac}, e.dest())
	case d.Kind == KindVeth && e.isStatic():
		put(&s.Statics, FDBKey{Dev: d.name, MAC: e.mac}, struct{}{})
	}
}

func (r *reader) readNeighs() error {
	takeAll := func(index int) error {
		found, err := r.route.entries(unix.AF_UNSPEC, index, 0, func(s *State, e entry) {
			if d, ok := r.ours[e.index]; ok && d.Kind == KindVXLAN && e.isNeigh() {
				put(&s.Neighs, NeighKey{Dev: d.name, IP: e.dst}, e.llAddr())
			}
		})
		if err != nil {
			return fmt.Errorf("list neighbours: %w", err)
		}
		r.state.Take(found)
		return nil
	}
	if r.scope.All {
		return takeAll(0)
	}
	return r.each(KindVXLAN, func(d device) error { return takeAll(d.index) })
}

// readEntries reads the single entries that the scope names. Those of a device
// that is not there, or not ours, are absent.
func (r *reader) readEntries() error {
	finder := finder{conn: r.route}
	var errs []error
	for _, key := range r.scope.FDB {
		e, ok, err := finder.entry(key.Dev, func(index int) message { return fdbQuestion(index, key.MAC) })
		if err != nil {
			errs = append(errs, fmt.Errorf("look up forwarding entry %s of %s: %w", key.MAC, key.Dev, err))
		} else if ok && e.isFDB() {
			put(&r.state.FDB, key, e.dest())
		}
	}
	for _, key := range r.scope.Neighs {
		e, ok, err := finder.entry(key.Dev, func(index int) message { return neighQuestion(index, key.IP) })
		if err != nil {
			errs = append(errs, fmt.Errorf("look up neighbour %s of %s: %w", key.IP, key.Dev, err))
		} else if ok && e.isNeigh() {
			put(&r.state.Neighs, key, e.llAddr())
		}
	}
	return errors.Join(errs...)
}

func (r *reader) readInsides() error {
	devices := map[string]device{}
	for _, d := range r.ours {
		devices[d.name] = d
	}
	var errs []error
	for _, key := range r.scope.Endpoints {
		name := overspan.VethName(key.Endpoint)
		d, ok := devices[name]
		if !ok || key.Netns == "" {
			continue
		}
		in, ok, err := r.readInside(d, key.Netns, r.scope.InsideSysctls[name])
		if err != nil {
			errs = append(errs, fmt.Errorf("read the inside of %s: %w", name, err))
		} else if ok {
			put(&r.state.Insides, name, in)
		}
	}
	return errors.Join(errs...)
}

func (r *reader) readRest() (err error) {
	r.state.Sysctls, err = r.readSysctls(r.scope.Sysctls)
	return err
}

func (r *reader) readSingleChains() (err error) {
	r.state.Chains, err = r.Host.readSingleChains(r.scope.Chains)
	return err
}

func (r *reader) readSingleSets() error {
	all, err := r.readSets()
	for name, set := range all {
		if slices.Contains(r.scope.Sets, name) {
			put(&r.state.Sets, name, set)
		}
	}
	return err
}

// readGlobal reads what belongs to no network.
func (r *reader) readGlobal(ctx context.Context) error {
	var errs [4]error
	r.state.Netns, errs[0] = r.readPins()
	r.state.Sets, errs[1] = r.readSets()
	r.state.Chains, errs[2] = r.readChains(ctx)
	errs[3] = r.readUnderlays()
	if errs[1] == nil && errs[2] == nil {
		r.inheritOwed(r.state)
	}
	r.state.Owed = r.readOwed()
	return errors.Join(errs[:]...)
}
