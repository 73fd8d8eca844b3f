package kernel

import (
	"cmp"
	"slices"
	"strings"
)

// Diff returns the ops that lead from have to want, in an order in which they
// can be carried out: what stands in the way goes first, then devices before
// what hangs on them, a veth's enslaving last of all but for routes that move to
// another container's end, then deletions. Equal inputs give equal ops.
//
// If either state is partial, nothing is deleted and nothing made anew: what
// is missing is unknown. Sysctls are never deleted, and a veth's container end
// is compared only where have holds one. Of a kernel without IPv6 none is wanted
// but at containers' ends.
//
// want must be whole in itself: an entry's device among its links, an inside
// for every veth.
func Diff(have, want State) []Op {
	partial := have.Partial || want.Partial
	if have.NoIPv6 {
		want = want.withoutIPv6()
	}
	if partial {
		want = union(have, want)
	}
	d := &differ{have: have, want: want, partial: partial}
	d.addNetns()
	d.clearWay()
	d.addSets()
	d.setChains()
	d.flushFlows(have)
	d.setLinks(KindBridge)
	d.setLinks(KindVXLAN)
	d.setSysctls()
	d.setAddrs()
	d.setFDB()
	d.setNeighs()
	d.setInsides()
	d.addVeths()
	d.setSysctls()
	d.setPrograms()
	d.setLinks(KindVeth)
	d.setStatics()
	d.setRoutes()
	d.delLinks()
	d.delChains()
	d.delTables()
	d.delSets()
	d.delNetns()
	return d.ops
}

// A differ is a Diff under way. Every op is applied to have at once, so that
// the steps after it see what the kernel will hold by then.
type differ struct {
	have, want State
	partial    bool
	owned      bool // have is our own copy
	ops        []Op
}

// do adds an op.
func (d *differ) do(op Op) {
	if !d.owned {
		d.have, d.owned = d.have.Clone(), true
	}
	op.apply(&d.have)
	d.ops = append(d.ops, op)
}

func (d *differ) addNetns() {
	for _, path := range missing(d.have.Netns, d.want.Netns, strings.Compare) {
		d.do(AddNetns{path})
	}
}

func (d *differ) delNetns() {
	for _, path := range stale(d.have.Netns, d.want.Netns, strings.Compare) {
		d.do(DelNetns{path})
	}
}

// setSysctls writes what can be written by now: a setting of a device that is
// still to be made waits for the next call.
func (d *differ) setSysctls() {
	for _, path := range missing(d.have.Sysctls, d.want.Sysctls, compareSysctls) {
		dev := sysctlDev(path)
		_, wanted := d.want.Links[dev]
		if _, there := d.have.Links[dev]; there || !wanted {
			d.do(SetSysctl{path, d.want.Sysctls[path], d.have.Sysctls[path]})
		}
	}
}

// compareSysctls puts the switches for forwarding last: IPv6 forwarding makes
// the kernel drop routes that it learned by RA, unless accept_ra says otherwise
// by then.
func compareSysctls(a, b string) int {
	last := func(path string) int {
		if path == ForwardIPv4 || path == ForwardIPv6 {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(last(a), last(b)), strings.Compare(a, b))
}

// setAddrs deletes before it adds: deleting an IPv4 address can take others of
// its subnet along (see DelAddr), which are then added again.
func (d *differ) setAddrs() {
	for _, a := range stale(d.have.Addrs, d.want.Addrs, compareAddrs) {
		if d.stays(a.Dev) {
			d.do(DelAddr{a})
		}
	}
	for _, a := range missing(d.have.Addrs, d.want.Addrs, compareAddrs) {
		d.do(AddAddr{a})
	}
}

// setFDB and setNeighs also delete here, not at the end: a slot that has come
// to this node must not be answered for by the VXLAN device when its veth joins
// the bridge.
func (d *differ) setFDB() {
	for _, k := range missing(d.have.FDB, d.want.FDB, compareFDBKeys) {
		have := d.have.FDB[k]
		if !have.atDevice() {
			have = Dest{} // what ports are told alone is overwritten
		}
		if have != (Dest{}) && !have.VTEP.IsValid() && !d.partial {
			d.do(DelFDB{k, have})
			have = Dest{}
		}
		d.do(SetFDB{Key: k, Dst: d.want.FDB[k].VTEP, Was: have})
	}
	for _, k := range stale(d.have.FDB, d.want.FDB, compareFDBKeys) {
		if d.stays(k.Dev) {
			d.do(DelFDB{k, d.have.FDB[k]})
		}
	}
}

func (d *differ) setNeighs() {
	for _, k := range missing(d.have.Neighs, d.want.Neighs, compareNeighKeys) {
		d.do(SetNeigh{Key: k, MAC: d.want.Neighs[k].MAC, Was: d.have.Neighs[k]})
	}
	for _, k := range stale(d.have.Neighs, d.want.Neighs, compareNeighKeys) {
		if d.stays(k.Dev) {
			d.do(DelNeigh{k, d.have.Neighs[k]})
		}
	}
}

func (d *differ) setStatics() {
	for _, k := range missing(d.have.Statics, d.want.Statics, compareFDBKeys) {
		d.do(AddStatic{k})
	}
	for _, k := range stale(d.have.Statics, d.want.Statics, compareFDBKeys) {
		if d.stays(k.Dev) {
			d.do(DelStatic{k})
		}
	}
}

// stays reports whether a device will not be deleted: only then its entries
// are worth an op of their own.
func (d *differ) stays(dev string) bool {
	_, there := d.have.Links[dev]
	_, wanted := d.want.Links[dev]
	return wanted || !there
}

// missing returns, in order, the keys of want that have lacks or holds another
// value for.
func missing[K, V comparable](have, want map[K]V, order func(a, b K) int) []K {
	var keys []K
	for k, w := range want {
		if h, ok := have[k]; !ok || h != w {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, order)
	return keys
}

// stale returns, in order, the keys of have that want lacks.
func stale[K comparable, V, W any](have map[K]V, want map[K]W, order func(a, b K) int) []K {
	var keys []K
	for k := range have {
		if _, ok := want[k]; !ok {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, order)
	return keys
}

func compareAddrs(a, b Addr) int {
	return cmp.Or(strings.Compare(a.Dev, b.Dev), a.Prefix.Compare(b.Prefix))
}

func compareFDBKeys(a, b FDBKey) int {
	return cmp.Or(strings.Compare(a.Dev, b.Dev), slices.Compare(a.MAC[:], b.MAC[:]))
}

func compareNeighKeys(a, b NeighKey) int {
	return cmp.Or(strings.Compare(a.Dev, b.Dev), a.IP.Compare(b.IP))
}
