package dns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// connsMost bounds the connections at one gateway: a container may not use up the
// agent's files.
const connsMost = 128

// A door is where one network asks: UDP and TCP at a gateway.
type door struct {
	server  *Server
	at      spot
	ctx     context.Context // ends with the door
	cancel  context.CancelFunc
	sockets []interface{ Close() error }
	serving *dns.Server // by TCP
}

// open opens a door and has it served.
func (s *Server) open(at spot) (*door, error) {
	d := &door{server: s, at: at}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	free := net.ListenConfig{Control: freeBind}
	addr := netip.AddrPortFrom(at.addr, s.cfg.Port).String()
	udp, err := free.ListenPacket(d.ctx, "udp", addr)
	if err != nil {
		d.close()
		return nil, err
	}
	d.sockets = append(d.sockets, udp)
	tcp, err := free.Listen(d.ctx, "tcp", addr)
	if err != nil {
		d.close()
		return nil, err
	}
	d.sockets = append(d.sockets, tcp)
	srv := &dns.Server{Listener: &fewConns{Listener: tcp}, Handler: d}
	d.serving = srv
	atUDP := &desk{door: d, conn: udp.(*net.UDPConn), out: make([]byte, udpSize)}
	for _, serve := range []func() error{atUDP.serve, srv.ActivateAndServe} {
		s.running.Go(func() {
			if err := serve(); d.ctx.Err() == nil {
				s.lose(d, err)
			}
		})
	}
	return d, nil
}

// lose drops a door that is not served any more: it is opened again.
func (s *Server) lose(d *door, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log.Warn("names are not served for a moment", "network", d.at.network, "address", d.at.addr, "error", err)
	d.close()
	if s.doors[d.at] == d {
		delete(s.doors, d.at)
	}
}

// close ends a door without waiting for those who are being answered.
func (d *door) close() {
	d.cancel()
	if d.serving != nil {
		// Its error is that the server has not begun, or has ended, or that
		// nobody waits; all are well, since the sockets are closed below.
		_ = d.serving.ShutdownContext(d.ctx)
	}
	for _, socket := range d.sockets {
		if err := socket.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			d.server.log.Debug("close a socket", "address", d.at.addr, "error", err)
		}
	}
}

// ServeDNS answers what comes in by TCP. It implements dns.Handler.
func (d *door) ServeDNS(w dns.ResponseWriter, query *dns.Msg) {
	from := addrOf(w.RemoteAddr())
	reply, result := d.server.reply(d.ctx, spot{d.at.network, from}, "tcp", query)
	d.server.results.WithLabelValues(result).Inc()
	if err := w.WriteMsg(reply); err != nil {
		d.server.log.Debug("cannot answer", "to", from, "error", err)
	}
}

func addrOf(a net.Addr) netip.Addr {
	if a, ok := a.(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// freeBind lets a socket have the gateway's address before the bridge has it, and
// keep it while the bridge is made anew: ip(7), IP_FREEBIND.
func freeBind(network, _ string, c syscall.RawConn) error {
	level, option := unix.SOL_IP, unix.IP_FREEBIND
	if network == "udp6" || network == "tcp6" {
		level, option = unix.SOL_IPV6, unix.IPV6_FREEBIND
	}
	var failed error
	err := c.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), level, option, 1) })
	return errors.Join(err, failed)
}

// fewConns is a listener that hangs up on whoever comes when there are too many.
type fewConns struct {
	net.Listener
	open atomic.Int32
}

func (l *fewConns) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.open.Add(1) <= connsMost {
			return &countedConn{Conn: c, open: &l.open}, nil
		}
		l.open.Add(-1)
		c.Close()
	}
}

// A countedConn is counted until it is closed for the first time.
type countedConn struct {
	net.Conn
	open   *atomic.Int32
	closed atomic.Bool
}

func (c *countedConn) Close() error {
	if !c.closed.Swap(true) {
		c.open.Add(-1)
	}
	return c.Conn.Close()
}
