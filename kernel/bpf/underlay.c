// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// (the kernel lends some of its functions only to programs under such terms)

// The program at the ingress of the underlay's device, see kernel/program.go.
//
// A packet of the tunnel that is beyond doubt, by all that the packet filter and
// the VXLAN device would ask of it, and whose frame is for an endpoint here, it
// takes out of its headers and hands to the endpoint. Everything else is left to
// the kernel as it came, and judged there: this program drops nothing that it has
// not first recognised as the tunnel's, for the device is not ours.

#include "port.h"
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>

static long (*const pull_data)(void *skb, __u32 len) = (void *)BPF_FUNC_skb_pull_data;
static long (*const change_proto)(void *skb, __u16 proto, __u64 flags) = (void *)BPF_FUNC_skb_change_proto;
static long (*const csum_level)(void *skb, __u64 level) = (void *)BPF_FUNC_csum_level;
static long (*const ecn_set_ce)(void *skb) = (void *)BPF_FUNC_skb_ecn_set_ce;

// What the headers of clang's host lack of linux/bpf.h. Linux before 6.3 refuses it.
#define ADJ_ROOM_DECAP_L3_IPV6 (1ULL << 8)

// An underlay is what is known of a device, in network order: this node's address
// there and the UDP port of the tunnel.
struct underlay {
	__u32 vtep;
	__u16 dport;
	__u8 unused[2];
};

// The devices, by their index.
struct {
	NUMBER(type, BPF_MAP_TYPE_HASH);
	NUMBER(map_flags, BPF_F_NO_PREALLOC);
	NUMBER(max_entries, 64);
	TYPE(key, __u32);
	TYPE(value, struct underlay);
} overspan_ulays SEC(".maps");

// The underlay addresses of all registered nodes; the values mean nothing.
struct {
	NUMBER(type, BPF_MAP_TYPE_HASH);
	NUMBER(map_flags, BPF_F_NO_PREALLOC);
	NUMBER(max_entries, 65536);
	TYPE(key, __u32);
	TYPE(value, __u8);
} overspan_vteps SEC(".maps");

// The networks of this node, by their VNI as it stands in a header.
struct {
	NUMBER(type, BPF_MAP_TYPE_HASH);
	NUMBER(map_flags, BPF_F_NO_PREALLOC);
	NUMBER(max_entries, 65536);
	TYPE(key, __u32);
	TYPE(value, __u64);
} overspan_vnis SEC(".maps");

// Outer are the headers around a frame, and the frame's own.
struct outer {
	struct ethhdr eth;
	struct iphdr ip;
	struct udphdr udp;
	__u8 flags[4];
	__u32 vni; // its last byte is reserved
	struct ethhdr inner;
} __attribute__((packed, aligned(2)));

enum {
	HEADERS = sizeof(struct outer) - ETH_HLEN, // how much longer a packet is than its frame
	IPV6_MORE = sizeof(struct ipv6hdr) - sizeof(struct iphdr),

	DONT_FRAGMENT = 0x4000,
};

// begin returns where the packet begins if its first bytes are there and in one
// piece.
INLINE void *begin(struct __sk_buff *skb, __u32 len)
{
	void *data = (void *)(long)skb->data;

	if (data + len <= (void *)(long)skb->data_end)
		return data;
	if (pull_data(skb, len))
		return 0;
	data = (void *)(long)skb->data;
	return data + len <= (void *)(long)skb->data_end ? data : 0;
}

// is_sound checks the sum of the IPv4 header, as the kernel does first.
INLINE int is_sound(const struct outer *o)
{
	const __u16 *word = (const void *)o + ETH_HLEN;
	__u32 sum = 0;

	for (__u32 i = 0; i < sizeof(o->ip) / sizeof(*word); i++)
		sum += word[i];
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16) == 0xffff;
}

// network_of returns the network that a packet brings a frame of, if it comes
// from one node and is for this one.
INLINE __u64 *network_of(struct __sk_buff *skb, const struct outer *o)
{
	__u32 from = skb->ifindex, vtep, vni;
	const struct underlay *u;

	// A fragment has no ports, or not all that they are for; options may ask for
	// anything.
	if (o->ip.version != 4 || o->ip.ihl != 5 || o->ip.protocol != IPPROTO_UDP || o->ip.frag_off & ~htons(DONT_FRAGMENT))
		return 0;
	u = lookup(&overspan_ulays, &from);
	if (!u || o->udp.dest != u->dport || o->ip.daddr != u->vtep)
		return 0;
	// Nothing is missing, nor is there anything that no header tells of. A header of
	// 64 KiB and more says 0.
	if (htons(o->ip.tot_len) + ETH_HLEN != skb->len || htons(o->udp.len) + sizeof(o->ip) + ETH_HLEN != skb->len)
		return 0;
	vtep = o->ip.saddr;
	if (!is_sound(o) || vtep == o->ip.daddr || !lookup(&overspan_vteps, &vtep))
		return 0;
	if (o->flags[0] != VNI_VALID || o->flags[1] | o->flags[2] | o->flags[3])
		return 0;
	vni = o->vni;
	return lookup(&overspan_vnis, &vni);
}

// ecn_of returns the ECN bits of a frame that is for an endpoint's own address,
// or nothing that they can be for any other. What a container only passes on takes the
// kernel's way: see take.
INLINE __u32 ecn_of(struct __sk_buff *skb, __u16 proto, const struct port *p, __u32 *next)
{
	const __u32 none = ~0;

	if (proto == htons(ETH_P_IP)) {
		const struct iphdr *ip = begin(skb, sizeof(struct outer) + sizeof(*ip));

		if (!ip)
			return none;
		ip = (const void *)ip + sizeof(struct outer);
		if (ip->version != 4 || !p->has_ipv4 || ip->daddr != *(const __u32 *)p->ipv4)
			return none;
		*next = ip->protocol;
		return ip->tos & ECN;
	}
	if (proto == htons(ETH_P_IPV6)) {
		const struct ipv6hdr *ip = begin(skb, sizeof(struct outer) + sizeof(*ip));

		if (!ip)
			return none;
		ip = (const void *)ip + sizeof(struct outer);
		if (ip->version != 6 || !p->has_ipv6 || !same_ipv6(ip->daddr.s6_addr, p->ipv6))
			return none;
		*next = ip->nexthdr;
		return ip->flow_lbl[0] >> 4 & ECN;
	}
	return none;
}

// unwrap takes the headers off a packet. It returns 0; or less than that, the packet
// is as it was; or more, it is broken.
INLINE int unwrap(struct __sk_buff *skb, __u16 proto)
{
	__u64 how = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET;

	if (proto != htons(ETH_P_IPV6))
		return adjust_room(skb, -HEADERS, BPF_ADJ_ROOM_MAC, how);
	if (!adjust_room(skb, -HEADERS, BPF_ADJ_ROOM_MAC, how | ADJ_ROOM_DECAP_L3_IPV6))
		return 0;
	// A kernel that cannot make it a packet of IPv6 on the way makes it one before,
	// with as much more room as that takes.
	if (change_proto(skb, proto, 0))
		return -1;
	return adjust_room(skb, -HEADERS - IPV6_MORE, BPF_ADJ_ROOM_MAC, how) ? 1 : 0;
}

SEC("tc")
int overspan_underlay(struct __sk_buff *skb)
{
	__u64 *network;
	__u32 *link, next = 0, ecn, mark, mtu = 0;
	const struct outer *o;
	const struct port *p;
	struct station to = {};
	struct ethhdr eth;
	int failed;

	// A tag is that of a VLAN device on this one.
	if (skb->protocol != htons(ETH_P_IP) || skb->pkt_type != 0 || skb->vlan_present)
		return TC_ACT_UNSPEC;
	o = begin(skb, sizeof(*o));
	network = o ? network_of(skb, o) : 0;
	if (!network)
		return TC_ACT_UNSPEC;
	mark = o->ip.tos & ECN;
	eth = o->inner;
	to.network = *network;
	__builtin_memcpy(to.mac, eth.h_dest, ETH_ALEN);
	link = lookup(&overspan_macs, &to);
	p = link ? lookup(&overspan_ports, link) : 0;
	if (!p || p->kind != VETH || !(p->flags & OPEN) || p->flags & ISOLATED)
		return TC_ACT_UNSPEC;
	ecn = ecn_of(skb, eth.h_proto, p, &next);
	if (ecn > ECN || (mark == ECT_1 && ecn == ECT_0) || (skb->gso_size && next != IPPROTO_TCP))
		return TC_ACT_UNSPEC;
	// The kernel drops a mark that the frame cannot bear, and a frame that is too
	// long, and counts them.
	if ((mark == CE && !ecn) || check_mtu(skb, *link, &mtu, -HEADERS, 0))
		return TC_ACT_UNSPEC;

	failed = unwrap(skb, eth.h_proto);
	if (failed)
		return failed < 0 ? TC_ACT_UNSPEC : TC_ACT_SHOT;
	// A checksum that the device has verified was the outer one.
	csum_level(skb, BPF_CSUM_LEVEL_DEC);
	if (store_bytes(skb, 0, &eth, sizeof(eth), 0) || !goes(skb, *link) || (mark == CE && !ecn_set_ce(skb)))
		return TC_ACT_SHOT;
	return redirect_peer(*link, 0);
}

char terms[] SEC("license") = "Dual BSD/GPL";
