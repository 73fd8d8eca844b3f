package overspan

import (
	"cmp"
	"fmt"
	"net/netip"
	"strconv"
)

// A Protocol is what a published port is one of, spelled as iptables(8) does.
type Protocol string

// The protocols that have ports that can be published.
const (
	TCP  Protocol = "tcp"
	UDP  Protocol = "udp"
	SCTP Protocol = "sctp"
)

// Protocols lists them in the order in which people are told.
func Protocols() []Protocol { return []Protocol{TCP, UDP, SCTP} }

// A Port is a port of an endpoint that is published at its node: what comes to
// HostPort at HostIP goes to Port of the endpoint's address of the same family.
type Port struct {
	Protocol Protocol
	Port     uint16     // of the endpoint
	HostIP   netip.Addr // unspecified: each of the node's addresses of the family
	HostPort uint16
}

// String returns "0.0.0.0:8080->80/tcp", as docker ps writes it.
func (p Port) String() string { return fmt.Sprintf("%s->%s", p.host(), p.Target()) }

// Target returns the endpoint's side: "80/tcp".
func (p Port) Target() string { return strconv.Itoa(int(p.Port)) + "/" + string(p.Protocol) }

// Host returns the node's side: "0.0.0.0:8080/tcp".
func (p Port) Host() string { return p.host() + "/" + string(p.Protocol) }

func (p Port) host() string { return netip.AddrPortFrom(p.HostIP, p.HostPort).String() }

// Compare orders ports by what they are at the endpoint, then at the node.
func (p Port) Compare(o Port) int {
	return cmp.Or(
		cmp.Compare(p.Port, o.Port),
		cmp.Compare(p.Protocol, o.Protocol),
		p.HostIP.Compare(o.HostIP),
		cmp.Compare(p.HostPort, o.HostPort),
	)
}

// Addr returns the endpoint's address of a family; the zero Addr if it has none.
func (e Endpoint) Addr(f Family) netip.Addr {
	if f == IPv6 {
		return e.IPv6
	}
	return e.IPv4
}
