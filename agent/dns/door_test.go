package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/overspan/overspan"
)

// patience bounds how long a test waits for what should be so at once.
const patience = 20 * time.Second

// An entrance is a door of network demo on loopback, where its sandboxes are at
// addresses of loopback, too.
type entrance struct {
	*testing.T
	server *Server
	door   *door
	ended  bool
}

func newEntrance(t *testing.T, sandboxes ...string) *entrance {
	t.Helper()
	s := asking(t, 0)
	place := s.node.(*town)
	for i, addr := range sandboxes {
		place.plug("demo", addr, overspan.Slot(20+i))
		place.attachments[len(place.attachments)-1].Endpoint.IPv4 = netip.MustParseAddr(addr)
	}
	d, err := s.open(spot{"demo", netip.MustParseAddr("127.0.0.1")})
	if err != nil {
		t.Fatal(err)
	}
	s.doors["demo"] = []*door{d}
	e := &entrance{T: t, server: s, door: d}
	t.Cleanup(func() {
		if !e.ended {
			s.close()
		}
	})
	return e
}

// listener returns the door's, which is open.
func (e *entrance) listener() *net.TCPListener { return e.door.sockets[1].(*net.TCPListener) }

// dial connects from an address until the test ends.
func (e *entrance) dial(from string, control func(network, address string, c syscall.RawConn) error) net.Conn {
	e.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Control: control}
	c, err := d.DialContext(e.Context(), "tcp", e.listener().Addr().String())
	if err != nil {
		e.Fatal(err)
	}
	e.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		e.Fatal(err)
	}
	return c
}

// ask asks by a connection, and returns why there is no answer.
func (e *entrance) ask(c net.Conn) error {
	e.Helper()
	conn := dns.Conn{Conn: c}
	if err := conn.WriteMsg(new(dns.Msg).SetQuestion("db.", dns.TypeA)); err != nil {
		return err
	}
	reply, err := conn.ReadMsg()
	if err == nil && len(reply.Answer) != 1 {
		e.Errorf("db. is answered with\n%s", reply)
	}
	return err
}

// await waits for a condition.
func (e *entrance) await(what string, is func() bool) {
	e.Helper()
	ctx, cancel := context.WithTimeout(e.Context(), patience)
	defer cancel()
	for look := time.NewTicker(time.Millisecond); !is(); {
		select {
		case <-ctx.Done():
			e.Fatalf("never so: %s", what)
		case <-look.C:
		}
	}
}

// deaf connects, asks often for more than all buffers together hold, and reads
// nothing. It returns once the server waits for it.
func (e *entrance) deaf(from string) net.Conn {
	e.Helper()
	const small = 4096 // the kernel doubles it
	control := func(option int) func(_, _ string, c syscall.RawConn) error {
		return func(_, _ string, c syscall.RawConn) error {
			var failed error
			err := c.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, option, small) })
			return errors.Join(err, failed)
		}
	}
	raw, err := e.listener().SyscallConn()
	if err == nil {
		err = control(unix.SO_SNDBUF)("", "", raw) // connections have the listener's
	}
	if err != nil {
		e.Fatal(err)
	}
	c := e.dial(from, control(unix.SO_RCVBUF))
	query := new(dns.Msg).SetQuestion("many.", dns.TypeANY)
	for range 100 {
		if err := (&dns.Conn{Conn: c}).WriteMsg(query); err != nil {
			e.Fatal(err)
		}
	}
	e.await("the server waits for its answer to be read", e.writing)
	return c
}

// writing reports whether an answer by TCP waits to be sent.
func (e *entrance) writing() bool {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	for g := range strings.SplitSeq(string(stacks), "\n\n") {
		state, frames, _ := strings.Cut(g, "\n")
		if strings.Contains(state, "[IO wait") && strings.Contains(frames, fmt.Sprintf("(*door).ServeDNS(%p,", e.door)) {
			return true
		}
	}
	return false
}

// crowd has so many bear the name many that who they are fills the buffers of a
// connection whose ends have small ones.
func (e *entrance) crowd() {
	place := e.server.node.(*town)
	for i := range bearersMost {
		place.endpoint("demo", "h2", fmt.Sprintf("m%d", i), overspan.Slot(1000+i), "many")
	}
}

// TestTCPWhoDoesNotRead: whoever asks by TCP and does not read keeps the server from
// nothing. It ends within seconds, and else hangs up.
func TestTCPWhoDoesNotRead(t *testing.T) {
	t.Run("when the server ends", func(t *testing.T) {
		t.Parallel()
		e := newEntrance(t, "127.0.0.1")
		e.crowd()
		e.deaf("127.0.0.1")
		e.ended = true
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			e.server.close()
		}()
		select {
		case <-ended:
		case <-time.After(patience):
			t.Fatal("the server does not end")
		}
	})
	t.Run("while it serves", func(t *testing.T) {
		t.Parallel()
		e := newEntrance(t, "127.0.0.1")
		e.crowd()
		e.deaf("127.0.0.1")
		conns := e.door.serving.Listener.(*fewConns)
		e.await("the connection is given up", func() bool {
			conns.mu.Lock()
			defer conns.mu.Unlock()
			return conns.open == 0 && len(conns.from) == 0
		})
	})
}

// TestConnectionsAreShared: one container cannot take all connections.
func TestConnectionsAreShared(t *testing.T) {
	t.Parallel()
	e := newEntrance(t, "127.0.0.1", "127.0.0.2")
	var held []net.Conn
	for i := range connsEach {
		c := e.dial("127.0.0.1", nil)
		if err := e.ask(c); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		held = append(held, c)
	}
	if err := e.ask(e.dial("127.0.0.1", nil)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("one connection more than it may have: %v; want it closed", err)
	}
	if err := e.ask(e.dial("127.0.0.2", nil)); err != nil {
		t.Errorf("the neighbour: %v", err)
	}
	held[0].Close()
	e.await("there is a connection in place of one that is closed", func() bool { return e.ask(e.dial("127.0.0.1", nil)) == nil })
}

// All containers together are bounded, too.
func TestConnsMost(t *testing.T) {
	l := fewConnsOf(nil)
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}) }
	for i := range connsMost {
		if !l.enter(addr(i / connsEach)) {
			t.Fatalf("connection %d is refused", i)
		}
	}
	if l.enter(addr(99)) {
		t.Error("one more is not refused")
	}
	l.leave(addr(0))
	if !l.enter(addr(99)) {
		t.Error("one is refused after one has left")
	}
}
