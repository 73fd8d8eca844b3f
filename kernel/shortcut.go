package kernel

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/overspan/overspan"
	"golang.org/x/sys/unix"
)

// A Shortcut says where this host can take packets of the tunnel past the packet
// filter, with a ProgramUnderlay.
type Shortcut struct {
	Device string // whose ingress they come in by
	Index  int    // of that device: another one, if it is made anew
	Why    string // there is none; "" where there is
}

// Shortcut looks for the device that packets to one of this host's addresses come
// in by, and whether they can be taken there.
func (h *Host) Shortcut(vtep netip.Addr) (Shortcut, error) {
	if _, err := h.reloadUnderlay(); err != nil {
		return Shortcut{Why: fmt.Sprintf("the kernel does not take the program for it: %v", err)}, nil
	}
	if !vtep.Is4() {
		return Shortcut{Why: "this node has no IPv4 address in the underlay"}, nil
	}
	u, err := h.Underlay(vtep.String())
	if errors.Is(err, overspan.ErrNotFound) {
		return Shortcut{Why: err.Error()}, nil
	}
	if err != nil {
		return Shortcut{}, err
	}
	d, err := h.route.link(u.Device)
	if err != nil {
		return Shortcut{}, fmt.Errorf("look up %s: %w", u.Device, err)
	}
	if d.hardware != unix.ARPHRD_ETHER {
		return Shortcut{Why: fmt.Sprintf("%s, which has the address %s, is no Ethernet device", u.Device, vtep)}, nil
	}
	policies, err := h.hasPolicies()
	if err != nil {
		return Shortcut{}, err
	}
	if policies {
		return Shortcut{Why: "this host has IPsec policies (ip xfrm policy), which all packets are to meet"}, nil
	}
	if why, err := h.obstructed(d); why != "" || err != nil {
		return Shortcut{Why: why}, err
	}
	return Shortcut{Device: u.Device, Index: d.index}, nil
}

// What x/sys lacks of linux/xfrm.h.
const (
	xfrmGetDefault = 0x28 // XFRM_MSG_GETDEFAULT, Linux 5.14
	xfrmGetSPDInfo = 0x25 // XFRM_MSG_GETSPDINFO
	xfrmaSPDInfo   = 1    // XFRMA_SPD_INFO: counts of policies in, out and forwarded
	xfrmBlock      = 1    // XFRM_USERPOLICY_BLOCK
	xfrmPolicies   = 4    // XFRMNLGRP_POLICY, the group that tells of changes
)

// dialXFRM opens a socket for IPsec's policies; nil where the kernel has none.
func dialXFRM() (*conn, error) {
	c, err := dial(unix.NETLINK_XFRM)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil, nil
	}
	return c, err
}

// hasPolicies reports whether IPsec has a say in which packets pass: by a policy,
// but for those of single sockets, or by what it does without one.
func (h *Host) hasPolicies() (bool, error) {
	if h.xfrm == nil {
		return false, nil
	}
	flags := make(raw, 4) // none are known; what they are comes back
	info, err := h.xfrm.get(newMessage(xfrmGetSPDInfo, 0, flags))
	if err != nil {
		return false, fmt.Errorf("count IPsec policies: %w", err)
	}
	for kind, v := range walk(info[min(len(info), len(flags)):]) {
		if kind == xfrmaSPDInfo && len(v) >= 12 && getU32(v[0:4])|getU32(v[4:8])|getU32(v[8:12]) != 0 {
			return true, nil
		}
	}
	// The answer has one byte each for what comes in, is forwarded, goes out.
	blocks, err := h.xfrm.get(newMessage(xfrmGetDefault, 0, make(raw, 3)))
	if errors.Is(err, unix.EINVAL) {
		return false, nil // an older kernel lets all pass
	}
	if err != nil {
		return false, fmt.Errorf("ask what IPsec does without a policy: %w", err)
	}
	for _, b := range blocks[:min(len(blocks), 3)] {
		if b == xfrmBlock {
			return true, nil
		}
	}
	return false, nil
}

// raw is a part of a netlink message as it is.
type raw []byte

func (r raw) Len() int          { return len(r) }
func (r raw) Serialize() []byte { return r }
