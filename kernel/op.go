package kernel

import (
	"fmt"
	"strings"
)

// An Op is one step from one State to another. It holds everything that is
// needed to carry it out: Host looks nothing up. Ops are idempotent: what is
// already so is no error. The text reads like a command of iproute2, ipset or
// iptables.
type Op interface {
	fmt.Stringer

	// apply does to a State what the op does to a kernel, side effects
	// included: what the kernel drops by itself is dropped here too, so that
	// Diff adds it again in the same pass. The State's maps are changed in
	// place.
	apply(*State)
}

// Apply returns the state that a kernel in state s is in after ops.
func Apply(s State, ops []Op) State {
	s = s.Clone()
	for _, op := range ops {
		op.apply(&s)
	}
	return s
}

// AddLink makes a link with all its attributes. A veth pair is made with its
// peer inside the container's namespace, complete with addresses and routes;
// Inside is nil for other kinds.
type AddLink struct {
	Name   string
	Link   Link
	Inside *Inside
}

func (o AddLink) String() string {
	text := "add link " + o.Name + " " + o.Link.text()
	if o.Inside != nil {
		text += " peer " + o.Inside.text()
	}
	return text
}

func (o AddLink) apply(s *State) {
	put(&s.Links, o.Name, o.Link)
	if o.Inside != nil {
		put(&s.Insides, o.Name, *o.Inside)
	}
}

// SetLink changes a link's attributes from Have to Want; the kind, and the
// attributes of a VXLAN device that are fixed at its making, are the same in
// both. Where the master changes, all port flags are written: the kernel has
// reset them.
type SetLink struct {
	Name       string
	Have, Want Link
}

func (o SetLink) String() string {
	return "set link " + o.Name + changes(o.Have.attrs(), o.Want.attrs())
}

// apply models three effects: a port that leaves its bridge loses its static
// entries, a VXLAN device that goes down, changes its MAC or takes up ARP again
// loses its neighbours, permanent ones too, and a bridge that goes down loses its
// IPv6 addresses. The VXLAN device keeps its FDB.
func (o SetLink) apply(s *State) {
	put(&s.Links, o.Name, o.Want)
	down := o.Have.Up && !o.Want.Up
	if o.Have.Master != o.Want.Master {
		s.dropStatics(o.Name)
	}
	switch o.Want.Kind {
	case KindVXLAN:
		if down || o.Have.MAC != o.Want.MAC || o.Have.NoARP != o.Want.NoARP {
			s.dropNeighs(o.Name)
		}
	case KindBridge:
		if down {
			s.dropAddrs(func(a Addr) bool { return a.Dev == o.Name && a.Prefix.Addr().Is6() })
		}
	}
}

// DelLink deletes a link and waits until it is gone.
type DelLink struct {
	Name string
}

func (o DelLink) String() string { return "del link " + o.Name }

func (o DelLink) apply(s *State) { s.dropLink(o.Name) }

// DoomLink takes a veth off the network at once: the port is disabled, the
// link set down, released by its bridge and moved to the doomed group, which
// Retire deletes. Deleting it here would hold the caller up for tens of
// milliseconds.
type DoomLink struct {
	Name string
}

func (o DoomLink) String() string { return "doom link " + o.Name }

func (o DoomLink) apply(s *State) {
	s.dropLink(o.Name)
	put(&s.Doomed, o.Name, struct{}{})
}

// Retire deletes all links of the doomed group and waits until they are gone.
// Names are those known to be in it.
type Retire struct {
	Names []string
}

func (o Retire) String() string { return "retire " + strings.Join(o.Names, " ") }

func (o Retire) apply(s *State) {
	for _, name := range o.Names {
		delete(s.Doomed, name)
	}
}

// SetInside changes the container's end of a veth from Have to Want; the
// namespace is the same in both. Addresses and routes are all written again:
// a change of other attributes may have dropped them.
type SetInside struct {
	Veth       string
	Have, Want Inside
}

func (o SetInside) String() string {
	text := "set inside " + o.Veth + " netns " + o.Want.Netns + " dev " + o.Have.Name
	text += changes(o.Have.attrs(), o.Want.attrs())
	text += listChanges("addr", o.Have.Addrs, o.Want.Addrs)
	text += listChanges("route", o.Have.Routes, o.Want.Routes)
	return text + listChanges("sysctl", o.Have.Sysctls, o.Want.Sysctls)
}

func (o SetInside) apply(s *State) { put(&s.Insides, o.Veth, o.Want) }

// An attr is a named value of a link as text. A name of "" means that the value
// speaks for itself, a value of "" that it does not apply. The usual value goes
// without saying where there is no other to compare it with.
type attr struct {
	name, value, usual string
}

func (a attr) String() string {
	if a.name == "" {
		return a.value
	}
	return a.name + " " + a.value
}

// attrs returns the link's attributes, always as many and in the same order.
func (l Link) attrs() []attr {
	mac, master, altName := "", "none", ""
	if !l.MAC.IsZero() {
		mac = l.MAC.String()
	}
	if l.Master != "" {
		master = l.Master
	}
	if l.Kind == KindBridge {
		altName = either(l.AltName == "", "none", l.AltName)
	}
	out := []attr{
		{name: "type", value: string(l.Kind)},
		{name: "address", value: mac},
		{name: "mtu", value: fmt.Sprint(l.MTU)},
		{value: either(l.Up, "up", "down")},
		{"arp", either(l.NoARP, "off", "on"), "on"},
		{"protodown", either(l.ProtoDown, "on", "off"), "off"},
		{name: "alias", value: l.Alias},
		{"altname", altName, "none"},
	}
	out = append(out, l.Bridge.attrs(l.Kind == KindBridge)...)
	out = append(out, l.VXLAN.attrs(l.Kind == KindVXLAN)...)
	out = append(out, attr{"master", master, "none"})
	return append(out, l.Port.attrs(l.Master != "")...)
}

func (b Bridge) attrs(apply bool) []attr {
	return blankUnless(apply, []attr{
		{name: "mcast_snooping", value: either(b.MulticastSnooping, "1", "0")},
		{"stp_state", either(b.STP, "1", "0"), "0"},
		{"vlan_filtering", either(b.VLANFiltering, "1", "0"), "0"},
	})
}

func (v VXLAN) attrs(apply bool) []attr {
	return blankUnless(apply, []attr{
		{name: "id", value: fmt.Sprint(v.VNI)},
		{name: "local", value: v.Local.String()},
		{name: "dstport", value: fmt.Sprint(v.Port)},
		{"ttl", fmt.Sprint(v.TTL), "0"},
		{value: either(v.Learning, "learning", "nolearning")},
		{value: either(v.Proxy, "proxy", "noproxy")},
		{name: "addrgenmode", value: either(v.AddrGenNone, "none", "eui64")},
	})
}

func (p Port) attrs(apply bool) []attr {
	return blankUnless(apply, []attr{
		{name: "learning", value: either(p.Learning, "on", "off")},
		{name: "flood", value: either(p.Flood, "on", "off")},
		{name: "hairpin", value: either(p.Hairpin, "on", "off")},
		{name: "isolated", value: either(p.Isolated, "on", "off")},
		{name: "locked", value: either(p.Locked, "on", "off")},
		{"state", either(p.Closed, "not forwarding", "forwarding"), "forwarding"},
		{"bcast_flood", either(p.NoBroadcast, "off", "on"), "on"},
		{"mcast_flood", either(p.NoMulticast, "off", "on"), "on"},
		{"neigh_suppress", either(p.NeighSuppress, "on", "off"), "off"},
		{"proxy_arp", either(p.ProxyARP, "on", "off"), "off"},
	})
}

// attrs returns what SetInside may change beside addresses and routes.
func (i Inside) attrs() []attr {
	return []attr{
		{name: "name", value: i.Name},
		{name: "address", value: i.MAC.String()},
		{name: "mtu", value: fmt.Sprint(i.MTU)},
		{value: either(i.Up, "up", "down")},
	}
}

// text is the link in one line, without its alias: that follows from the plan,
// and is as long as the rest together.
func (l Link) text() string {
	var words []string
	for _, a := range l.attrs() {
		if a.value != "" && a.name != "alias" && a.value != a.usual {
			words = append(words, a.String())
		}
	}
	return strings.Join(words, " ")
}

func (i Inside) text() string {
	words := []string{i.Name, "netns", i.Netns}
	for _, a := range i.attrs()[1:] {
		words = append(words, a.String())
	}
	for _, a := range i.Addrs {
		words = append(words, "addr", a.String())
	}
	for _, r := range i.Routes {
		words = append(words, "route", r.String())
	}
	for _, s := range i.Sysctls {
		words = append(words, "sysctl", s.String())
	}
	if i.Missing {
		words = append(words, "missing")
	}
	return strings.Join(words, " ")
}

// String returns the route as ip-route(8) takes it.
func (r Route) String() string {
	return fmt.Sprintf("%s via %s metric %d", r.Dst, r.Via, r.Metric)
}

// changes writes the attributes that differ: " mtu 1450 (was 1400)".
func changes(have, want []attr) string {
	var b strings.Builder
	for i, w := range want {
		switch h := have[i]; {
		case w == h || w.value == "":
		case h.value == "" && w.value == w.usual:
		case h.value == "":
			fmt.Fprintf(&b, " %s", w)
		default:
			fmt.Fprintf(&b, " %s (was %s)", w, h.value)
		}
	}
	return b.String()
}

// listChanges writes which elements come and go: " add addr 10.0.0.2/24".
func listChanges[T interface {
	comparable
	fmt.Stringer
}](what string, have, want []T,
) string {
	var b strings.Builder
	for _, w := range missingOf(have, want) {
		fmt.Fprintf(&b, " add %s %s", what, w)
	}
	for _, h := range missingOf(want, have) {
		fmt.Fprintf(&b, " del %s %s", what, h)
	}
	return b.String()
}

func blankUnless(apply bool, attrs []attr) []attr {
	if apply {
		return attrs
	}
	return make([]attr, len(attrs))
}

func either(cond bool, yes, no string) string {
	if cond {
		return yes
	}
	return no
}
