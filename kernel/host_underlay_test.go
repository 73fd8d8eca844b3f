package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/overspan/overspan"
	"golang.org/x/sys/unix"
)

// A testTunnel is two hosts on one underlay, ul, with a network between: slots 2
// and 4 are endpoints of the first, 64 is one of the second. 4 is isolated.
type testTunnel struct {
	net    testNet
	a, b   testNode
	vtep   [2]netip.Addr
	scope  Scope // of a
	want   State // of a
	inside string
	apart  string
	remote string
}

func newTestTunnel(t *testing.T) testTunnel {
	t.Helper()
	s := testTunnel{net: newTestNet(7), vtep: [2]netip.Addr{addr("192.0.2.1"), addr("192.0.2.2")}}
	s.a, s.b = newTestPair(t, s.vtep)
	s.inside, s.apart, s.remote = newTestNetns(t, s.a.host, "in"), newTestNetns(t, s.a.host, "apart"), newTestNetns(t, s.b.host, "far")
	s.want = s.net.plan(s.vtep[0])
	s.net.addRemote(&s.want, s.vtep[1], 64, 64)
	s.net.addShortcut(&s.want, s.vtep[0], s.vtep[1])
	put(&s.want.Netns, s.inside, struct{}{})
	put(&s.want.Netns, s.apart, struct{}{})
	s.scope = Scope{All: true, Endpoints: []EndpointKey{
		s.net.addEndpoint(&s.want, 2, s.inside), s.net.addEndpoint(&s.want, 4, s.apart),
	}}
	veth := overspan.VethName(s.scope.Endpoints[1].Endpoint)
	l, p := s.want.Links[veth], s.want.Programs[veth]
	l.Port.Isolated, p.Isolated = true, true
	s.want.Links[veth], s.want.Programs[veth] = l, p

	far := s.net.plan(s.vtep[1])
	s.net.addRemote(&far, s.vtep[0], 0, 64)
	s.net.addShortcut(&far, s.vtep[1], s.vtep[0])
	put(&far.Netns, s.remote, struct{}{})
	key := s.net.addEndpoint(&far, 64, s.remote)
	for _, plan := range []*State{&s.want, &far} {
		acceptBridged(plan)
		guardVXLAN(plan)
	}
	converge(t, s.a.host, s.scope, s.want)
	converge(t, s.b.host, Scope{All: true, Endpoints: []EndpointKey{key}}, far)
	return s
}

// The ways that a packet from the underlay can take.
const (
	straight = "straight to the endpoint"
	kernels  = "the kernel's way to the endpoint"
	judged   = "the kernel's way, to no endpoint"
	nowhere  = "nowhere"
)

// A strike is a packet that somebody on the underlay sends, and where it gets.
type strike struct {
	name string
	way  string
	make func(f *tunnelled)
}

func (s testTunnel) strikes() []strike {
	c, far := newCast(s.net), s.net.v4.Addr(64)
	frame := func(dst overspan.MAC, kind uint16, payload func(text string) []byte) func(*tunnelled) {
		return func(f *tunnelled) {
			f.frame = ether(dst, s.net.mac(64), kind, payload(string(f.frame[len(f.frame)-8:])))
		}
	}
	own := func(text string) []byte { return datagram4(far, c.self.v4, 0, text) }
	ect := func(outer, inner byte) func(*tunnelled) {
		return func(f *tunnelled) {
			f.tos = outer
			f.frame = ether(c.self.mac, s.net.mac(64), unix.ETH_P_IP, datagram4(far, c.self.v4, inner, string(f.frame[len(f.frame)-8:])))
		}
	}
	return []strike{
		{"IPv4", straight, func(*tunnelled) {}},
		{"IPv6", straight, frame(c.self.mac, unix.ETH_P_IPV6, func(text string) []byte { return datagram6(s.net.v6.Addr(64), c.self.v6, text) })},
		{"that is not to be fragmented", straight, func(f *tunnelled) { f.fragment = 0x4000 }},
		{"of another source port and type of service", straight, func(f *tunnelled) { f.tos = 0xb8 }},
		{"ECT(0) in ECT(0)", straight, ect(2, 2)},
		{"ECT(1) in ECT(1)", straight, ect(1, 1)},
		{"ECT(0) in Not-ECT", straight, ect(0, 2)},
		{"CE in ECT(0), as a sender writes it", straight, ect(2, 3)},
		{"ECT(0) that became ECT(1)", kernels, ect(1, 2)},
		{"ECT(0) in CE", straight, ect(3, 2)},
		{"Not-ECT in CE", nowhere, ect(3, 0)},

		{"a stranger's", nowhere, func(f *tunnelled) { f.src = addr("192.0.2.9") }},
		{"from its own VTEP", nowhere, func(f *tunnelled) { f.src = s.vtep[0] }},
		{"to another node", nowhere, func(f *tunnelled) { f.dst = addr("192.0.2.9") }},
		{"to another MAC", nowhere, func(f *tunnelled) { f.to = net.HardwareAddr{2, 9, 9, 9, 9, 9} }},
		{"to all MACs", kernels, func(f *tunnelled) { f.to = net.HardwareAddr{255, 255, 255, 255, 255, 255} }},
		{"to another port", nowhere, func(f *tunnelled) { f.port++ }},
		{"of another protocol", nowhere, func(f *tunnelled) { f.otherProto = 200 }},
		{"of another VNI", nowhere, func(f *tunnelled) { f.vni = vniKey(8) }},
		{"of a VNI with something behind it", nowhere, func(f *tunnelled) { f.vni[3] = 1 }},
		{"without a VNI", nowhere, func(f *tunnelled) { f.flags[0] = 0 }},
		{"with a flag more", nowhere, func(f *tunnelled) { f.flags[0] |= 0x80 }},
		{"with a reserved byte", nowhere, func(f *tunnelled) { f.flags[3] = 1 }},
		{"a first fragment", nowhere, func(f *tunnelled) { f.fragment = 0x2000 }},
		{"a later fragment", nowhere, func(f *tunnelled) { f.fragment = 8 }},
		{"with options", kernels, func(f *tunnelled) { f.options = []byte{1, 1, 1, 0} }},
		{"with a wrong sum", nowhere, func(f *tunnelled) { f.unsound = true }},
		{"longer than it is", nowhere, func(f *tunnelled) { f.longer = 8 }},
		{"with a datagram that is longer than the packet", nowhere, func(f *tunnelled) { f.udpLonger = 8 }},
		{"with a datagram that is shorter than the packet", kernels, func(f *tunnelled) { f.longer, f.trailer = 4, make([]byte, 4) }},
		{"with a trailer", kernels, func(f *tunnelled) { f.trailer = make([]byte, 6) }},

		{"for an address that its endpoint passes on", kernels, frame(c.self.mac, unix.ETH_P_IP, func(text string) []byte { return datagram4(far, addr("10.9.9.9"), 0, text) })},
		{"for an IPv6 address that its endpoint passes on", kernels, frame(c.self.mac, unix.ETH_P_IPV6, func(text string) []byte { return datagram6(s.net.v6.Addr(64), c.self.ll, text) })},
		{"ARP", kernels, frame(c.self.mac, unix.ETH_P_ARP, func(text string) []byte { return append(arpOf(1, s.net.mac(64), far, c.self.v4), text...) })},
		{"VLAN", kernels, frame(c.self.mac, unix.ETH_P_8021Q, func(text string) []byte { return append([]byte{0, 5, 8, 0}, own(text)...) })},
		{"IPv6 as IPv4", kernels, frame(c.self.mac, unix.ETH_P_IP, func(text string) []byte { return datagram6(s.net.v6.Addr(64), c.self.v6, text) })},
		{"IPv4 as IPv6", nowhere, frame(c.self.mac, unix.ETH_P_IPV6, own)},
		{"to all in the network", kernels, frame(overspan.MAC{255, 255, 255, 255, 255, 255}, unix.ETH_P_IP, own)},
		{"to a group", kernels, frame(overspan.MAC{1, 0, 94, 0, 0, 1}, unix.ETH_P_IP, own)},
		{"to the gateway", judged, frame(s.net.noun().GatewayMAC(), unix.ETH_P_IP, own)},
		{"to nobody here", judged, frame(s.net.mac(9), unix.ETH_P_IP, own)},
		{"to who is isolated", judged, frame(c.other.mac, unix.ETH_P_IP, func(text string) []byte { return datagram4(far, c.other.v4, 0, text) })},
		{"longer than the network carries", judged, func(f *tunnelled) {
			text := f.frame[len(f.frame)-8:]
			f.frame = append(slices.Clone(f.frame[:len(f.frame)-8]), make([]byte, 1380)...)
			f.frame = append(f.frame, text...)
		}},
	}
}

// TestUnderlayJudges sends packets of every kind to a host: those that are beyond
// doubt get straight to their endpoint, the others take the kernel's way as before,
// and are judged there.
func TestUnderlayJudges(t *testing.T) {
	s := newTestTunnel(t)
	for _, node := range []testNode{s.a, s.b} {
		shIn(t, node.path, "echo 0 >/proc/sys/net/bridge/bridge-nf-call-iptables; echo 0 >/proc/sys/net/bridge/bridge-nf-call-ip6tables")
	}
	out := packetAt(t, s.b.path, "ul")
	inside, device := s.listenAt(t, s.inside, "eth0"), s.listenAt(t, s.a.path, s.net.vxlan())
	send := func(frame []byte) {
		t.Helper()
		if _, err := out.Write(frame); err != nil {
			t.Fatal(err)
		}
	}
	last := s.plain(t, "the last")
	last.options = []byte{1, 1, 1, 0} // takes the kernel's way, which is the longer one
	for i, a := range s.strikes() {
		text := fmt.Sprintf("\x00\x00%06d", i)
		f := s.plain(t, text)
		a.make(&f)
		send(f.bytes())
		send(last.bytes())
		arrived, passed := hears(inside.until(t, "the last"), text), hears(device.until(t, "the last"), text)
		way := map[[2]bool]string{{true, false}: straight, {true, true}: kernels, {false, true}: judged}[[2]bool{arrived, passed}]
		if way == "" {
			way = nowhere
		}
		if way != a.way {
			t.Errorf("%s: %s, want %s", a.name, way, a.way)
		}
	}
}

// TestUnderlayTakesNothingCut: what ends before its headers do is not taken.
func TestUnderlayTakesNothingCut(t *testing.T) {
	s := newTestTunnel(t)
	out := packetAt(t, s.b.path, "ul")
	inside, device := s.listenAt(t, s.inside, "eth0"), s.listenAt(t, s.a.path, s.net.vxlan())
	whole := s.plain(t, "cut here")
	for n := range len(whole.frame) {
		short := whole
		short.frame = whole.frame[:n]
		for _, frame := range [][]byte{short.bytes(), whole.bytes()[:n+50]} {
			if _, err := out.Write(frame); err != nil {
				t.Fatal(err)
			}
		}
	}
	last := s.plain(t, "the last")
	last.options = []byte{1, 1, 1, 0}
	if _, err := out.Write(last.bytes()); err != nil {
		t.Fatal(err)
	}
	passed := device.until(t, "the last")
	for _, frame := range inside.until(t, "the last") {
		// The frame's own header and that of IPv4 suffice: a packet that ends behind
		// them is its receiver's to judge.
		short := len(frame) < 14+20 || !bytes.HasPrefix(whole.frame, frame)
		if short && !slices.ContainsFunc(passed, func(p []byte) bool { return bytes.Equal(p, frame) }) {
			t.Errorf("taken: % x", frame)
		}
	}
}

// TestUnderlayMarks: a mark of congestion on the way is handed on to the endpoint,
// with a sum that is right.
func TestUnderlayMarks(t *testing.T) {
	s := newTestTunnel(t)
	inside := s.listenAt(t, s.inside, "eth0")
	f := s.plain(t, "")
	f.tos = 3
	f.frame = ether(s.net.mac(2), s.net.mac(64), unix.ETH_P_IP, datagram4(s.net.v4.Addr(64), s.net.v4.Addr(2), 2, "a marked one"))
	last := s.plain(t, "the last")
	out := packetAt(t, s.b.path, "ul")
	for _, frame := range [][]byte{f.bytes(), last.bytes()} {
		if _, err := out.Write(frame); err != nil {
			t.Fatal(err)
		}
	}
	for _, frame := range inside.until(t, "the last") {
		if bytes.HasSuffix(frame, []byte("a marked one")) {
			if frame[15] != 3 || onesSum(frame[14:34]) != 0xffff {
				t.Errorf("it arrives with the header % x", frame[14:34])
			}
			return
		}
	}
	t.Error("it does not arrive")
}

// TestUnderlayLeavesTheKernelItsDrops: a frame that is to be dropped, for its length
// or for a mark that it cannot bear, takes the kernel's way, and is counted there.
func TestUnderlayLeavesTheKernelItsDrops(t *testing.T) {
	s := newTestTunnel(t)
	shIn(t, s.a.path, "ip link set "+overspan.VethName(s.scope.Endpoints[0].Endpoint)+" mtu 1000")
	inside, device := s.listenAt(t, s.inside, "eth0"), s.listenAt(t, s.a.path, s.net.vxlan())
	long, marked, last := s.plain(t, strings.Repeat("-", 1000)+"the long one"), s.plain(t, "the marked one"), s.plain(t, "the last")
	marked.tos = 3
	last.options = []byte{1, 1, 1, 0}
	out := packetAt(t, s.b.path, "ul")
	for _, frame := range [][]byte{long.bytes(), marked.bytes(), last.bytes()} {
		if _, err := out.Write(frame); err != nil {
			t.Fatal(err)
		}
	}
	if passed := inside.until(t, "the last"); hears(passed, "one") {
		t.Errorf("the endpoint has heard what is to be dropped: %q", passed)
	}
	if !hears(device.until(t, "the last"), "the long one") {
		t.Error("the long one does not take the kernel's way")
	}
	if counted := counter(t, s.a.path, s.net.vxlan(), "frame"); counted != "1" {
		t.Errorf("the kernel has counted %s frames with a wrong mark", counted)
	}
}

// TestUnderlayForgets: what it was told is not passed on any more.
func TestUnderlayForgets(t *testing.T) {
	s := newTestTunnel(t)
	out, inside := packetAt(t, s.b.path, "ul"), s.listenAt(t, s.inside, "eth0")
	device := s.listenAt(t, s.a.path, s.net.vxlan())
	veth := overspan.VethName(s.scope.Endpoints[0].Endpoint)
	for name, change := range map[string]func(*State){
		"a node":           func(w *State) { delete(w.Sets[UnderlayVTEPs].Members, Single(s.vtep[1])) },
		"all nodes":        func(w *State) { delete(w.Sets, UnderlayVTEPs) },
		"the network":      func(w *State) { w.Programs[s.net.vxlan()] = withVNI(w.Programs[s.net.vxlan()], 0) },
		"another's VNI":    func(w *State) { w.Programs[s.net.vxlan()] = withVNI(w.Programs[s.net.vxlan()], 9) },
		"another port":     func(w *State) { p := w.Programs["ul"]; p.Port = 4790; w.Programs["ul"] = p },
		"another address":  func(w *State) { p := w.Programs["ul"]; p.IPv4 = addr("192.0.2.7"); w.Programs["ul"] = p },
		"the device":       func(w *State) { delete(w.Programs, "ul") },
		"a closed port":    func(w *State) { p := w.Programs[veth]; p.Open = false; w.Programs[veth] = p },
		"an isolated port": func(w *State) { p := w.Programs[veth]; p.Isolated = true; w.Programs[veth] = p },
	} {
		changed := s.want.Clone()
		change(&changed)
		for _, step := range []struct {
			want    State
			passing bool
		}{{changed, true}, {s.want, false}} {
			converge(t, s.a.host, s.scope, step.want)
			f, last := s.plain(t, "the call"), s.plain(t, "the last")
			last.options = []byte{1, 1, 1, 0}
			for _, frame := range [][]byte{f.bytes(), last.bytes()} {
				if _, err := out.Write(frame); err != nil {
					t.Fatal(err)
				}
			}
			inside.until(t, "the last")
			if passed := hears(device.until(t, "the last"), "the call"); passed != step.passing {
				t.Errorf("%s: it takes the kernel's way: %v, want %v", name, passed, step.passing)
			}
		}
	}
}

func withVNI(p Program, vni uint32) Program {
	p.VNI = vni
	return p
}

// TestUnderlayOutlivesItsPorts: the program at the device stays where a host has lost
// all links of ours. An agent that starts then has another, and finds that one
// whenever it looks at what belongs to no network.
func TestUnderlayOutlivesItsPorts(t *testing.T) {
	h := newTestHost(t)
	sh(t, "ip link add ul type bridge; ip addr add 192.0.2.1/24 dev ul; ip link set ul up")
	n := newTestNet(7)
	want := n.plan(addr("192.0.2.1"))
	n.addShortcut(&want, addr("192.0.2.1"), addr("192.0.2.2"))
	converge(t, h, Scope{All: true}, want)
	h.Close()
	sh(t, "ip link del "+n.vxlan()+"; ip link del "+n.bridge())

	h = newHostHere(t, h)
	for _, scope := range []Scope{{Global: true}, {All: true}} {
		have, err := h.Read(t.Context(), scope)
		if err != nil {
			t.Fatal(err)
		}
		if p, there := have.Programs["ul"]; !there || p.Attached {
			t.Errorf("%+v: program %+v, there: %v; want another than the agent's", scope, p, there)
		}
	}
	converge(t, h, Scope{Global: true}, State{})
	if out := sh(t, "tc filter show dev ul ingress"); out != "" {
		t.Errorf("left at the device: %s", out)
	}
}

// TestUnderlayOfOthers: filters of others stay, also in the program's place, and a
// clsact that holds none goes with it from a host that is left.
func TestUnderlayOfOthers(t *testing.T) {
	h := newTestHost(t)
	h.config.Leaving = true
	sh(t, "ip link add ul type bridge; ip addr add 192.0.2.1/24 dev ul; ip link set ul up")
	want := State{Programs: map[string]Program{"ul": {Kind: ProgramUnderlay, IPv4: addr("192.0.2.1"), Port: 4789, Open: true, Attached: true}}}
	scope := Scope{All: true}
	look := func() string {
		return sh(t, "tc qdisc show dev ul; tc filter show dev ul ingress; tc filter show dev ul egress")
	}
	const foreign = " bpf bytecode '1,6 0 0 0' classid 1:1"
	for _, others := range []string{
		"true", "tc qdisc add dev ul clsact; tc filter add dev ul ingress pref 7" + foreign,
		"tc filter add dev ul egress pref 65000" + foreign, "tc filter del dev ul ingress pref 7; tc qdisc add dev ul root pfifo",
	} {
		sh(t, others)
		before := look()
		converge(t, h, scope, want)
		converge(t, h, scope, State{})
		if after := look(); after != before {
			t.Errorf("after %s there was:\n%s\nand is:\n%s", others, before, after)
		}
	}
	sh(t, "tc filter add dev ul ingress pref 65000 handle 1"+foreign)
	before := look()
	blocked := func(why string) {
		t.Helper()
		if at, err := h.Shortcut(addr("192.0.2.1")); err != nil || !strings.Contains(at.Why, why) || at.Device != "" {
			t.Errorf("the shortcut is %+v, %v; want none, since %q", at, err, why)
		}
	}
	blocked("somebody else has a filter with pref 65000 at ul")
	err := h.Apply(t.Context(), Diff(read(t, h, scope), want))
	if !errors.Is(err, overspan.ErrConflict) {
		t.Errorf("in another's place: %v", err)
	}
	apply(t, h, DelProgram{"ul"})
	if after := look(); after != before {
		t.Errorf("in another's place there was:\n%s\nand is:\n%s", before, after)
	}
	sh(t, "tc qdisc del dev ul clsact; tc qdisc add dev ul ingress_block 7 clsact")
	blocked("shares its filters with other devices (tc block 7)")
	sh(t, "tc qdisc del dev ul clsact")
	if at, err := h.Shortcut(addr("192.0.2.1")); err != nil || at.Why != "" {
		t.Errorf("with nothing in its place the shortcut is %+v, %v", at, err)
	}
}

// TestUnderlayThatCannotBeLoaded: what an agent before this one left is taken away
// where there is no program, and loading is tried again.
func TestUnderlayThatCannotBeLoaded(t *testing.T) {
	h := newTestHost(t)
	sh(t, "ip link add ul type bridge; ip addr add 192.0.2.1/24 dev ul; ip link set ul up")
	scope := Scope{All: true, Global: true}
	converge(t, h, scope, State{Programs: map[string]Program{"ul": {Kind: ProgramUnderlay, IPv4: addr("192.0.2.1"), Port: 4789, Open: true, Attached: true}}})
	next := newHostHere(t, h)
	fail := func(p *portProgram, at time.Time) { p.beside.Store(&underlayLoad{err: unix.ENOMEM, at: at}) }
	next.port = sync.OnceValues(func() (*portProgram, error) {
		p, err := newPortProgram()
		if err == nil {
			fail(p, time.Now())
			next.loaded.Store(p)
		}
		return p, err
	})
	if at, err := next.Shortcut(addr("192.0.2.1")); err != nil || !strings.Contains(at.Why, unix.ENOMEM.Error()) {
		t.Errorf("the shortcut is %+v, %v; want none", at, err)
	}
	converge(t, next, scope, State{})
	if left := sh(t, "tc filter show dev ul ingress"); left != "" {
		t.Errorf("there is still\n%s", left)
	}
	p, err := next.port()
	if err != nil {
		t.Fatal(err)
	}
	fail(p, time.Now().Add(-loadAgainAfter))
	if at, err := next.Shortcut(addr("192.0.2.1")); err != nil || at.Why != "" {
		t.Errorf("later the shortcut is %+v, %v", at, err)
	}
}
