package bridge

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/kernel"
)

// The chains and sets that this package plans.
const (
	chainUser    = "OVERSPAN-USER"
	chainForward = "OVERSPAN-FORWARD"
	chainInput   = "OVERSPAN-INPUT"

	setGateways4 = "overspan-gateway4"
	setGateways6 = "overspan-gateway6"
	setSubnets4  = "overspan-subnet4"
	setSubnets6  = "overspan-subnet6"
)

// fromNoBridge drops what comes in by a veth that is on no bridge: its endpoint
// is not in use yet, or has lost its slot. From all others packets come in by
// their bridge.
const fromNoBridge = "-i osv-+ -j DROP"

// Rules returns the chains that all bridges of this node share, for IPv4 and
// IPv6 alike. What a policy or another program's rules would do to traffic of
// ours is decided before they are asked.
//
// The networks are those of this node, and cluster has all there are. The user's
// own chain is planned even where there is no network: its rules outlast them.
func Rules(networks []*overspan.Network, cluster map[overspan.NetworkID]*overspan.Network) kernel.State {
	s := kernel.State{
		Sets:   make(map[string]kernel.AddrSet),
		Chains: make(map[kernel.ChainKey]kernel.Chain),
	}
	for _, family := range []overspan.Family{overspan.IPv4, overspan.IPv6} {
		set := gatewaySet(family)
		add := func(name string, c kernel.Chain) {
			s.Chains[kernel.ChainKey{Family: family, Table: "filter", Name: name}] = c
		}
		add(chainUser, kernel.Chain{Open: true})
		if len(networks) == 0 {
			continue
		}
		s.Sets[subnetSet(family)] = subnets(cluster, family)
		s.Sets[set] = kernel.AddrSet{Family: family, Members: gateways(networks, family)}
		add(chainForward, kernel.Chain{Hook: "FORWARD", Rules: forwardRules(networks, family)})
		add(chainInput, kernel.Chain{Hook: "INPUT", Rules: inputRules(family, set)})
	}
	return s
}

// Subnets returns the part of Rules that changes with networks which this node has
// no part in: the sets of all subnets of the cluster.
func Subnets(cluster map[overspan.NetworkID]*overspan.Network) kernel.State {
	return kernel.State{Sets: map[string]kernel.AddrSet{
		setSubnets4: subnets(cluster, overspan.IPv4),
		setSubnets6: subnets(cluster, overspan.IPv6),
	}}
}

func subnets(cluster map[overspan.NetworkID]*overspan.Network, f overspan.Family) kernel.AddrSet {
	set := kernel.AddrSet{Family: f, Subnets: true, Members: make(map[netip.Prefix]struct{})}
	for _, n := range cluster {
		// A configuration has leased none of what it names.
		if subnet := subnetOf(n, f); subnet.IsValid() && !n.ConfigOnly {
			set.Members[subnet.Prefix.Masked()] = struct{}{}
		}
	}
	return set
}

// SubnetSets returns the names of the sets of all subnets.
func SubnetSets() []string { return []string{setSubnets4, setSubnets6} }

// subnetSet is the name of the set of the cluster's subnets of a family.
func subnetSet(f overspan.Family) string {
	if f == overspan.IPv6 {
		return setSubnets6
	}
	return setSubnets4
}

// gatewaySet is the name of the set of this node's gateways of a family.
func gatewaySet(f overspan.Family) string {
	if f == overspan.IPv6 {
		return setGateways6
	}
	return setGateways4
}

// inputRules guards what this node has on behalf of its networks.
func inputRules(f overspan.Family, gateways string) []kernel.Rule {
	texts := []string{fromNoBridge}
	if f == overspan.IPv4 {
		// Where a bridge has route_localnet, for what the node publishes on its
		// loopback address, a container could otherwise call the node's own
		// services there. What the node itself began is answered.
		texts = append(texts, "-i osb-+ -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED -j DROP")
	}
	// The node has the gateways of all its networks: they answer to their own
	// containers, and to the node itself. The type of the address is looked up on
	// the device that the packet came in by, at the first packet of a connection;
	// the tunnel's packets are not tracked, and spared both looks.
	return rules(append(texts,
		"! -i lo -m conntrack ! --ctstate RELATED,ESTABLISHED,UNTRACKED"+
			" -m set --match-set "+gateways+" dst -m addrtype ! --dst-type LOCAL --limit-iface-in -j DROP",
		// Names are answered there, whatever INPUT's policy is.
		"-i osb-+ -p udp --dport 53 -m set --match-set "+gateways+" dst -j ACCEPT",
		"-i osb-+ -p tcp --dport 53 -m set --match-set "+gateways+" dst -j ACCEPT",
	)...)
}

// forwardRules, in order:
//
//  1. drop what comes in by a veth that is on no bridge
//  2. the user's chain
//  3. accept frames bridged within a network (br_netfilter)
//  4. drop all of internal networks
//  5. accept what came by a published port, also from another network
//  6. reject traffic to other networks of the cluster, also those not on this
//     node, which would otherwise follow the default route; drop what else goes
//     from bridge to bridge
//  7. accept containers' traffic to the world, and answers to it
//  8. drop the rest towards containers
func forwardRules(networks []*overspan.Network, f overspan.Family) []kernel.Rule {
	texts := []string{
		fromNoBridge,
		"-j " + chainUser,
		"-i osb-+ -m physdev --physdev-is-bridged -j ACCEPT",
	}
	for _, n := range sorted(networks) {
		if n.Internal {
			dev := overspan.BridgeName(n.ID)
			texts = append(texts, "-i "+dev+" -j DROP", "-o "+dev+" -j DROP")
		}
	}
	return rules(append(texts,
		"-o osb-+ -m conntrack --ctstate DNAT -j ACCEPT",
		"-i osb-+ -m conntrack ! --ctstate RELATED,ESTABLISHED -m set --match-set "+subnetSet(f)+" dst -j REJECT --reject-with "+prohibited(f),
		"-i osb-+ -o osb-+ -j DROP",
		"-i osb-+ -j ACCEPT",
		"-o osb-+ -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
		"-o osb-+ -j DROP",
	)...)
}

// prohibited is how ICMP tells that an administrator does not want it.
func prohibited(f overspan.Family) string {
	if f == overspan.IPv6 {
		return "icmp6-adm-prohibited"
	}
	return "icmp-admin-prohibited"
}

func rules(texts ...string) []kernel.Rule {
	var out []kernel.Rule
	for _, text := range texts {
		out = append(out, kernel.Rule{Text: text})
	}
	return out
}

// sorted returns the networks ordered by id: their order must not show in the
// plan.
func sorted(networks []*overspan.Network) []*overspan.Network {
	return slices.SortedFunc(slices.Values(networks), func(a, b *overspan.Network) int {
		return strings.Compare(string(a.ID), string(b.ID))
	})
}

func gateways(networks []*overspan.Network, f overspan.Family) map[netip.Prefix]struct{} {
	out := make(map[netip.Prefix]struct{})
	for _, n := range networks {
		if subnet := subnetOf(n, f); subnet.Gateway.IsValid() {
			out[kernel.Single(subnet.Gateway)] = struct{}{}
		}
	}
	return out
}
