package dns

import (
	"net/netip"
	"strings"

	"github.com/miekg/dns"

	"github.com/overspan/overspan"
)

// ttl is how long an answer may be kept, in seconds: an address may be another's
// a minute after its endpoint has gone.
const ttl = 5

// The results of a question, as the metric names them.
const (
	resultAnswer  = "answer"   // by a name of ours
	resultNoData  = "nodata"   // the name is ours, and has nothing of that type
	resultNoName  = "nxdomain" // nobody is called that, and nobody else is to be asked
	resultForward = "forward"  // for others to answer
	resultFailed  = "servfail" // nobody of these did
	resultBusy    = "busy"     // too many wait for these already
	resultRefused = "refused"  // not a question that is answered here
)

// answer fills in the reply to a question from what the asker may know. It
// returns resultForward if others are to be asked.
func answer(v names, reply *dns.Msg) string {
	q := reply.Question[0]
	if q.Qclass != dns.ClassINET && q.Qclass != dns.ClassANY {
		reply.Rcode = dns.RcodeRefused
		return resultRefused
	}
	name, ok := readName(q.Name)
	if !ok {
		return v.pass(reply)
	}
	if addr, reverse := readReverse(name); reverse {
		return v.reverse(reply, addr)
	}
	of, base, isService := readService(name)
	if isService {
		name = base
	}
	found := v.called(name)
	switch {
	case len(found) == 0:
		return v.pass(reply)
	case isService:
		return v.service(reply, found, of)
	}
	reply.Authoritative = true
	for _, e := range found {
		reply.Answer = append(reply.Answer, records(q, e)...)
	}
	if len(reply.Answer) == 0 {
		return resultNoData
	}
	return resultAnswer
}

// reverse answers who is at an address.
func (v names) reverse(reply *dns.Msg, addr netip.Addr) string {
	name, ours := v.at(addr)
	if !ours {
		return v.pass(reply)
	}
	reply.Authoritative = true
	q := reply.Question[0]
	switch {
	case name == "":
		reply.Rcode = dns.RcodeNameError
		return resultNoName
	case q.Qtype != dns.TypePTR && q.Qtype != dns.TypeANY:
		return resultNoData
	}
	reply.Answer = append(reply.Answer, &dns.PTR{Hdr: header(q, dns.TypePTR), Ptr: dns.Fqdn(name)})
	return resultAnswer
}

// pass leaves a question to others, if the asker may be heard outside.
func (v names) pass(reply *dns.Msg) string {
	if v.outside() {
		return resultForward
	}
	reply.Rcode = dns.RcodeNameError
	return resultNoName
}

// records returns an endpoint's addresses as far as they were asked for.
func records(q dns.Question, e *overspan.Endpoint) []dns.RR {
	var out []dns.RR
	if e.IPv4.IsValid() && (q.Qtype == dns.TypeA || q.Qtype == dns.TypeANY) {
		out = append(out, &dns.A{Hdr: header(q, dns.TypeA), A: e.IPv4.AsSlice()})
	}
	if e.IPv6.IsValid() && (q.Qtype == dns.TypeAAAA || q.Qtype == dns.TypeANY) {
		out = append(out, &dns.AAAA{Hdr: header(q, dns.TypeAAAA), AAAA: e.IPv6.AsSlice()})
	}
	return out
}

// header begins a record that answers a question, spelled as it was asked.
func header(q dns.Question, kind uint16) dns.RR_Header {
	return dns.RR_Header{Name: q.Name, Rrtype: kind, Class: dns.ClassINET, Ttl: ttl}
}

// readName returns a name in lower case and without its last dot; ok is false if
// no name of ours can be like that.
func readName(name string) (string, bool) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	return name, name != "" && !strings.Contains(name, `\`)
}

// readReverse reads a name of in-addr.arpa or ip6.arpa.
func readReverse(name string) (netip.Addr, bool) {
	if labels, found := strings.CutSuffix(name, ".in-addr.arpa"); found {
		parts := strings.Split(labels, ".")
		if len(parts) != 4 {
			return netip.Addr{}, false
		}
		addr, err := netip.ParseAddr(parts[3] + "." + parts[2] + "." + parts[1] + "." + parts[0])
		return addr, err == nil
	}
	labels, found := strings.CutSuffix(name, ".ip6.arpa")
	parts := strings.Split(labels, ".")
	if !found || len(parts) != 32 {
		return netip.Addr{}, false
	}
	var b strings.Builder
	for i := range parts {
		if len(parts[31-i]) != 1 {
			return netip.Addr{}, false
		}
		b.WriteString(parts[31-i])
		if i%4 == 3 && i < 31 {
			b.WriteByte(':')
		}
	}
	addr, err := netip.ParseAddr(b.String())
	return addr, err == nil && !addr.Is4In6()
}
