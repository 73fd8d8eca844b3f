package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// A Place is a network namespace: a host's or a sandbox's.
type Place interface{ Do(func() error) error }

// serveWithin bounds the wait for an answer: what is not answered by then was
// dropped.
const serveWithin = 2 * time.Second

// A Server answers on a port, over TCP and UDP, with its name and the address of
// whoever asks, as it sees it.
type Server struct {
	name    string
	closers []io.Closer
	done    sync.WaitGroup
}

// Serve starts a server in the sandbox.
func (s *Sandbox) Serve(name string, port uint16) (*Server, error) {
	srv := &Server{name: name}
	at := netip.AddrPortFrom(netip.IPv6Unspecified(), port).String() // IPv4 too
	err := s.Do(func() error {
		listener, err := net.Listen("tcp", at)
		if err != nil {
			return err
		}
		srv.closers = append(srv.closers, listener)
		conn, err := net.ListenPacket("udp", at)
		if err != nil {
			return err
		}
		srv.closers = append(srv.closers, conn)
		srv.done.Go(func() { srv.accept(listener) })
		srv.done.Go(func() { srv.reply(conn) })
		return nil
	})
	if err != nil {
		srv.Close()
		return nil, fmt.Errorf("serve in %s on %s: %w", s.Name, s.Node.Name, err)
	}
	return srv, nil
}

// Close ends the server.
func (srv *Server) Close() error {
	var errs []error
	for _, c := range srv.closers {
		errs = append(errs, c.Close())
	}
	srv.done.Wait()
	return errors.Join(errs...)
}

func (srv *Server) accept(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		// One who is gone by now needs no answer.
		_, _ = io.WriteString(conn, srv.answer(conn.RemoteAddr()))
		conn.Close()
	}
}

func (srv *Server) reply(conn net.PacketConn) {
	buf := make([]byte, 1)
	for {
		_, from, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		_, _ = conn.WriteTo([]byte(srv.answer(from)), from)
	}
}

func (srv *Server) answer(to net.Addr) string {
	return srv.name + " " + netip.MustParseAddrPort(to.String()).Addr().Unmap().String()
}

// An Answer is what a server said: who it is, and who asked it as it sees it.
type Answer struct {
	Name   string
	Client netip.Addr
}

// Ask asks whoever serves at an address, over "tcp" or "udp".
func Ask(ctx context.Context, from Place, network, at string) (Answer, error) {
	conn, err := dialFrom(ctx, from, network, at)
	if err != nil {
		return Answer{}, err
	}
	defer conn.Close()
	return AskOn(conn)
}

// AskOn asks over a connection, or again over a UDP socket.
func AskOn(conn net.Conn) (Answer, error) {
	if err := conn.SetDeadline(time.Now().Add(serveWithin)); err != nil {
		return Answer{}, err
	}
	if conn.RemoteAddr().Network() == "udp" {
		if _, err := conn.Write([]byte("?")); err != nil {
			return Answer{}, err
		}
	}
	buf := make([]byte, 256)
	n, err := conn.Read(buf)
	if err != nil {
		return Answer{}, err
	}
	name, client, _ := strings.Cut(string(buf[:n]), " ")
	addr, err := netip.ParseAddr(client)
	return Answer{name, addr}, err
}

// dialFrom opens a connection, or a UDP socket, from a place.
func dialFrom(ctx context.Context, from Place, network, at string) (conn net.Conn, err error) {
	err = from.Do(func() error {
		d := net.Dialer{Timeout: serveWithin}
		conn, err = d.DialContext(ctx, network, at)
		return err
	})
	return conn, err
}

// OpenUDP opens a UDP socket that sends to an address, always from one port.
func OpenUDP(ctx context.Context, from Place, to string) (net.Conn, error) {
	return dialFrom(ctx, from, "udp", to)
}

// Connections asks over one TCP connection after the other for a while, and
// returns how many a second there were.
func Connections(ctx context.Context, from Place, at string, while time.Duration) (float64, error) {
	var speed float64
	err := from.Do(func() error {
		d := net.Dialer{Timeout: serveWithin}
		begin, n := time.Now(), 0
		for time.Since(begin) < while {
			conn, err := d.DialContext(ctx, "tcp", at)
			if err != nil {
				return err
			}
			_, err = AskOn(conn)
			// Reset: nothing waits at this end, where ports would run out.
			if err := errors.Join(err, conn.(*net.TCPConn).SetLinger(0), conn.Close()); err != nil {
				return err
			}
			n++
		}
		speed = float64(n) / time.Since(begin).Seconds()
		return nil
	})
	return speed, err
}
