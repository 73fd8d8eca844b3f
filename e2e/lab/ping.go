package lab

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// ICMP echo messages: RFC 792 and RFC 4443 section 4.
const (
	echoRequest4, echoReply4 = 8, 0
	echoRequest6, echoReply6 = 128, 129
)

// echoMark begins the payload of the lab's echo requests, so that a reply is
// known by it: a raw socket hears all of its namespace's ICMP.
var echoMark = []byte("overspan")

// echoSize is the length of an echo message: header, mark, key and number.
const echoSize = 8 + 8 + 8 + 8

// An echoer sends echo requests of one family from a namespace and counts who
// answered. Requests are known by a key of the echoer and a number.
type echoer struct {
	conn net.PacketConn
	v6   bool
	key  uint64
}

func newEchoer(ns namespace, v6 bool, key uint64) (*echoer, error) {
	e := &echoer{v6: v6, key: key}
	roomy := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		controlled := raw.Control(func(fd uintptr) { err = enlarge(int(fd)) })
		return errors.Join(controlled, err)
	}}
	err := ns.do(func() (err error) {
		if v6 {
			e.conn, err = roomy.ListenPacket(context.Background(), "ip6:ipv6-icmp", "::")
		} else {
			e.conn, err = roomy.ListenPacket(context.Background(), "ip4:icmp", "0.0.0.0")
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open ICMP socket: %w", err)
	}
	return e, nil
}

// send sends one echo request.
func (e *echoer) send(to netip.Addr, number uint64) error {
	msg := make([]byte, echoSize)
	msg[0] = echoRequest4
	binary.BigEndian.PutUint16(msg[4:], uint16(e.key))
	binary.BigEndian.PutUint16(msg[6:], uint16(number))
	copy(msg[8:], echoMark)
	binary.BigEndian.PutUint64(msg[16:], e.key)
	binary.BigEndian.PutUint64(msg[24:], number)
	if e.v6 {
		msg[0] = echoRequest6 // the kernel fills in ICMPv6 checksums, RFC 3542 section 3.1
	} else {
		binary.BigEndian.PutUint16(msg[2:], checksum(msg))
	}
	_, err := e.conn.WriteTo(msg, &net.IPAddr{IP: to.AsSlice(), Zone: to.Zone()})
	return err
}

// receive returns the next reply to one of the echoer's own requests.
func (e *echoer) receive(until time.Time) (from netip.Addr, number uint64, err error) {
	if err := e.conn.SetReadDeadline(until); err != nil {
		return from, 0, err
	}
	reply := byte(echoReply4)
	if e.v6 {
		reply = echoReply6
	}
	buf := make([]byte, 2048)
	for {
		n, addr, err := e.conn.ReadFrom(buf)
		if err != nil {
			return from, 0, err
		}
		msg := buf[:n]
		if n != echoSize || msg[0] != reply || !bytes.Equal(msg[8:16], echoMark) || binary.BigEndian.Uint64(msg[16:]) != e.key {
			continue
		}
		from, _ = netip.AddrFromSlice(addr.(*net.IPAddr).IP)
		return from.Unmap(), binary.BigEndian.Uint64(msg[24:]), nil
	}
}

// checksum is the Internet checksum, RFC 1071, of a message of even length.
func checksum(msg []byte) uint16 {
	var sum uint32
	for i := 0; i < len(msg); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(msg[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// answerWithin is how long a single packet's answer is waited for.
const answerWithin = time.Second

// PingOnce sends exactly one packet to each address at the same time, and
// returns the addresses that did not answer within a second.
func (s *Sandbox) PingOnce(addrs ...netip.Addr) (lost []netip.Addr, err error) {
	var families, silent [2][]netip.Addr // IPv4, IPv6
	for _, a := range addrs {
		i := 0
		if a.Is6() {
			i = 1
		}
		families[i] = append(families[i], a)
	}
	var both errgroup.Group
	for i, family := range families {
		both.Go(func() (err error) {
			silent[i], err = s.pingFamily(i == 1, family)
			return err
		})
	}
	if err := both.Wait(); err != nil {
		return nil, fmt.Errorf("ping from %s on %s: %w", s.Name, s.Node.Name, err)
	}
	return slices.Concat(silent[:]...), nil
}

func (s *Sandbox) pingFamily(v6 bool, addrs []netip.Addr) (lost []netip.Addr, err error) {
	if len(addrs) == 0 {
		return nil, nil
	}
	e, err := newEchoer(s.net, v6, uint64(time.Now().UnixNano()))
	if err != nil {
		return nil, err
	}
	defer e.conn.Close()
	waiting := map[netip.Addr]struct{}{}
	for _, a := range addrs {
		waiting[a] = struct{}{}
		// No route or no neighbour: the packet is lost at once.
		_ = e.send(a, 0)
	}
	until := time.Now().Add(answerWithin)
	for len(waiting) > 0 {
		from, _, err := e.receive(until)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return nil, err
		}
		delete(waiting, from)
	}
	for _, a := range addrs {
		if _, silent := waiting[a]; silent {
			lost = append(lost, a)
		}
	}
	return lost, nil
}

// A Pinger sends a packet every millisecond, times Patience, from a sandbox until
// it is stopped.
type Pinger struct {
	e        *echoer
	to       netip.Addr
	cancel   context.CancelFunc
	sender   sync.WaitGroup
	receiver sync.WaitGroup

	mu       sync.Mutex // guards all below
	sent     uint64
	answered map[uint64]struct{}
	newest   uint64 // the largest number that was answered
	failed   error
}

// pingEvery is the distance of a Pinger's packets, on a machine of the usual speed.
const pingEvery = time.Millisecond

// StartPing starts a ping from the sandbox: 1 kHz where Patience is 1.
func (s *Sandbox) StartPing(to netip.Addr) (*Pinger, error) {
	e, err := newEchoer(s.net, to.Is6(), uint64(time.Now().UnixNano()))
	if err != nil {
		return nil, fmt.Errorf("ping from %s on %s: %w", s.Name, s.Node.Name, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &Pinger{e: e, to: to, cancel: cancel, answered: map[uint64]struct{}{}}
	p.sender.Go(func() { p.send(ctx) })
	p.receiver.Go(p.receive)
	return p, nil
}

// send keeps to the schedule: ticks that came late are made up for.
func (p *Pinger) send(ctx context.Context) {
	every := pingEvery * Patience
	begin := time.Now()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			for due := uint64(now.Sub(begin) / every); p.Sent() < due; {
				err := p.e.send(p.to, p.Sent())
				p.mu.Lock()
				p.sent++
				p.failed = errors.Join(p.failed, err)
				p.mu.Unlock()
			}
		}
	}
}

// receive reads answers until the socket is closed.
func (p *Pinger) receive() {
	for {
		_, number, err := p.e.receive(time.Time{})
		if err != nil {
			return
		}
		p.mu.Lock()
		p.answered[number] = struct{}{}
		p.newest = max(p.newest, number)
		p.mu.Unlock()
	}
}

// Sent returns how many packets were sent so far.
func (p *Pinger) Sent() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sent
}

// Recover waits until a packet that is yet to be sent is answered.
func (p *Pinger) Recover(ctx context.Context, within time.Duration) error {
	from := p.Sent()
	return Eventually(ctx, within, func(context.Context) error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.newest < from {
			return fmt.Errorf("no answer from %s", p.to)
		}
		return nil
	})
}

// Lost returns how many packets have no answer so far.
func (p *Pinger) Lost() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sent - uint64(len(p.answered))
}

// Stop ends the ping, waits for late answers, and returns how many packets
// were sent and how many never answered. The error says what sending met.
func (p *Pinger) Stop(ctx context.Context) (sent, lost uint64, err error) {
	p.cancel()
	p.sender.Wait()
	_ = Eventually(ctx, answerWithin, func(context.Context) error {
		if p.Lost() > 0 {
			return errors.New("answers are missing")
		}
		return nil
	})
	p.e.conn.Close()
	p.receiver.Wait()
	return p.sent, p.sent - uint64(len(p.answered)), p.failed
}

// A Lost packet had no answer.
type Lost struct {
	From *Sandbox
	To   netip.Addr
}

func (l Lost) String() string {
	return fmt.Sprintf("%s on %s to %s", l.From.Name, l.From.Node.Name, l.To)
}

// Mesh sends exactly one packet from every sandbox to every address of every
// other one, all at once, and returns how many were sent and which were lost.
func Mesh(sandboxes []*Sandbox, dev string) (sent int, lost []Lost, err error) {
	addrs := map[*Sandbox][]netip.Addr{}
	for _, s := range sandboxes {
		if addrs[s], err = s.Addrs(dev); err != nil {
			return 0, nil, err
		}
	}
	var all sync.WaitGroup
	silent := make([][]netip.Addr, len(sandboxes))
	errs := make([]error, len(sandboxes))
	for i, from := range sandboxes {
		var targets []netip.Addr
		for _, to := range sandboxes {
			if to != from {
				targets = append(targets, addrs[to]...)
			}
		}
		sent += len(targets)
		all.Go(func() { silent[i], errs[i] = from.PingOnce(targets...) })
	}
	all.Wait()
	for i, from := range sandboxes {
		for _, to := range silent[i] {
			lost = append(lost, Lost{from, to})
		}
	}
	return sent, lost, errors.Join(errs...)
}
