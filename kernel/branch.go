package kernel

import (
	"fmt"
	"strings"

	"github.com/overspan/overspan"
)

// broken is what could not be made or removed in a run of ops, by name. Ops
// that build on it are skipped; the rest of the run goes on.
type broken map[string]struct{}

// add notes that op failed or was skipped.
func (b broken) add(op Op) {
	for _, name := range makes(op) {
		b[name] = struct{}{}
	}
}

// blocks reports whether op builds on something broken.
func (b broken) blocks(op Op) bool {
	for _, name := range needs(op) {
		if _, ok := b[name]; ok {
			return true
		}
	}
	return false
}

// makes returns what cannot be built on when op has failed. A failed change or
// entry stops nothing: the rest of a device's entries are as good without it.
func makes(op Op) []string {
	switch o := op.(type) {
	case AddNetns:
		return []string{o.Path}
	case AddLink:
		return []string{o.Name}
	case DelLink:
		return []string{o.Name}
	case Retire:
		return o.Names
	case AddSet:
		return []string{o.Name}
	case DelSet:
		return []string{o.Name}
	case SetProgram:
		return []string{programOf(o.Dev)}
	case AttachProgram:
		return []string{programOf(o.Dev)}
	case AddChain:
		return []string{o.Key.String()}
	case LoadChains:
		var names []string
		for name := range o.Chains {
			names = append(names, ChainKey{o.Family, o.Table, name}.String())
		}
		return append(names, forwardingNeeds(o.Family, o.Table))
	case AddJump:
		return []string{forwardingNeeds(o.Key.Family, o.Key.Table)}
	case SetSysctl:
		if strings.HasSuffix(o.Path, "/accept_ra") && !hasOurName(sysctlDev(o.Path)) {
			return []string{forwardingNeeds(overspan.IPv6, "accept_ra")}
		}
	}
	return nil
}

// forwardingNeeds names what the switch for forwarding builds on: a host does
// not route before its rules say between whom, nor where that would cost it its
// own default route.
func forwardingNeeds(family overspan.Family, what string) string {
	return fmt.Sprintf("forwarding %s %s", family, what)
}

// needs returns what op builds on. Deletions build on nothing: what is already
// gone is no error.
func needs(op Op) []string {
	switch o := op.(type) {
	case AddLink:
		on := []string{o.Name, o.Link.Master}
		if o.Inside != nil {
			on = append(on, o.Inside.Netns)
		}
		return on
	case SetLink:
		on := []string{o.Name, o.Want.Master}
		if o.Have.Master == "" && o.Want.Master != "" {
			on = append(on, programOf(o.Name)) // nobody joins unwatched
		}
		return on
	case SetProgram:
		return []string{o.Dev}
	case AttachProgram:
		return []string{o.Dev, programOf(o.Dev)}
	case SetInside:
		return []string{o.Veth}
	case SetSysctl:
		switch o.Path {
		case ForwardIPv4:
			return []string{forwardingNeeds(overspan.IPv4, "filter")}
		case ForwardIPv6:
			return []string{forwardingNeeds(overspan.IPv6, "filter"), forwardingNeeds(overspan.IPv6, "accept_ra")}
		}
		return []string{sysctlDev(o.Path)}
	case AddAddr:
		return []string{o.Addr.Dev}
	case SetFDB:
		return []string{o.Key.Dev}
	case AddStatic:
		return []string{o.Key.Dev}
	case SetNeigh:
		return []string{o.Key.Dev}
	case AddSet:
		return []string{o.Name}
	case AddSetEntry:
		return []string{o.Set}
	case AddJump:
		return []string{o.Key.String()}
	}
	return nil
}
