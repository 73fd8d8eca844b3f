package overspan

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// A Resolver is what resolv.conf(5) tells the programs that look names up.
type Resolver struct {
	Servers []netip.Addr // asked in this order
	Search  []string     // domains that a short name is tried in
	Options []string     // "ndots:0"
}

// resolvServers is how many servers the C library reads: MAXNS of resolv.h.
const resolvServers = 3

// noSearch stands for no domain at all, as for docker run --dns-search.
const noSearch = "."

// ParseResolver reads a resolv.conf(5) and passes over what it does not know.
func ParseResolver(text string) Resolver {
	var r Resolver
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			if a, err := netip.ParseAddr(fields[1]); err == nil {
				r.Servers = append(r.Servers, a)
			}
		case "search", "domain": // the last one counts
			r.Search = fields[1:]
		case "options":
			r.Options = append(r.Options, fields[1:]...)
		}
	}
	return r
}

// String returns a resolv.conf(5).
func (r Resolver) String() string {
	var b strings.Builder
	for _, a := range r.Servers {
		b.WriteString("nameserver " + a.String() + "\n")
	}
	if len(r.Search) > 0 {
		b.WriteString("search " + strings.Join(r.Search, " ") + "\n")
	}
	if len(r.Options) > 0 {
		b.WriteString("options " + strings.Join(r.Options, " ") + "\n")
	}
	return b.String()
}

// Within returns what the programs in a sandbox are told: r is the host's, want
// is what the user said of the sandbox, and gateways are who answers there. The
// servers that the user wants are asked by the gateways, on the sandbox's
// behalf; without a gateway the sandbox asks them itself, or the host's, but
// not those on the host's loopback: within there is nobody at that address.
func (r Resolver) Within(gateways []netip.Addr, want Resolver) Resolver {
	out := Resolver{Servers: gateways, Search: r.Search, Options: slices.Clone(r.Options)}
	if len(want.Search) > 0 {
		out.Search = slices.DeleteFunc(slices.Clone(want.Search), func(s string) bool { return s == noSearch })
	}
	if len(want.Options) > 0 {
		out.Options = slices.Clone(want.Options)
	}
	if len(gateways) == 0 {
		out.Servers = want.Servers
		if len(want.Servers) == 0 {
			out.Servers = slices.DeleteFunc(slices.Clone(r.Servers), netip.Addr.IsLoopback)
		}
		return out
	}
	out.Servers = gateways[:min(len(gateways), resolvServers)]
	ndots := func(o string) bool { return strings.HasPrefix(o, "ndots:") }
	if !slices.ContainsFunc(want.Options, ndots) {
		// The name of a container is asked for as it is before any domain.
		out.Options = append(slices.DeleteFunc(out.Options, ndots), "ndots:0")
	}
	return out
}

// Nameservers returns the gateways that answer a sandbox in these networks, one
// for each.
func Nameservers(networks ...*Network) []netip.Addr {
	var out []netip.Addr
	for _, n := range networks {
		if gateways := n.Gateways(); len(gateways) > 0 {
			out = append(out, gateways[0])
		}
	}
	return out
}

// Gateways returns the network's gateways, IPv4 first.
func (n *Network) Gateways() []netip.Addr {
	var out []netip.Addr
	for _, s := range []Subnet{n.IPv4, n.IPv6} {
		if s.IsValid() && s.Gateway.IsValid() {
			out = append(out, s.Gateway)
		}
	}
	return out
}

// Check refuses settings that the files of a sandbox cannot hold.
func (s SandboxSettings) Check() error {
	if s.Hostname != "" {
		if err := CheckName("host", s.Hostname); err != nil {
			return err
		}
	}
	for _, h := range s.Hosts {
		if err := CheckName("host", h.Name); err != nil {
			return err
		}
		if !h.Addr.IsValid() {
			return Errorf(ErrInvalid, "host %s has no address", h.Name)
		}
	}
	for _, domain := range s.Resolver.Search {
		if !domainSyntax.MatchString(domain) {
			return Errorf(ErrInvalid, "invalid search domain %q: use letters, digits, '_', '.', '-', or '.' alone for none", domain)
		}
	}
	for _, option := range s.Resolver.Options {
		if !optionSyntax.MatchString(option) {
			return Errorf(ErrInvalid, "invalid DNS option %q: want one of resolv.conf(5) such as ndots:1", option)
		}
	}
	return nil
}

var (
	domainSyntax = regexp.MustCompile(`^(\.|[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,252})$`)
	optionSyntax = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,32}(:[0-9]{1,9})?$`)
)

// A HostName is a line of a sandbox's hosts(5) that its user wants.
type HostName struct {
	Name string
	Addr netip.Addr
}
