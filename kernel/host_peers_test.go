package kernel

import (
	"bytes"
	"errors"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/overspan/overspan"
)

// newTestSender is a tunnel from slot 64 to slot 2, by which ports may send: their
// hosts forward.
func newTestSender(t *testing.T) testTunnel {
	t.Helper()
	s := newTestTunnel(t)
	for _, node := range []testNode{s.a, s.b} {
		shIn(t, node.path, "echo 1 >/proc/sys/net/ipv4/ip_forward")
	}
	return s
}

// sends has slot 64 send a frame, and returns it as it leaves its host, and whether
// it has passed the VXLAN device.
func (s testTunnel) sends(t testing.TB, frame []byte) (packet []byte, passed bool) {
	t.Helper()
	text := frame[len(frame)-8:]
	out, device := packetAt(t, s.b.path, "ul"), s.listenAt(t, s.b.path, s.net.vxlan())
	heard := s.listenAt(t, s.inside, "eth0")
	from := packetAt(t, s.remote, "eth0")
	if _, err := from.Write(frame); err != nil {
		t.Fatal(err)
	}
	// One frame after the other, and all the way through before the next.
	last := ether(s.net.mac(2), s.net.mac(64), unix.ETH_P_IP, datagram4(s.net.v4.Addr(64), s.net.v4.Addr(2), 0, "the last"))
	for _, f := range []*os.File{from, packetAt(t, s.b.path, s.net.vxlan())} {
		if _, err := f.Write(last); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.ContainsFunc(heard.until(t, "the last"), func(f []byte) bool { return bytes.Equal(f, frame) }) {
		t.Errorf("%q does not arrive as it was sent", text)
	}
	passed = hears(device.until(t, "the last"), string(text))
	if err := out.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for {
		buf := make([]byte, 4096)
		n, err := out.Read(buf)
		if err != nil {
			t.Fatalf("waiting for %q on the underlay: %v", text, err)
		}
		if bytes.HasSuffix(buf[:n], text) {
			return buf[:n], passed
		}
	}
}

// TestPortSends: what a port sends to another node past the VXLAN device is what the
// device would have sent, but for what no two packets have in common, and the outer
// UDP checksum, which RFC 7348 wants to be zero.
func TestPortSends(t *testing.T) {
	s := newTestSender(t)
	v4, v6 := []netip.Addr{s.net.v4.Addr(64), s.net.v4.Addr(2)}, []netip.Addr{s.net.v6.Addr(64), s.net.v6.Addr(2)}
	frames := map[string][]byte{
		"IPv6":       ether(s.net.mac(2), s.net.mac(64), unix.ETH_P_IPV6, datagram6(v6[0], v6[1], "of six..")),
		"a long one": ether(s.net.mac(2), s.net.mac(64), unix.ETH_P_IP, datagram4(v4[0], v4[1], 0, strings.Repeat("-", 200)+"long one")),
	}
	for ecn, name := range []string{"Not-ECT", "ECT(1)", "ECT(0)", "CE"} {
		frames[name] = ether(s.net.mac(2), s.net.mac(64), unix.ETH_P_IP, datagram4(v4[0], v4[1], byte(0xb8|ecn), "marked.."))
	}
	marked := datagram6(v6[0], v6[1], "sixmarks")
	marked[0], marked[1] = 0x6b, 0xb0 // traffic class 0xbb
	frames["CE in IPv6"] = ether(s.net.mac(2), s.net.mac(64), unix.ETH_P_IPV6, marked)
	for name, frame := range frames {
		sent, passed := s.sends(t, frame)
		if passed {
			t.Errorf("%s: it passes the VXLAN device", name)
		}
		if onesSum(sent[14:34]) != 0xffff || !bytes.Equal(sent[40:42], []byte{0, 0}) {
			t.Errorf("%s: it has the headers % x", name, sent[:50])
		}
		shIn(t, s.b.path, "echo 0 >/proc/sys/net/ipv4/conf/lo/forwarding")
		by, passed := s.sends(t, frame)
		shIn(t, s.b.path, "echo 1 >/proc/sys/net/ipv4/conf/lo/forwarding")
		if !passed {
			t.Errorf("%s: it does not pass the VXLAN device where this host does not forward", name)
		}
		for _, packet := range [][]byte{sent, by} {
			copy(packet[18:], []byte{0, 0}) // identification
			copy(packet[24:], []byte{0, 0}) // header checksum
			copy(packet[40:], []byte{0, 0}) // UDP checksum
		}
		if !bytes.Equal(sent, by) {
			t.Errorf("%s: the port sends\n% x\nand the device\n% x", name, sent, by)
		}
	}
}

// TestPortSendsByTheDevice: what ports do not know how to send, or may not, passes the
// VXLAN device as before.
func TestPortSendsByTheDevice(t *testing.T) {
	s := newTestSender(t)
	const elsewhere = "ip link add aside type veth peer name other; ip link set aside up; ip link set other up; ip addr add 192.0.2.9/32 dev aside; "
	for _, tt := range []struct{ name, change, back string }{
		{"a host that does not forward", "echo 0 >/proc/sys/net/ipv4/conf/lo/forwarding", "echo 1 >/proc/sys/net/ipv4/conf/lo/forwarding"},
		{"a route with a smaller MTU, by which the kernel cuts", "ip route add 192.0.2.1/32 dev ul mtu lock 1400", "ip route del 192.0.2.1/32"},
		{"a rule for what this host sends itself", "ip route add 192.0.2.1/32 dev ul mtu lock 1400 table 7; ip rule add iif lo to 192.0.2.1 table 7", "ip rule del table 7; ip route flush table 7"},
	} {
		shIn(t, s.b.path, tt.change)
		frame := ether(s.net.mac(2), s.net.mac(64), unix.ETH_P_IP, datagram4(s.net.v4.Addr(64), s.net.v4.Addr(2), 0, "a packet"))
		if _, passed := s.sends(t, frame); !passed {
			t.Errorf("%s: it does not pass the VXLAN device", tt.name)
		}
		shIn(t, s.b.path, tt.back)
		if _, passed := s.sends(t, frame); passed {
			t.Errorf("after %s: it passes the VXLAN device", tt.name)
		}
	}
	// A route by another device: there the kernel sends it, too.
	shIn(t, s.b.path, elsewhere+"ip route add 192.0.2.1/32 dev aside; ip neigh add 192.0.2.1 lladdr 02:00:00:00:00:01 dev aside")
	other, from := packetAt(t, s.b.path, "other"), packetAt(t, s.remote, "eth0")
	if err := other.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	frame := ether(s.net.mac(2), s.net.mac(64), unix.ETH_P_IP, datagram4(s.net.v4.Addr(64), s.net.v4.Addr(2), 0, "elsewhere"))
	if _, err := from.Write(frame); err != nil {
		t.Fatal(err)
	}
	for buf, found := make([]byte, 4096), false; !found; {
		n, err := other.Read(buf)
		if err != nil {
			t.Fatalf("by the route's device it does not leave: %v", err)
		}
		found = bytes.HasSuffix(buf[:n], []byte("elsewhere"))
	}
}

// TestPortFindsTheNextHop: a packet to a node whose neighbour entry is gone waits for
// the kernel to find it, and one by a gateway goes to the gateway's MAC.
func TestPortFindsTheNextHop(t *testing.T) {
	s := newTestSender(t)
	frame := ether(s.net.mac(2), s.net.mac(64), unix.ETH_P_IP, datagram4(s.net.v4.Addr(64), s.net.v4.Addr(2), 0, "a packet"))
	shIn(t, s.b.path, "ip neigh flush dev ul")
	if _, passed := s.sends(t, frame); passed {
		t.Error("it passes the VXLAN device")
	}
	gateway := macOf(t, s.a.path, "ul")
	shIn(t, s.a.path, "ip addr add 192.0.2.200/24 dev ul")
	shIn(t, s.b.path, "ip route add 192.0.2.1/32 via 192.0.2.200; ip neigh flush dev ul")
	packet, passed := s.sends(t, frame)
	if passed || !bytes.Equal(packet[:6], gateway) {
		t.Errorf("by a gateway it is sent to % x, by the device: %v; want % x", packet[:6], passed, []byte(gateway))
	}
	if asked := shIn(t, s.b.path, "ip neigh show 192.0.2.1 dev ul"); asked != "" {
		t.Errorf("the node behind the gateway was looked for: %s", asked)
	}
}

// peers returns what ports of b are told of other nodes.
func (s testTunnel) peers(t testing.TB) map[macKey]netip.Addr {
	t.Helper()
	p, err := s.b.host.port()
	if err != nil {
		t.Fatal(err)
	}
	out := map[macKey]netip.Addr{}
	var key macKey
	var vtep [4]byte
	all := p.peers.Iterate()
	for all.Next(&key, &vtep) {
		out[key] = netip.AddrFrom4(vtep)
	}
	if err := all.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestPortsAreToldOfPeers: ports are told of each forwarding entry as long as they are
// told of its device, by a later agent as well; what they are told of otherwise is
// seen, and mended.
func TestPortsAreToldOfPeers(t *testing.T) {
	s := newTestSender(t)
	whole := Scope{All: true}
	far := read(t, s.b.host, whole)
	entry := func(slot overspan.Slot) FDBKey { return FDBKey{s.net.vxlan(), s.net.mac(slot)} }
	if got := len(s.peers(t)); got != len(far.FDB) || got == 0 {
		t.Fatalf("ports are told of %d peers, and there are %d entries", got, len(far.FDB))
	}
	p, err := s.b.host.port()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(p.forgetPeer(entry(2)), p.tellPeer(entry(3), addr("192.0.2.7")), p.tellPeer(entry(200), addr("192.0.2.7"))); err != nil {
		t.Fatal(err)
	}
	some := State{FDB: map[FDBKey]Dest{}}
	for _, slot := range []overspan.Slot{2, 3, 4, 200} {
		if to, wanted := far.FDB[entry(slot)]; wanted {
			some.FDB[entry(slot)] = to
		}
	}
	told := []string{
		"replace fdb 02:42:0a:4d:00:02 dev osx-0000000007 dst 192.0.2.1 (was 192.0.2.1 ports none)",
		"replace fdb 02:42:0a:4d:00:03 dev osx-0000000007 dst 192.0.2.1 (was 192.0.2.1 ports 192.0.2.7)",
	}
	for _, look := range []struct {
		scope Scope
		want  State
		drift []string
	}{
		{whole, far, append(told, "del fdb 02:42:0a:4d:00:c8 dev osx-0000000007 ports 192.0.2.7")},
		{Scope{FDB: slices.Collect(maps.Keys(some.FDB))}, some, told},
	} {
		var drift []string
		for _, op := range Diff(read(t, s.b.host, look.scope), look.want) {
			drift = append(drift, op.String())
		}
		if diff := cmp.Diff(look.drift, drift); diff != "" {
			t.Errorf("drift (-want +got):\n%s", diff)
		}
	}
	converge(t, s.b.host, whole, far)

	var next *Host
	inNetns(t, s.b.path, func() error {
		next = newHostHere(t, s.b.host)
		return nil
	})
	if ops := Diff(read(t, next, whole), far); len(ops) > 0 {
		t.Errorf("the next agent finds drift: %s", ops)
	}
	apply(t, next, DelProgram{s.net.vxlan()})
	if left := s.peers(t); len(left) > 0 {
		t.Errorf("ports are still told of %d peers of a device that they are not told of", len(left))
	}
	converge(t, next, whole, far)
	if got := len(s.peers(t)); got != len(far.FDB) {
		t.Errorf("ports are told of %d of %d peers", got, len(far.FDB))
	}
	apply(t, next, DelFDB{entry(2), far.FDB[entry(2)]}, SetFDB{Key: entry(3), Dst: addr("192.0.2.8")})
	key, err := peerKey(entry(3))
	if got := s.peers(t); err != nil || len(got) != len(far.FDB)-1 || got[key] != addr("192.0.2.8") {
		t.Errorf("of one entry less and one that has moved ports know %d and %s, %v", len(got), got[key], err)
	}
	shIn(t, s.b.path, "ip link del "+s.net.vxlan())
	if err := next.Retire(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := s.peers(t); len(left) > 0 {
		t.Errorf("ports are still told of %d peers of a device that is gone", len(left))
	}
}

// TestPortsWithoutTheUnderlay: where the program for the underlay cannot be loaded,
// ports send nothing past the VXLAN device any more, whatever an agent before has told
// them.
func TestPortsWithoutTheUnderlay(t *testing.T) {
	s := newTestSender(t)
	frame := ether(s.net.mac(2), s.net.mac(64), unix.ETH_P_IP, datagram4(s.net.v4.Addr(64), s.net.v4.Addr(2), 0, "a packet"))
	if _, passed := s.sends(t, frame); passed {
		t.Error("at first it passes the VXLAN device")
	}
	p, err := s.b.host.port()
	if err != nil {
		t.Fatal(err)
	}
	p.setBeside(nil, unix.ENOMEM)
	if _, passed := s.sends(t, frame); !passed {
		t.Error("afterwards it does not pass the VXLAN device")
	}
}

// TestPortsThatKnowAsManyAsTheyCan: what they have no room for is the device's, and no
// drift, until something is forgotten.
func TestPortsThatKnowAsManyAsTheyCan(t *testing.T) {
	h := newTestHost(t)
	h.port = sync.OnceValues(func() (*portProgram, error) {
		spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(portObject))
		if err != nil {
			return nil, err
		}
		spec.Maps[peersName].MaxEntries = 8
		return loadPortProgram(spec)
	})
	sh(t, "ip link add ul type bridge; ip addr add 192.0.2.1/24 dev ul; ip link set ul up")
	n, scope := newTestNet(7), Scope{All: true}
	want := n.plan(addr("192.0.2.1"))
	n.addRemote(&want, addr("192.0.2.2"), 64, 16)
	converge(t, h, scope, want)
	if ops := Diff(read(t, h, scope), want); len(ops) > 0 {
		t.Errorf("drift: %s", texts(ops))
	}
	for key := range want.FDB {
		delete(want.FDB, key)
		if len(want.FDB) == 4 {
			break
		}
	}
	apply(t, h, Diff(read(t, h, scope), want)...)
	converge(t, h, scope, want) // those that are left have room now
	p, err := h.port()
	if err != nil {
		t.Fatal(err)
	}
	teller := h.newTeller()
	for key, to := range want.FDB {
		if told, err := teller.peer(key); err != nil || told != to.VTEP {
			t.Errorf("%s: ports send to %s, %v", key, told, err)
		}
	}
	if p.full.Load() {
		t.Error("they are still taken to know as many as they can")
	}
}
