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

// addVeth makes a veth pair in one message, its peer born in the container's
// namespace, and sets the peer up there.
func (h *Host) addVeth(ctx context.Context, o AddLink, master int) error {
	if o.Inside == nil {
		return errors.New("a veth without a container's end")
	}
	if err := h.checkFamilies(*o.Inside); err != nil {
		return err
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
		if err := awaitAddrs(ctx, inside, o.Inside.Addrs); err != nil {
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
		if a.carrier() && b.carrier() {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the carrier: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

// doomLink takes a veth off the network at once and leaves its deletion, which
// waits for every CPU to have noticed (RCU), to Retire. The disabled port
// stops all traffic that the program does not redirect, and that
// no longer finds it, before the rest, which costs some hundred microseconds.
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
	if err := h.forgetPort(d.index); err != nil {
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
