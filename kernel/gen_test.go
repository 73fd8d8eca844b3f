package kernel

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/overspan/overspan"
	"pgregory.net/rapid"
)

// A world is what the drawn states are about: so little of everything that two
// of them have much in common.
type world struct {
	networks  []overspan.NetworkID
	endpoints []overspan.EndpointID
}

func newWorld() world {
	id := func(digit string) string { return strings.Repeat(digit, 64) }
	return world{
		networks:  []overspan.NetworkID{overspan.NetworkID(id("a")), overspan.NetworkID(id("b"))},
		endpoints: []overspan.EndpointID{overspan.EndpointID(id("1")), overspan.EndpointID(id("2")), overspan.EndpointID(id("3"))},
	}
}

// genWant draws a state as a planner could make it.
func genWant() *rapid.Generator[State] {
	return rapid.Custom(func(t *rapid.T) State {
		d := draw{t: t, world: newWorld()}
		d.links()
		d.entries()
		d.rules()
		return d.s
	})
}

// genHave draws a state as Read could return it: as wanted, and disturbed.
func genHave() *rapid.Generator[State] {
	return rapid.Custom(func(t *rapid.T) State {
		d := draw{t: t, world: newWorld()}
		d.links()
		d.entries()
		d.rules()
		d.disturb()
		return asRead(d.s)
	})
}

// asRead returns the state as it is read back: rules have lost their text.
func asRead(s State) State {
	for key, c := range s.Chains {
		rules := make([]Rule, len(c.Rules))
		for i, r := range c.Rules {
			rules[i] = Rule{Hash: r.ID(key.Name)}
		}
		c.Rules = rules
		s.Chains[key] = c
	}
	return s
}

// A draw is a state being drawn.
type draw struct {
	t *rapid.T
	world
	s State
}

func (d *draw) maybe(what string) bool { return rapid.Bool().Draw(d.t, what) }

// mostly is true where false would leave little to draw further on.
func (d *draw) mostly(what string) bool { return pick(d, what, true, true, true, false) }

func pick[T any](d *draw, what string, from ...T) T { return rapid.SampledFrom(from).Draw(d.t, what) }

func mac(last byte) overspan.MAC { return overspan.MAC{2, 0x42, 10, 0, 0, last} }

func (d *draw) mac() overspan.MAC { return mac(pick[byte](d, "mac", 1, 2, 3)) }

func (d *draw) links() {
	for i, n := range d.networks {
		l := Link{Alias: overspan.NetworkAlias(n), MAC: d.mac(), MTU: pick(d, "mtu", 1400, 1450), Up: d.maybe("up")}
		if d.mostly("bridge") {
			l.Kind, l.Bridge = KindBridge, Bridge{MulticastSnooping: d.maybe("snooping")}
			put(&d.s.Links, overspan.BridgeName(n), l)
		}
		if !d.mostly("vxlan") {
			continue
		}
		l.Kind, l.Bridge, l.MAC = KindVXLAN, Bridge{}, d.mac()
		l.VXLAN = VXLAN{
			VNI: 4096 + uint32(i), Port: 4789, Local: pick(d, "local", addr("10.99.0.1"), addr("10.99.0.2")),
			Learning: d.maybe("learn"), Proxy: true, AddrGenNone: d.maybe("addrgen"),
		}
		d.enslave(&l, overspan.BridgeName(n))
		put(&d.s.Links, overspan.VXLANName(n), l)
	}
	if d.maybe("swap vnis") {
		d.swapVNIs()
	}
	for i, e := range d.endpoints {
		if d.mostly("veth") {
			d.veth(e, i)
		}
	}
}

func (d *draw) swapVNIs() {
	for i, n := range d.networks {
		if l, ok := d.s.Links[overspan.VXLANName(n)]; ok {
			l.VXLAN.VNI = 4096 + uint32(len(d.networks)-1-i)
			d.s.Links[overspan.VXLANName(n)] = l
		}
	}
}

// enslave makes a link a port of a bridge, if that is there, perhaps.
func (d *draw) enslave(l *Link, bridge string) {
	if _, ok := d.s.Links[bridge]; ok && d.mostly("port") {
		l.Master = bridge
		l.Port = Port{Flood: d.maybe("flood"), Hairpin: true, Isolated: d.maybe("isolated")}
	}
}

func (d *draw) veth(e overspan.EndpointID, i int) {
	n := pick(d, "network", d.networks...)
	l := Link{Kind: KindVeth, Alias: overspan.EndpointAlias(n, e), MTU: 1450, Up: d.maybe("up")}
	d.enslave(&l, overspan.BridgeName(n))
	put(&d.s.Links, overspan.VethName(e), l)
	inside := Inside{
		Netns: "/run/netns/" + pick(d, "netns", "x", "y"), Name: fmt.Sprintf("eth%d", pick(d, "name", 0, i)),
		MAC: d.mac(), MTU: pick(d, "mtu", 1400, 1450), Up: d.maybe("up"),
	}
	for _, other := range d.s.Insides {
		if other.Netns == inside.Netns && other.Name == inside.Name {
			inside.Name = fmt.Sprintf("eth1%d", i)
		}
	}
	if d.maybe("address") {
		inside.Addrs = []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.0.0.%d/24", i+2))}
		inside.Routes = []Route{{netip.MustParsePrefix("0.0.0.0/0"), addr("10.0.0.1"), RouteMetric(inside.Name, overspan.IPv4)}}
	}
	if d.maybe("inside sysctl") {
		inside.Sysctls = []Sysctl{{"net/ipv4/conf/" + inside.Name + "/log_martians", pick(d, "value", "0", "1")}}
	}
	put(&d.s.Insides, overspan.VethName(e), inside)
}

// entries draws what hangs on the links.
func (d *draw) entries() {
	names := sortedLinks(d.s)
	for _, name := range names {
		l := d.s.Links[name]
		switch {
		case l.Kind == KindBridge:
			for _, p := range []string{"10.0.0.1/24", "10.0.0.2/24", "10.0.0.1/25", "fd00::1/64"} {
				if d.maybe("addr") {
					put(&d.s.Addrs, Addr{name, netip.MustParsePrefix(p)}, struct{}{})
				}
			}
		case l.Kind == KindVXLAN:
			for i := range byte(3) {
				if d.mostly("fdb") {
					put(&d.s.FDB, FDBKey{name, mac(i)}, Dest{VTEP: pick(d, "dst", addr("10.99.0.2"), addr("10.99.0.3"))})
				}
				if d.maybe("neigh") {
					put(&d.s.Neighs, NeighKey{name, netip.AddrFrom4([4]byte{10, 0, 0, i})}, LLAddr{MAC: d.mac()})
				}
			}
		case l.Master != "" && d.mostly("static"):
			put(&d.s.Statics, FDBKey{name, d.mac()}, struct{}{})
		}
		if l.Kind != KindBridge && d.mostly("program") {
			put(&d.s.Programs, name, d.program(l.Kind))
		}
		if d.maybe("sysctl") {
			put(&d.s.Sysctls, "net/ipv4/conf/"+name+"/arp_ignore", pick(d, "value", "0", "1"))
		}
	}
}

func (d *draw) program(kind LinkKind) Program {
	p := Program{Kind: ProgramTunnel, Bridge: overspan.BridgeName(pick(d, "network", d.networks...)), Open: d.mostly("open"), Attached: true}
	if kind == KindVeth {
		p.Kind, p.MAC, p.Gateway, p.Isolated = ProgramPort, d.mac(), mac(9), d.maybe("isolated")
		p.IPv4, p.IPv6 = pick(d, "ip", addr("10.0.0.2"), netip.Addr{}), pick(d, "ip6", addr("fd00::2"), netip.Addr{})
	} else {
		p.VNI = pick(d, "vni", 0, uint32(7), uint32(8))
	}
	return p
}

// uplink is the device of others that drawn states have a program at.
const uplink = "uplink"

// shortcut draws what passes packets on at a device of others.
func (d *draw) shortcut() {
	if d.mostly("program of the underlay") {
		put(&d.s.Programs, uplink, Program{
			Kind: ProgramUnderlay, IPv4: pick(d, "own vtep", addr("10.99.0.1"), addr("10.99.0.9")), Port: 4789, Open: true, Attached: true,
		})
	}
	for _, a := range []string{"10.99.0.1", "10.99.0.2"} {
		if d.mostly("vtep") {
			set := d.s.Sets[UnderlayVTEPs]
			set.Family = overspan.IPv4
			put(&set.Members, Single(addr(a)), struct{}{})
			put(&d.s.Sets, UnderlayVTEPs, set)
		}
	}
}

func sortedLinks(s State) []string {
	var names []string
	for name := range s.Links {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// rules draws what belongs to no network.
func (d *draw) rules() {
	d.shortcut()
	for _, path := range []string{"/run/overspan/netns/p", "/run/overspan/netns/q"} {
		if d.maybe("netns") {
			put(&d.s.Netns, path, struct{}{})
		}
	}
	if d.maybe("sysctl") {
		put(&d.s.Sysctls, "net/ipv4/ip_forward", "1")
	}
	if d.mostly("set") {
		set := AddrSet{Family: overspan.IPv4}
		for _, a := range []string{"10.99.0.2", "10.99.0.3"} {
			if d.maybe("entry") {
				put(&set.Members, Single(addr(a)), struct{}{})
			}
		}
		put(&d.s.Sets, "overspan-vteps4", set)
	}
	for _, key := range []ChainKey{
		{overspan.IPv4, "filter", "OVERSPAN-FORWARD"},
		{overspan.IPv4, "filter", "OVERSPAN-USER"},
		{overspan.IPv6, "raw", "OVERSPAN-RAW"},
	} {
		if d.mostly("chain") {
			put(&d.s.Chains, key, d.chain(key))
		}
	}
}

func (d *draw) chain(key ChainKey) Chain {
	c := Chain{Open: key.Name == "OVERSPAN-USER", Hook: pick(d, "hook", "", "FORWARD", "PREROUTING")}
	for _, text := range []string{"-j ACCEPT", "-i osb-+ -j ACCEPT", "-j DROP"} {
		if !c.Open && d.maybe("rule") {
			c.Rules = append(c.Rules, Rule{Text: text})
		}
	}
	return c
}

// disturb does what planners never do, but users and crashes.
func (d *draw) disturb() {
	bridge := overspan.BridgeName(d.networks[0])
	if _, there := d.s.Links[bridge]; !there && d.maybe("wrong kind") {
		put(&d.s.Links, bridge, Link{Kind: "dummy", Alias: overspan.NetworkAlias(d.networks[0]), MTU: 1500})
	}
	if _, there := d.s.Sets["overspan-vteps4"]; there && d.maybe("wrong family") {
		d.s.Sets["overspan-vteps4"] = AddrSet{Family: overspan.IPv6, Members: map[netip.Prefix]struct{}{Single(addr("fd99::2")): {}}}
	}
	for _, dev := range slices.Sorted(maps.Keys(d.s.Programs)) {
		p := d.s.Programs[dev]
		switch pick(d, "program of "+dev, "", "detached", "told nothing") {
		case "detached":
			p.Attached = false
			d.s.Programs[dev] = p
		case "told nothing":
			d.s.Programs[dev] = Program{Attached: true}
		}
	}
	for _, name := range sortedLinks(d.s) {
		l := d.s.Links[name]
		l.NoARP, l.ProtoDown = d.maybe("no ARP"), l.Kind == KindVXLAN && d.maybe("protodown")
		l.Bridge.STP = l.Kind == KindBridge && d.maybe("spanning tree")
		l.Port.Closed = l.Master != "" && d.maybe("closed")
		d.s.Links[name] = l
	}
	for _, k := range slices.SortedFunc(maps.Keys(d.s.FDB), compareFDBKeys) {
		switch to := d.s.FDB[k]; pick(d, "entry of "+k.MAC.String(), "", "port", "nexthop") {
		case "port":
			d.s.FDB[k] = Dest{VTEP: to.VTEP, Other: "port 9999"}
		case "nexthop":
			d.s.FDB[k] = Dest{Other: "nhid 10"}
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(d.s.Neighs), compareNeighKeys) {
		d.s.Neighs[k] = LLAddr{d.s.Neighs[k].MAC, pick(d, "neighbour "+k.IP.String(), "", "router")}
	}
	if d.maybe("empty table") {
		put(&d.s.Tables, TableKey{overspan.IPv4, "nat"}, struct{}{})
	}
	for _, e := range d.endpoints {
		veth := overspan.VethName(e)
		inside, there := d.s.Insides[veth]
		switch pick(d, "inside", "", "unread", "missing", "doomed", "gone") {
		case "unread":
			delete(d.s.Insides, veth)
		case "missing":
			if inside.Missing = true; there {
				d.s.Insides[veth] = inside
			}
		case "gone":
			delete(d.s.Links, veth)
			delete(d.s.Insides, veth)
			d.s.dropStatics(veth)
			delete(d.s.Programs, veth)
			delete(d.s.Sysctls, "net/ipv4/conf/"+veth+"/arp_ignore")
		case "doomed":
			if !there {
				put(&d.s.Doomed, veth, struct{}{})
			}
		}
	}
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }
