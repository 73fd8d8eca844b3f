package kernel

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// clearWay removes what would make the making of a wanted link fail.
func (d *differ) clearWay() {
	d.retireWanted()
	for _, name := range slices.Sorted(maps.Keys(d.have.Links)) {
		if d.remade(name) || d.inTheWay(name) {
			d.do(DelLink{name})
		}
	}
}

// retireWanted empties the doomed group if a link in it has a name that is wanted
// again.
func (d *differ) retireWanted() {
	for name := range d.have.Doomed {
		if _, wanted := d.want.Links[name]; wanted {
			d.do(Retire{slices.Sorted(maps.Keys(d.have.Doomed))})
			return
		}
	}
}

// remade reports whether a link that is there, and wanted, differs in what only
// its making can set.
func (d *differ) remade(name string) bool {
	want, wanted := d.want.Links[name]
	if !wanted {
		return false
	}
	if !d.have.Links[name].convertible(want) {
		return true
	}
	inside, read := d.have.Insides[name]
	return read && !inside.convertible(d.want.Insides[name])
}

// convertible reports whether SetLink can make want of l.
func (l Link) convertible(want Link) bool {
	if l.Kind != want.Kind {
		return false
	}
	if l.Kind != KindVXLAN {
		return true
	}
	l.VXLAN.AddrGenNone = want.VXLAN.AddrGenNone
	return l.VXLAN == want.VXLAN
}

// convertible reports whether SetInside can make want of i. What is planned is
// never missing.
func (i Inside) convertible(want Inside) bool {
	return i.Missing == want.Missing && i.Netns == want.Netns
}

// inTheWay reports whether a link that nobody wants holds what a wanted one
// needs: its VNI, or the name of the interface in its container.
func (d *differ) inTheWay(name string) bool {
	if _, wanted := d.want.Links[name]; wanted {
		return false
	}
	have := d.have.Links[name]
	switch have.Kind {
	case KindVXLAN:
		for _, w := range d.want.Links {
			if w.Kind == KindVXLAN && w.VXLAN.VNI == have.VXLAN.VNI && w.VXLAN.Port == have.VXLAN.Port {
				return true
			}
		}
	case KindVeth:
		inside, read := d.have.Insides[name]
		if !read || inside.Missing {
			return false
		}
		for _, w := range d.want.Insides {
			if w.Netns == inside.Netns && w.Name == inside.Name {
				return true
			}
		}
	}
	return false
}

// setLinks makes the links of a kind that are absent and corrects the others.
func (d *differ) setLinks(kind LinkKind) {
	for _, name := range wantedLinks(d.want, kind) {
		want := d.want.Links[name]
		have, there := d.have.Links[name]
		have = have.asWanted(want)
		if !there {
			have = want
			have.AltName = "" // if another link bears it, ours is as good without
			d.do(AddLink{Name: name, Link: have})
		}
		if have != want {
			d.do(SetLink{Name: name, Have: have, Want: want})
		}
	}
}

// addVeths makes the veths that are absent, without a master: enslaving, which
// lets packets through, comes when all else stands.
func (d *differ) addVeths() {
	for _, name := range wantedLinks(d.want, KindVeth) {
		if _, there := d.have.Links[name]; there {
			continue
		}
		op := AddLink{Name: name, Link: d.want.Links[name]}
		op.Link.Master, op.Link.Port = "", Port{}
		if inside, ok := d.want.Insides[name]; ok {
			op.Inside = &inside
		}
		d.do(op)
	}
}

func wantedLinks(want State, kind LinkKind) []string {
	var names []string
	for name, l := range want.Links {
		if l.Kind == kind {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// asWanted returns l with what want has no opinion on taken from want.
func (l Link) asWanted(want Link) Link {
	if want.MAC.IsZero() {
		l.MAC = want.MAC
	}
	if want.Master == "" {
		l.Port = want.Port
	}
	if l.AltName != want.AltName {
		l.AltName = either(slices.Contains(strings.Fields(l.AltName), want.AltName), want.AltName, "")
	}
	return l
}

// setInsides comes before new veths are made: a name that is to change may be
// wanted by one of them. What differs in routes alone waits for setRoutes.
func (d *differ) setInsides() {
	for _, veth := range slices.Sorted(maps.Keys(d.want.Insides)) {
		have, read := d.have.Insides[veth]
		want := d.want.Insides[veth]
		kept := have
		kept.Routes = want.Routes
		if read && !kept.equal(want) {
			d.do(SetInside{veth, have, want})
		}
	}
}

// setRoutes moves routes between the interfaces of a container: to one that is
// on its bridge by now, before they leave the other, so that there is one all
// the time.
func (d *differ) setRoutes() {
	veths := slices.DeleteFunc(slices.Sorted(maps.Keys(d.want.Insides)), func(veth string) bool {
		have, read := d.have.Insides[veth]
		return !read || have.equal(d.want.Insides[veth])
	})
	losing := func(veth string) int { return len(missingOf(d.want.Insides[veth].Routes, d.have.Insides[veth].Routes)) }
	slices.SortStableFunc(veths, func(a, b string) int { return cmp.Compare(losing(a), losing(b)) })
	for _, veth := range veths {
		d.do(SetInside{veth, d.have.Insides[veth], d.want.Insides[veth]})
	}
	d.dropRoutes()
}

// dropRoutes takes the routes off an interface that is about to go, of a
// container that has others. A doomed one is there until it is retired, and a
// route that leads nowhere would go before those that lead somewhere.
func (d *differ) dropRoutes() {
	for _, veth := range slices.Sorted(maps.Keys(d.have.Insides)) {
		have := d.have.Insides[veth]
		if _, wanted := d.want.Insides[veth]; wanted || have.Missing || len(have.Routes) == 0 || !d.staysIn(have.Netns) {
			continue
		}
		without := have
		without.Routes = nil
		d.do(SetInside{veth, have, without})
	}
}

// staysIn reports whether a container keeps an interface.
func (d *differ) staysIn(netns string) bool {
	for _, in := range d.want.Insides {
		if in.Netns == netns {
			return true
		}
	}
	return false
}

// delLinks removes ports before their bridges. Only veths are doomed: they are
// what a caller waits for.
func (d *differ) delLinks() {
	rank := func(name string) int {
		return slices.Index([]LinkKind{KindVeth, KindVXLAN, KindBridge}, d.have.Links[name].Kind)
	}
	names := stale(d.have.Links, d.want.Links, func(a, b string) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), strings.Compare(a, b))
	})
	for _, name := range names {
		if d.have.Links[name].Kind == KindVeth {
			d.do(DoomLink{name})
		} else {
			d.do(DelLink{name})
		}
	}
}
