package kernel

import (
	"encoding/binary"
	"errors"
	"strings"

	"github.com/overspan/overspan"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	// doomedGroup is the link group whose members Retire deletes with one
	// message.
	doomedGroup = 0x05ba

	// bornGroup is the group that a link has until it has its alias, which the
	// kernel cannot set in the message that makes it. An agent that dies in
	// between so leaves nothing behind that is nobody's.
	bornGroup = 0x05bb

	loopbackIndex = 1

	// skipStats keeps counters out of a link dump (RTEXT_FILTER_SKIP_STATS).
	skipStats = 1 << 3

	// operUp is IF_OPER_UP, RFC 2863: the link carries packets. Links whose carrier
	// nobody watches, such as VXLAN devices, are IF_OPER_UNKNOWN and carry them, too.
	operUp      = 6
	operUnknown = 0

	// addrGenNone is IN6_ADDR_GEN_MODE_NONE.
	addrGenNone = 1

	// portDisabled is BR_STATE_DISABLED: the port neither takes nor sends.
	// portForwarding is BR_STATE_FORWARDING.
	portDisabled   = 0
	portForwarding = 3

	// brportLocked is IFLA_BRPORT_LOCKED (Linux 5.16).
	brportLocked = 39
)

// A device is a link as the kernel describes it: our part of it, and what
// finds it again.
type device struct {
	Link
	name   string
	index  int
	master int // index of its bridge
	peer   int // index of a veth's other end, in that end's namespace
	peerNS int // which namespace that is, as this one numbers it; noNetnsID if this
	group  uint32
	// hardware is ARPHRD_ETHER for what frames of Ethernet pass by.
	hardware uint16
	oper     uint8 // the state of the carrier
	mode     vxlanMode
}

// carrier reports whether packets pass.
func (d device) carrier() bool { return d.oper == operUp }

// vxlanMode is what two VXLAN devices on one UDP port must have in common.
type vxlanMode struct {
	metadata bool // collect metadata ("external")
	gbp      bool
}

// ours reports whether we made the link: name prefix and ifalias together.
func (d device) ours() bool {
	_, _, ok := overspan.ParseAlias(d.Alias)
	return hasOurName(d.name) && (ok || d.group == bornGroup)
}

// leaving reports whether a link of ours is Retire's.
func (d device) leaving() bool { return d.group == doomedGroup || d.group == bornGroup }

func hasOurName(name string) bool {
	for _, kind := range []string{"b-", "x-", "v-"} {
		if strings.HasPrefix(name, overspan.LinkPrefix+kind) {
			return true
		}
	}
	return false
}

// errNoDevice is the kernel's answer about a link that does not exist.
const errNoDevice = unix.ENODEV

// link looks a link up by name.
func (c *conn) link(name string) (device, error) {
	return c.oneLink(0, rtaText(unix.IFLA_IFNAME, name))
}

// linkAt looks a link up by its index.
func (c *conn) linkAt(index int) (device, error) { return c.oneLink(index) }

func (c *conn) oneLink(index int, by ...*nl.RtAttr) (device, error) {
	m := newMessage(unix.RTM_GETLINK, 0, ifInfo(index, 0, 0), rtaU32(unix.IFLA_EXT_MASK, skipStats))
	for _, a := range by {
		m.AddData(a)
	}
	body, err := c.get(m)
	if err != nil {
		return device{}, err
	}
	return decodeLink(body)
}

// links lists the ports of a bridge, or, with master 0, every link.
func (c *conn) links(master int) ([]device, error) {
	m := newMessage(unix.RTM_GETLINK, 0, ifInfo(0, 0, 0), rtaU32(unix.IFLA_EXT_MASK, skipStats))
	if master != 0 {
		m.AddData(rtaU32(unix.IFLA_MASTER, uint32(master)))
	}
	bodies, err := c.dump(m)
	if err != nil {
		return nil, err
	}
	var out []device
	for _, body := range bodies {
		d, err := decodeLink(body)
		if err != nil {
			return nil, err
		}
		if master == 0 || d.master == master {
			out = append(out, d)
		}
	}
	return out, nil
}

func decodeLink(b []byte) (device, error) {
	if len(b) < unix.SizeofIfInfomsg {
		return device{}, errors.New("link message too short")
	}
	d := device{index: int(int32(binary.NativeEndian.Uint32(b[4:]))), peerNS: noNetnsID}
	d.hardware = binary.NativeEndian.Uint16(b[2:])
	flags := binary.NativeEndian.Uint32(b[8:])
	d.Up, d.NoARP = flags&unix.IFF_UP != 0, flags&unix.IFF_NOARP != 0
	d.VXLAN.AddrGenNone = true // so it is where the kernel has no IPv6
	for kind, v := range walk(b[unix.SizeofIfInfomsg:]) {
		switch kind {
		case unix.IFLA_IFNAME:
			d.name = unix.ByteSliceToString(v)
		case unix.IFLA_IFALIAS:
			d.Alias = unix.ByteSliceToString(v)
		case unix.IFLA_ADDRESS:
			d.MAC = getMAC(v)
		case unix.IFLA_MTU:
			d.MTU = int(getU32(v))
		case unix.IFLA_MASTER:
			d.master = int(getU32(v))
		case unix.IFLA_LINK:
			d.peer = int(getU32(v))
		case unix.IFLA_LINK_NETNSID:
			d.peerNS = int(int32(getU32(v)))
		case unix.IFLA_PROP_LIST:
			d.AltName = decodeAltNames(v)
		case unix.IFLA_GROUP:
			d.group = getU32(v)
		case unix.IFLA_OPERSTATE:
			d.oper = getU8(v)
		case unix.IFLA_PROTO_DOWN:
			d.ProtoDown = getU8(v) != 0
		case unix.IFLA_LINKINFO:
			decodeLinkInfo(v, &d)
		case unix.IFLA_AF_SPEC:
			decodeAddrGen(v, &d)
		}
	}
	if d.Kind != KindVXLAN {
		d.VXLAN = VXLAN{}
	}
	// The kernel closes the port of a link without carrier, and opens it again.
	d.Port.Closed = d.Port.Closed && d.Up && (d.oper == operUp || d.oper == operUnknown)
	return d, nil
}

// decodeAltNames returns the alternative names of a link, with spaces between.
func decodeAltNames(b []byte) string {
	var names []string
	for kind, v := range walk(b) {
		if kind == unix.IFLA_ALT_IFNAME {
			names = append(names, unix.ByteSliceToString(v))
		}
	}
	return strings.Join(names, " ")
}

func decodeLinkInfo(b []byte, d *device) {
	var data, port []byte
	slave := ""
	for kind, v := range walk(b) {
		switch kind {
		case unix.IFLA_INFO_KIND:
			d.Kind = LinkKind(unix.ByteSliceToString(v))
		case unix.IFLA_INFO_DATA:
			data = v
		case unix.IFLA_INFO_SLAVE_KIND:
			slave = unix.ByteSliceToString(v)
		case unix.IFLA_INFO_SLAVE_DATA:
			port = v
		}
	}
	switch d.Kind {
	case KindBridge:
		decodeBridge(data, d)
	case KindVXLAN:
		decodeVXLAN(data, d)
	}
	if slave == "bridge" {
		decodePort(port, d)
	}
}

func decodeBridge(b []byte, d *device) {
	for kind, v := range walk(b) {
		switch kind {
		case nl.IFLA_BR_MCAST_SNOOPING:
			d.Bridge.MulticastSnooping = getU8(v) != 0
		case nl.IFLA_BR_STP_STATE:
			d.Bridge.STP = getU32(v) != 0
		case nl.IFLA_BR_VLAN_FILTERING:
			d.Bridge.VLANFiltering = getU8(v) != 0
		}
	}
}

func decodeVXLAN(b []byte, d *device) {
	for kind, v := range walk(b) {
		switch kind {
		case nl.IFLA_VXLAN_ID:
			d.VXLAN.VNI = getU32(v)
		case nl.IFLA_VXLAN_PORT:
			d.VXLAN.Port = getPort(v)
		case nl.IFLA_VXLAN_LOCAL, nl.IFLA_VXLAN_LOCAL6:
			d.VXLAN.Local = getAddr(v)
		case nl.IFLA_VXLAN_TTL:
			d.VXLAN.TTL = getU8(v)
		case nl.IFLA_VXLAN_LEARNING:
			d.VXLAN.Learning = getU8(v) != 0
		case nl.IFLA_VXLAN_PROXY:
			d.VXLAN.Proxy = getU8(v) != 0
		case nl.IFLA_VXLAN_FLOWBASED:
			d.mode.metadata = getU8(v) != 0
		case nl.IFLA_VXLAN_GBP:
			d.mode.gbp = true
		}
	}
}

func decodePort(b []byte, d *device) {
	for kind, v := range walk(b) {
		switch kind {
		case nl.IFLA_BRPORT_STATE:
			d.Port.Closed = getU8(v) != portForwarding
		case nl.IFLA_BRPORT_LEARNING:
			d.Port.Learning = getU8(v) != 0
		case nl.IFLA_BRPORT_UNICAST_FLOOD:
			d.Port.Flood = getU8(v) != 0
		case nl.IFLA_BRPORT_MODE:
			d.Port.Hairpin = getU8(v) != 0
		case nl.IFLA_BRPORT_ISOLATED:
			d.Port.Isolated = getU8(v) != 0
		case brportLocked:
			d.Port.Locked = getU8(v) != 0
		case nl.IFLA_BRPORT_BCAST_FLOOD:
			d.Port.NoBroadcast = getU8(v) == 0
		case nl.IFLA_BRPORT_MCAST_FLOOD:
			d.Port.NoMulticast = getU8(v) == 0
		case nl.IFLA_BRPORT_NEIGH_SUPPRESS:
			d.Port.NeighSuppress = getU8(v) != 0
		case nl.IFLA_BRPORT_PROXYARP, nl.IFLA_BRPORT_PROXYARP_WIFI:
			d.Port.ProxyARP = d.Port.ProxyARP || getU8(v) != 0
		}
	}
}

func decodeAddrGen(b []byte, d *device) {
	for family, v := range walk(b) {
		if family != unix.AF_INET6 {
			continue
		}
		for kind, mode := range walk(v) {
			if kind == unix.IFLA_INET6_ADDR_GEN_MODE {
				d.VXLAN.AddrGenNone = getU8(mode) == addrGenNone
			}
		}
	}
}

// ifInfo is the head of every message about a link. Index 0 leaves it to an
// IFLA_IFNAME attribute to say which.
func ifInfo(index int, flags, change uint32) *nl.IfInfomsg {
	m := nl.NewIfInfomsg(unix.AF_UNSPEC)
	m.Index = int32(index)
	m.Flags = flags
	m.Change = change
	return m
}

func setUp(index int) message {
	return newMessage(unix.RTM_NEWLINK, 0, ifInfo(index, unix.IFF_UP, unix.IFF_UP))
}

func setDown(index int) message {
	return newMessage(unix.RTM_NEWLINK, 0, ifInfo(index, 0, unix.IFF_UP))
}

// setAlias marks a new link as ours.
func setAlias(name, alias string) message {
	return newMessage(unix.RTM_SETLINK, 0, ifInfo(0, 0, 0), rtaText(unix.IFLA_IFNAME, name),
		rta(unix.IFLA_IFALIAS, []byte(alias)), rtaU32(unix.IFLA_GROUP, 0))
}

func setAddrGen(index int, mode uint8) message {
	return newMessage(unix.RTM_SETLINK, 0, ifInfo(index, 0, 0),
		nest(unix.IFLA_AF_SPEC, nest(unix.AF_INET6, rtaU8(unix.IFLA_INET6_ADDR_GEN_MODE, mode))))
}

// setPort sets the flags of a bridge port, in one message. What a port has
// learned that is to learn nothing is forgotten: it would lead frames for minutes.
func setPort(index int, p Port) message {
	flags := []*nl.RtAttr{
		rtaFlag(nl.IFLA_BRPORT_LEARNING, p.Learning),
		rtaFlag(nl.IFLA_BRPORT_UNICAST_FLOOD, p.Flood),
		rtaFlag(nl.IFLA_BRPORT_MODE, p.Hairpin),
		rtaFlag(nl.IFLA_BRPORT_ISOLATED, p.Isolated),
		rtaFlag(brportLocked, p.Locked),
		rtaFlag(nl.IFLA_BRPORT_BCAST_FLOOD, !p.NoBroadcast),
		rtaFlag(nl.IFLA_BRPORT_MCAST_FLOOD, !p.NoMulticast),
		rtaFlag(nl.IFLA_BRPORT_NEIGH_SUPPRESS, p.NeighSuppress),
		rtaFlag(nl.IFLA_BRPORT_PROXYARP, p.ProxyARP),
		rtaFlag(nl.IFLA_BRPORT_PROXYARP_WIFI, p.ProxyARP),
	}
	if !p.Learning {
		flags = append(flags, rta(nl.IFLA_BRPORT_FLUSH, nil))
	}
	return newMessage(unix.RTM_SETLINK, 0, bridgeInfo(index), nest(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, flags...))
}

func setPortState(index int, state uint8) message {
	return newMessage(unix.RTM_SETLINK, 0, bridgeInfo(index),
		nest(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, rtaU8(nl.IFLA_BRPORT_STATE, state)))
}

func bridgeInfo(index int) *nl.IfInfomsg {
	m := ifInfo(index, 0, 0)
	m.Family = unix.AF_BRIDGE
	return m
}

// addAltName gives a link one more name.
func addAltName(index int, name string) message {
	return newMessage(unix.RTM_NEWLINKPROP, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_APPEND, ifInfo(index, 0, 0),
		nest(unix.IFLA_PROP_LIST|unix.NLA_F_NESTED, rtaText(unix.IFLA_ALT_IFNAME, name)))
}

func setMTU(index, mtu int) message {
	return newMessage(unix.RTM_SETLINK, 0, ifInfo(index, 0, 0), rtaU32(unix.IFLA_MTU, uint32(mtu)))
}

func setMaster(index, master int) message {
	return newMessage(unix.RTM_SETLINK, 0, ifInfo(index, 0, 0), rtaU32(unix.IFLA_MASTER, uint32(master)))
}

// vxlanConflict explains why a VXLAN device cannot be made or opened, by naming
// the foreign device in the way.
func (c *conn) vxlanConflict(name string, want VXLAN, cause error) error {
	all, err := c.links(0)
	if err != nil {
		return cause
	}
	for _, d := range all {
		if d.Kind != KindVXLAN || d.name == name {
			continue
		}
		same := d.VXLAN.Port == want.Port
		switch {
		case errors.Is(cause, unix.EEXIST) && same && d.VXLAN.VNI == want.VNI:
			return overspan.Errorf(overspan.ErrInUse, "VNI %d is in use by the foreign device %s: remove it, or give the network another VNI", want.VNI, d.name)
		case errors.Is(cause, unix.EEXIST) && same && d.mode.metadata,
			errors.Is(cause, unix.EADDRINUSE) && same && d.mode != (vxlanMode{}):
			return overspan.Errorf(overspan.ErrInUse, "UDP port %d is in use by the foreign device %s in collect-metadata or gbp mode: remove it, or use another --vxlan-port", want.Port, d.name)
		}
	}
	if errors.Is(cause, unix.EADDRINUSE) {
		return overspan.Errorf(overspan.ErrInUse, "UDP port %d is in use by another program: stop it, or use another --vxlan-port", want.Port)
	}
	return cause
}

// checkOurs refuses to touch a link that bears a name of ours but not our
// alias.
func checkOurs(d device) error {
	if d.ours() {
		return nil
	}
	return overspan.Errorf(overspan.ErrExists, "%s exists and is not ours (no overspan alias): remove or rename it", d.name)
}
