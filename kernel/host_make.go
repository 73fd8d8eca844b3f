package kernel

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/overspan/overspan"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// carrierWait bounds the wait for a new veth pair to carry packets.
const carrierWait = 2 * time.Second

// addLink makes a link with all its attributes. Where one of ours stands under
// the name already, it is changed to be as wanted; a foreign one is refused. A
// link that could not be completed is deleted again.
func (h *Host) addLink(ctx context.Context, o AddLink) error {
	master, err := h.masterIndex(o.Link.Master)
	if err != nil {
		return err
	}
	if o.Link.Kind == KindVeth {
		return h.addVeth(ctx, o, master)
	}
	if err := h.bear(o, newLink(o.Name, o.Link)); err != nil {
		return h.existing(o.Name, o.Link, err)
	}
	if err := h.complete(o.Name, o.Link, master); err != nil {
		return errors.Join(err, h.delLink(o.Name))
	}
	return nil
}

// bear makes a link and marks it as ours.
func (h *Host) bear(o AddLink, create message) error {
	h.bearing.Lock()
	defer h.bearing.Unlock()
	if err := h.route.exec(create); err != nil {
		return err
	}
	if err := h.route.exec(setAlias(o.Name, o.Link.Alias)); err != nil {
		return errors.Join(fmt.Errorf("set alias: %w", err), h.delLink(o.Name))
	}
	return nil
}

// complete gives a new bridge or VXLAN device what cannot be given at its
// making. Its addrgenmode must be set before it is up.
func (h *Host) complete(name string, want Link, master int) error {
	d, err := h.route.link(name)
	if err != nil {
		return err
	}
	if want.Kind != KindVXLAN || want.VXLAN.AddrGenNone {
		err := h.route.exec(setAddrGen(d.index, addrGenNone))
		if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) { // no IPv6, no link-local address
			return fmt.Errorf("set addrgenmode none: %w", err)
		}
	}
	todo := []message{setMTU(d.index, want.MTU)}
	if master != 0 {
		todo = append(todo, setMaster(d.index, master), setPort(d.index, want.Port))
	}
	if want.Up {
		todo = append(todo, setUp(d.index))
	}
	err = firstError(h.route.execAll(todo))
	if errors.Is(err, unix.EADDRINUSE) {
		return h.route.vxlanConflict(name, want.VXLAN, err)
	}
	return err
}

// existing settles what it means that a link could not be made.
func (h *Host) existing(name string, want Link, cause error) error {
	if !errors.Is(cause, unix.EEXIST) {
		return cause
	}
	d, err := h.route.link(name)
	if errors.Is(err, errNoDevice) && want.Kind == KindVXLAN {
		return h.route.vxlanConflict(name, want.VXLAN, cause)
	}
	if err != nil {
		return cause
	}
	if err := checkOurs(d); err != nil {
		return err
	}
	have := h.named(d)
	if have.Kind != want.Kind || fixed(have.VXLAN) != fixed(want.VXLAN) {
		return overspan.Errorf(overspan.ErrConflict, "%s exists with other attributes", name)
	}
	return h.setLink(SetLink{Name: name, Have: have, Want: want})
}

// fixed is the attributes of a VXLAN device that cannot be changed.
func fixed(v VXLAN) VXLAN {
	v.AddrGenNone = false
	return v
}

// named returns a device as a Link, its master by name.
func (h *Host) named(d device) Link {
	l := d.Link
	if d.master != 0 {
		if m, err := h.route.linkAt(d.master); err == nil {
			l.Master = m.name
		}
	}
	if l.Kind == KindVeth {
		l.MAC = overspan.MAC{}
	}
	return l
}

func (h *Host) masterIndex(name string) (int, error) {
	if name == "" {
		return 0, nil
	}
	d, err := h.route.link(name)
	if err != nil {
		return 0, fmt.Errorf("look up bridge %s: %w", name, err)
	}
	return d.index, checkOurs(d)
}

// newLink returns the message that makes a bridge or a VXLAN device, down.
func newLink(name string, l Link) message {
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(unix.IFLA_INFO_KIND, []byte(l.Kind))
	mtu := l.MTU
	switch l.Kind {
	case KindBridge:
		// A bridge takes over its ports' MTU unless its own was once changed:
		// it is born with another than wanted, and then changed.
		mtu--
		// Without a default VLAN a static entry is one entry, not two.
		info.AddChild(nest(unix.IFLA_INFO_DATA,
			rtaFlag(nl.IFLA_BR_MCAST_SNOOPING, l.Bridge.MulticastSnooping),
			rta(nl.IFLA_BR_VLAN_DEFAULT_PVID, nl.Uint16Attr(0)),
		))
	case KindVXLAN:
		local := nl.IFLA_VXLAN_LOCAL
		if l.VXLAN.Local.Is6() {
			local = nl.IFLA_VXLAN_LOCAL6
		}
		info.AddChild(nest(unix.IFLA_INFO_DATA,
			rtaU32(nl.IFLA_VXLAN_ID, l.VXLAN.VNI),
			rtaPort(nl.IFLA_VXLAN_PORT, l.VXLAN.Port),
			rta(local, l.VXLAN.Local.AsSlice()),
			rtaFlag(nl.IFLA_VXLAN_LEARNING, l.VXLAN.Learning),
			rtaFlag(nl.IFLA_VXLAN_PROXY, l.VXLAN.Proxy),
		))
	}
	return newMessage(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL,
		ifInfo(0, 0, 0),
		rtaText(unix.IFLA_IFNAME, name),
		rtaU32(unix.IFLA_GROUP, bornGroup),
		rtaU32(unix.IFLA_MTU, uint32(mtu)),
		rta(unix.IFLA_ADDRESS, l.MAC[:]),
		info,
	)
}

// addVeth makes a veth pair in one message, its peer born in the container's
// namespace, and sets the peer up there.
func (h *Host) addVeth(ctx context.Context, o AddLink, master int) error {
	if o.Inside == nil {
		return errors.New("a veth without a container's end")
	}
	ns, err := openNetns(o.Inside.Netns)
	if err != nil {
		return err
	}
	defer ns.Close()
	inside, err := dialIn(ns)
	if err != nil {
		return err
	}
	defer inside.close()

	create := newVeth(o.Name, o.Link, *o.Inside, ns)
	err = h.bear(o, create)
	if errors.Is(err, unix.EEXIST) && h.clearName(inside, o.Inside.Name) {
		err = h.bear(o, create)
	}
	if errors.Is(err, unix.EEXIST) {
		return h.existingVeth(o, inside)
	}
	if err != nil {
		return err
	}
	if err := h.completeVeth(ctx, o, master, ns, inside); err != nil {
		return errors.Join(err, h.delLink(o.Name))
	}
	return nil
}

func (h *Host) completeVeth(ctx context.Context, o AddLink, master int, ns netns.NsHandle, inside *conn) error {
	d, err := h.route.link(o.Name)
	if err != nil {
		return err
	}
	if err := fillInside(ns, inside, d.peer, o.Link.Alias, *o.Inside); err != nil {
		return err
	}
	if o.Link.Up && o.Inside.Up {
		if err := awaitCarrier(ctx, h.route, d.index, inside, d.peer); err != nil {
			return err
		}
	}
	if master == 0 {
		return nil
	}
	return firstError(h.route.execAll([]message{setMaster(d.index, master), setPort(d.index, o.Link.Port)}))
}

// clearName deletes a container's end of ours that bears a name without need,
// and reports whether it did.
func (h *Host) clearName(inside *conn, name string) bool {
	d, err := inside.link(name)
	return err == nil && h.isLeftOver(d) && inside.exec(deleteLink(d.index)) == nil
}

// isLeftOver reports whether a link in a container is an end of ours whose host
// end is doomed, or is not where it should be: somebody renamed or moved it.
func (h *Host) isLeftOver(d device) bool {
	_, id, ok := overspan.ParseAlias(d.Alias)
	if !ok || d.Kind != KindVeth {
		return false
	}
	host, err := h.route.link(overspan.VethName(id))
	if err != nil {
		return errors.Is(err, errNoDevice)
	}
	return host.ours() && (host.leaving() || host.peer != d.index)
}

// existingVeth settles that a pair could not be made because of a name.
func (h *Host) existingVeth(o AddLink, inside *conn) error {
	if d, err := inside.link(o.Inside.Name); err == nil {
		host, err := h.route.link(o.Name)
		if err != nil || !host.ours() || host.peer != d.index {
			return overspan.Errorf(overspan.ErrExists, "interface %s exists in %s", o.Inside.Name, o.Inside.Netns)
		}
	}
	if err := h.existing(o.Name, o.Link, unix.EEXIST); err != nil {
		return err
	}
	return h.setInside(SetInside{Veth: o.Name, Want: *o.Inside})
}

// newVeth returns the message that makes a veth pair, the host end up if it is
// wanted so. The peer cannot be: the kernel opens it before it knows its own
// peer.
func newVeth(name string, l Link, in Inside, ns netns.NsHandle) message {
	peer := nl.NewRtAttr(nl.VETH_INFO_PEER, nil)
	peer.AddChild(ifInfo(0, 0, 0))
	for _, a := range []*nl.RtAttr{
		rtaText(unix.IFLA_IFNAME, in.Name),
		rtaU32(unix.IFLA_MTU, uint32(in.MTU)),
		rta(unix.IFLA_ADDRESS, in.MAC[:]),
		rtaU32(unix.IFLA_NET_NS_FD, uint32(ns)),
	} {
		peer.AddChild(a)
	}
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(unix.IFLA_INFO_KIND, []byte(KindVeth))
	info.AddChild(nest(unix.IFLA_INFO_DATA, peer))
	flags := uint32(0)
	if l.Up {
		flags = unix.IFF_UP
	}
	return newMessage(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL,
		ifInfo(0, flags, flags),
		rtaText(unix.IFLA_IFNAME, name),
		rtaU32(unix.IFLA_GROUP, bornGroup),
		rtaU32(unix.IFLA_MTU, uint32(l.MTU)),
		info,
	)
}

// awaitCarrier waits until both ends of a pair carry packets. The kernel
// attaches a queue to an end that came up before its peer only a little later
// (link watch), and drops what is sent until then. Recent kernels (6.8) finish
// that work when they are asked; on others the answer is awaited.
func awaitCarrier(ctx context.Context, host *conn, end int, inside *conn, peer int) error {
	ctx, cancel := context.WithTimeout(ctx, carrierWait)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		a, err := host.linkAt(end)
		if err != nil {
			return err
		}
		b, err := inside.linkAt(peer)
		if err != nil {
			return err
		}
		if a.carrier && b.carrier {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the carrier: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

// setLink changes the attributes in which Want differs from Have. Who joins a
// bridge is given its port flags again: leaving one has reset them.
func (h *Host) setLink(o SetLink) error {
	f := finder{conn: h.route}
	d, err := f.ours(o.Name)
	if err != nil {
		return err
	}
	have, want := o.Have, o.Want
	master := 0
	if want.Master != "" {
		m, err := f.ours(want.Master)
		if err != nil {
			return fmt.Errorf("look up bridge %s: %w", want.Master, err)
		}
		master = m.index
	}
	todo := changeLink(d.index, have, want)
	if have.Master != want.Master {
		todo = append(todo, setMaster(d.index, master))
	}
	if master != 0 && (have.Master != want.Master || have.Port != want.Port) {
		todo = append(todo, setPort(d.index, want.Port))
	}
	if have.Up != want.Up {
		if want.Up {
			todo = append(todo, setUp(d.index))
		} else {
			todo = append(todo, setDown(d.index))
		}
	}
	err = firstError(h.route.execAll(todo))
	if want.Kind == KindVXLAN && errors.Is(err, unix.EADDRINUSE) {
		return h.route.vxlanConflict(o.Name, want.VXLAN, err)
	}
	return err
}

// changeLink returns the messages for what has nothing to do with bridge and
// state.
func changeLink(index int, have, want Link) []message {
	var todo []message
	set := newMessage(unix.RTM_SETLINK, 0, ifInfo(index, 0, 0))
	if have.Alias != want.Alias {
		set.AddData(rta(unix.IFLA_IFALIAS, []byte(want.Alias)))
	}
	if have.MTU != want.MTU {
		set.AddData(rtaU32(unix.IFLA_MTU, uint32(want.MTU)))
	}
	if have.MAC != want.MAC && !want.MAC.IsZero() {
		set.AddData(rta(unix.IFLA_ADDRESS, want.MAC[:]))
	}
	if len(set.Data) > 1 {
		todo = append(todo, set)
	}
	if have.VXLAN.AddrGenNone != want.VXLAN.AddrGenNone {
		mode := uint8(0)
		if want.VXLAN.AddrGenNone {
			mode = addrGenNone
		}
		todo = append(todo, setAddrGen(index, mode))
	}
	if have.Bridge != want.Bridge {
		info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
		info.AddRtAttr(unix.IFLA_INFO_KIND, []byte(KindBridge))
		info.AddChild(nest(unix.IFLA_INFO_DATA, rtaFlag(nl.IFLA_BR_MCAST_SNOOPING, want.Bridge.MulticastSnooping)))
		todo = append(todo, newMessage(unix.RTM_NEWLINK, 0, ifInfo(index, 0, 0), info))
	}
	return todo
}

// delLink deletes a link of ours and waits until it is gone.
func (h *Host) delLink(name string) error {
	d, err := h.route.link(name)
	if errors.Is(err, errNoDevice) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := checkOurs(d); err != nil {
		return err
	}
	if err := h.route.exec(deleteLink(d.index)); err != nil && !errors.Is(err, errNoDevice) {
		return err
	}
	return nil
}

// doomLink takes a veth off the network at once and leaves its deletion, which
// waits for every CPU to have noticed (RCU), to the reaper. The disabled port
// stops all traffic before the rest, which costs some hundred microseconds.
// Leaving the bridge drops the static entry: the address may be another's soon.
func (h *Host) doomLink(name string) error {
	d, err := h.route.link(name)
	if errors.Is(err, errNoDevice) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := checkOurs(d); err != nil {
		return err
	}
	var todo []message
	if d.master != 0 {
		todo = append(todo, setPortState(d.index, portDisabled), setMaster(d.index, 0))
	}
	todo = append(todo, setDown(d.index),
		newMessage(unix.RTM_SETLINK, 0, ifInfo(d.index, 0, 0), rtaU32(unix.IFLA_GROUP, doomedGroup)))
	for _, err := range h.route.execAll(todo) {
		// ENETDOWN: a port that is down is disabled already.
		if err != nil && !errors.Is(err, errNoDevice) && !errors.Is(err, unix.ENETDOWN) {
			return err
		}
	}
	return nil
}

func deleteLink(index int) message {
	return newMessage(unix.RTM_DELLINK, 0, ifInfo(index, 0, 0))
}

// deleteGroup deletes all links of a group, with one wait for all of them.
func deleteGroup(group uint32) message {
	return newMessage(unix.RTM_DELLINK, 0, ifInfo(0, 0, 0), rtaU32(unix.IFLA_GROUP, group))
}

func firstError(errs []error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
