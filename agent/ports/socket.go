package ports

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/overspan/overspan"
)

// namesPort is the port at which the gateways of our networks answer names.
const namesPort = 53

// errNames is that a port is in the way of names. As with any that is taken,
// another may do.
var errNames = fmt.Errorf("names are answered there: %w", unix.EADDRINUSE)

// inTheWayOfNames reports whether the gateways' addresses could not be bound beside
// a port: whoever came first would keep the other out.
func inTheWayOfNames(p overspan.Port) bool {
	return p.HostPort == namesPort && p.HostIP.IsUnspecified() && (p.Protocol == overspan.TCP || p.Protocol == overspan.UDP)
}

// bind takes a host port, or one that the kernel draws where it is 0, and
// returns which. The socket does not listen, and lacks SO_REUSEADDR: another
// bind to the port then fails, also one that has it.
func bind(p overspan.Port) (fd int, port uint16, err error) {
	if inTheWayOfNames(p) {
		return -1, 0, errNames
	}
	domain, kind, proto := unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP
	if p.HostIP.Is6() {
		domain = unix.AF_INET6
	}
	switch p.Protocol {
	case overspan.UDP:
		kind, proto = unix.SOCK_DGRAM, unix.IPPROTO_UDP
	case overspan.SCTP:
		proto = unix.IPPROTO_SCTP
	}
	fd, err = unix.Socket(domain, kind|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return -1, 0, err
	}
	if port, err = bindSocket(fd, p); err != nil {
		closeSocket(fd)
		return -1, 0, err
	}
	return fd, port, nil
}

func bindSocket(fd int, p overspan.Port) (uint16, error) {
	var at unix.Sockaddr = &unix.SockaddrInet4{Port: int(p.HostPort), Addr: as4(p.HostIP)}
	if p.HostIP.Is6() {
		// The families are held each for itself.
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return 0, err
		}
		at = &unix.SockaddrInet6{Port: int(p.HostPort), Addr: p.HostIP.As16()}
	}
	if p.Protocol == overspan.UDP {
		// Before there is a port that somebody could send to.
		if err := refuseAll(fd); err != nil {
			return 0, err
		}
	}
	if err := unix.Bind(fd, at); err != nil {
		return 0, err
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		return 0, err
	}
	switch sa := bound.(type) {
	case *unix.SockaddrInet4:
		return uint16(sa.Port), nil
	case *unix.SockaddrInet6:
		return uint16(sa.Port), nil
	}
	return 0, fmt.Errorf("a socket is bound to %T", bound)
}

func as4(a netip.Addr) [4]byte {
	if a.Is4() {
		return a.As4()
	}
	return [4]byte{}
}

// refuseAll has the kernel drop every datagram that comes to a socket, such as
// while the rules are being repaired: nobody reads them, and they would fill its
// queue.
func refuseAll(fd int) error {
	drop := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(drop)), Filter: &drop[0]})
}

// closeSocket closes a socket. EINTR is no failure: Linux has closed it by then.
func closeSocket(fd int) {
	if err := unix.Close(fd); err != nil && !errors.Is(err, unix.EINTR) {
		panic(fmt.Sprintf("close the socket of a port: %v", err)) // it was closed twice
	}
}
