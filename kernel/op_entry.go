package kernel

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/overspan/overspan"
)

// AddNetns makes a network namespace and pins it at a path.
type AddNetns struct {
	Path string
}

func (o AddNetns) String() string { return "add netns " + o.Path }
func (o AddNetns) apply(s *State) { put(&s.Netns, o.Path, struct{}{}) }

// DelNetns unpins a namespace that we made. It lives on while processes are in
// it.
type DelNetns struct {
	Path string
}

func (o DelNetns) String() string { return "del netns " + o.Path }
func (o DelNetns) apply(s *State) { delete(s.Netns, o.Path) }

// SetSysctl writes a file below /proc/sys. Was is what it held, "" if unknown.
type SetSysctl struct {
	Path, Value string
	Was         string
}

func (o SetSysctl) String() string { return "set sysctl " + o.Path + " " + o.Value + was(o.Was) }
func (o SetSysctl) apply(s *State) { put(&s.Sysctls, o.Path, o.Value) }

// AddAddr adds an address, without duplicate address detection, to a bridge.
type AddAddr struct {
	Addr Addr
}

func (o AddAddr) String() string { return "add addr " + o.Addr.String() }
func (o AddAddr) apply(s *State) { put(&s.Addrs, o.Addr, struct{}{}) }

// DelAddr takes an address off a bridge.
type DelAddr struct {
	Addr Addr
}

func (o DelAddr) String() string { return "del addr " + o.Addr.String() }

// apply drops every IPv4 address of the same subnet: the kernel does, unless
// promote_secondaries is set, where the deleted one was the first of them.
// Adding one that is still there is harmless.
func (o DelAddr) apply(s *State) {
	gone := o.Addr.Prefix
	s.dropAddrs(func(a Addr) bool {
		return a == o.Addr || a.Dev == o.Addr.Dev && gone.Addr().Is4() && a.Prefix.Masked() == gone.Masked()
	})
}

// SetFDB makes a VXLAN device send frames for a MAC to a VTEP. It replaces the
// entry that is there: appending a second destination is silently ignored by
// the kernel, and so is replacing one that has a nexthop. Was is what is replaced,
// zero if there was nothing.
type SetFDB struct {
	Key FDBKey
	Dst netip.Addr
	Was Dest
}

func (o SetFDB) String() string {
	if o.Was != (Dest{}) {
		return "replace fdb " + o.Key.String() + " dst " + o.Dst.String() + was(o.was())
	}
	return "add fdb " + o.Key.String() + " dst " + o.Dst.String()
}

// was returns what is replaced. Where ports send the frames says something only of an
// entry that is right otherwise.
func (o SetFDB) was() string {
	if o.Was.VTEP != o.Dst {
		return o.Was.bare().String()
	}
	return o.Was.String()
}

func (o SetFDB) apply(s *State) { put(&s.FDB, o.Key, Dest{VTEP: o.Dst}) }

// DelFDB deletes a MAC's entry from a VXLAN device. Dst is where it pointed.
type DelFDB struct {
	Key FDBKey
	Dst Dest
}

func (o DelFDB) String() string { return "del fdb " + o.Key.String() + " " + o.dst() }

// dst returns where the entry pointed, as bridge-fdb(8) has it if it is the device's.
func (o DelFDB) dst() string {
	if o.Dst.atDevice() {
		return o.Dst.bare().text()
	}
	return o.Dst.text()
}

func (o DelFDB) apply(s *State) { delete(s.FDB, o.Key) }

// AddStatic adds a static entry for a MAC behind a bridge port; an entry at
// another port of the bridge moves here.
type AddStatic struct {
	Key FDBKey
}

func (o AddStatic) String() string { return "add fdb " + o.Key.String() + " master static" }
func (o AddStatic) apply(s *State) { put(&s.Statics, o.Key, struct{}{}) }

// DelStatic deletes a static entry of a bridge port.
type DelStatic struct {
	Key FDBKey
}

func (o DelStatic) String() string { return "del fdb " + o.Key.String() + " master static" }
func (o DelStatic) apply(s *State) { delete(s.Statics, o.Key) }

// SetNeigh adds or replaces a permanent neighbour entry of a VXLAN device. Was
// is what is replaced, zero if there was nothing.
type SetNeigh struct {
	Key NeighKey
	MAC overspan.MAC
	Was LLAddr
}

func (o SetNeigh) String() string {
	to := LLAddr{MAC: o.MAC}
	if o.Was != (LLAddr{}) {
		return "replace neigh " + o.Key.text(to) + was(o.Was.String())
	}
	return "add neigh " + o.Key.text(to)
}

func (o SetNeigh) apply(s *State) { put(&s.Neighs, o.Key, LLAddr{MAC: o.MAC}) }

// DelNeigh deletes a permanent neighbour entry.
type DelNeigh struct {
	Key    NeighKey
	LLAddr LLAddr
}

func (o DelNeigh) String() string { return "del neigh " + o.Key.text(o.LLAddr) }
func (o DelNeigh) apply(s *State) { delete(s.Neighs, o.Key) }

// String returns the address as ip-address(8) takes it.
func (a Addr) String() string { return a.Prefix.String() + " dev " + a.Dev }

// String returns the key as bridge-fdb(8) takes it.
func (k FDBKey) String() string { return k.MAC.String() + " dev " + k.Dev }

func (k NeighKey) text(to LLAddr) string {
	return fmt.Sprintf("%s lladdr %s dev %s", k.IP, to, k.Dev)
}

// String returns "192.0.2.2", "192.0.2.2 port 9999" or "nhid 2".
func (d Dest) String() string {
	other := d.Other
	if d.Ports != "" {
		other = withOther(d.Other, "ports "+d.Ports)
	}
	if !d.VTEP.IsValid() {
		return other
	}
	return withOther(d.VTEP.String(), other)
}

// atDevice reports whether the device has such an entry, and not ports alone.
func (d Dest) atDevice() bool { return d.bare() != (Dest{}) }

// bare is the destination as the device alone has it.
func (d Dest) bare() Dest {
	d.Ports = ""
	return d
}

// text returns the destination as bridge-fdb(8) takes it.
func (d Dest) text() string { return either(d.VTEP.IsValid(), "dst ", "") + d.String() }

// String returns "02:42:0a:00:00:02" or "02:42:0a:00:00:02 router".
func (a LLAddr) String() string { return withOther(a.MAC.String(), a.Other) }

func withOther(text, other string) string { return strings.TrimSpace(text + " " + other) }

func was(old string) string {
	if old == "" {
		return ""
	}
	return " (was " + old + ")"
}
