package kernel

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/overspan/overspan"
)

// A ProgramKind is what the program at the ingress of a link is for.
type ProgramKind string

// The kinds of program, by the kind of link. All but the last are at links of
// ours.
const (
	// ProgramPort judges, at a veth's host end, what an endpoint sends, and
	// passes unicast within the network straight on to where its destination is.
	ProgramPort ProgramKind = "port"

	// ProgramTunnel passes what a VXLAN device has received straight on to the
	// endpoint; and ports pass to that device what is for no port of this node, or
	// send it to the node that the device's forwarding entries say, past the device,
	// while a ProgramUnderlay is open.
	ProgramTunnel ProgramKind = "tunnel"

	// ProgramUnderlay takes, at the device of others that the tunnel's packets
	// come in by, those that are beyond doubt out of their headers, and passes
	// the frame straight on to the endpoint, past the packet filter and the VXLAN
	// device. It asks the set UnderlayVTEPs whom they may come from.
	ProgramUnderlay ProgramKind = "underlay"
)

// UnderlayVTEPs is the set of addresses that packets may come from which a
// ProgramUnderlay passes on. It is a map of that program's, no ipset.
const UnderlayVTEPs = "overspan_vteps"

// A Program is a program that is attached to a link's ingress, before the bridge
// and netfilter, and what it is told of the link. Frames that it has no entry
// for, multicast, and those to the gateway go the bridge's way. It is
// comparable: two equal values need no op.
type Program struct {
	Kind   ProgramKind
	Bridge string // names the network in which MACs mean something; "" at the underlay

	// Of a port: who its endpoint is, and may say that it is. No address of a
	// family is the zero Addr. At the underlay: this node's own address there.
	MAC        overspan.MAC
	IPv4, IPv6 netip.Addr

	// VNI is by what a ProgramUnderlay knows the network of a tunnel; 0: not at all.
	VNI  uint32
	Port uint16 // at the underlay: the tunnel's UDP port

	Gateway  overspan.MAC // of the network; zero but for a port
	Isolated bool         // as Port.Isolated: other ports are reached by way of the bridge alone

	// Open: frames pass, and ports of the same Bridge find this one. Otherwise
	// all that is sent is dropped.
	Open bool

	// Attached: the link has the program, and this version of it.
	Attached bool
}

// A Guard is what a host can hold containers to their own addresses with.
type Guard struct {
	Programs bool   // a program at each port: all addresses
	Locked   bool   // locked ports of the bridge: the MAC
	Why      string // there are no programs; "" where there are
}

// attrs returns what the program is told.
func (p Program) attrs() []attr {
	port := p.Kind == ProgramPort
	return []attr{
		{value: string(p.Kind)},
		{name: "bridge", value: p.Bridge},
		{name: "vni", value: either(p.VNI != 0, strconv.FormatUint(uint64(p.VNI), 10), "")},
		{name: "dstport", value: either(p.Port != 0, strconv.FormatUint(uint64(p.Port), 10), "")},
		{name: "address", value: either(port, p.MAC.String(), "")},
		{name: "ip", value: either(p.IPv4.IsValid(), p.IPv4.String(), either(port, "none", ""))},
		{name: "ip6", value: either(p.IPv6.IsValid(), p.IPv6.String(), either(port, "none", ""))},
		{name: "gateway", value: either(port, p.Gateway.String(), "")},
		{name: "isolated", value: either(p.Isolated, "on", "off")},
		{value: either(p.Open, "open", "closed")},
	}
}

// text is the program in one line.
func (p Program) text() string {
	var words []string
	for _, a := range p.attrs() {
		if a.value != "" {
			words = append(words, a.String())
		}
	}
	return strings.Join(append(words, either(p.Attached, "attached", "detached")), " ")
}

// SetProgram writes what the program of a link is told, from Have to Want,
// whether or not it is attached yet. Have is zero where nothing is known of the
// link.
type SetProgram struct {
	Dev        string
	Have, Want Program
}

func (o SetProgram) String() string {
	if o.Have.Kind == "" {
		return "set program " + o.Dev + changes(make([]attr, len(o.Want.attrs())), o.Want.attrs())
	}
	return "set program " + o.Dev + changes(o.Have.attrs(), o.Want.attrs())
}

func (o SetProgram) apply(s *State) {
	p := o.Want
	p.Attached = s.Programs[o.Dev].Attached
	put(&s.Programs, o.Dev, p)
}

// AttachProgram attaches the program to a link, in the place of another version
// of it if there is one: no frame meets none.
type AttachProgram struct {
	Dev string
}

func (o AttachProgram) String() string { return "attach program " + o.Dev }

func (o AttachProgram) apply(s *State) {
	p := s.Programs[o.Dev]
	p.Attached = true
	put(&s.Programs, o.Dev, p)
}

// DelProgram takes the program off a link, and what it was told of it away.
type DelProgram struct {
	Dev string
}

func (o DelProgram) String() string { return "del program " + o.Dev }
func (o DelProgram) apply(s *State) { delete(s.Programs, o.Dev) }

// programOf names a link's program among what is broken.
func programOf(dev string) string { return "program " + dev }

// setPrograms first writes what programs are told, of all links, and attaches
// them then: a version that comes in the place of another so finds its
// neighbours. It comes before ports join the bridge.
func (d *differ) setPrograms() {
	for _, dev := range stale(d.have.Programs, d.want.Programs, strings.Compare) {
		if d.stays(dev) {
			d.do(DelProgram{dev})
		}
	}
	devs := slices.Sorted(maps.Keys(d.want.Programs))
	for _, dev := range devs {
		have, want := d.have.Programs[dev], d.want.Programs[dev]
		if want.Attached = have.Attached; have != want {
			d.do(SetProgram{dev, have, want})
		}
	}
	for _, dev := range devs {
		if d.want.Programs[dev].Attached && !d.have.Programs[dev].Attached {
			d.do(AttachProgram{dev})
		}
	}
}

func describeProgram(op Op) Repair {
	const on = "program on "
	switch o := op.(type) {
	case SetProgram:
		r := Repair{Kind: "program", Object: "entry of the " + on + o.Dev, Change: added}
		if o.Have.Kind != "" {
			r.Change = arrows(o.Have.attrs(), o.Want.attrs())
		}
		return r
	case AttachProgram:
		return Repair{Kind: "program", Object: on + o.Dev, Change: "missing or another → attached"}
	case DelProgram:
		return Repair{Kind: "program", Object: on + o.Dev, Change: deleted}
	}
	return Repair{Kind: "other", Object: op.String()}
}
