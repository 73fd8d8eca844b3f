package kernel

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/overspan/overspan"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

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
			l.under(m)
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
		if have.Master == want.Master && have.Port.Closed {
			todo = append(todo, setPortState(d.index, portForwarding))
		}
	}
	var named error // a name that is another's keeps nothing else from being put right
	if want.AltName != have.AltName && want.AltName != "" {
		named = h.giveAltName(d, want.AltName)
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
	return cmp.Or(err, named)
}

// giveAltName gives a link of ours one more name, or says whose it is.
func (h *Host) giveAltName(d device, name string) error {
	err := h.route.exec(addAltName(d.index, name))
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	holder, lookup := h.route.oneLink(0, rtaText(unix.IFLA_ALT_IFNAME, name)) // finds it by either kind of name
	switch {
	case lookup != nil:
		return err
	case holder.index == d.index:
		return nil
	}
	return overspan.Errorf(overspan.ErrExists, "%s cannot have the name %s besides its own: it is that of the link %s; rename that one, or make the network with another", d.name, name, holder.name)
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
	if have.ProtoDown && !want.ProtoDown {
		set.AddData(rtaU8(unix.IFLA_PROTO_DOWN, 0))
	}
	if len(set.Data) > 1 {
		todo = append(todo, set)
	}
	if have.NoARP && !want.NoARP {
		todo = append(todo, newMessage(unix.RTM_NEWLINK, 0, ifInfo(index, 0, unix.IFF_NOARP)))
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
		data := nest(unix.IFLA_INFO_DATA, rtaFlag(nl.IFLA_BR_MCAST_SNOOPING, want.Bridge.MulticastSnooping))
		if have.Bridge.STP {
			data.AddChild(rtaU32(nl.IFLA_BR_STP_STATE, 0))
		}
		if have.Bridge.VLANFiltering { // a kernel that has none refuses even that
			data.AddChild(rtaFlag(nl.IFLA_BR_VLAN_FILTERING, false))
		}
		info.AddChild(data)
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
	if err := h.forgetPort(d.index); err != nil {
		return err
	}
	if err := h.route.exec(deleteLink(d.index)); err != nil && !errors.Is(err, errNoDevice) {
		return err
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
