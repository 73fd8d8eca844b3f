package kernel

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// listenIn listens for TCP connections in the namespace at path.
func listenIn(t testing.TB, path string, at netip.AddrPort) net.Listener {
	t.Helper()
	var l net.Listener
	inNetns(t, path, func() (err error) {
		l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
		return err
	})
	t.Cleanup(func() { l.Close() })
	return l
}

func connectIn(t testing.TB, path string, to netip.AddrPort) net.Conn {
	t.Helper()
	var c net.Conn
	inNetns(t, path, func() (err error) {
		c, err = net.DialTimeout("tcp", to.String(), 5*time.Second)
		return err
	})
	t.Cleanup(func() { c.Close() })
	return c
}

func inNetns(t testing.TB, path string, f func() error) {
	t.Helper()
	ns, err := openNetns(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if err := do(ns, f); err != nil {
		t.Fatal(err)
	}
}

// exchange has both ends of a connection send each other a lot at once.
func exchange(t testing.TB, a, b net.Conn) {
	t.Helper()
	sent := make([]byte, 1<<20)
	if _, err := rand.Read(sent); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 4)
	for _, ends := range [][2]net.Conn{{a, b}, {b, a}} {
		from, to := ends[0], ends[1]
		for _, c := range ends {
			if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
				t.Fatal(err)
			}
		}
		go func() {
			_, err := from.Write(sent)
			done <- err
		}()
		go func() {
			got := make([]byte, len(sent))
			_, err := io.ReadFull(to, got)
			if err == nil && !bytes.Equal(got, sent) {
				t.Error("what arrives is not what was sent")
			}
			done <- err
		}()
	}
	for range cap(done) {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

// carried returns how many packets a device has received, and sent.
func carried(t testing.TB, path, dev string) [2]string {
	t.Helper()
	return [2]string{counter(t, path, dev, "packets"), counter(t, path, dev, "sent packets")}
}

// counter returns what a device counts, as proc(5) calls it.
func counter(t testing.TB, path, dev, name string) string {
	t.Helper()
	column := slices.Index([]string{"bytes", "packets", "errs", "drop", "fifo", "frame", "compressed", "multicast", "sent bytes", "sent packets"}, name)
	for line := range strings.Lines(shIn(t, path, "cat /proc/net/dev")) {
		if name, counters, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == dev {
			return strings.Fields(counters)[column]
		}
	}
	t.Fatalf("no device %s", dev)
	return ""
}

// TestUnderlayCarries sends a lot both ways between two hosts, in packets of the
// sizes that segmentation in hardware lets them have, and with notice of
// congestion: all of it is sent and taken past the VXLAN devices, and arrives.
func TestUnderlayCarries(t *testing.T) {
	s := newTestSender(t)
	for _, path := range []string{s.inside, s.remote} {
		shIn(t, path, "echo 1 >/proc/sys/net/ipv4/tcp_ecn")
	}
	for _, at := range []netip.Addr{s.net.v4.Addr(2), s.net.v6.Addr(2)} {
		before := carried(t, s.a.path, s.net.vxlan())
		l := listenIn(t, s.inside, netip.AddrPortFrom(at, 80))
		near := connectIn(t, s.remote, netip.AddrPortFrom(at, 80))
		far, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		exchange(t, near, far)
		far.Close()
		if after := carried(t, s.a.path, s.net.vxlan()); after != before {
			t.Errorf("%s: the VXLAN device had received and sent %v packets before, and %v after", at, before, after)
		}
	}
	// Whole packets of the network's MTU, and pieces of larger ones.
	shIn(t, s.remote, "ping -n -c 1 -W 1 -M do -s 1372 "+s.net.v4.Addr(2).String())
	shIn(t, s.remote, "ping -n -c 1 -W 1 -s 5000 "+s.net.v4.Addr(2).String())
	shIn(t, s.remote, "ping -n -c 1 -W 1 -s 5000 "+s.net.v6.Addr(2).String())
}

// TestUnderlayIsPassedOn: what comes straight to a container may go on from there,
// to one inside of it, also in segments that the kernel cuts by then.
func TestUnderlayIsPassedOn(t *testing.T) {
	s := newTestTunnel(t)
	behind := newTestNetns(t, s.a.host, "behind")
	shIn(t, s.inside, `
		echo 1 >/proc/sys/net/ipv4/ip_forward
		ip link add in0 type veth peer name eth0 netns `+behind+`
		ip addr add 10.5.0.1/24 dev in0; ip link set in0 up
		iptables -t nat -A PREROUTING -p tcp --dport 80 -j DNAT --to-destination 10.5.0.2:80`)
	shIn(t, behind, "ip link set lo up; ip addr add 10.5.0.2/24 dev eth0; ip link set eth0 up; ip route add default via 10.5.0.1")
	l := listenIn(t, behind, netip.MustParseAddrPort("10.5.0.2:80"))
	for _, segments := range []string{"true", "ip link set in0 gso_max_size 2000"} {
		shIn(t, s.inside, segments)
		near := connectIn(t, s.remote, netip.AddrPortFrom(s.net.v4.Addr(2), 80))
		far, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		exchange(t, near, far)
		far.Close()
	}
}

// TestShortcut says of each host whether packets can be taken past the packet
// filter, and follows what IPsec is told to do.
func TestShortcut(t *testing.T) {
	h := newTestHost(t)
	sh(t, `
		ip link add ul type bridge; ip addr add 192.0.2.1/24 dev ul; ip link set ul up
		ip addr add 192.0.2.9/32 dev lo`)
	ul, err := h.route.link("ul")
	if err != nil {
		t.Fatal(err)
	}
	ask := func(vtep netip.Addr) Shortcut {
		t.Helper()
		at, err := h.Shortcut(vtep)
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	for vtep, why := range map[netip.Addr]string{
		addr("192.0.2.1"):   "",
		addr("192.0.2.9"):   "lo, which has the address 192.0.2.9, is no Ethernet device",
		addr("192.0.2.7"):   "address 192.0.2.7 is on no interface of this host",
		addr("2001:db8::1"): "this node has no IPv4 address in the underlay",
		{}:                  "this node has no IPv4 address in the underlay",
	} {
		want := Shortcut{Why: why}
		if why == "" {
			want.Device, want.Index = "ul", ul.index
		}
		if got := ask(vtep); got != want {
			t.Errorf("%s: %+v, want %+v", vtep, got, want)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	hints := h.Watch(ctx)
	const policy = " src 10.0.0.0/8 dst 10.0.0.0/8 dir in"
	for _, step := range []struct {
		command string
		blocked bool
	}{
		{"ip xfrm policy add" + policy + " tmpl src 192.0.2.2 dst 192.0.2.1 proto esp mode tunnel", true},
		{"ip xfrm policy del" + policy, false},
		{"ip xfrm policy setdefault in block", true},
		{"ip xfrm policy setdefault in accept", false},
	} {
		sh(t, step.command)
		for told := false; !told; {
			select {
			case hint, ok := <-hints:
				if !ok {
					t.Fatalf("%s: no hint", step.command)
				}
				told = hint.Underlay && (ask(addr("192.0.2.1")).Why != "") == step.blocked
			case <-ctx.Done():
				t.Fatalf("%s: no hint", step.command)
			}
		}
	}
}

// TestUnderlayHints: who changes what is at the ingress of a device of others is
// heard.
func TestUnderlayHints(t *testing.T) {
	s := newTestSite(t)
	converge(t, s.host, s.scope, s.want)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	hints := s.host.Watch(ctx)
	for _, command := range []string{"tc filter del dev ul ingress pref 65000", "tc qdisc del dev ul clsact"} {
		for len(Diff(read(t, s.host, s.scope), s.want)) == 0 {
			sh(t, command)
		}
		for told := false; !told; {
			select {
			case hint := <-hints:
				told = hint.Underlay
			case <-ctx.Done():
				t.Fatalf("%s: no hint", command)
			}
		}
		converge(t, s.host, s.scope, s.want)
	}
}
