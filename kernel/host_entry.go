package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/overspan/overspan"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// nudNoARP is how the kernel shows a static entry of a bridge.
	nudNoARP = 0x40

	// replace makes an entry or changes the one that is there.
	replace = unix.NLM_F_CREATE | unix.NLM_F_REPLACE

	sizeofNdMsg = 12

	// ndaNexthop is NDA_NH_ID (Linux 5.8).
	ndaNexthop = 13
)

// A finder looks links up by name, each once.
type finder struct {
	conn  *conn
	found map[string]device
}

// ours returns a link of ours. Its error is errNoDevice if there is none.
func (f *finder) ours(name string) (device, error) {
	if d, ok := f.found[name]; ok {
		return d, nil
	}
	d, err := f.conn.link(name)
	if err != nil {
		return device{}, err
	}
	if err := checkOurs(d); err != nil {
		return device{}, err
	}
	put(&f.found, name, d)
	return d, nil
}

// entryMessage returns the message that carries out an entry's op, and the device that
// it is about; no message if there is nothing to do, since the device of a deletion is
// gone.
func entryMessage(op Op, f *finder) (message, device, error) {
	name, del := entryDevice(op)
	d, err := f.ours(name)
	if del && errors.Is(err, errNoDevice) {
		return nil, d, nil
	}
	if err != nil {
		return nil, d, err
	}
	switch o := op.(type) {
	case SetFDB:
		m := fdbMessage(unix.RTM_NEWNEIGH, d.index, unix.NUD_PERMANENT, unix.NTF_SELF, o.Key.MAC)
		m.AddData(rta(unix.NDA_DST, o.Dst.AsSlice()))
		return m, d, nil
	case DelFDB:
		// Without a destination the whole entry goes, whatever it points to.
		return fdbMessage(unix.RTM_DELNEIGH, d.index, 0, unix.NTF_SELF, o.Key.MAC), d, nil
	case AddStatic:
		return fdbMessage(unix.RTM_NEWNEIGH, d.index, nudNoARP, unix.NTF_MASTER, o.Key.MAC), d, nil
	case DelStatic:
		return fdbMessage(unix.RTM_DELNEIGH, d.index, 0, unix.NTF_MASTER, o.Key.MAC), d, nil
	case SetNeigh:
		m := neighMessage(unix.RTM_NEWNEIGH, d.index, o.Key.IP)
		m.AddData(rta(unix.NDA_LLADDR, o.MAC[:]))
		return m, d, nil
	case DelNeigh:
		return neighMessage(unix.RTM_DELNEIGH, d.index, o.Key.IP), d, nil
	}
	return nil, d, errors.New("not an entry")
}

func entryDevice(op Op) (name string, del bool) {
	switch o := op.(type) {
	case SetFDB:
		return o.Key.Dev, false
	case DelFDB:
		return o.Key.Dev, true
	case AddStatic:
		return o.Key.Dev, false
	case DelStatic:
		return o.Key.Dev, true
	case SetNeigh:
		return o.Key.Dev, false
	case DelNeigh:
		return o.Key.Dev, true
	}
	return "", false
}

func fdbMessage(kind, index int, state uint16, flags uint8, mac overspan.MAC) message {
	mode := 0
	if kind == unix.RTM_NEWNEIGH {
		mode = replace
	}
	head := &netlink.Ndmsg{Family: unix.AF_BRIDGE, Index: uint32(index), State: state, Flags: flags}
	return newMessage(kind, mode, head, rta(unix.NDA_LLADDR, mac[:]))
}

func neighMessage(kind, index int, ip netip.Addr) message {
	head := &netlink.Ndmsg{Family: uint8(afInet(ip)), Index: uint32(index)}
	mode := 0
	if kind == unix.RTM_NEWNEIGH {
		mode = replace
		head.State = unix.NUD_PERMANENT
	}
	return newMessage(kind, mode, head, rta(unix.NDA_DST, ip.AsSlice()))
}

// fdbQuestion and neighQuestion ask for one entry.
func fdbQuestion(index int, mac overspan.MAC) message {
	head := &netlink.Ndmsg{Family: unix.AF_BRIDGE, Index: uint32(index), Flags: unix.NTF_SELF}
	return newMessage(unix.RTM_GETNEIGH, 0, head, rta(unix.NDA_LLADDR, mac[:]))
}

func neighQuestion(index int, ip netip.Addr) message {
	head := &netlink.Ndmsg{Family: uint8(afInet(ip)), Index: uint32(index)}
	return newMessage(unix.RTM_GETNEIGH, 0, head, rta(unix.NDA_DST, ip.AsSlice()))
}

// entry asks for one entry of a device; ok is false if there is none.
func (f *finder) entry(dev string, question func(index int) message) (e entry, ok bool, err error) {
	d, err := f.ours(dev)
	if errors.Is(err, errNoDevice) || errors.Is(err, overspan.ErrExists) {
		return entry{}, false, nil
	}
	if err != nil {
		return entry{}, false, err
	}
	body, err := f.conn.get(question(d.index))
	if errors.Is(err, unix.ENOENT) {
		return entry{}, false, nil
	}
	if err != nil {
		return entry{}, false, err
	}
	e, err = decodeEntry(body)
	return e, err == nil, err
}

// alreadySo reports whether the kernel refused an entry's op because it is
// already so.
func alreadySo(op Op, err error) bool {
	switch op.(type) {
	case DelFDB, DelStatic, DelNeigh:
		// The bridge answers EINVAL for a link that is no port any more.
		return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) || errors.Is(err, errNoDevice) || errors.Is(err, unix.EINVAL)
	case AddSetEntry, DelSetEntry:
		return errors.Is(err, errSetEntryExists) || errors.Is(err, unix.ENOENT)
	}
	return false
}

// An entry is a forwarding or neighbour entry as the kernel lists it.
type entry struct {
	index  int // of the device
	family uint8
	state  uint16
	flags  uint8
	dst    netip.Addr
	mac    overspan.MAC
	bridge bool   // held by the bridge, not by the device itself
	other  string // of a VXLAN device's: what else says where it leads, as bridge-fdb(8) writes it
}

// entries lists forwarding entries (AF_BRIDGE) or neighbours (AF_UNSPEC) into a
// part of a state, one by one: there may be tens of thousands. Filters, zero for
// none, are the index of a device or of a bridge.
func (c *conn) entries(family uint8, index, bridge int, take func(*State, entry)) (part State, err error) {
	m := newMessage(unix.RTM_GETNEIGH, 0, &netlink.Ndmsg{Family: family})
	if index != 0 {
		m.AddData(rtaU32(unix.NDA_IFINDEX, uint32(index)))
	}
	if bridge != 0 {
		m.AddData(rtaU32(unix.NDA_MASTER, uint32(bridge)))
	}
	err = c.scan(m, func() { part = State{} }, func(b []byte) error {
		e, err := decodeEntry(b)
		if err == nil && (index == 0 || e.index == index) {
			take(&part, e)
		}
		return err
	})
	return part, err
}

func decodeEntry(b []byte) (entry, error) {
	if len(b) < sizeofNdMsg {
		return entry{}, errors.New("neighbour message too short")
	}
	e := entry{
		family: b[0],
		index:  int(int32(binary.NativeEndian.Uint32(b[4:]))),
		state:  binary.NativeEndian.Uint16(b[8:]),
		flags:  b[10],
	}
	for kind, v := range walk(b[sizeofNdMsg:]) {
		switch kind {
		case unix.NDA_DST:
			e.dst = getAddr(v)
		case unix.NDA_LLADDR:
			e.mac = getMAC(v)
		case unix.NDA_MASTER:
			e.bridge = true
		case unix.NDA_PORT:
			e.add("port %d", getPort(v))
		case unix.NDA_VNI:
			e.add("vni %d", getU32(v))
		case unix.NDA_IFINDEX:
			e.add("via if%d", getU32(v))
		case ndaNexthop:
			e.add("nhid %d", getU32(v))
		}
	}
	return e, nil
}

// lasting reports whether the entry stays until somebody deletes it.
func (e entry) lasting() bool { return e.state&(unix.NUD_PERMANENT|nudNoARP) != 0 }

// add notes one more thing that says where an entry leads. The kernel tells only
// of what differs from the device's own: a port and a VNI that are ours are none.
func (e *entry) add(format string, value any) {
	e.other = strings.TrimPrefix(e.other+" "+fmt.Sprintf(format, value), " ")
}

// isFDB reports whether the entry is one of a VXLAN device's own.
func (e entry) isFDB() bool { return !e.bridge && (e.dst.IsValid() || e.other != "") && e.lasting() }

func (e entry) dest() Dest { return Dest{VTEP: e.dst, Other: e.other} }

// isStatic reports whether the entry is a static one of a bridge. Those for a
// port's own address are permanent instead, and not ours.
func (e entry) isStatic() bool { return e.bridge && e.state == nudNoARP }

// isNeigh reports whether the entry is a neighbour that lasts. Proxy entries are
// none; those that the kernel makes by itself last, too, and have the MAC of a group.
func (e entry) isNeigh() bool {
	return e.lasting() && e.flags&unix.NTF_PROXY == 0 && e.dst.IsValid() && !e.mac.IsZero() && e.mac[0]&1 == 0
}

// llAddr returns what a neighbour says. A VXLAN device tells its containers of a
// router, too.
func (e entry) llAddr() LLAddr {
	to := LLAddr{MAC: e.mac}
	if e.state != unix.NUD_PERMANENT {
		to.Other = "noarp"
	}
	if e.flags&unix.NTF_ROUTER != 0 {
		to.Other = strings.TrimPrefix(to.Other+" router", " ")
	}
	return to
}
