// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// What the programs of this directory share: what each is told of links, and where
// it finds it.

#ifndef OVERSPAN_PORT_H
#define OVERSPAN_PORT_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>

#define SEC(name) __attribute__((section(name), used))
#define INLINE static __attribute__((always_inline)) inline
#define htons(x) ((__u16)__builtin_bswap16(x))

// As the macros of libbpf's bpf_helpers.h write a map's type into BTF.
#define NUMBER(name, value) int (*name)[value]
#define TYPE(name, type) typeof(type) *name

static void *(*const lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*const load_bytes)(const void *skb, __u32 offset, void *to, __u32 len) = (void *)BPF_FUNC_skb_load_bytes;
static long (*const redirect)(__u32 ifindex, __u64 flags) = (void *)BPF_FUNC_redirect;
static long (*const redirect_peer)(__u32 ifindex, __u64 flags) = (void *)BPF_FUNC_redirect_peer;
static long (*const adjust_room)(void *skb, __s32 more, __u32 mode, __u64 flags) = (void *)BPF_FUNC_skb_adjust_room;
static long (*const store_bytes)(void *skb, __u32 offset, const void *from, __u32 len, __u64 flags) = (void *)BPF_FUNC_skb_store_bytes;
static long (*const check_mtu)(void *ctx, __u32 ifindex, __u32 *mtu, __s32 more, __u64 flags) = (void *)BPF_FUNC_check_mtu;

enum kind { VETH = 1, VXLAN = 2 };

enum flag {
	OPEN = 1,     // takes part: until then nothing passes
	ISOLATED = 2, // speaks to other ports by the bridge alone, which knows to whom
};

// A port is what is known of a link, found by its index. All numbers that are
// more than a byte long are in network order but for network.
struct port {
	__u64 network;
	__u8 ipv6[16];
	__u8 ipv4[4];
	__u8 mac[6];
	__u8 gateway[6];
	__u8 kind;
	__u8 flags;
	__u8 has_ipv4;
	__u8 has_ipv6;
	__u8 vni[4]; // of a VXLAN device, as it stands in a header
};

// A station is a MAC address in a network; the zero one stands for all that are
// not on this node. Its value is the index of the link that it is behind.
struct station {
	__u64 network;
	__u8 mac[6];
	__u8 unused[2];
};

struct {
	NUMBER(type, BPF_MAP_TYPE_HASH);
	NUMBER(map_flags, BPF_F_NO_PREALLOC);
	NUMBER(max_entries, 65536);
	TYPE(key, __u32);
	TYPE(value, struct port);
} overspan_ports SEC(".maps");

struct {
	NUMBER(type, BPF_MAP_TYPE_HASH);
	NUMBER(map_flags, BPF_F_NO_PREALLOC);
	NUMBER(max_entries, 65536);
	TYPE(key, struct station);
	TYPE(value, __u32);
} overspan_macs SEC(".maps");

INLINE int same_mac(const __u8 *a, const __u8 *b)
{
	return !((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) | (a[4] ^ b[4]) | (a[5] ^ b[5]));
}

INLINE int same_word(const __u8 *a, const __u8 *b)
{
	return !((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]));
}

INLINE int same_ipv6(const __u8 *a, const __u8 *b)
{
	return same_word(a, b) && same_word(a + 4, b + 4) && same_word(a + 8, b + 8) && same_word(a + 12, b + 12);
}

// fits says whether a frame can go straight to a link: it is there, and the
// frame not longer than the MTU, which it tells. The bridge drops what is.
INLINE int fits(struct __sk_buff *skb, __u32 ifindex, __u32 *mtu)
{
	*mtu = 0;
	return ifindex && !check_mtu(skb, ifindex, mtu, 0, BPF_MTU_CHK_SEGS);
}

INLINE int goes(struct __sk_buff *skb, __u32 ifindex)
{
	__u32 mtu;
	return fits(skb, ifindex, &mtu);
}

// Explicit congestion notification, RFC 3168.
enum {
	ECN = 3,
	ECT_1 = 1,
	ECT_0 = 2,
	CE = 3,
};

// What a VXLAN header has in its first byte: the I flag, and no other.
enum { VNI_VALID = 8 };

#endif
