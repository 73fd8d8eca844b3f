package bridge

import (
	"github.com/overspan/overspan"
	"github.com/overspan/overspan/kernel"
)

const chainNAT = "OVERSPAN-NAT"

// NAT returns the chain that gives packets of containers an address of this
// node where they leave our networks for the world. Internal networks have no
// way out, and those without masquerading are routed by somebody else.
//
// The first packet of a connection alone meets it. Packets of the tunnel do
// not: they are not tracked.
func NAT(networks []*overspan.Network) kernel.State {
	s := kernel.State{Chains: make(map[kernel.ChainKey]kernel.Chain)}
	if len(networks) == 0 {
		return s
	}
	for _, f := range []overspan.Family{overspan.IPv4, overspan.IPv6} {
		// What goes to a container stays as it is: within a network, also where
		// br_netfilter brings bridged frames here as packets to their bridge, and
		// from the node itself. So does what the node tells itself at a gateway.
		// Otherwise only what comes by a published port and would not come back.
		texts := append(hairpins(networks, f), "-o osb-+ -j RETURN", "-o lo -j RETURN")
		for _, n := range sorted(networks) {
			subnet, options := subnetOf(n, f), OptionsOf(n)
			if !subnet.IsValid() || n.Internal || !options.Masquerade {
				continue
			}
			texts = append(texts, "-s "+subnet.Prefix.Masked().String()+" -j "+translation(options, f))
		}
		s.Chains[kernel.ChainKey{Family: f, Table: "nat", Name: chainNAT}] = kernel.Chain{Hook: "POSTROUTING", Rules: rules(texts...)}
	}
	return s
}

// translation returns the target that gives a packet its new source.
func translation(o Options, f overspan.Family) string {
	to := o.SNAT4
	if f == overspan.IPv6 {
		to = o.SNAT6
	}
	if to.IsValid() {
		return "SNAT --to-source " + to.String()
	}
	return "MASQUERADE"
}

// ForwardIPv4 returns the setting by which this node routes IPv4 for its
// networks, if one of them has a way out. Nothing switches it off again: others
// may rely on it by then.
func ForwardIPv4(networks []*overspan.Network) kernel.State {
	var s kernel.State
	if leadsOut(networks, overspan.IPv4) {
		s.Sysctls = map[string]string{kernel.ForwardIPv4: "1"}
	}
	return s
}

// ForwardIPv6 is ForwardIPv4 for IPv6. The devices in advertised go on learning
// their routes from router advertisements, which a router does not do unless
// told to.
func ForwardIPv6(networks []*overspan.Network, advertised []string) kernel.State {
	var s kernel.State
	if leadsOut(networks, overspan.IPv6) {
		s.Sysctls = map[string]string{kernel.ForwardIPv6: "1"}
		for _, dev := range advertised {
			s.Sysctls["net/ipv6/conf/"+dev+"/accept_ra"] = "2"
		}
	}
	return s
}

func leadsOut(networks []*overspan.Network, f overspan.Family) bool {
	for _, n := range networks {
		if subnetOf(n, f).IsValid() && !n.Internal {
			return true
		}
	}
	return false
}
