package bridge

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/kernel"
)

// The chains of published ports. Behind them stands, for each protocol, a tree
// of fixed shape: a chain for all ports, which leads to those for each 4,096 of
// which some are published, and these to those for each 64. So a connection
// passes some dozens of rules at most, however many ports are published, and a
// port that comes or goes has only the chains above it read and loaded.
const (
	chainPorts    = "OVERSPAN-PORTS"
	chainPortsOut = "OVERSPAN-PORTS-OUT"
)

// sizes are how many ports a chain of each level of the tree stands for.
var sizes = [...]int{1 << 16, 1 << 12, 1 << 6}

// A span is a chain of the tree: some protocol's ports from first on.
type span struct {
	family      overspan.Family
	protocol    overspan.Protocol
	first, size int
}

// spansOf returns the chains that decide about a port, from the top.
func spansOf(p overspan.Port) [len(sizes)]span {
	var out [len(sizes)]span
	for i, size := range sizes {
		out[i] = span{overspan.FamilyOf(p.HostIP), p.Protocol, int(p.HostPort) &^ (size - 1), size}
	}
	return out
}

func (s span) last() int { return s.first + s.size - 1 }

// chain returns the span's chain, such as OVERSPAN-TCP-8064-8127.
func (s span) chain() kernel.ChainKey {
	name := "OVERSPAN-" + strings.ToUpper(string(s.protocol))
	if s.size < sizes[0] {
		name += fmt.Sprintf("-%d-%d", s.first, s.last())
	}
	return kernel.ChainKey{Family: s.family, Table: "nat", Name: name}
}

// parseSpan reads the name of a chain; ok is false if it is none of the tree.
func parseSpan(key kernel.ChainKey) (s span, ok bool) {
	words := strings.Split(key.Name, "-")
	if key.Table != "nat" || len(words) < 2 {
		return span{}, false
	}
	s = span{family: key.Family, protocol: overspan.Protocol(strings.ToLower(words[1])), size: sizes[0]}
	if len(words) == 4 {
		last, _ := strconv.Atoi(words[3])
		s.first, _ = strconv.Atoi(words[2])
		s.size = last - s.first + 1
	}
	ok = slices.Contains(overspan.Protocols(), s.protocol) && slices.Contains(sizes[:], s.size) && s.first%s.size == 0
	return s, ok && s.chain() == key
}

// IsPortChain reports whether a chain is one that publishes ports.
func IsPortChain(key kernel.ChainKey) bool {
	_, ok := parseSpan(key)
	return ok
}

// PortChains returns the chains that publishing some ports, or publishing them
// no more, may change.
func PortChains(ports []overspan.Port) []kernel.ChainKey {
	var keys []kernel.ChainKey
	for _, p := range ports {
		for _, s := range spansOf(p) {
			if key := s.chain(); !slices.Contains(keys, key) {
				keys = append(keys, key)
			}
		}
	}
	return keys
}

// Ports returns the rules that publish the ports of endpoints of this node, and
// that let what comes by them through. The networks are those of the node.
func Ports(networks []*overspan.Network, endpoints []overspan.Endpoint) kernel.State {
	s := kernel.State{Chains: make(map[kernel.ChainKey]kernel.Chain)}
	if len(networks) == 0 {
		return s
	}
	every := make(map[span]struct{})
	for _, family := range []overspan.Family{overspan.IPv4, overspan.IPv6} {
		var in, out []string
		for _, protocol := range []overspan.Protocol{overspan.TCP, overspan.UDP} {
			// Names are asked for at the gateways, whatever else is published
			// at their port.
			in = append(in, fmt.Sprintf("-i osb-+ -p %s --dport 53 -m set --match-set %s dst -j RETURN", protocol, gatewaySet(family)))
		}
		for _, protocol := range overspan.Protocols() {
			top := span{family: family, protocol: protocol, size: sizes[0]}
			every[top] = struct{}{}
			enter := fmt.Sprintf("-p %s -m addrtype --dst-type LOCAL -g %s", protocol, top.chain().Name)
			if family == overspan.IPv4 {
				// What is published at 127.0.0.1 is for the node alone: a
				// packet from elsewhere would be led to the container before
				// the kernel could find that it should not have come.
				in = append(in, "! -d 127.0.0.0/8 "+enter)
				out = append(out, enter)
			} else {
				// The kernel routes ::1 nowhere else, by no switch: better that
				// a client there is refused than that it waits.
				in = append(in, enter)
				out = append(out, "! -d ::1/128 "+enter)
			}
		}
		add := func(name string, c kernel.Chain) {
			s.Chains[kernel.ChainKey{Family: family, Table: "nat", Name: name}] = c
		}
		add(chainPorts, kernel.Chain{Hook: "PREROUTING", Rules: rules(in...)})
		add(chainPortsOut, kernel.Chain{Hook: "OUTPUT", Rules: rules(out...)})
	}
	for _, e := range endpoints {
		for _, p := range e.Ports {
			for _, sp := range spansOf(p) {
				every[sp] = struct{}{}
			}
		}
	}
	s.Take(publish(endpoints, every))
	return s
}

// PortsWithin returns the part of Ports that is in some of the chains of
// PortChains.
func PortsWithin(endpoints []overspan.Endpoint, chains []kernel.ChainKey) kernel.State {
	wanted := make(map[span]struct{}, len(chains))
	for _, key := range chains {
		if sp, ok := parseSpan(key); ok {
			wanted[sp] = struct{}{}
		}
	}
	return publish(endpoints, wanted)
}

// A door is a port that is published, and where it leads.
type door struct {
	overspan.Port
	to netip.AddrPort
}

// publish fills the wanted chains of the tree. One that nothing is published in
// is left out, but for those at the top, which are always there.
func publish(endpoints []overspan.Endpoint, wanted map[span]struct{}) kernel.State {
	below := make(map[span]map[span]struct{})
	doors := make(map[span][]door)
	for _, e := range endpoints {
		for _, p := range e.Ports {
			path := spansOf(p)
			for i, sp := range path[:len(path)-1] {
				if _, ok := wanted[sp]; !ok {
					continue
				}
				if below[sp] == nil {
					below[sp] = make(map[span]struct{})
				}
				below[sp][path[i+1]] = struct{}{}
			}
			leaf := path[len(path)-1]
			if _, ok := wanted[leaf]; ok {
				to := netip.AddrPortFrom(e.Addr(leaf.family), p.Port)
				doors[leaf] = append(doors[leaf], door{p, to})
			}
		}
	}
	s := kernel.State{Chains: make(map[kernel.ChainKey]kernel.Chain, len(wanted))}
	for sp := range wanted {
		if chain := append(branches(below[sp]), dnat(doors[sp])...); len(chain) > 0 || sp.size == sizes[0] {
			s.Chains[sp.chain()] = kernel.Chain{Rules: chain}
		}
	}
	return s
}

// branches leads to the chains below one.
func branches(below map[span]struct{}) []kernel.Rule {
	var list []span
	for sp := range below {
		list = append(list, sp)
	}
	slices.SortFunc(list, func(a, b span) int { return cmp.Compare(a.first, b.first) })
	var texts []string
	for _, sp := range list {
		texts = append(texts, fmt.Sprintf("-p %s --dport %d:%d -g %s", sp.protocol, sp.first, sp.last(), sp.chain().Name))
	}
	return rules(texts...)
}

// dnat leads to the containers. That no two doors are the same, the sockets see
// to that hold the ports.
func dnat(doors []door) []kernel.Rule {
	slices.SortFunc(doors, func(a, b door) int {
		return cmp.Or(cmp.Compare(a.HostPort, b.HostPort), a.HostIP.Compare(b.HostIP), a.to.Compare(b.to))
	})
	var out []kernel.Rule
	for _, d := range doors {
		at := ""
		if !d.HostIP.IsUnspecified() {
			at = "-d " + d.HostIP.String() + " "
		}
		out = append(out, kernel.Rule{
			Text: fmt.Sprintf("%s-p %s --dport %d -j DNAT --to-destination %s", at, d.Protocol, d.HostPort, d.to),
			Flow: kernel.Flow{Protocol: d.Protocol, Dst: netip.AddrPortFrom(d.HostIP, d.HostPort), To: d.to},
		})
	}
	return out
}

// hairpins masquerade what comes by a published port from one of our containers,
// or from the node itself by 127.0.0.1: the answer would otherwise not come back
// this way, and the client would not know it for one. From all others the
// container sees the client's own address.
func hairpins(networks []*overspan.Network, family overspan.Family) []string {
	var sources []string
	if family == overspan.IPv4 {
		sources = append(sources, "127.0.0.0/8")
	}
	for _, n := range sorted(networks) {
		if subnet := subnetOf(n, family); subnet.IsValid() {
			sources = append(sources, subnet.Prefix.String())
		}
	}
	var texts []string
	for _, source := range sources {
		texts = append(texts, "-s "+source+" -o osb-+ -m conntrack --ctstate DNAT -j MASQUERADE")
	}
	return texts
}

// entersByLoopback reports whether a port is published at 127.0.0.1: its
// container is only reached by that where the kernel may route that address.
func entersByLoopback(e overspan.Endpoint) bool {
	return slices.ContainsFunc(e.Ports, func(p overspan.Port) bool {
		return p.HostIP.Is4() && (p.HostIP.IsUnspecified() || p.HostIP.IsLoopback())
	})
}
