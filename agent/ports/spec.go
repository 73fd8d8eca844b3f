// Package ports keeps a node's host ports: it reads what users want published,
// and holds a socket for each port that is, so that nobody else takes it.
//
// It knows nothing of containers, networks or rules: where a port leads, package
// bridge plans.
package ports

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/overspan/overspan"
)

// Most is how many ports a container may have published: its record in etcd and
// the rules stay small.
const Most = 1000

// A Spec asks for one port of a container to be published.
type Spec struct {
	Protocol overspan.Protocol
	Port     uint16     // of the container
	HostIP   netip.Addr // the zero Addr: none was named

	// First and Last bound the host port, which is the first that is free; 0:
	// any of the kernel's choice.
	First, Last uint16
}

// grammar is how a port is published.
const grammar = "want [ip:][host[-range]:]container[-range][/tcp|udp|sctp], such as 8080:80"

// ParseSpecs reads what a user wants published, as docker run -p has it:
//
//	[ip:][host[-range]:]container[-range][/tcp|udp|sctp]
//
// Ranges of the same length are published one by one; a range of the host for a
// single port offers a choice.
func ParseSpecs(text string) ([]Spec, error) {
	ports, protocol, err := cutProtocol(text)
	if err != nil {
		return nil, err
	}
	ip, host, container, err := cutPorts(ports)
	if err != nil {
		return nil, err
	}
	var hostIP netip.Addr
	if ip != "" {
		if hostIP, err = parseHostIP(ip); err != nil {
			return nil, err
		}
	}
	if container == "" {
		return nil, overspan.Errorf(overspan.ErrInvalid, "no port specified: %q: %s", text, grammar)
	}
	first, last, err := parseRange(container)
	if err != nil {
		return nil, overspan.Errorf(overspan.ErrInvalid, "invalid container port %q: %w", container, err)
	}
	if int(last-first) >= Most {
		return nil, overspan.Errorf(overspan.ErrInvalid, "invalid container port %q: it has more than %d ports", container, Most)
	}
	all := make([]Spec, 0, int(last-first)+1)
	for port := int(first); port <= int(last); port++ {
		all = append(all, Spec{Protocol: protocol, Port: uint16(port), HostIP: hostIP})
	}
	if host == "" {
		return all, nil
	}
	return all, assignHost(all, host, container)
}

// assignHost gives the ports of a container the host's.
func assignHost(all []Spec, host, container string) error {
	first, last, err := parseRange(host)
	if err != nil {
		return overspan.Errorf(overspan.ErrInvalid, "invalid host port %q: %w; leave it out to have one drawn", host, err)
	}
	if len(all) == 1 {
		all[0].First, all[0].Last = first, last
		return nil
	}
	if int(last-first)+1 != len(all) {
		return overspan.Errorf(overspan.ErrInvalid, "invalid ranges specified for container and host ports: %s and %s: want as many of either", container, host)
	}
	for i := range all {
		all[i].First = first + uint16(i)
		all[i].Last = all[i].First
	}
	return nil
}

// ParseExposed reads ports of a container: container[-range][/tcp|udp|sctp].
func ParseExposed(text string) ([]Spec, error) {
	if strings.Contains(text, ":") {
		return nil, overspan.Errorf(overspan.ErrInvalid, "invalid port to expose %q: want container[-range][/tcp|udp|sctp]; to choose a host port, publish it", text)
	}
	return ParseSpecs(text)
}

func cutProtocol(text string) (ports string, protocol overspan.Protocol, err error) {
	ports, name, named := strings.Cut(text, "/")
	if !named {
		return ports, overspan.TCP, nil
	}
	protocol = overspan.Protocol(strings.ToLower(name))
	if !slices.Contains(overspan.Protocols(), protocol) {
		return "", "", overspan.Errorf(overspan.ErrInvalid, "invalid protocol %q of port %q: want tcp, udp or sctp", name, text)
	}
	return ports, protocol, nil
}

// cutPorts takes apart what colons separate; an IPv6 address has brackets
// around its own.
func cutPorts(text string) (ip, host, container string, err error) {
	rest := text
	if strings.HasPrefix(text, "[") {
		address, after, closed := strings.Cut(text[1:], "]")
		if !closed || !strings.HasPrefix(after, ":") || address == "" {
			return "", "", "", overspan.Errorf(overspan.ErrInvalid, "invalid port %q: %s", text, grammar)
		}
		ip, rest = address, after[1:]
		if !strings.Contains(rest, ":") {
			rest = ":" + rest // docker takes [::1]:80 too
		}
		host, container, _ = strings.Cut(rest, ":")
		return ip, host, container, nil
	}
	parts := strings.Split(rest, ":")
	switch len(parts) {
	case 1:
		return "", "", parts[0], nil
	case 2:
		if isAddress(parts[0]) {
			return parts[0], "", parts[1], nil
		}
		return "", parts[0], parts[1], nil
	case 3:
		return parts[0], parts[1], parts[2], nil
	}
	return "", "", "", overspan.Errorf(overspan.ErrInvalid, "invalid port %q: %s; an IPv6 address goes into brackets, such as [::1]:80:80", text, grammar)
}

func isAddress(text string) bool {
	_, err := netip.ParseAddr(text)
	return err == nil
}

func parseHostIP(text string) (netip.Addr, error) {
	ip, err := netip.ParseAddr(text)
	if err != nil || ip.Zone() != "" || ip.IsMulticast() || ip.Is6() && ip.IsLinkLocalUnicast() {
		return netip.Addr{}, overspan.Errorf(overspan.ErrInvalid, "invalid IP address %q: want an address of this host, 0.0.0.0 or [::]", text)
	}
	return ip.Unmap(), nil
}

// parseRange reads "80" or "80-85".
func parseRange(text string) (first, last uint16, err error) {
	low, high, isRange := strings.Cut(text, "-")
	if first, err = parsePort(low); err != nil || !isRange {
		return first, first, err
	}
	if last, err = parsePort(high); err != nil {
		return 0, 0, err
	}
	if last < first {
		return 0, 0, fmt.Errorf("%d is above %d", first, last)
	}
	return first, last, nil
}

func parsePort(text string) (uint16, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is no number from 1 to 65535", text)
	}
	return uint16(n), nil
}

// String returns the spec as a user would write it.
func (s Spec) String() string {
	host := ""
	switch {
	case s.First == 0:
	case s.First == s.Last:
		host = strconv.Itoa(int(s.First))
	default:
		host = fmt.Sprintf("%d-%d", s.First, s.Last)
	}
	switch {
	case s.HostIP.Is6():
		host = fmt.Sprintf("[%s]:%s:", s.HostIP, host)
	case s.HostIP.IsValid():
		host = fmt.Sprintf("%s:%s:", s.HostIP, host)
	case host != "":
		host += ":"
	}
	return fmt.Sprintf("%s%d/%s", host, s.Port, s.Protocol)
}
