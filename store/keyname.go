package store

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/overspan/overspan"
)

// A KeyKind says what a key stands for.
type KeyKind int

// The kinds of keys, in the order of the layout.
const (
	KeyMeta KeyKind = iota + 1
	KeyFrozen
	KeyAccepted
	KeyClaimed
	KeyReport
	KeyNode
	KeyLive
	KeyRemoving
	KeyEviction
	KeyFlight
	KeyNetwork
	KeyNetworkName
	KeyVNI
	KeySubnet
	KeySubnetsVersion
	KeyBlock
	KeyEndpoint
	KeyEndpointName
	KeyMAC
	KeyWant
	KeyAck
)

// A KeyName is a key taken apart. Only the fields that the kind needs are set.
type KeyName struct {
	Kind    KeyKind
	Node    overspan.NodeID    // also the holder of a want
	Asker   overspan.NodeID    // of a want
	Network overspan.NetworkID // of everything inside a network, and of acks
	Name    string             // of a network or of an endpoint
	VNI     uint32
	Subnet  netip.Prefix
	Block   overspan.Range
	Slot    overspan.Slot
	Evicted overspan.EndpointID
	MAC     overspan.MAC
}

// Parse takes a key of the cluster apart. A key that no builder of Keys makes
// is an error of class ErrCorrupt.
func (k Keys) Parse(key string) (KeyName, error) {
	rest, ours := strings.CutPrefix(key, k.prefix)
	name, ok := parseKey(strings.Split(rest, "/"))
	if !ours || !ok || k.build(name) != key {
		return KeyName{}, overspan.Errorf(overspan.ErrCorrupt, "key %q: not in the layout of %s", key, k.prefix)
	}
	return name, nil
}

// build is the inverse of parseKey. Building the key again refuses whatever the
// parts leave open: other widths, upper case, leading signs.
func (k Keys) build(n KeyName) string {
	switch n.Kind {
	case KeyMeta:
		return k.Meta()
	case KeyFrozen:
		return k.Frozen()
	case KeyAccepted:
		return k.Accepted()
	case KeyClaimed:
		return k.Claimed()
	case KeyReport:
		return k.Report(n.Node)
	case KeyNode:
		return k.Node(n.Node)
	case KeyLive:
		return k.Live(n.Node)
	case KeyRemoving:
		return k.Removing(n.Node)
	case KeyEviction:
		return k.Eviction(n.Node, n.Evicted)
	case KeyFlight:
		return k.Flight(n.Node)
	case KeyNetwork:
		return k.Network(n.Network)
	case KeyNetworkName:
		return k.NetworkName(n.Name, n.Node)
	case KeyVNI:
		return k.VNI(n.VNI)
	case KeySubnet:
		return k.Subnet(n.Subnet)
	case KeySubnetsVersion:
		return k.SubnetsVersion()
	case KeyBlock:
		return k.Block(n.Network, n.Block)
	case KeyEndpoint:
		return k.Endpoint(n.Network, n.Slot)
	case KeyEndpointName:
		return k.EndpointName(n.Network, n.Name)
	case KeyMAC:
		return k.MAC(n.Network, n.MAC)
	case KeyWant:
		return k.Want(n.Network, n.Node, n.Asker)
	case KeyAck:
		return k.Ack(n.Network, n.Node)
	}
	panic(fmt.Sprintf("key kind %d has no key", n.Kind))
}

// nodeKinds are the kinds of <word>/<node>.
var nodeKinds = map[string]KeyKind{
	"nodes": KeyNode, "live": KeyLive, "removing": KeyRemoving, "flights": KeyFlight, "reports": KeyReport,
}

func parseKey(parts []string) (KeyName, bool) {
	word, args := parts[0], parts[1:]
	if kind, ok := nodeKinds[word]; ok {
		return oneNode(kind, args)
	}
	switch {
	case word == "meta" && len(args) == 0:
		return KeyName{Kind: KeyMeta}, true
	case word == "meta" && len(args) == 1 && args[0] == "frozen":
		return KeyName{Kind: KeyFrozen}, true
	case word == "meta" && len(args) == 1 && args[0] == "accepted":
		return KeyName{Kind: KeyAccepted}, true
	case word == "meta" && len(args) == 1 && args[0] == "claimed":
		return KeyName{Kind: KeyClaimed}, true
	case word == "evicted" && len(args) == 2:
		return KeyName{Kind: KeyEviction, Node: overspan.NodeID(args[0]), Evicted: overspan.EndpointID(args[1])},
			overspan.IsID(args[0]) && overspan.IsID(args[1])
	case word == "networks" && len(args) == 1:
		return KeyName{Kind: KeyNetwork, Network: overspan.NetworkID(args[0])}, overspan.IsID(args[0])
	case word == "names" && len(args) == 2:
		return networkName(args[0], args[1])
	case word == "vnis" && len(args) == 1:
		vni, err := strconv.ParseUint(args[0], 10, 24)
		return KeyName{Kind: KeyVNI, VNI: uint32(vni)}, err == nil && vni > 0
	case word == "subnets" && len(args) == 1 && args[0] == "version":
		return KeyName{Kind: KeySubnetsVersion}, true
	case word == "subnets" && len(args) == 3:
		return subnet(args[1], args[2])
	case word == "acks" && len(args) == 2:
		return KeyName{Kind: KeyAck, Network: overspan.NetworkID(args[0]), Node: overspan.NodeID(args[1])},
			overspan.IsID(args[0]) && overspan.IsID(args[1])
	case word == "net" && len(args) >= 3 && overspan.IsID(args[0]):
		name, ok := parseSegmentKey(args[1], args[2:])
		name.Network = overspan.NetworkID(args[0])
		return name, ok
	}
	return KeyName{}, false
}

func oneNode(kind KeyKind, args []string) (KeyName, bool) {
	if len(args) != 1 || !overspan.IsID(args[0]) {
		return KeyName{}, false
	}
	return KeyName{Kind: kind, Node: overspan.NodeID(args[0])}, true
}

func networkName(name, holder string) (KeyName, bool) {
	out := KeyName{Kind: KeyNetworkName, Name: name}
	if holder != globalName {
		out.Node = overspan.NodeID(holder)
		if !overspan.IsID(holder) {
			return KeyName{}, false
		}
	}
	return out, overspan.CheckName("network", name) == nil
}

func subnet(addr, bits string) (KeyName, bool) {
	raw, err := hex.DecodeString(addr)
	base, ok := netip.AddrFromSlice(raw)
	length, err2 := strconv.Atoi(bits)
	if err != nil || err2 != nil || !ok {
		return KeyName{}, false
	}
	p := netip.PrefixFrom(base, length)
	return KeyName{Kind: KeySubnet, Subnet: p}, p.IsValid() && p == p.Masked()
}

func parseSegmentKey(word string, args []string) (KeyName, bool) {
	switch {
	case word == "blocks" && len(args) == 2:
		size, err := strconv.ParseUint(args[0], 10, 8)
		first, err2 := strconv.ParseUint(args[1], 16, 64)
		r := overspan.Range{First: overspan.Slot(first), Size: size}
		return KeyName{Kind: KeyBlock, Block: r}, err == nil && err2 == nil && r.IsBlock()
	case word == "endpoints" && len(args) == 1:
		slot, err := strconv.ParseUint(args[0], 16, 64)
		return KeyName{Kind: KeyEndpoint, Slot: overspan.Slot(slot)}, err == nil
	case word == "names" && len(args) == 1:
		return KeyName{Kind: KeyEndpointName, Name: args[0]}, overspan.CheckName("endpoint", args[0]) == nil
	case word == "macs" && len(args) == 1:
		mac, err := overspan.ParseMAC(args[0])
		return KeyName{Kind: KeyMAC, MAC: mac}, err == nil
	case word == "wants" && len(args) == 2:
		return KeyName{Kind: KeyWant, Node: overspan.NodeID(args[0]), Asker: overspan.NodeID(args[1])},
			overspan.IsID(args[0]) && overspan.IsID(args[1])
	}
	return KeyName{}, false
}
