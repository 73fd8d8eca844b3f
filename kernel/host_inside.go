package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/overspan/overspan"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	// routeProtocol marks our routes in a container (rtnetlink(7), rtm_protocol).
	// Those of others are left alone.
	routeProtocol = 0x5b

	// noNetnsID is NETNSA_NSID_NOT_ASSIGNED.
	noNetnsID = -1

	netnsaNSID = 1
	netnsaFD   = 3
)

// fillInside gives the container's end of a veth, the link index in a
// namespace, the alias of its host end, its sysctls, addresses and routes, and
// sets it and lo up. It adds only. What the sysctls say of router advertisements
// is there before the first can arrive.
func fillInside(ns netns.NsHandle, c *conn, index int, alias string, want Inside) error {
	if err := writeInside(ns, want.Sysctls); err != nil {
		return err
	}
	err := firstError(c.execAll(insideMessages(index, alias, want)))
	// Docker and others switch IPv6 off where they have no use for it.
	if !errors.Is(err, unix.EACCES) {
		return err
	}
	if err := enableIPv6(ns, want.Name); err != nil {
		return err
	}
	return firstError(c.execAll(insideMessages(index, alias, want)))
}

func insideMessages(index int, alias string, want Inside) []message {
	todo := []message{
		setUp(loopbackIndex),
		newMessage(unix.RTM_SETLINK, 0, ifInfo(index, 0, 0), rta(unix.IFLA_IFALIAS, []byte(alias))),
	}
	if want.Up {
		todo = append(todo, setUp(index))
	} else {
		todo = append(todo, setDown(index))
	}
	for _, p := range want.Addrs {
		todo = append(todo, addrMessage(unix.RTM_NEWADDR, index, p))
	}
	for _, r := range want.Routes {
		todo = append(todo, routeMessage(unix.RTM_NEWROUTE, index, r))
	}
	return todo
}

// enableIPv6 lets an interface of a namespace have IPv6 addresses.
func enableIPv6(ns netns.NsHandle, name string) error {
	return do(ns, func() error {
		return os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("0"), 0)
	})
}

// setInside changes the container's end of a veth from Have to Want.
func (h *Host) setInside(o SetInside) error {
	if err := h.checkFamilies(o.Want); err != nil {
		return err
	}
	f := finder{conn: h.route}
	host, err := f.ours(o.Veth)
	if err != nil {
		return err
	}
	ns, err := openNetns(o.Want.Netns)
	if err != nil {
		return err
	}
	defer ns.Close()
	c, err := dialIn(ns)
	if err != nil {
		return err
	}
	defer c.close()
	if in, err := h.isIn(host, ns); err != nil || !in {
		return errors.Join(err, overspan.Errorf(overspan.ErrConflict, "the other end of %s is not in %s", o.Veth, o.Want.Netns))
	}
	d, err := c.linkAt(host.peer)
	if err != nil {
		return err
	}
	if err := firstError(c.execAll(renameMessages(d, o.Want))); err != nil {
		return err
	}
	if err := fillInside(ns, c, d.index, host.Alias, o.Want); err != nil {
		return err
	}
	return clearInside(c, d.index, o)
}

// renameMessages changes name, MAC and MTU where they are not as wanted. Before
// Linux 6.0 a link must be down while it is renamed.
func renameMessages(d device, want Inside) []message {
	var todo []message
	if d.name != want.Name {
		todo = append(todo, setDown(d.index),
			newMessage(unix.RTM_SETLINK, 0, ifInfo(d.index, 0, 0), rtaText(unix.IFLA_IFNAME, want.Name)))
	}
	if d.MAC != want.MAC {
		todo = append(todo, newMessage(unix.RTM_SETLINK, 0, ifInfo(d.index, 0, 0), rta(unix.IFLA_ADDRESS, want.MAC[:])))
	}
	if d.MTU != want.MTU {
		todo = append(todo, setMTU(d.index, want.MTU))
	}
	return todo
}

// clearInside deletes the addresses and routes that are not wanted.
func clearInside(c *conn, index int, o SetInside) error {
	var todo []message
	for _, r := range o.Have.Routes {
		if !slices.Contains(o.Want.Routes, r) {
			todo = append(todo, routeMessage(unix.RTM_DELROUTE, index, r))
		}
	}
	for _, p := range o.Have.Addrs {
		if !slices.Contains(o.Want.Addrs, p) {
			todo = append(todo, addrMessage(unix.RTM_DELADDR, index, p))
		}
	}
	for _, err := range c.execAll(todo) {
		if err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return err
		}
	}
	return nil
}

// isIn reports whether the other end of a veth lies in a namespace.
func (h *Host) isIn(d device, ns netns.NsHandle) (bool, error) {
	m := newMessage(unix.RTM_GETNSID, 0, nl.NewRtGenMsg(), rtaU32(netnsaFD, uint32(ns)))
	body, err := h.route.get(m)
	if err != nil {
		return false, fmt.Errorf("look up the number of a namespace: %w", err)
	}
	for kind, v := range walk(body[min(len(body), 4):]) {
		if kind == netnsaNSID {
			return int(int32(getU32(v))) == d.peerNS, nil
		}
	}
	return false, nil
}

// readInside reads the container's end of a veth of ours. ok is false if there
// is no such namespace any more: then there is nothing to put right. Of its
// sysctls it reads some.
func (h *Host) readInside(host device, path string, sysctls []string) (in Inside, ok bool, err error) {
	ns, err := openNetns(path)
	if errors.Is(err, overspan.ErrNotFound) || errors.Is(err, overspan.ErrInvalid) {
		return Inside{}, false, nil
	}
	if err != nil {
		return Inside{}, false, err
	}
	defer ns.Close()
	in = Inside{Netns: path}
	if here, err := h.isIn(host, ns); err != nil || !here {
		in.Missing = true
		return in, err == nil, err
	}
	c, err := dialIn(ns)
	if err != nil {
		return Inside{}, false, err
	}
	defer c.close()
	end, err := c.linkAt(host.peer)
	if errors.Is(err, errNoDevice) {
		in.Missing = true
		return in, true, nil
	}
	if err != nil {
		return Inside{}, false, err
	}
	in.Name, in.MAC, in.MTU, in.Up = end.name, end.MAC, end.MTU, end.Up
	if in.Addrs, err = c.addrsOf(end.index); err != nil {
		return Inside{}, false, err
	}
	if in.Routes, err = c.routes(end.index); err != nil {
		return Inside{}, false, err
	}
	in.Sysctls, err = readInsideSysctls(ns, sysctls)
	return in, err == nil, err
}

// An ifAddr is an address of a link.
type ifAddr struct {
	index  int
	prefix netip.Prefix
}

// addrsOf returns the sorted addresses of one link, without link-local ones;
// nil if there are none.
func (c *conn) addrsOf(index int) ([]netip.Prefix, error) {
	all, err := c.addrs(index)
	if err != nil {
		return nil, err
	}
	var out []netip.Prefix
	for _, a := range all {
		if !a.prefix.Addr().IsLinkLocalUnicast() {
			out = append(out, a.prefix)
		}
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return out, nil
}

// addrs lists addresses, of one link or, with index 0, of all.
func (c *conn) addrs(index int) ([]ifAddr, error) {
	head := nl.NewIfAddrmsg(unix.AF_UNSPEC)
	head.Index = uint32(index)
	bodies, err := c.dump(newMessage(unix.RTM_GETADDR, 0, head))
	if err != nil {
		return nil, err
	}
	var out []ifAddr
	for _, b := range bodies {
		a, err := decodeAddr(b)
		if err != nil {
			return nil, err
		}
		if (index == 0 || a.index == index) && a.prefix.IsValid() {
			out = append(out, a)
		}
	}
	return out, nil
}

func decodeAddr(b []byte) (ifAddr, error) {
	if len(b) < unix.SizeofIfAddrmsg {
		return ifAddr{}, errors.New("address message too short")
	}
	a := ifAddr{index: int(binary.NativeEndian.Uint32(b[4:]))}
	var addr, local netip.Addr
	for kind, v := range walk(b[unix.SizeofIfAddrmsg:]) {
		switch kind {
		case unix.IFA_ADDRESS:
			addr = getAddr(v) // the peer's on a point-to-point link
		case unix.IFA_LOCAL:
			local = getAddr(v)
		}
	}
	if local.IsValid() {
		addr = local
	}
	a.prefix = netip.PrefixFrom(addr, int(b[1]))
	return a, nil
}

// addrMessage adds an address, without waiting for duplicates to answer (which
// nobody would), or deletes it.
func addrMessage(kind, index int, p netip.Prefix) message {
	head := nl.NewIfAddrmsg(afInet(p.Addr()))
	head.Index = uint32(index)
	head.Prefixlen = uint8(p.Bits())
	mode := 0
	if kind == unix.RTM_NEWADDR {
		mode = replace
		head.IfAddrmsg.Flags = unix.IFA_F_NODAD
	}
	raw := p.Addr().AsSlice()
	return newMessage(kind, mode, head, rta(unix.IFA_LOCAL, raw), rta(unix.IFA_ADDRESS, raw))
}

// routeMessage adds or deletes a route of ours.
func routeMessage(kind, index int, r Route) message {
	head := nl.NewRtMsg()
	head.Family = uint8(afInet(r.Dst.Addr()))
	head.Dst_len = uint8(r.Dst.Bits())
	head.Protocol = routeProtocol
	mode := 0
	if kind == unix.RTM_NEWROUTE {
		mode = replace
	} else {
		head.Scope = unix.RT_SCOPE_NOWHERE // any
	}
	return newMessage(kind, mode, head,
		rta(unix.RTA_DST, r.Dst.Addr().AsSlice()),
		rta(unix.RTA_GATEWAY, r.Via.AsSlice()),
		rtaU32(unix.RTA_OIF, uint32(index)),
		rtaU32(unix.RTA_PRIORITY, r.Metric),
	)
}

// routes returns our routes by way of a link, sorted; nil if there are none.
func (c *conn) routes(index int) ([]Route, error) {
	head := &nl.RtMsg{}
	bodies, err := c.dump(newMessage(unix.RTM_GETROUTE, 0, head, rtaU32(unix.RTA_OIF, uint32(index))))
	if err != nil {
		return nil, err
	}
	var out []Route
	for _, b := range bodies {
		if r, oif, ok := decodeRoute(b); ok && oif == index {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, compareRoutes)
	return out, nil
}

// decodeRoute returns ok false for a route that is not ours.
func decodeRoute(b []byte) (r Route, oif int, ok bool) {
	if len(b) < unix.SizeofRtMsg || b[5] != routeProtocol {
		return Route{}, 0, false
	}
	dst := netip.IPv6Unspecified()
	if b[0] == unix.AF_INET {
		dst = netip.IPv4Unspecified()
	}
	for kind, v := range walk(b[unix.SizeofRtMsg:]) {
		switch kind {
		case unix.RTA_DST:
			dst = getAddr(v)
		case unix.RTA_GATEWAY:
			r.Via = getAddr(v)
		case unix.RTA_OIF:
			oif = int(getU32(v))
		case unix.RTA_PRIORITY:
			r.Metric = getU32(v)
		}
	}
	r.Dst = netip.PrefixFrom(dst, int(b[1]))
	return r, oif, r.Via.IsValid()
}

// addAddr adds an address to a bridge of ours.
func (h *Host) addAddr(a Addr) error {
	f := finder{conn: h.route}
	d, err := f.ours(a.Dev)
	if err != nil {
		return err
	}
	err = h.route.exec(addrMessage(unix.RTM_NEWADDR, d.index, a.Prefix))
	if !errors.Is(err, unix.EACCES) {
		return err
	}
	if err := enableIPv6(h.ns, a.Dev); err != nil {
		return err
	}
	return h.route.exec(addrMessage(unix.RTM_NEWADDR, d.index, a.Prefix))
}

// delAddr takes an address off a bridge of ours.
func (h *Host) delAddr(a Addr) error {
	f := finder{conn: h.route}
	d, err := f.ours(a.Dev)
	if errors.Is(err, errNoDevice) {
		return nil
	}
	if err != nil {
		return err
	}
	err = h.route.exec(addrMessage(unix.RTM_DELADDR, d.index, a.Prefix))
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return err
	}
	return h.route.rejoin(d.index, a.Prefix.Addr())
}

// rejoin makes the IPv6 addresses of a link be heard again that share their
// solicited-node group with one that was deleted. A new address joins the group
// a moment later, by a work queue (addrconf_dad_begin): deleted before that, it
// leaves the group in the name of the others, and nobody finds them any more.
func (c *conn) rejoin(index int, gone netip.Addr) error {
	if !gone.Is6() {
		return nil
	}
	left, err := c.addrs(index)
	if err != nil {
		return err
	}
	group := func(a netip.Addr) [3]byte {
		raw := a.As16()
		return [3]byte(raw[13:])
	}
	var todo []message
	for _, a := range left {
		if a.prefix.Addr().Is6() && group(a.prefix.Addr()) == group(gone) {
			todo = append(todo, addrMessage(unix.RTM_DELADDR, index, a.prefix), addrMessage(unix.RTM_NEWADDR, index, a.prefix))
		}
	}
	return firstError(c.execAll(todo))
}
