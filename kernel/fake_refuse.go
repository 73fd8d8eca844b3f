package kernel

import (
	"errors"
	"fmt"

	"github.com/overspan/overspan"
)

// The reasons for which a kernel refuses an op, as errno(3) words them.
var (
	errNoSuchDevice = errors.New("no such device")
	errNoSuchEntry  = errors.New("no such file or directory")
	errFileExists   = errors.New("file exists")
	errBusy         = errors.New("device or resource busy")
)

// refuse says why a kernel in state s refuses op, nil if it does not. Adding an
// entry that is there and deleting what is gone is no reason.
func (s State) refuse(op Op) error {
	switch o := op.(type) {
	case AddLink:
		return s.refuseAddLink(o)
	case SetLink:
		if have, ok := s.Links[o.Name]; !ok || have.Kind != o.Want.Kind {
			return errNoSuchDevice
		}
		if alt := o.Want.AltName; alt != "" && s.bears(alt, o.Name) {
			return errFileExists
		}
		return s.refuseMaster(o.Want)
	case SetInside:
		return s.needLink(o.Veth, KindVeth)
	case AddAddr:
		return s.needLink(o.Addr.Dev, KindBridge)
	case SetFDB:
		return s.needLink(o.Key.Dev, KindVXLAN)
	case SetNeigh:
		return s.needLink(o.Key.Dev, KindVXLAN)
	case SetProgram:
		return s.needAnyLink(ourName(o.Dev))
	case AttachProgram:
		return s.needAnyLink(ourName(o.Dev))
	case AddStatic:
		if s.Links[o.Key.Dev].Master == "" {
			return errNoSuchDevice
		}
	case SetSysctl:
		if dev := sysctlDev(o.Path); hasOurName(dev) && s.Links[dev].Kind == "" {
			return errNoSuchEntry
		}
	default:
		return s.refuseRules(op)
	}
	return nil
}

// bears reports whether another link than one has a name.
func (s State) bears(name string, than string) bool {
	for other, l := range s.Links {
		if other != than && (other == name || l.AltName == name) {
			return true
		}
	}
	return false
}

func (s State) refuseRules(op Op) error {
	switch o := op.(type) {
	case AddSet:
		if have, ok := s.Sets[o.Name]; ok && (have.Family != o.Family || have.Subnets != o.Subnets) {
			return errFileExists
		}
	case AddSetEntry:
		have, ok := s.Sets[o.Set]
		if !ok || have.Family != overspan.FamilyOf(o.Member.Addr()) {
			return errNoSuchEntry
		}
	case AddJump:
		if _, ok := s.Chains[o.Key]; !ok {
			return errNoSuchEntry
		}
	case DelChains:
		for _, name := range o.Names {
			if s.Chains[ChainKey{o.Family, o.Table, name}].Hook != "" {
				return errBusy
			}
		}
	}
	return nil
}

func (s State) refuseAddLink(o AddLink) error {
	if have, ok := s.Links[o.Name]; ok {
		if have.convertible(o.Link) {
			return s.refuseMaster(o.Link)
		}
		return errFileExists
	}
	if _, ok := s.Doomed[o.Name]; ok {
		return errFileExists
	}
	if o.Link.Kind == KindVXLAN {
		for _, l := range s.Links {
			if l.Kind == KindVXLAN && l.VXLAN.VNI == o.Link.VXLAN.VNI && l.VXLAN.Port == o.Link.VXLAN.Port {
				return errFileExists
			}
		}
	}
	if o.Link.Kind == KindVeth && o.Inside == nil {
		return overspan.Errorf(overspan.ErrInvalid, "a veth needs a container's end")
	}
	return s.refuseMaster(o.Link)
}

func (s State) refuseMaster(l Link) error {
	if l.Master == "" {
		return nil
	}
	return s.needLink(l.Master, KindBridge)
}

// needAnyLink takes "" for a device of others, which is no part of a State.
func (s State) needAnyLink(name string) error {
	if _, ok := s.Links[name]; !ok && name != "" {
		return fmt.Errorf("%s: %w", name, errNoSuchDevice)
	}
	return nil
}

func (s State) needLink(name string, kind LinkKind) error {
	if s.Links[name].Kind != kind {
		return fmt.Errorf("%s: %w", name, errNoSuchDevice)
	}
	return nil
}
