package kernel

import (
	"context"
	"errors"
	"fmt"

	"github.com/overspan/overspan"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// CheckSupport returns what this host lacks, and what on it stands in the way of
// our traffic, in words for its administrator; nothing if all is well. It tries
// things out in a network namespace that is gone afterwards.
func (h *Host) CheckSupport(ctx context.Context) []string {
	var lacks []string
	for _, family := range []overspan.Family{overspan.IPv4, overspan.IPv6} {
		if h.rules[family] == nil && !(family == overspan.IPv6 && h.noIPv6) {
			lacks = append(lacks, fmt.Sprintf("the %s packet filter tools are missing (package iptables): traffic is not checked", family))
		}
	}
	err := scratch(func(t *Host) error {
		t.rules = h.rules
		lacks = append(lacks, t.tryLinks()...)
		lacks = append(lacks, t.trySets()...)
		lacks = append(lacks, t.tryRules(ctx)...)
		return nil
	})
	if err != nil {
		lacks = append(lacks, fmt.Sprintf("network namespaces cannot be made: %v", err))
	}
	lacks = append(lacks, h.Guard().lacksGuard()...)
	return append(lacks, h.obstacles(ctx)...)
}

func (h *Host) tryLinks() []string {
	var lacks []string
	for _, kind := range []LinkKind{KindBridge, KindVXLAN, KindVeth} {
		info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
		info.AddRtAttr(unix.IFLA_INFO_KIND, []byte(kind))
		if kind == KindVXLAN {
			info.AddChild(nest(unix.IFLA_INFO_DATA, rtaU32(nl.IFLA_VXLAN_ID, 1), rtaPort(nl.IFLA_VXLAN_PORT, 4789)))
		}
		err := h.route.exec(newMessage(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL,
			ifInfo(0, 0, 0), rtaText(unix.IFLA_IFNAME, "try-"+string(kind)), info))
		if err != nil {
			lacks = append(lacks, fmt.Sprintf("the kernel cannot make %s links (module %s): %v", kind, kind, err))
		}
	}
	return lacks
}

func (h *Host) trySets() []string {
	if err := h.addSet(AddSet{Name: setPrefix + "try", Family: overspan.IPv4}); err != nil {
		return []string{fmt.Sprintf("the kernel has no ipset (modules ip_set, ip_set_hash_ip): VXLAN packets from strangers are not dropped: %v", err)}
	}
	if err := h.addSet(AddSet{Name: setPrefix + "try-subnets", Family: overspan.IPv4, Subnets: true}); err != nil {
		return []string{fmt.Sprintf("the kernel has no ipset of subnets (module ip_set_hash_net): networks are not kept apart: %v", err)}
	}
	return nil
}

// tryRules loads one rule for each feature that our chains build on.
func (h *Host) tryRules(ctx context.Context) []string {
	features := []struct{ name, table, rule string }{
		{"comment match (module xt_comment)", "filter", "-j ACCEPT"},
		{"physdev match (module xt_physdev)", "filter", "-m physdev --physdev-is-bridged -j ACCEPT"},
		{"REJECT target (module ipt_REJECT)", "filter", "-j REJECT"},
		{"nat table with masquerading (modules iptable_nat, xt_MASQUERADE)", "nat", "-j MASQUERADE"},
		{"raw table with CT target (modules iptable_raw, xt_CT)", "raw", "-j CT --notrack"},
		{"u32 match (module xt_u32)", "raw", "-m u32 --u32 0>>22&0x3C@8&0xFF=0 -j DROP"},
		{"set match (module xt_set)", "raw", "-m set --match-set " + setPrefix + "try src -j RETURN"},
	}
	tool := h.rules[overspan.IPv4]
	if tool == nil {
		return nil
	}
	var lacks []string
	for _, f := range features {
		rules := map[string][]Rule{chainPrefix + "TRY": {{Text: f.rule}}}
		if err := h.restore(ctx, tool, LoadChains{Family: overspan.IPv4, Table: f.table, Chains: rules}.Render()); err != nil {
			lacks = append(lacks, fmt.Sprintf("the packet filter has no %s: %v", f.name, err))
		}
	}
	return lacks
}

// scratch calls f with the Host of a namespace that is thrown away.
func scratch(f func(*Host) error) error {
	ns, err := newNetns()
	if err != nil {
		return err
	}
	defer ns.Close()
	t := &Host{ns: ns, port: func() (*portProgram, error) { return nil, errNoProgram }}
	err = do(ns, func() error {
		var errs [2]error
		t.route, errs[0] = dial(unix.NETLINK_ROUTE)
		t.netfilter, errs[1] = dial(unix.NETLINK_NETFILTER)
		return errors.Join(errs[:]...)
	})
	if err == nil {
		err = f(t)
	}
	for _, c := range []*conn{t.route, t.netfilter} {
		if c != nil {
			c.close()
		}
	}
	return err
}
