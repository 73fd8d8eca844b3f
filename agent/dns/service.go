package dns

import (
	"context"
	"net"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/overspan/overspan"
)

// A service is what is asked for by a name such as "_http._tcp.web": RFC 2782.
type service struct {
	name     string // in services(5), or a port's number
	protocol overspan.Protocol
}

// readService takes a service's name, in lower case and without its last dot,
// apart; base is whose service it is.
func readService(name string) (s service, base string, ok bool) {
	labels := strings.SplitN(name, ".", 3)
	if len(labels) < 3 {
		return service{}, "", false
	}
	of, isService := strings.CutPrefix(labels[0], "_")
	protocol, isProtocol := strings.CutPrefix(labels[1], "_")
	return service{of, overspan.Protocol(protocol)}, labels[2], isService && isProtocol
}

// service answers where those of the bearers of a name are who have published a
// service: at their own addresses, by which the asker reaches them without the
// publication. Such a name exists while somebody does.
func (v names) service(reply *dns.Msg, bearers []*overspan.Endpoint, s service) string {
	reply.Authoritative = true
	q := reply.Question[0]
	port, known := v.port(s)
	bearers = slices.DeleteFunc(bearers, func(e *overspan.Endpoint) bool { return !known || !publishes(e, s.protocol, port) })
	if len(bearers) == 0 {
		reply.Rcode = dns.RcodeNameError
		return resultNoName
	}
	if q.Qtype != dns.TypeSRV && q.Qtype != dns.TypeANY {
		return resultNoData
	}
	for _, e := range bearers {
		target := dns.Fqdn(e.Name + "." + v.snapshot.Networks[e.Network].Name)
		reply.Answer = append(reply.Answer, &dns.SRV{Hdr: header(q, dns.TypeSRV), Port: port, Target: target})
		reply.Extra = append(reply.Extra, records(dns.Question{Name: target, Qtype: dns.TypeANY}, e)...)
	}
	return resultAnswer
}

func publishes(e *overspan.Endpoint, protocol overspan.Protocol, port uint16) bool {
	return slices.ContainsFunc(e.Ports, func(p overspan.Port) bool { return p.Protocol == protocol && p.Port == port })
}

// lookPort returns a service's port as the host's services(5) has it, which is
// read once. What it says of TCP or else UDP counts for SCTP as well: few hosts'
// has lines of that.
func lookPort(s service) (uint16, bool) {
	network := string(s.protocol)
	if s.protocol == overspan.SCTP {
		network = "ip"
	}
	resolver := net.Resolver{PreferGo: true} // the C library's would cost a thread
	port, err := resolver.LookupPort(context.Background(), network, s.name)
	return uint16(port), err == nil
}
