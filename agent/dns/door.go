package dns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// connsMost bounds the connections at one gateway, so that containers do not use up
// the agent's files, and connsEach those of one address, so that no container takes
// all of them.
const (
	connsMost = 256
	connsEach = 32
)

// writeBound is how long an answer by TCP may take to be sent: whoever asks and does
// not read would have it wait for ever.
const writeBound = 2 * time.Second

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
	srv := &dns.Server{Listener: fewConnsOf(tcp), Handler: d}
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
	id := d.at.network
	assign(s.doors, id, slices.DeleteFunc(s.doors[id], func(o *door) bool { return o == d }))
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

// fewConns is a listener that hangs up on whoever comes when there are too many
// already, at all or from the same address.
type fewConns struct {
	net.Listener

	mu   sync.Mutex // guards all below
	open int        // connections
	from map[netip.Addr]int
}

func fewConnsOf(l net.Listener) *fewConns { return &fewConns{Listener: l, from: map[netip.Addr]int{}} }

func (l *fewConns) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if asker := addrOf(c.RemoteAddr()); l.enter(asker) {
			return &countedConn{Conn: c, leave: sync.OnceFunc(func() { l.leave(asker) })}, nil
		}
		c.Close()
	}
}

// enter counts a connection until leave, or refuses it.
func (l *fewConns) enter(asker netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open >= connsMost || l.from[asker] >= connsEach {
		return false
	}
	l.open++
	l.from[asker]++
	return true
}

func (l *fewConns) leave(asker netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	if l.from[asker]--; l.from[asker] == 0 {
		delete(l.from, asker)
	}
}

// A countedConn is counted until it is closed for the first time.
type countedConn struct {
	net.Conn
	leave func()
}

// Write sends within writeBound, or closes the connection: dns.Server sets no bound,
// goes on to the next question after a failure, and ends no sooner than its answers.
func (c *countedConn) Write(b []byte) (int, error) {
	err := c.SetWriteDeadline(time.Now().Add(writeBound))
	n := 0
	if err == nil {
		n, err = c.Conn.Write(b)
	}
	if err != nil {
		c.Close()
	}
	return n, err
}

func (c *countedConn) Close() error {
	c.leave()
	return c.Conn.Close()
}
