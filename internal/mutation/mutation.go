// Package mutation lists what others may do to a node's network state behind
// its agent's back, as commands of a shell. The tests of kernel put each right
// by one pass, those of e2e have whole nodes do it under traffic; nothing else
// may import it.
package mutation

import (
	"slices"
	"strings"
)

// A Mutation is something that somebody does to what is ours. Words in capitals
// stand for Objects.
type Mutation struct {
	Name   string
	Host   string // commands in the host's namespace
	Inside string // commands in the container's

	// Noticed says what makes an agent look.
	Noticed Noticed

	// Told is part of what the event of its repair says.
	Told string

	// Left are commands that fail unless what is foreign of it is still there,
	// and take it away. "" if nothing is.
	Left string

	// Broad says that it hits others' rules as well.
	Broad bool
}

// Sweep takes away what a mutation leaves whose commands failed half-way, since
// an agent was at the same objects.
const Sweep = "for link in new old lost other stray; do ip link del $link 2>/dev/null || true; done; ip nexthop del id 9 2>/dev/null || true"

// Noticed is how an agent comes to know of a mutation.
type Noticed int

// How an agent comes to know of a mutation.
const (
	ByEvent  Noticed = iota // the kernel announces it
	ByResync                // it does not: the next full pass finds it
	ByVeth                  // inside a container, until its veth changes in a way that shows outside
)

// Objects are the names and addresses on one node.
type Objects struct {
	Bridge, VXLAN, Veth string
	Underlay            string // the device, which is not ours
	LocalMAC            string // of an endpoint of this node
	RemoteMAC           string // of a slot of another node, and its addresses
	RemoteIPv4          string
	RemoteIPv6          string
	RemoteVTEP          string
}

// Expand replaces the words in capitals.
func (o Objects) Expand(text string) string {
	return strings.NewReplacer(
		"BRIDGE", o.Bridge, "VXLAN", o.VXLAN, "VETH", o.Veth, "UNDERLAY", o.Underlay,
		"LOCALMAC", o.LocalMAC, "REMOTEMAC", o.RemoteMAC,
		"REMOTEIP4", o.RemoteIPv4, "REMOTEIP6", o.RemoteIPv6, "REMOTEVTEP", o.RemoteVTEP,
	).Replace(text)
}

// All returns every mutation: of links, of settings that keep packets from a link, of
// entries, of programs, inside a container, of rules and sets.
func All() []Mutation {
	all := append(links(), settings()...)
	all = append(all, entries()...)
	all = append(all, programs()...)
	all = append(all, inside()...)
	return append(all, rules()...)
}

func links() []Mutation {
	return []Mutation{
		{Name: "bridge deleted", Host: "ip link del BRIDGE", Told: "BRIDGE missing → made"},
		{Name: "vxlan device deleted", Host: "ip link del VXLAN", Told: "VXLAN missing → made"},
		{Name: "veth deleted", Host: "ip link del VETH", Told: "VETH missing → made"},
		{
			// Only a link that is down can be renamed, before 6.2, and it may be put up first.
			Name: "veth renamed", Told: "VETH missing → made",
			Host: `for try in 1 2 3 4 5; do printf 'link set VETH down\nlink set VETH name lost\n' | ip -batch - && break; done; ip link show lost`,
		},
		{Name: "veth released", Host: "ip link set VETH nomaster", Told: "VETH master none → BRIDGE"},
		{Name: "vxlan device released", Host: "ip link set VXLAN nomaster", Told: "VXLAN master none → BRIDGE"},
		{
			Name: "veth at another bridge", Host: "ip link add other type bridge; ip link set VETH master other",
			Told: "VETH master other → BRIDGE", Left: "ip link del other",
		},
		{Name: "bridge down", Host: "ip link set BRIDGE down", Told: "BRIDGE down → up"},
		{Name: "bridge down and up", Host: "ip link set BRIDGE down; ip link set BRIDGE up", Told: "on BRIDGE missing → added"},
		{Name: "vxlan device down", Host: "ip link set VXLAN down", Told: "VXLAN down → up"},
		{Name: "vxlan device down and up", Host: "ip link set VXLAN down; ip link set VXLAN up", Told: "neighbours on VXLAN missing → added"},
		{Name: "veth down", Host: "ip link set VETH down", Told: "VETH down → up"},
		{Name: "mac of the bridge", Host: "ip link set BRIDGE address 02:00:00:00:00:01", Told: "BRIDGE address 02:00:00:00:00:01 → "},
		{Name: "mac of the vxlan device", Host: "ip link set VXLAN address 02:00:00:00:00:01", Told: "VXLAN address 02:00:00:00:00:01 → "},
		{Name: "mtu of the bridge", Host: "ip link set BRIDGE mtu 1300", Told: "BRIDGE mtu 1300 → "},
		{Name: "mtu of the vxlan device", Host: "ip link set VXLAN mtu 1300", Told: "VXLAN mtu 1300 → "},
		{Name: "mtu of the veth", Host: "ip link set VETH mtu 1300", Told: "VETH mtu 1300 → "},
		{
			Name: "port flags of the veth", Host: "bridge link set dev VETH learning on flood on hairpin off isolated on",
			Told: "VETH learning on → off, flood on → off, hairpin off → on, isolated on → off",
		},
		{Name: "port flags of the vxlan device", Host: "bridge link set dev VXLAN learning on flood off", Told: "VXLAN learning on → off, flood off → on"},
		{Name: "snooping", Host: "ip link set BRIDGE type bridge mcast_snooping 1", Told: "BRIDGE mcast_snooping 1 → 0"},
		{Name: "addrgenmode", Host: "ip link set VXLAN addrgenmode eui64", Told: "VXLAN addrgenmode eui64 → none"},
		{Name: "alias", Host: "ip link set VXLAN alias overspan:x", Told: "VXLAN alias overspan:x → "},
		{
			Name: "vxlan device made anew",
			// Put in its place between two blinks of an agent.
			Host: "ip link add new type vxlan id 8 dstport 4789; ip link set new alias overspan:x;" +
				" printf 'link set VXLAN down\nlink set VXLAN name old\nlink set new name VXLAN\nlink del old\n' | ip -batch -",
			Told: "VXLAN made otherwise → made anew",
		},
		{Name: "stray network", Host: "ip link add osb-0000000099 type bridge; ip link set osb-0000000099 alias overspan:99", Noticed: ByResync, Told: "osb-0000000099 not wanted → deleted"},
		{
			Name:    "stray endpoint",
			Host:    "ip link add osv-0000000099 type veth peer name stray; ip link set osv-0000000099 alias overspan:99/99",
			Noticed: ByResync, Told: "osv-0000000099 not wanted → deleted",
		},
	}
}

func settings() []Mutation {
	return []Mutation{
		{Name: "port of the veth disabled", Host: "bridge link set dev VETH state 0", Told: "VETH state not forwarding → forwarding"},
		{Name: "port of the vxlan device listening", Host: "bridge link set dev VXLAN state 1", Told: "VXLAN state not forwarding → forwarding"},
		{Name: "port of the veth learning", Host: "bridge link set dev VETH state 2", Told: "VETH state not forwarding → forwarding"},
		{
			Name: "no flooding to the veth", Host: "bridge link set dev VETH bcast_flood off mcast_flood off",
			Told: "VETH bcast_flood off → on, mcast_flood off → on",
		},
		{
			Name: "no flooding to the vxlan device", Host: "bridge link set dev VXLAN bcast_flood off mcast_flood off",
			Told: "VXLAN bcast_flood off → on, mcast_flood off → on",
		},
		{Name: "neighbours suppressed at the veth", Host: "bridge link set dev VETH neigh_suppress on", Told: "VETH neigh_suppress on → off"},
		{Name: "neighbours suppressed at the vxlan device", Host: "bridge link set dev VXLAN neigh_suppress on", Told: "VXLAN neigh_suppress on → off"},
		{Name: "proxy ARP at the veth", Host: "ip link set VETH type bridge_slave proxy_arp on", Told: "VETH proxy_arp on → off"},
		{Name: "proxy ARP at the vxlan device", Host: "ip link set VXLAN type bridge_slave proxy_arp_wifi on", Told: "VXLAN proxy_arp on → off"},
		{Name: "isolated vxlan device", Host: "bridge link set dev VXLAN isolated on", Told: "VXLAN isolated on → off"},
		{Name: "locked vxlan device", Host: "bridge link set dev VXLAN locked on", Told: "VXLAN locked on → off"},
		{Name: "spanning tree", Host: "ip link set BRIDGE type bridge stp_state 1", Told: "BRIDGE stp_state 1 → 0"},
		{Name: "no ARP at the bridge", Host: "ip link set BRIDGE arp off", Told: "BRIDGE arp off → on"},
		{Name: "no ARP at the vxlan device", Host: "ip link set VXLAN arp off", Told: "VXLAN arp off → on"},
		{Name: "vxlan device without carrier", Host: "ip link set VXLAN protodown on", Told: "VXLAN protodown on → off"},
		{Name: "vxlan device of one hop", Host: "ip link set VXLAN type vxlan id $(ip -d link show VXLAN | sed -n 's/.*vxlan id \\([0-9]*\\).*/\\1/p') ttl 1", Told: "VXLAN made otherwise → made anew"},
	}
}

func programs() []Mutation {
	const told = " missing or another → attached"
	return []Mutation{
		{Name: "program of a veth detached", Host: "tc filter del dev VETH ingress pref 91", Told: "program on VETH" + told},
		{Name: "program of a vxlan device detached", Host: "tc filter del dev VXLAN ingress pref 91", Told: "program on VXLAN" + told},
		{Name: "all filters of a veth deleted", Host: "tc filter del dev VETH ingress", Told: "program on VETH" + told},
		{Name: "clsact of a veth deleted", Host: "tc qdisc del dev VETH clsact", Told: "program on VETH" + told},
		{Name: "clsact of a vxlan device replaced", Host: "tc qdisc del dev VXLAN clsact; tc qdisc add dev VXLAN clsact", Told: "program on VXLAN" + told},
		{Name: "program of the underlay detached", Host: "tc filter del dev UNDERLAY ingress pref 65000", Told: "program on UNDERLAY" + told},
		{Name: "clsact of the underlay deleted", Host: "tc qdisc del dev UNDERLAY clsact", Told: "program on UNDERLAY" + told},
	}
}

func entries() []Mutation { return slices.Concat(addresses(), forwarding(), neighbours()) }

func addresses() []Mutation {
	return []Mutation{
		{Name: "gateway gone", Host: "ip addr flush dev BRIDGE", Told: "on BRIDGE missing → added"},
		{
			Name: "stray address", Host: "ip addr add 10.1.2.3/24 dev BRIDGE; ip addr add fd99:1::1/64 dev BRIDGE",
			Told: "address 10.1.2.3/24 on BRIDGE not wanted → deleted",
		},
		{
			Name: "arp_ignore", Host: "echo 0 >/proc/sys/net/ipv4/conf/BRIDGE/arp_ignore", Noticed: ByResync,
			Told: "sysctl net/ipv4/conf/BRIDGE/arp_ignore 0 → 1",
		},
		{Name: "IPv4 forwarding off", Host: "echo 0 >/proc/sys/net/ipv4/ip_forward", Told: "sysctl net/ipv4/ip_forward 0 → 1"},
		{Name: "IPv6 forwarding off", Host: "echo 0 >/proc/sys/net/ipv6/conf/all/forwarding", Told: "sysctl net/ipv6/conf/all/forwarding 0 → 1"},
	}
}

func forwarding() []Mutation {
	return []Mutation{
		{
			// By one process: a slow one for each would see those of the one before come back.
			Name: "fdb flushed", Told: "forwarding entries on VXLAN missing → added",
			Host: `bridge fdb show dev VXLAN | sed -n 's/^\([^ ]*\) dst .*/fdb del \1 dev VXLAN/p' | bridge -batch -`,
		},
		{Name: "fdb entry gone", Host: "bridge fdb del REMOTEMAC dev VXLAN", Told: "fdb REMOTEMAC on VXLAN dst REMOTEVTEP missing → added"},
		{Name: "fdb entry elsewhere", Host: "bridge fdb replace REMOTEMAC dev VXLAN dst 192.0.2.9", Told: "fdb REMOTEMAC on VXLAN dst 192.0.2.9 → REMOTEVTEP"},
		{
			Name: "fdb entry not lasting", Host: "bridge fdb replace REMOTEMAC dev VXLAN dst REMOTEVTEP dynamic",
			Told: "fdb REMOTEMAC on VXLAN dst REMOTEVTEP missing → added",
		},
		{
			Name: "fdb entry at another port", Host: "bridge fdb replace REMOTEMAC dev VXLAN dst REMOTEVTEP port 9999",
			Told: "fdb REMOTEMAC on VXLAN dst REMOTEVTEP port 9999 → REMOTEVTEP",
		},
		{
			Name: "fdb entry in another VNI", Host: "bridge fdb replace REMOTEMAC dev VXLAN dst REMOTEVTEP vni 5",
			Told: "fdb REMOTEMAC on VXLAN dst REMOTEVTEP vni 5 → REMOTEVTEP",
		},
		{
			Name: "fdb entry by another device", Host: "bridge fdb replace REMOTEMAC dev VXLAN dst REMOTEVTEP via UNDERLAY",
			Told: "fdb REMOTEMAC on VXLAN dst REMOTEVTEP via ",
		},
		{
			Name: "fdb entry by a nexthop",
			Host: "ip nexthop add id 9 via REMOTEVTEP fdb; ip nexthop add id 10 group 9 fdb;" +
				" printf 'fdb del REMOTEMAC dev VXLAN\nfdb add REMOTEMAC dev VXLAN nhid 10\n' | bridge -batch -",
			Told: "fdb REMOTEMAC on VXLAN nhid 10 not wanted → deleted", Left: "ip nexthop del id 9",
		},
		{
			Name: "stray fdb entry by a nexthop",
			Host: "ip nexthop add id 9 via REMOTEVTEP fdb; ip nexthop add id 10 group 9 fdb; bridge fdb add 02:00:00:00:00:09 dev VXLAN nhid 10",
			Told: "fdb 02:00:00:00:00:09 on VXLAN nhid 10 not wanted → deleted", Left: "ip nexthop del id 9",
		},
		{
			Name: "default destination with two ends",
			Host: "bridge fdb append 00:00:00:00:00:00 dev VXLAN dst 192.0.2.9; bridge fdb append 00:00:00:00:00:00 dev VXLAN dst REMOTEVTEP port 9999",
			Told: "fdb 00:00:00:00:00:00 on VXLAN dst ",
		},
		{
			Name: "stray fdb entry", Host: "bridge fdb append 00:00:00:00:00:00 dev VXLAN dst 192.0.2.9",
			Told: "fdb 00:00:00:00:00:00 on VXLAN dst 192.0.2.9 not wanted → deleted",
		},
		{Name: "static entry gone", Host: "bridge fdb del LOCALMAC dev VETH master", Told: "static bridge entry LOCALMAC on VETH missing → added"},
		{
			Name: "static entry elsewhere", Host: "bridge fdb replace LOCALMAC dev VXLAN master static",
			Told: "static bridge entry LOCALMAC on VETH missing → added",
		},
		{
			Name: "stray static entry", Host: "bridge fdb add 02:00:00:00:00:09 dev VETH master static",
			Told: "static bridge entry 02:00:00:00:00:09 on VETH not wanted → deleted",
		},
	}
}

func neighbours() []Mutation {
	return []Mutation{
		{Name: "IPv4 neighbours flushed", Host: "ip -4 neigh flush dev VXLAN nud all", Told: "neighbours on VXLAN missing → added"},
		{Name: "IPv6 neighbours flushed", Host: "ip -6 neigh flush dev VXLAN nud all", Told: "neighbours on VXLAN missing → added"},
		{
			Name: "neighbour gone", Host: "ip neigh del REMOTEIP6 dev VXLAN",
			Told: "neighbour REMOTEIP6 on VXLAN lladdr REMOTEMAC missing → added",
		},
		{
			Name: "wrong neighbour", Host: "ip neigh replace REMOTEIP4 lladdr 02:00:00:00:00:09 dev VXLAN nud permanent",
			Told: "neighbour REMOTEIP4 on VXLAN lladdr 02:00:00:00:00:09 → REMOTEMAC",
		},
		{
			Name: "neighbour not lasting", Host: "ip neigh replace REMOTEIP4 lladdr REMOTEMAC dev VXLAN nud reachable",
			Told: "neighbour REMOTEIP4 on VXLAN lladdr REMOTEMAC missing → added",
		},
		{
			Name: "neighbour without ARP", Host: "ip neigh replace REMOTEIP4 lladdr REMOTEMAC dev VXLAN nud noarp",
			Told: "neighbour REMOTEIP4 on VXLAN lladdr REMOTEMAC noarp → REMOTEMAC",
		},
		{
			Name: "neighbour that is a router", Host: "ip neigh replace REMOTEIP6 lladdr REMOTEMAC dev VXLAN nud permanent router",
			Told: "neighbour REMOTEIP6 on VXLAN lladdr REMOTEMAC router → REMOTEMAC",
		},
		{
			Name: "stray neighbour without ARP", Host: "ip neigh add 10.77.99.99 lladdr 02:00:00:00:00:09 dev VXLAN nud noarp",
			Told: "neighbour 10.77.99.99 on VXLAN lladdr 02:00:00:00:00:09 noarp not wanted → deleted",
		},
		{
			Name: "stray neighbour", Host: "ip neigh add fd99:1::99 lladdr 02:00:00:00:00:09 dev VXLAN nud permanent",
			Told: "neighbour fd99:1::99 on VXLAN lladdr 02:00:00:00:00:09 not wanted → deleted",
		},
	}
}

func inside() []Mutation {
	return []Mutation{
		{Name: "veth deleted inside", Inside: "ip link del eth0", Told: "VETH missing → made"},
		{Name: "inside down", Inside: "ip link set eth0 down", Told: "(VETH) down → up"},
		{Name: "inside renamed", Inside: "ip link set eth0 down; ip link set eth0 name lan0", Told: "(VETH) name lan0 → eth0"},
		{Name: "inside without addresses", Inside: "ip addr flush dev eth0", Noticed: ByVeth, Told: "(VETH) address "},
		{Name: "inside with another mac", Inside: "ip link set eth0 address 02:00:00:00:00:01", Noticed: ByVeth, Told: "(VETH) address 02:00:00:00:00:01 → "},
		{Name: "inside with another mtu", Inside: "ip link set eth0 mtu 1300", Noticed: ByVeth, Told: "(VETH) mtu 1300 → "},
		{Name: "inside without routes", Inside: "ip route del default; ip -6 route del default", Noticed: ByVeth, Told: "(VETH) route "},
		{Name: "inside with a stray address", Inside: "ip addr add 10.9.9.9/24 dev eth0", Noticed: ByVeth, Told: "(VETH) address 10.9.9.9/24 not wanted → deleted"},
		{Name: "inside without IPv6", Inside: "echo 1 >/proc/sys/net/ipv6/conf/eth0/disable_ipv6", Noticed: ByVeth, Told: "(VETH) address "},
	}
}

func rules() []Mutation {
	return []Mutation{
		{
			Name: "rules flushed", Host: "iptables -w -F; iptables -w -t raw -F; iptables -w -t nat -F; ip6tables -w -F", Broad: true,
			Told: "missing or changed → loaded",
		},
		{Name: "nat flushed", Host: "iptables -w -t nat -F; ip6tables -w -t nat -F", Broad: true, Told: "chain ipv4 nat OVERSPAN-NAT"},
		{Name: "nat table deleted", Host: "nft delete table ip nat", Broad: true, Told: "chain ipv4 nat OVERSPAN-NAT"},
		{Name: "ruleset flushed", Host: "nft flush ruleset", Broad: true, Told: "chain ipv6 nat OVERSPAN-NAT"},
		{Name: "jump removed", Host: "iptables -w -D FORWARD -j OVERSPAN-FORWARD", Told: "jump from FORWARD to ipv4 filter OVERSPAN-FORWARD missing or not first → first"},
		{
			Name: "jump not first", Host: "iptables -w -I FORWARD 1 -p 253 -j ACCEPT", Left: "iptables -w -D FORWARD -p 253 -j ACCEPT",
			Told: "jump from FORWARD to ipv4 filter OVERSPAN-FORWARD missing or not first → first",
		},
		{Name: "jump twice", Host: "iptables -w -A FORWARD -j OVERSPAN-FORWARD", Told: "jump from FORWARD to ipv4 filter OVERSPAN-FORWARD"},
		{Name: "chain flushed", Host: "iptables -w -F OVERSPAN-FORWARD", Told: "chain ipv4 filter OVERSPAN-FORWARD missing or changed → loaded"},
		{
			Name: "chain deleted", Host: "ip6tables -w -D FORWARD -j OVERSPAN-FORWARD; ip6tables -w -F OVERSPAN-FORWARD; ip6tables -w -X OVERSPAN-FORWARD",
			Told: "chain ipv6 filter OVERSPAN-FORWARD missing or changed → loaded",
		},
		{Name: "stray rule", Host: "iptables -w -t raw -I OVERSPAN-RAW 1 -j ACCEPT", Told: "chain ipv4 raw OVERSPAN-RAW missing or changed → loaded"},
		{Name: "rule gone", Host: "iptables -w -t raw -D OVERSPAN-RAW 1", Told: "chain ipv4 raw OVERSPAN-RAW missing or changed → loaded"},
		{
			Name: "stray chain",
			Host: "iptables -w -N OVERSPAN-OLD; iptables -w -A INPUT -p tcp -j OVERSPAN-OLD; iptables -w -A OVERSPAN-OLD -j OVERSPAN-FORWARD",
			Told: "chain ipv4 filter OVERSPAN-OLD not wanted → deleted",
		},
		{Name: "set flushed", Host: "ipset flush overspan-vtep4", Noticed: ByResync, Told: "ipset overspan-vtep4"},
		{Name: "set entry gone", Host: "ipset del overspan-vtep4 REMOTEVTEP", Noticed: ByResync, Told: "ipset overspan-vtep4 entry REMOTEVTEP missing → added"},
		{
			Name: "stray set entry", Host: "ipset add overspan-vtep6 2001:db8::9", Noticed: ByResync,
			Told: "ipset overspan-vtep6 entry 2001:db8::9 not wanted → deleted",
		},
		{Name: "stray set", Host: "ipset create overspan-old hash:ip", Noticed: ByResync, Told: "ipset overspan-old not wanted → deleted"},
	}
}
