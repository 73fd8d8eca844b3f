package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/overspan/overspan"
	"golang.org/x/sys/unix"
)

// dropped returns how many frames the program has dropped, by reason.
func dropped(t testing.TB, h *Host) map[string]uint64 {
	t.Helper()
	out, err := h.PortDrops()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// newTestPorts is a site with two endpoints, at the slots 2 and 3.
func newTestPorts(t testing.TB) (s testSite, other EndpointKey) {
	t.Helper()
	s = newTestSite(t)
	path := newTestNetns(t, s.host, "c2")
	other = s.net.addEndpoint(&s.want, 3, path)
	put(&s.want.Netns, path, struct{}{})
	s.scope.Endpoints = append(s.scope.Endpoints, other)
	converge(t, s.host, s.scope, s.want)
	// Or else checksums would have to be right.
	sh(t, "echo 0 >/proc/sys/net/bridge/bridge-nf-call-iptables; echo 0 >/proc/sys/net/bridge/bridge-nf-call-ip6tables")
	return s, other
}

// packetIn opens a packet socket on eth0 in a namespace.
func packetIn(t testing.TB, path string) *os.File {
	t.Helper()
	return packetAt(t, path, "eth0")
}

// Who speaks in the tests of the program, to whom, and who else there is: the
// first two are the endpoints of newTestPorts.
type cast struct{ self, to, other resident }

type resident struct {
	mac overspan.MAC
	v4  netip.Addr
	v6  netip.Addr
	ll  netip.Addr
}

func newCast(n testNet) cast {
	at := func(slot overspan.Slot) resident {
		m := n.mac(slot)
		return resident{m, n.v4.Addr(slot), n.v6.Addr(slot), netip.AddrFrom16([16]byte{
			0: 0xfe, 1: 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5],
		})}
	}
	return cast{at(2), at(3), at(4)}
}

// ether makes a frame.
func ether(dst, src overspan.MAC, kind uint16, payload ...[]byte) []byte {
	frame := append(append([]byte{}, dst[:]...), src[:]...)
	frame = binary.BigEndian.AppendUint16(frame, kind)
	return append(frame, bytes.Join(payload, nil)...)
}

func arpOf(op uint16, sender overspan.MAC, senderIP, target netip.Addr) []byte {
	b := binary.BigEndian.AppendUint16([]byte{0, 1, 8, 0, 6, 4}, op)
	b = append(append(b, sender[:]...), senderIP.AsSlice()...)
	return append(append(b, make([]byte, 6)...), target.AsSlice()...)
}

func ipv4Of(src, dst netip.Addr) []byte {
	b := make([]byte, 12)
	b[0], b[3], b[8], b[9] = 0x45, 28, 64, unix.IPPROTO_UDP
	b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
	return append(b, 0, 7, 0, 7, 0, 8, 0, 0)
}

// ipv6Of makes a packet of extension headers and what they carry; next is the
// kind of the first.
func ipv6Of(src, dst netip.Addr, next byte, payload ...[]byte) []byte {
	body := bytes.Join(payload, nil)
	b := []byte{0x60, 0, 0, 0, byte(len(body) >> 8), byte(len(body)), next, 255}
	return append(append(append(b, src.AsSlice()...), dst.AsSlice()...), body...)
}

// icmpOf makes a message with a target and options, as neighbour discovery has
// it.
func icmpOf(kind byte, target netip.Addr, options ...[]byte) []byte {
	b := append([]byte{kind, 0, 0, 0, 0, 0, 0, 0}, target.AsSlice()...)
	return append(b, bytes.Join(options, nil)...)
}

func option(kind byte, mac overspan.MAC) []byte { return append([]byte{kind, 1}, mac[:]...) }

// extension makes a header of 8 bytes; of a fragment, the third and fourth are
// where it belongs and whether more follow.
func extension(next byte, more ...byte) []byte {
	return append(append([]byte{next}, more...), make([]byte, 7-len(more))...)
}

const (
	hop, routing, fragment, auth, icmp6, options = 0, 43, 44, 51, 58, 60

	query, report, rs, ra, ns, na, redir = 130, 143, 133, 134, 135, 136, 137
)

// An attack is a frame that a container sends, and why it is dropped; "" if it
// arrives at its neighbour.
type attack struct {
	name    string
	frame   []byte
	dropped string
}

func attacks(c cast) []attack {
	self, to, other := c.self, c.to, c.other
	all := overspan.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	nodes, nobody4, nobody6 := netip.MustParseAddr("ff02::1"), netip.IPv4Unspecified(), netip.IPv6Unspecified()
	groupMAC := overspan.MAC{0x33, 0x33, 0, 0, 0, 1}
	own4 := ipv4Of(self.v4, to.v4)
	udp := []byte{0, 7, 0, 7, 0, 8, 0, 0}
	six := func(src netip.Addr, next byte, payload ...[]byte) []byte {
		return ether(groupMAC, self.mac, unix.ETH_P_IPV6, ipv6Of(src, nodes, next, payload...))
	}
	arp := func(payload []byte) []byte { return ether(all, self.mac, unix.ETH_P_ARP, payload) }
	return []attack{
		{"its own IPv4", ether(to.mac, self.mac, unix.ETH_P_IP, own4), ""},
		{"its own IPv4 to all", ether(all, self.mac, unix.ETH_P_IP, own4), ""},
		{"another's MAC", ether(to.mac, other.mac, unix.ETH_P_IP, own4), "mac"},
		{"another's IPv4", ether(to.mac, self.mac, unix.ETH_P_IP, ipv4Of(other.v4, to.v4)), "ipv4"},
		{"an IPv4 from elsewhere", ether(to.mac, self.mac, unix.ETH_P_IP, ipv4Of(addr("192.0.2.9"), to.v4)), "ipv4"},
		{"no IPv4", ether(to.mac, self.mac, unix.ETH_P_IP, ipv4Of(nobody4, to.v4)), "ipv4"},
		{"half an IPv4 header", ether(to.mac, self.mac, unix.ETH_P_IP, own4[:10]), "ipv4"},
		{"IPv6 as IPv4", ether(to.mac, self.mac, unix.ETH_P_IP, ipv6Of(self.v6, to.v6, unix.IPPROTO_UDP, udp)), "ipv4"},

		{"ARP request", arp(arpOf(1, self.mac, self.v4, to.v4)), ""},
		{"ARP probe", arp(arpOf(1, self.mac, nobody4, self.v4)), ""},
		{"ARP answer", ether(to.mac, self.mac, unix.ETH_P_ARP, arpOf(2, self.mac, self.v4, to.v4)), ""},
		{"ARP answer for another", arp(arpOf(2, self.mac, other.v4, to.v4)), "arp"},
		{"ARP with another's MAC", arp(arpOf(2, other.mac, self.v4, to.v4)), "arp"},
		{"ARP answer by nobody", arp(arpOf(2, self.mac, nobody4, to.v4)), "arp"},
		{"half an ARP", arp(arpOf(1, self.mac, self.v4, to.v4)[:20]), "arp"},
		{"ARP of other lengths", arp(append([]byte{0, 1, 8, 0, 8, 4}, arpOf(1, self.mac, self.v4, to.v4)[6:]...)), "arp"},

		{"VLAN", ether(to.mac, self.mac, unix.ETH_P_8021Q, []byte{0, 5, 8, 0}, own4), "type"},
		{"provider VLAN", ether(to.mac, self.mac, unix.ETH_P_8021AD, []byte{0, 5, 8, 0}, own4), "type"},
		{"RARP", ether(all, self.mac, unix.ETH_P_RARP, arpOf(3, self.mac, self.v4, to.v4)), "type"},
		{"LLDP", ether(overspan.MAC{1, 0x80, 0xc2, 0, 0, 0xe}, self.mac, 0x88cc, own4), "type"},
		{"spanning tree", ether(overspan.MAC{1, 0x80, 0xc2}, self.mac, 38, []byte{0x42, 0x42, 3}, make([]byte, 35)), "type"},

		{"its own IPv6", six(self.v6, unix.IPPROTO_UDP, udp), ""},
		{"its own link-local", six(self.ll, unix.IPPROTO_UDP, udp), ""},
		{"another's IPv6", six(other.v6, unix.IPPROTO_UDP, udp), "ipv6"},
		{"another's link-local", six(other.ll, unix.IPPROTO_UDP, udp), "ipv6"},
		{"no IPv6", six(nobody6, unix.IPPROTO_UDP, udp), "ipv6"},
		{"no IPv6, an echo", six(nobody6, icmp6, icmpOf(128, to.v6)), "ipv6"},
		{"no IPv6, a fragment", six(nobody6, fragment, extension(icmp6, 0, 0, 8), udp), "ipv6"},
		{"half an IPv6 header", six(self.v6, unix.IPPROTO_UDP, udp)[:40], "ipv6"},
		{"longer than it is", six(self.v6, unix.IPPROTO_UDP, udp)[:56], "ipv6"},
		{"IPv4 as IPv6", ether(groupMAC, self.mac, unix.ETH_P_IPV6, own4, make([]byte, 20)), "ipv6"},
		{"echo", six(self.v6, icmp6, icmpOf(128, to.v6)), ""},

		{"solicitation", six(self.v6, icmp6, icmpOf(ns, to.v6, option(1, self.mac))), ""},
		{"solicitation from link-local", six(self.ll, icmp6, icmpOf(ns, to.v6, option(1, self.mac))), ""},
		{"solicitation with another's MAC", six(self.v6, icmp6, icmpOf(ns, to.v6, option(1, other.mac))), "nd"},
		{"solicitation with two MACs", six(self.v6, icmp6, icmpOf(ns, to.v6, option(1, self.mac), option(1, other.mac))), "nd"},
		{"solicitation with an empty option", six(self.v6, icmp6, icmpOf(ns, to.v6, make([]byte, 8))), "nd"},
		{"solicitation with half an option", six(self.v6, icmp6, icmpOf(ns, to.v6, option(1, self.mac)[:4])), "nd"},
		{"solicitation with too many options", six(self.v6, icmp6, icmpOf(ns, to.v6, bytes.Repeat(option(14, self.mac), 5))), "nd"},
		{"half a solicitation", six(self.v6, icmp6, icmpOf(ns, to.v6)[:12]), "nd"},
		{"looking for a double", six(nobody6, icmp6, icmpOf(ns, self.v6, option(14, self.mac))), ""},
		{"looking for a double of another", six(nobody6, icmp6, icmpOf(ns, other.v6)), "nd"},
		{"looking for a double with a MAC", six(nobody6, icmp6, icmpOf(ns, self.v6, option(1, self.mac))), "nd"},
		{"advertisement", six(self.v6, icmp6, icmpOf(na, self.v6, option(2, self.mac))), ""},
		{"advertisement of its link-local", six(self.ll, icmp6, icmpOf(na, self.ll, option(2, self.mac))), ""},
		{"advertisement of another", six(self.v6, icmp6, icmpOf(na, other.v6, option(2, self.mac))), "nd"},
		{"advertisement of another's link-local", six(self.v6, icmp6, icmpOf(na, other.ll, option(2, self.mac))), "nd"},
		{"advertisement with another's MAC", six(self.v6, icmp6, icmpOf(na, self.v6, option(2, other.mac))), "nd"},
		{"advertisement by nobody", six(nobody6, icmp6, icmpOf(na, self.v6)), "nd"},
		{"router solicitation", six(self.ll, icmp6, icmpOf(rs, nobody6, option(1, self.mac))[:8]), ""},
		{"router advertisement", six(self.ll, icmp6, icmpOf(ra, nobody6)), "nd"},
		{"redirect", six(self.ll, icmp6, icmpOf(redir, to.v6)), "nd"},
		{"router renumbering", six(self.ll, icmp6, icmpOf(138, nobody6)), "nd"},
		{"MLD report", six(self.ll, hop, extension(icmp6, 0, 5, 2), icmpOf(report, nobody6)), ""},
		{"MLD report before its address", six(nobody6, hop, extension(icmp6, 0, 5, 2), icmpOf(report, nobody6)), ""},
		{"MLD query", six(self.ll, hop, extension(icmp6, 0, 5, 2), icmpOf(query, nobody6)), "nd"},

		{"advertisement behind options", six(self.ll, options, extension(icmp6), icmpOf(ra, nobody6)), "nd"},
		{"advertisement behind routing", six(self.ll, routing, extension(icmp6), icmpOf(ra, nobody6)), "nd"},
		{"advertisement behind authentication", six(self.ll, auth, extension(icmp6, 2), make([]byte, 8), icmpOf(ra, nobody6)), "nd"},
		{"advertisement in a fragment", six(self.ll, fragment, extension(icmp6, 0, 0, 1), icmpOf(ra, nobody6)), "nd"},
		{"solicitation in a fragment", six(self.v6, fragment, extension(icmp6, 0, 0, 1), icmpOf(ns, to.v6)), "nd"},
		{"options in a fragment that hide it", six(self.ll, fragment, extension(options, 0, 0, 1), extension(icmp6)), "ipv6"},
		{"a fragment that ends before it", six(self.ll, fragment, extension(icmp6, 0, 0, 1)), "ipv6"},
		{"advertisement behind more headers than any", six(self.ll, options, bytes.Repeat(extension(options), 6), extension(icmp6), icmpOf(ra, nobody6)), "ipv6"},
		{"a header that is longer than the packet", six(self.ll, options, extension(icmp6, 9)), "ipv6"},
		{"a fragment of a datagram", six(self.v6, fragment, extension(unix.IPPROTO_UDP, 0, 0, 1), udp), ""},
		{"a later fragment", six(self.v6, fragment, extension(icmp6, 0, 0, 8), udp), ""},
		{"options before a datagram", six(self.v6, options, extension(unix.IPPROTO_UDP), udp), ""},
		{"behind the packet's end", append(six(self.ll, options, extension(icmp6)), icmpOf(128, nobody6)...), "ipv6"},
	}
}

// TestPortJudges sends, from inside a container, frames of which it may send only
// some. Each either arrives at its neighbour or is counted as dropped.
func TestPortJudges(t *testing.T) {
	s, other := newTestPorts(t)
	out, in := packetIn(t, s.netns), packetIn(t, other.Netns)
	for _, a := range attacks(newCast(s.net)) {
		before := dropped(t, s.host)
		if _, err := out.Write(a.frame); err != nil {
			t.Fatalf("%s: %v", a.name, err)
		}
		if got := fate(t, s.host, in, a.frame, before); got != a.dropped {
			t.Errorf("%s: dropped for its %q, want %q", a.name, got, a.dropped)
		}
	}
}

// fate waits until a frame has arrived, or was dropped, and returns why.
func fate(t testing.TB, h *Host, in *os.File, frame []byte, before map[string]uint64) string {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	buf := make([]byte, 2048)
	for time.Now().Before(deadline) {
		after := dropped(t, h)
		for _, reason := range dropReasons() {
			if after[reason] > before[reason] {
				return reason
			}
		}
		if err := in.SetReadDeadline(time.Now().Add(5 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		for {
			n, err := in.Read(buf)
			if err != nil {
				if !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatal(err)
				}
				break
			}
			if bytes.Equal(buf[:n], frame) {
				return ""
			}
		}
	}
	return "silence"
}

// TestPortIsClosed: who is not open neither sends nor is found, though its link
// is up; nor is one whose veth is doomed.
func TestPortIsClosed(t *testing.T) {
	s, other := newTestPorts(t)
	c := newCast(s.net)
	there := overspan.VethName(other.Endpoint)
	ping := "ping -n -c 1 -W 1 " + c.to.v4.String()
	shIn(t, s.netns, ping)
	closed := s.want.Clone()
	p := closed.Programs[there]
	p.Open = false
	closed.Programs[there] = p
	converge(t, s.host, s.scope, closed)
	before := dropped(t, s.host)
	if _, err := packetIn(t, other.Netns).Write(ether(c.self.mac, c.to.mac, unix.ETH_P_IP, ipv4Of(c.to.v4, c.self.v4))); err != nil {
		t.Fatal(err)
	}
	if got := fate(t, s.host, packetIn(t, s.netns), nil, before); got != "state" {
		t.Errorf("what a closed port sends is dropped for its %q, want its state", got)
	}
	converge(t, s.host, s.scope, s.want)
	shIn(t, s.netns, ping)
	apply(t, s.host, DoomLink{there})
	shIn(t, s.netns, "! "+strings.Replace(ping, "-W 1", "-W 0.2", 1))
	prog, err := s.host.port()
	if err != nil {
		t.Fatal(err)
	}
	if all, err := prog.indexes(); err != nil || len(all) != 2 {
		t.Errorf("the program knows %d links (%v), want the veth and the VXLAN device", len(all), err)
	}
}

// TestPortOutlivesAgents: a Host that comes later uses the program that is there,
// and another version takes its place without a packet lost.
func TestPortOutlivesAgents(t *testing.T) {
	s, _ := newTestPorts(t)
	c := newCast(s.net)
	first, err := s.host.port()
	if err != nil {
		t.Fatal(err)
	}
	var flood sync.WaitGroup
	flood.Go(func() {
		out, err := exec.Command("nsenter", "--net="+s.netns, "ping", "-n", "-q", "-i", "0.002", "-c", "500", c.to.v4.String()).CombinedOutput()
		if err != nil || !strings.Contains(string(out), " 0% packet loss") {
			t.Errorf("ping meanwhile: %v\n%s", err, out)
		}
	})
	second := newHostHere(t, s.host)
	if drift := Diff(read(t, second, s.scope), s.want); len(drift) > 0 {
		t.Errorf("another Host finds:\n%s", texts(drift))
	}
	if found, err := second.port(); err != nil || found.id != first.id {
		t.Errorf("another Host has program %v (%v), want %d", found, err, first.id)
	}
	third := newHostHere(t, s.host)
	third.port = sync.OnceValues(func() (*portProgram, error) {
		p, err := otherVersion(t)
		if err == nil {
			third.loadBeside(p)
			err = p.beside.Load().err
		}
		return p, err
	})
	drift := Diff(read(t, third, s.scope), s.want)
	if len(drift) != 11 {
		t.Errorf("another version finds:\n%s\nwant all entries and programs missing", texts(drift))
	}
	s.host.Close() // as if its process had died
	converge(t, third, s.scope, s.want)
	flood.Wait()
}

func newHostHere(t testing.TB, like *Host) *Host {
	t.Helper()
	h, err := NewHost(like.config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

// otherVersion loads the program with one more instruction at its beginning.
func otherVersion(t testing.TB) (*portProgram, error) {
	t.Helper()
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(portObject))
	if err != nil {
		return nil, err
	}
	main := spec.Programs[portName]
	start := main.Instructions[0]
	nothing := asm.Mov.Imm(asm.R0, 0).WithMetadata(start.Metadata)
	main.Instructions[0] = start.WithMetadata(asm.Metadata{})
	main.Instructions = append(asm.Instructions{nothing}, main.Instructions...)
	return loadPortProgram(spec)
}

// TestPortStrays: what is told of a link that went with its container waits for
// Retire and is no drift.
func TestPortStrays(t *testing.T) {
	s, other := newTestPorts(t)
	veth := overspan.VethName(other.Endpoint)
	sh(t, "ip link del "+veth)
	want := s.want.Clone()
	want.dropLink(veth)
	have := read(t, s.host, s.scope)
	if ops := Diff(have, want); len(ops) > 0 || len(have.Doomed) != 1 {
		t.Errorf("doomed are %v, ops:\n%s\nwant one that is doomed, and no op", have.Doomed, texts(ops))
	}
	if err := s.host.Retire(t.Context()); err != nil {
		t.Fatal(err)
	}
	if have := read(t, s.host, s.scope); len(have.Doomed) > 0 {
		t.Errorf("after Retire there are %v", have.Doomed)
	}
	converge(t, s.host, s.scope, s.want)
}

// TestPortLocked: on a host without programs a bridge port that is locked drops
// what comes under another's MAC.
func TestPortLocked(t *testing.T) {
	s, other := newTestPorts(t)
	for _, key := range s.scope.Endpoints {
		veth := overspan.VethName(key.Endpoint)
		l := s.want.Links[veth]
		l.Port.Locked = true
		s.want.Links[veth] = l
	}
	s.want.Programs = nil
	converge(t, s.host, s.scope, s.want)
	c := newCast(s.net)
	in, out := packetIn(t, other.Netns), packetIn(t, s.netns)
	forged := ether(c.to.mac, c.other.mac, unix.ETH_P_IP, ipv4Of(c.self.v4, c.to.v4))
	own := ether(c.to.mac, c.self.mac, unix.ETH_P_IP, ipv4Of(c.self.v4, c.to.v4))
	for _, frame := range [][]byte{forged, own} {
		if _, err := out.Write(frame); err != nil {
			t.Fatal(err)
		}
	}
	heard, buf := 0, make([]byte, 2048)
	if err := in.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for heard < 1 {
		n, err := in.Read(buf)
		if err != nil {
			t.Fatalf("what it sends under its own MAC does not arrive: %v", err)
		}
		if bytes.Equal(buf[:n], forged) {
			t.Error("heard what came under another's MAC")
		}
		if bytes.Equal(buf[:n], own) {
			heard++
		}
	}
}
