package kernel

import (
	"maps"
	"net/netip"

	"github.com/overspan/overspan"
	"github.com/vishvananda/netlink/nl"
)

// inheritOwed looks once for what an agent before this one owed: it may have died
// between a change of the rules and the flush behind it. S is what the kernel
// holds. What conntrack does not tell is owed.
func (h *Host) inheritOwed(s State) {
	h.owing.Lock()
	defer h.owing.Unlock()
	if h.inherited {
		return
	}
	h.inherited = true
	owed, err := h.staleFlows(s)
	if err != nil {
		h.log.Warn("cannot look for conntrack entries that an agent before this one left", "error", err)
		owed = make(map[Flow]struct{})
		for f := range s.flows() {
			owed[f] = struct{}{}
		}
	}
	for f := range owed {
		put(&h.owed, f, struct{}{})
	}
}

// staleFlows returns the flows, without To, of which conntrack has an entry that
// leads elsewhere than the rules of s say: those that are published, and those
// that lead into a subnet of ours though nothing is published there.
func (h *Host) staleFlows(s State) (map[Flow]struct{}, error) {
	view := flowView{published: make(map[flowPort][]Flow), subnets: s.subnets()}
	for f, to := range s.flows() {
		at := flowPort{protocolNumbers[f.Protocol], f.Dst.Port()}
		view.published[at] = append(view.published[at], Flow{f.Protocol, f.Dst, to})
	}
	if len(view.published)+len(view.subnets) == 0 {
		return nil, nil
	}
	var err error
	if view.local, err = h.localAddrs(); err != nil {
		return nil, err
	}
	all := make(map[Flow]struct{})
	for _, family := range []overspan.Family{overspan.IPv4, overspan.IPv6} {
		found := make(map[Flow]struct{})
		err := h.netfilter.scan(conntrackMessage(nl.IPCTNL_MSG_CT_GET, family), func() { clear(found) }, func(body []byte) error {
			if f, is := view.stale(decodeConntrack(body)); is {
				found[f] = struct{}{}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		maps.Copy(all, found)
	}
	return all, nil
}

// A flowView is by what an entry of conntrack is judged without knowing what was
// published before.
type flowView struct {
	published map[flowPort][]Flow
	subnets   map[netip.Prefix]struct{}
	local     map[netip.Addr]struct{}
}

// stale returns the flow, without To, that an entry has outlived.
func (v flowView) stale(e conntrackEntry) (Flow, bool) {
	for _, f := range v.published[flowPort{e.protocol, e.to.Port()}] {
		if e.isOf(f, v.local) {
			return f.key(), e.answers != f.To
		}
	}
	if e.answers == e.to || !e.isHere(v.local) || !v.ours(e.answers.Addr()) {
		return Flow{}, false
	}
	for protocol, number := range protocolNumbers {
		if number == e.protocol {
			return Flow{Protocol: protocol, Dst: e.to}, true
		}
	}
	return Flow{}, false
}

// ours reports whether an address lies in a subnet of ours.
func (v flowView) ours(a netip.Addr) bool {
	for bits := a.BitLen(); bits > 0; bits-- {
		if _, is := v.subnets[netip.PrefixFrom(a, bits).Masked()]; is {
			return true
		}
	}
	return false
}

// subnets returns the members of the sets of subnets.
func (s State) subnets() map[netip.Prefix]struct{} {
	out := make(map[netip.Prefix]struct{})
	for _, set := range s.Sets {
		if set.Subnets {
			maps.Copy(out, set.Members)
		}
	}
	return out
}
