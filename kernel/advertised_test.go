package kernel

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestWhatIsAdvertised(t *testing.T) {
	for _, test := range []struct {
		name string
		l    listener
		want bool
	}{
		{"a NIC of a host that does not forward", listener{acceptRA: "1", nic: true}, true},
		{"a NIC that was told to listen though the host forwards", listener{acceptRA: "2", nic: true, forwards: true}, true},
		{"a NIC of a router", listener{acceptRA: "1", nic: true, forwards: true}, false},
		{"a NIC of a router that forwards since a moment ago", listener{acceptRA: "1", nic: true, forwards: true, routed: true}, true},
		{"a NIC whose advertisements another program handles", listener{acceptRA: "0", nic: true, routed: true}, false},
		{"a NIC without IPv6", listener{nic: true}, false},
		{"the bridge that a NIC is a port of", listener{acceptRA: "1", routed: true}, true},
		{"somebody's veth", listener{acceptRA: "1"}, false},
		{"somebody's veth that was told to listen", listener{acceptRA: "2"}, false},
	} {
		if got := test.l.advertised(); got != test.want {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}

// TestForwardingKeepsAdvertisedRoutes: what the host learned from its router it
// still has when it forwards IPv6, and it goes on learning.
func TestForwardingKeepsAdvertisedRoutes(t *testing.T) {
	h := newTestHost(t)
	router := newTestNetns(t, h, "router")
	sh(t, `
		ip link add other type veth peer name other2; ip link set other up; ip link set other2 up
		ip link add wan type veth peer name lan; ip link set wan up`)
	sh(t, "ip link set lan netns "+router)
	shIn(t, router, "ip link set lan up; ip addr add fe80::1/64 dev lan nodad")
	scope := Scope{Sysctls: []string{ForwardIPv6, ipv6Setting("wan", "accept_ra")}}
	learnRoute(t, router)
	devs, err := h.Advertised()
	if diff := cmp.Diff([]string{"wan"}, devs); err != nil || diff != "" {
		t.Fatalf("Advertised: %v (-want +got):\n%s", err, diff)
	}
	converge(t, h, scope, State{Sysctls: map[string]string{ForwardIPv6: "1", ipv6Setting("wan", "accept_ra"): "2"}})
	if !hasDefaultRoute(t) {
		t.Fatal("the default route went when forwarding was switched on")
	}
	sh(t, "ip -6 route del default")
	learnRoute(t, router)
}

func hasDefaultRoute(t testing.TB) bool { return sh(t, "ip -6 route show default") != "" }

// learnRoute has a router advertise itself until the host has a route by it.
func learnRoute(t testing.TB, router string) {
	t.Helper()
	ns, err := openNetns(router)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	deadline := time.Now().Add(10 * time.Second)
	for !hasDefaultRoute(t) {
		if time.Now().After(deadline) {
			t.Fatal("the host does not learn its default route")
		}
		if err := do(ns, advertise); err != nil {
			t.Fatal(err)
		}
	}
}

// advertise sends a router advertisement (RFC 4861, 4.2) to all nodes on lan.
func advertise() error {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// With another hop limit it could have come from elsewhere.
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255); err != nil {
		return err
	}
	lan, err := net.InterfaceByName("lan")
	if err != nil {
		return err
	}
	const typeRouterAdvertisement, hopLimit, lifetime = 134, 64, 30
	packet := []byte{typeRouterAdvertisement, 0, 0, 0, hopLimit, 0, 0, lifetime, 0, 0, 0, 0, 0, 0, 0, 0}
	return unix.Sendto(fd, packet, 0, &unix.SockaddrInet6{Addr: netip.MustParseAddr("ff02::1").As16(), ZoneId: uint32(lan.Index)})
}
