package nstest

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A Probe is one UDP datagram and whether it gets through.
type Probe struct {
	Name    string
	From    *Namespace
	To      netip.AddrPort
	At      *Namespace // where To is listened for
	Header  []byte     // of the datagram, in front of what Deliver tells it by
	Arrives bool

	// Send replaces the plain socket that sends the datagram; nil: that.
	Send func(to netip.AddrPort, datagram []byte) error
}

// Deliver sends all probes, those that shall not arrive first, and compares
// what arrived anywhere with what should have. It never waits for silence: when
// the wanted ones are in, the unwanted ones would have been.
func Deliver(t testing.TB, probes []Probe) {
	t.Helper()
	listeners := listen(t, probes)
	for _, arrives := range []bool{false, true} {
		for _, p := range probes {
			if p.Arrives == arrives {
				p.send()
			}
		}
	}
	var want, got []string
	for key, conn := range listeners {
		missing := make(map[string]bool)
		for _, p := range probes {
			if p.Arrives && key == p.listener() {
				want = append(want, p.Name)
				missing[p.Name] = true
			}
		}
		got = append(got, receive(t, conn, missing)...)
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("probes that arrived (-want +got):\n%s", diff)
	}
}

type listener struct {
	at   *Namespace
	port uint16
}

func (p Probe) listener() listener { return listener{at: p.At, port: p.To.Port()} }

// listen opens one socket, for both families, for every place and port.
func listen(t testing.TB, probes []Probe) map[listener]net.PacketConn {
	t.Helper()
	out := make(map[listener]net.PacketConn)
	for _, p := range probes {
		key := p.listener()
		if out[key] != nil {
			continue
		}
		p.At.Do(func() error {
			addr := netip.AddrPortFrom(netip.IPv6Unspecified(), key.port)
			conn, err := new(net.ListenConfig).ListenPacket(context.Background(), "udp", addr.String())
			out[key] = conn
			return err
		})
		t.Cleanup(func() { out[key].Close() })
	}
	return out
}

func (p Probe) send() {
	p.At.t.Helper()
	send := p.Send
	if send == nil {
		send = sendPlain
	}
	p.From.Do(func() error { return send(p.To, append(slices.Clone(p.Header), p.Name...)) })
}

func sendPlain(to netip.AddrPort, datagram []byte) error {
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write(datagram)
	return err
}

// receive reads until nothing is missing any more, then what is there already;
// it returns the names of the probes that came.
func receive(t testing.TB, conn net.PacketConn, missing map[string]bool) []string {
	t.Helper()
	var got []string
	deadline := time.Now().Add(5 * time.Second)
	buf := make([]byte, 1<<16)
	for {
		if len(missing) == 0 {
			deadline = time.Now().Add(50 * time.Millisecond)
		}
		if err := conn.SetReadDeadline(deadline); err != nil {
			t.Fatal(err)
		}
		n, _, err := conn.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return got
		}
		if err != nil {
			t.Fatal(err)
		}
		name := nameOf(buf[:n])
		got = append(got, name)
		delete(missing, name)
	}
}

// nameOf returns the text at a datagram's end: headers hold no letters.
func nameOf(datagram []byte) string {
	start := len(datagram)
	for start > 0 && datagram[start-1] >= ' ' && datagram[start-1] <= '~' {
		start--
	}
	return string(datagram[start:])
}
