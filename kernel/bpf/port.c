// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// (the kernel lends some of its functions only to programs under such terms)

// The program at the ingress of our links, see kernel/program.go.
//
// At a veth's host end it judges who sends: what does not come from the
// endpoint's own addresses is dropped. Then, and at a VXLAN device at once,
// unicast within the network goes straight to the link that its destination is
// behind, past bridge and netfilter. What is for another node it puts into the
// headers of the tunnel itself, where the underlay lets it, and sends it past the
// VXLAN device as well. Everything else, and whatever has no entry, goes the
// bridge's way.
//
// Only what is sent has to be judged: nothing in a frame is trusted before it
// was seen to lie within it.

#include "port.h"
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>

static __u32 (*const hash_of)(void *skb) = (void *)BPF_FUNC_get_hash_recalc;
static __u32 (*const random)(void) = (void *)BPF_FUNC_get_prandom_u32;
static long (*const fib_lookup)(void *skb, struct bpf_fib_lookup *params, int len, __u32 flags) = (void *)BPF_FUNC_fib_lookup;
static long (*const redirect_neigh)(__u32 ifindex, struct bpf_redir_neigh *to, int len, __u64 flags) = (void *)BPF_FUNC_redirect_neigh;

// The stations of other nodes, and the underlay address of the node that each is
// on, in network order.
struct {
	NUMBER(type, BPF_MAP_TYPE_HASH);
	NUMBER(map_flags, BPF_F_NO_PREALLOC);
	NUMBER(max_entries, 524288);
	TYPE(key, struct station);
	TYPE(value, __u32);
} overspan_peers SEC(".maps");

// A way is how packets of the tunnel leave this node past the packet filter: by
// which device, with which address, to which port, the last two in network order.
// Without a device they do not.
struct way {
	__u32 ifindex;
	__u32 vtep;
	__u16 dport;
	__u8 unused[2];
};

struct {
	NUMBER(type, BPF_MAP_TYPE_ARRAY);
	NUMBER(max_entries, 1);
	TYPE(key, __u32);
	TYPE(value, struct way);
} overspan_way SEC(".maps");

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

// Headers are what the tunnel puts before a frame, behind a MAC header that the
// kernel writes; the frame's own MAC header moves behind them.
struct headers {
	struct iphdr ip;
	struct udphdr udp;
	__u8 flags[4];
	__u8 vni[4]; // the last of them is reserved
	struct ethhdr inner;
} __attribute__((packed, aligned(2)));

enum {
	IPV4 = 2, // AF_INET
	LOOPBACK = 1,
	HOPS = 64,

	// Between which two the source port is (inet_get_local_port_range).
	FIRST_PORT = 32768,
	LAST_PORT = 60999,
};

// source_port follows from the flow of the frame as it does in the kernel
// (udp_flow_src_port), so that packets that the VXLAN device sends are of the same
// flow.
INLINE __u16 source_port(struct __sk_buff *skb)
{
	__u32 hash = hash_of(skb);

	hash ^= hash << 16;
	return htons((__u16)(((__u64)hash * (LAST_PORT - FIRST_PORT) >> 32) + FIRST_PORT));
}

// header_sum returns the checksum of an IPv4 header whose own is zero.
INLINE __u16 header_sum(const void *ip)
{
	const __u16 *word = ip;
	__u32 sum = 0;

	for (__u32 i = 0; i < sizeof(struct iphdr) / sizeof(*word); i++)
		sum += word[i];
	sum = (sum & 0xffff) + (sum >> 16);
	return ~((sum & 0xffff) + (sum >> 16));
}

// send puts a frame into the headers of the tunnel, as the VXLAN device would, and
// sends it by the route and to the neighbour that the kernel would. It returns 0 if
// the frame is as it was: that is the device's then. Mtu is the network's.
INLINE int send(struct __sk_buff *skb, const struct ethhdr *eth, const struct port *tunnel, __u32 vtep, __u32 mtu)
{
	__u64 how = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP |
		    BPF_F_ADJ_ROOM_ENCAP_L2(ETH_HLEN) | BPF_F_ADJ_ROOM_ENCAP_L2_ETH;
	__u32 first = 0, len = skb->len + sizeof(struct headers) - ETH_HLEN;
	struct way *way = lookup(&overspan_way, &first);
	struct bpf_fib_lookup route = {};
	struct bpf_redir_neigh next = {};
	struct headers h = {};
	__u16 sport;
	__u8 tos[2];
	long found;

	if (!way || !way->ifindex || load_bytes(skb, ETH_HLEN, tos, sizeof(tos)))
		return 0;
	sport = source_port(skb);
	route.family = IPV4;
	route.l4_protocol = IPPROTO_UDP;
	route.sport = sport;
	route.dport = way->dport;
	route.tot_len = mtu + sizeof(struct headers);
	route.ifindex = LOOPBACK; // as for what this host sends itself
	route.ipv4_src = way->vtep;
	route.ipv4_dst = vtep;
	found = fib_lookup(skb, &route, sizeof(route), 0);
	if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH)
		return 0;
	if (route.ifindex != way->ifindex || route.family != IPV4)
		return 0;

	h.ip.version = 4;
	h.ip.ihl = sizeof(h.ip) / 4;
	h.ip.tos = (eth->h_proto == htons(ETH_P_IP) ? tos[1] : tos[1] >> 4) & ECN;
	if (h.ip.tos == CE)
		h.ip.tos = ECT_0; // so that a mark made on the way can be told (INET_ECN_encapsulate)
	if (len <= 0xffff) // else the kernel, which cuts it, writes the lengths
		h.ip.tot_len = htons(len);
	h.ip.id = random();
	h.ip.ttl = HOPS;
	h.ip.protocol = IPPROTO_UDP;
	h.ip.saddr = way->vtep;
	h.ip.daddr = vtep;
	h.ip.check = header_sum(&h);
	h.udp.source = sport;
	h.udp.dest = way->dport;
	if (len <= 0xffff)
		h.udp.len = htons(len - sizeof(h.ip));
	h.flags[0] = VNI_VALID;
	__builtin_memcpy(h.vni, tunnel->vni, sizeof(h.vni));
	h.inner = *eth;

	if (adjust_room(skb, sizeof(h), BPF_ADJ_ROOM_MAC, how))
		return 0;
	if (store_bytes(skb, ETH_HLEN, &h, sizeof(h), 0))
		return TC_ACT_SHOT;
	next.nh_family = IPV4;
	next.ipv4_nh = route.ipv4_dst;
	return redirect_neigh(way->ifindex, &next, sizeof(next), 0);
}

SEC("tc")
int overspan_port(struct __sk_buff *skb)
{
	struct station to = {};
	__u32 from = skb->ifindex, *link, *vtep, mtu;
	struct ethhdr eth;
	struct port *p, *tunnel;
	int verdict = STRAIGHT, sent;

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
	vtep = lookup(&overspan_peers, &to);
	__builtin_memset(to.mac, 0, ETH_ALEN);
	link = lookup(&overspan_macs, &to);
	if (!link || !fits(skb, *link, &mtu))
		return TC_ACT_UNSPEC;
	tunnel = vtep ? lookup(&overspan_ports, link) : 0;
	sent = tunnel ? send(skb, &eth, tunnel, *vtep, mtu) : 0;
	return sent ? sent : redirect(*link, 0);
}

char terms[] SEC("license") = "Dual BSD/GPL";
