package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"

	"github.com/overspan/overspan"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// The types of ipsets.
const (
	typeAddrs   = "hash:ip"
	typeSubnets = "hash:net"
)

// setPrefix begins the name of every ipset of ours.
const setPrefix = "overspan-"

// ipset has error numbers of its own, from IPSET_ERR_PRIVATE on.
const (
	errSetType        = syscall.Errno(4098) // IPSET_ERR_FIND_TYPE
	errSetBusy        = syscall.Errno(4100) // IPSET_ERR_BUSY
	errSetEntryExists = syscall.Errno(4103) // IPSET_ERR_EXIST
)

// setMessage returns an ipset request. Without NLM_F_EXCL what is already so is
// no error to the kernel.
func setMessage(command int, parts ...nl.NetlinkRequestData) message {
	head := &nl.Nfgenmsg{NfgenFamily: unix.AF_INET, Version: nl.NFNETLINK_V0}
	all := append([]nl.NetlinkRequestData{head, rtaU8(nl.IPSET_ATTR_PROTOCOL, nl.IPSET_PROTOCOL)}, parts...)
	return newMessage(command|unix.NFNL_SUBSYS_IPSET<<8, 0, all...)
}

func (h *Host) addSet(o AddSet) error {
	if o.Name == UnderlayVTEPs {
		_, err := h.underlayProgram()
		return err // it comes with the program, empty
	}
	family, kind := uint8(unix.AF_INET), typeAddrs
	if o.Subnets {
		kind = typeSubnets
	}
	if o.Family == overspan.IPv6 {
		family = unix.AF_INET6
	}
	err := h.netfilter.exec(setMessage(nl.IPSET_CMD_CREATE,
		rtaText(nl.IPSET_ATTR_SETNAME, o.Name),
		rtaText(nl.IPSET_ATTR_TYPENAME, kind),
		rtaU8(nl.IPSET_ATTR_REVISION, 0),
		rtaU8(nl.IPSET_ATTR_FAMILY, family),
		nest(nl.IPSET_ATTR_DATA|unix.NLA_F_NESTED),
	))
	switch {
	case errors.Is(err, errSetType):
		return overspan.Errorf(overspan.ErrUnsupported, "this kernel has no ipset type %s", kind)
	case errors.Is(err, unix.EEXIST):
		return overspan.Errorf(overspan.ErrExists, "ipset %s exists with another type or family", o.Name)
	}
	return err
}

func (h *Host) delSet(name string) error {
	if name == UnderlayVTEPs {
		u, err := h.underlayProgram()
		if err != nil {
			return err
		}
		return u.clearVTEPs()
	}
	err := h.netfilter.exec(setMessage(nl.IPSET_CMD_DESTROY, rtaText(nl.IPSET_ATTR_SETNAME, name)))
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, errSetBusy):
		return overspan.Errorf(overspan.ErrInUse, "ipset %s is in use by a rule", name)
	}
	return err
}

// setEntryMessage returns the message for AddSetEntry and DelSetEntry.
func setEntryMessage(op Op) message {
	switch o := op.(type) {
	case AddSetEntry:
		return setMessage(nl.IPSET_CMD_ADD, rtaText(nl.IPSET_ATTR_SETNAME, o.Set), setMember(o.Member))
	case DelSetEntry:
		return setMessage(nl.IPSET_CMD_DEL, rtaText(nl.IPSET_ATTR_SETNAME, o.Set), setMember(o.Member))
	}
	return nil
}

func setMember(p netip.Prefix) *nl.RtAttr {
	kind := nl.IPSET_ATTR_IPADDR_IPV6
	if p.Addr().Is4() {
		kind = nl.IPSET_ATTR_IPADDR_IPV4
	}
	parts := []*nl.RtAttr{nest(nl.IPSET_ATTR_IP|unix.NLA_F_NESTED, rta(kind|unix.NLA_F_NET_BYTEORDER, p.Addr().AsSlice()))}
	if !p.IsSingleIP() {
		parts = append(parts, rtaU8(nl.IPSET_ATTR_CIDR, uint8(p.Bits())))
	}
	return nest(nl.IPSET_ATTR_DATA|unix.NLA_F_NESTED, parts...)
}

// readSets reads the sets of ours. That of a program which knows no VTEP counts
// as absent.
func (h *Host) readSets() (map[string]AddrSet, error) {
	sets, err := h.readIPSets()
	if err != nil {
		return nil, err
	}
	if u, failed := h.underlayProgram(); failed == nil {
		vteps, err := u.readVTEPs()
		if err != nil {
			return sets, err
		}
		if len(vteps) > 0 {
			put(&sets, UnderlayVTEPs, AddrSet{Family: overspan.IPv4, Members: vteps})
		}
	}
	return sets, nil
}

// readIPSets reads the ipsets of ours.
func (h *Host) readIPSets() (map[string]AddrSet, error) {
	bodies, err := h.netfilter.dump(setMessage(nl.IPSET_CMD_LIST))
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil // a kernel without ipset holds none of ours
	}
	if err != nil {
		return nil, fmt.Errorf("list ipsets: %w", err)
	}
	sets := map[string]AddrSet{}
	for _, b := range bodies {
		name, part := decodeSet(b)
		if !strings.HasPrefix(name, setPrefix) {
			continue
		}
		// A large set comes in several messages.
		set, ok := sets[name]
		if !ok {
			set = part
		}
		for p := range part.Members {
			put(&set.Members, p, struct{}{})
		}
		sets[name] = set
	}
	return sets, nil
}

func decodeSet(b []byte) (string, AddrSet) {
	name := ""
	set := AddrSet{Family: overspan.IPv4}
	for kind, v := range walk(b[min(len(b), nl.SizeofNfgenmsg):]) {
		switch kind {
		case nl.IPSET_ATTR_SETNAME:
			name = unix.ByteSliceToString(v)
		case nl.IPSET_ATTR_TYPENAME:
			set.Subnets = unix.ByteSliceToString(v) == typeSubnets
		case nl.IPSET_ATTR_FAMILY:
			if getU8(v) == unix.AF_INET6 {
				set.Family = overspan.IPv6
			}
		case nl.IPSET_ATTR_ADT:
			for _, element := range walk(v) {
				if p := decodeSetEntry(element); p.IsValid() {
					put(&set.Members, p, struct{}{})
				}
			}
		}
	}
	return name, set
}

func decodeSetEntry(b []byte) netip.Prefix {
	var addr netip.Addr
	bits := -1
	for kind, v := range walk(b) {
		switch kind {
		case nl.IPSET_ATTR_IP:
			for _, raw := range walk(v) {
				addr = getAddr(raw)
			}
		case nl.IPSET_ATTR_CIDR:
			bits = int(getU8(v))
		}
	}
	if bits < 0 {
		bits = addr.BitLen()
	}
	return netip.PrefixFrom(addr, bits)
}
