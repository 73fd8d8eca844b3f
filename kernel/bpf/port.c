// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// (the kernel lends some of its functions only to programs under such terms)

// The program at the ingress of our links, see kernel/program.go.
//
// At a veth's host end it judges who sends: what does not come from the
// endpoint's own addresses is dropped. Then, and at a VXLAN device at once,
// unicast within the network goes straight to the link that its destination is
// behind, past bridge and netfilter. Everything else, and whatever has no entry,
// goes the bridge's way.
//
// Only what is sent has to be judged: nothing in a frame is trusted before it
// was seen to lie within it.

#include "port.h"

// Why a frame is dropped; its count stands at that place of overspan_drops.
enum reason { BY_STATE, BY_MAC, BY_TYPE, BY_ARP, BY_IPV4, BY_IPV6, BY_ND, REASONS };

struct {
	NUMBER(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	NUMBER(max_entries, REASONS);
	TYPE(key, __u32);
	TYPE(value, __u64);
} overspan_drops SEC(".maps");

// What becomes of a frame whose sender was judged.
enum verdict {
	PASS = -1, // the bridge's way
	STRAIGHT = -2,
	// From zero on: drop, by this reason.
};

INLINE int drop(__u32 reason)
{
	__u64 *count = lookup(&overspan_drops, &reason);
	if (count)
		(*count)++;
	return TC_ACT_SHOT;
}

INLINE int is_zero(const __u8 *a)
{
	const __u8 zero[16] = {};
	return same_ipv6(a, zero);
}

// own_link_local says whether an address is the link-local one that follows from
// the port's MAC (modified EUI-64). Any other could be a neighbour's.
INLINE int own_link_local(const struct port *p, const __u8 *a)
{
	const __u8 *m = p->mac;
	const __u8 own[16] = {
		0xfe, 0x80, 0, 0, 0, 0, 0, 0,
		m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5],
	};
	return same_ipv6(a, own);
}

INLINE int own_ipv6(const struct port *p, const __u8 *a)
{
	return (p->has_ipv6 && same_ipv6(a, p->ipv6)) || own_link_local(p, a);
}

struct arp {
	__u8 kinds[6]; // hardware, protocol, lengths of both
	__u8 op[2];
	__u8 sender_mac[6];
	__u8 sender[4];
	__u8 target_mac[6];
	__u8 target[4];
};

// judge_arp lets an endpoint speak of itself. Sender 0.0.0.0 asks whether
// somebody has an address (RFC 5227), and tells of none.
INLINE int judge_arp(struct __sk_buff *skb, const struct port *p)
{
	const __u8 ethernet_ipv4[6] = { 0, 1, 8, 0, 6, 4 };
	const __u8 nobody[4] = {};
	struct arp a;

	if (load_bytes(skb, ETH_HLEN, &a, sizeof(a)) || !same_mac(a.kinds, ethernet_ipv4))
		return BY_ARP;
	if (!same_mac(a.sender_mac, p->mac))
		return BY_ARP;
	if (p->has_ipv4 && same_word(a.sender, p->ipv4))
		return PASS;
	if (same_word(a.sender, nobody) && a.op[0] == 0 && a.op[1] == 1)
		return PASS;
	return BY_ARP;
}

INLINE int judge_ipv4(struct __sk_buff *skb, const struct port *p)
{
	struct {
		__u8 version;
		__u8 others[11];
		__u8 source[4];
	} ip;

	if (load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) || ip.version >> 4 != 4)
		return BY_IPV4;
	if (!p->has_ipv4 || !same_word(ip.source, p->ipv4))
		return BY_IPV4;
	return STRAIGHT;
}

enum {
	IPV6_LEN = 40,
	HOP_BY_HOP = 0,
	ROUTING = 43,
	FRAGMENT = 44,
	AUTHENTICATION = 51,
	ICMPV6 = 58,
	DESTINATION = 60,

	MLD_QUERY = 130,
	MLD_REPORT = 131,
	MLD_DONE = 132,
	ROUTER_SOLICITATION = 133,
	ROUTER_ADVERTISEMENT = 134,
	NEIGHBOUR_SOLICITATION = 135,
	NEIGHBOUR_ADVERTISEMENT = 136,
	REDIRECT = 137,
	ROUTER_RENUMBERING = 138,
	MLD2_REPORT = 143,

	// More extension headers, or options of neighbour discovery, than anybody has
	// a use for.
	MOST_HEADERS = 6,
	MOST_OPTIONS = 4,
};

// judge_options sees to it that no option tells of another's MAC (1: source, 2:
// target link-layer address). Without a source there is none to be told.
INLINE int judge_options(struct __sk_buff *skb, const struct port *p, __u32 at, __u32 end, int sourced)
{
	for (int i = 0; i < MOST_OPTIONS; i++) {
		__u8 option[8];

		if (at == end)
			return PASS;
		if (at + 8 > end || load_bytes(skb, at, option, sizeof(option)) || !option[1])
			return BY_ND;
		if (option[0] == 1 || option[0] == 2) {
			if (!sourced || option[1] != 1 || !same_mac(option + 2, p->mac))
				return BY_ND;
		}
		at += (__u32)option[1] * 8;
	}
	return at == end ? PASS : BY_ND;
}

// judge_icmpv6 lets an endpoint speak of itself and be no router. At is where
// the message begins, end where the packet does.
INLINE int judge_icmpv6(struct __sk_buff *skb, const struct port *p, const __u8 *source, __u32 at, __u32 end, int fragment)
{
	struct {
		__u8 type;
		__u8 others[7];
		__u8 target[16];
	} m;
	int sourced = !is_zero(source);
	__u8 type;

	if (at + 4 > end || load_bytes(skb, at, &type, sizeof(type)))
		return BY_IPV6;
	if (type < MLD_QUERY || (type > ROUTER_RENUMBERING && type != MLD2_REPORT))
		return sourced ? STRAIGHT : BY_IPV6;
	if (fragment)
		return BY_ND; // RFC 6980
	switch (type) {
	case MLD_REPORT:
	case MLD_DONE:
	case MLD2_REPORT:
		return PASS;
	case ROUTER_SOLICITATION:
		return judge_options(skb, p, at + 8, end, sourced);
	case NEIGHBOUR_SOLICITATION:
	case NEIGHBOUR_ADVERTISEMENT:
		break;
	default:
		return BY_ND;
	}
	if (at + sizeof(m) > end || load_bytes(skb, at, &m, sizeof(m)))
		return BY_ND;
	if (type == NEIGHBOUR_ADVERTISEMENT && (!sourced || !own_ipv6(p, m.target)))
		return BY_ND;
	// Whoever looks for a double of an address is to have that address itself:
	// its owner, if it is looking too, would give it up (RFC 4862, 5.4.3).
	if (!sourced && !own_ipv6(p, m.target))
		return BY_ND;
	return judge_options(skb, p, at + sizeof(m), end, sourced);
}

struct ipv6 {
	__u8 version;
	__u8 others[3];
	__u16 length;
	__u8 next;
	__u8 hops;
	__u8 source[16];
	__u8 destination[16];
};

// judge_ipv6 follows the extension headers to what they carry: an ICMPv6 message
// behind them is judged like any, and one that cannot be seen is dropped. What
// lies behind the packet's own end is not looked at, as its receiver does not.
INLINE int judge_ipv6(struct __sk_buff *skb, const struct port *p)
{
	__u32 at = ETH_HLEN + IPV6_LEN, end = skb->len;
	int sourced, fragment = 0;
	struct ipv6 ip;
	__u8 next;

	if (load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) || ip.version >> 4 != 6)
		return BY_IPV6;
	sourced = !is_zero(ip.source);
	if (sourced && !own_ipv6(p, ip.source))
		return BY_IPV6;
	if (ip.length) { // else a jumbogram
		__u32 length = at + htons(ip.length);

		if (length > end)
			return BY_IPV6;
		end = length;
	}
	next = ip.next;
	for (int i = 0; i < MOST_HEADERS; i++) {
		__u8 head[4];

		switch (next) {
		case ICMPV6:
			return judge_icmpv6(skb, p, ip.source, at, end, fragment);
		case HOP_BY_HOP:
		case ROUTING:
		case FRAGMENT:
		case AUTHENTICATION:
		case DESTINATION:
			break;
		default:
			return sourced ? STRAIGHT : BY_IPV6;
		}
		if (at + 8 > end || load_bytes(skb, at, head, sizeof(head)))
			return BY_IPV6;
		if (next == FRAGMENT) {
			// Only the first one has what the others complete.
			if (head[2] | (head[3] & 0xf8))
				return sourced ? STRAIGHT : BY_IPV6;
			fragment = 1;
			at += 8;
		} else if (next == AUTHENTICATION) {
			at += ((__u32)head[1] + 2) * 4;
		} else {
			at += ((__u32)head[1] + 1) * 8;
		}
		next = head[0];
	}
	return BY_IPV6;
}

INLINE int judge(struct __sk_buff *skb, const struct port *p, const struct ethhdr *eth)
{
	if (!(p->flags & OPEN))
		return BY_STATE;
	if (!same_mac(eth->h_source, p->mac))
		return BY_MAC;
	if (skb->vlan_present)
		return BY_TYPE;
	switch (eth->h_proto) {
	case htons(ETH_P_IP):
		return judge_ipv4(skb, p);
	case htons(ETH_P_IPV6):
		return judge_ipv6(skb, p);
	case htons(ETH_P_ARP):
		return judge_arp(skb, p);
	}
	return BY_TYPE;
}

SEC("tc")
int overspan_port(struct __sk_buff *skb)
{
	struct station to = {};
	__u32 from = skb->ifindex, *link;
	struct ethhdr eth;
	struct port *p;
	int verdict = STRAIGHT;

	p = lookup(&overspan_ports, &from);
	if (!p || load_bytes(skb, 0, &eth, sizeof(eth)))
		return drop(BY_STATE);
	if (p->kind == VETH)
		verdict = judge(skb, p, &eth);
	if (verdict >= 0)
		return drop(verdict);
	if (verdict == PASS || p->flags & ISOLATED || eth.h_dest[0] & 1 || same_mac(eth.h_dest, p->gateway))
		return TC_ACT_UNSPEC;

	to.network = p->network;
	__builtin_memcpy(to.mac, eth.h_dest, ETH_ALEN);
	link = lookup(&overspan_macs, &to);
	if (link) {
		if (!goes(skb, *link))
			return TC_ACT_UNSPEC;
		return redirect_peer(*link, 0);
	}
	if (p->kind == VXLAN)
		return TC_ACT_UNSPEC;
	__builtin_memset(to.mac, 0, ETH_ALEN);
	link = lookup(&overspan_macs, &to);
	if (!link || !goes(skb, *link))
		return TC_ACT_UNSPEC;
	return redirect(*link, 0);
}

char terms[] SEC("license") = "Dual BSD/GPL";
