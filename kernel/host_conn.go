package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	// packBytes bounds what one send carries. The kernel works through all of
	// it before the send returns.
	packBytes = 32 << 10

	// receiveBytes holds the largest datagram that a dump delivers.
	receiveBytes = 64 << 10

	// queueBytes is asked for as the socket's receive queue: room for an error
	// on every message of a full pack.
	queueBytes = 4 << 20

	// dumpTries bounds how often a dump that a change interrupted is repeated.
	dumpTries = 16

	// answerSeconds bounds the wait for the kernel's answer; it answers before
	// the send returns, unless memory runs out.
	answerSeconds = 10
)

// A message is a netlink request before it has a sequence number.
type message = *nl.NetlinkRequest

// newMessage returns a request of a type, with flags beside NLM_F_REQUEST.
func newMessage(kind, flags int, parts ...nl.NetlinkRequestData) message {
	return &nl.NetlinkRequest{
		NlMsghdr: unix.NlMsghdr{Type: uint16(kind), Flags: uint16(unix.NLM_F_REQUEST | flags)},
		Data:     parts,
	}
}

// A conn is a netlink socket. It stays in the network namespace that it was
// opened in, whichever thread uses it. It is safe for concurrent use.
type conn struct {
	fd   int
	port uint32 // the kernel marks some events with the port of who caused them
	send func(pack []byte) error

	mu   sync.Mutex // held over a request and its answers
	seq  uint32
	buf  []byte
	msgs []syscall.NetlinkMessage // those of buf
}

// dial opens a socket of a netlink family in the namespace of the calling
// thread.
func dial(family int) (*conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, family)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	c := &conn{fd: fd, buf: make([]byte, receiveBytes)}
	c.send = c.sendToKernel
	if err := c.setup(); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("set up netlink socket: %w", err)
	}
	return c, nil
}

func (c *conn) setup() error {
	// Best effort, both need a recent kernel or privilege: errors with words,
	// and errors without a copy of the request.
	_ = unix.SetsockoptInt(c.fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	_ = unix.SetsockoptInt(c.fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	_ = unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, queueBytes)
	// Dumps are then filtered by the kernel; older ones (before 4.20) send all.
	_ = unix.SetsockoptInt(c.fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	if err := unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: answerSeconds}); err != nil {
		return err
	}
	if err := unix.Bind(c.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	self, err := unix.Getsockname(c.fd)
	if sa, ok := self.(*unix.SockaddrNetlink); ok {
		c.port = sa.Pid
	}
	return err
}

func (c *conn) close() { unix.Close(c.fd) }

// execAll carries out changes, as many in one send as fit, and returns one
// error for each. Every message is tried, whatever became of those before it.
//
// Only the last message of a pack asks for an acknowledgement: the kernel works
// in order, and reports failures unasked.
func (c *conn) execAll(msgs []message) []error {
	c.mu.Lock()
	defer c.mu.Unlock()
	errs := make([]error, len(msgs))
	for start := 0; start < len(msgs); {
		n, err := c.execPack(msgs[start:], errs[start:])
		if err != nil {
			for i := start; i < len(msgs); i++ {
				errs[i] = err
			}
			break
		}
		start += n
	}
	return errs
}

// exec carries out one change.
func (c *conn) exec(m message) error { return c.execAll([]message{m})[0] }

// execPack sends as many of the messages as fit into one pack, and returns how
// many. An error means that the fate of the whole pack is unknown.
func (c *conn) execPack(msgs []message, errs []error) (int, error) {
	first := c.seq + 1
	var pack []byte
	var last int // where the last message of the pack begins
	n := 0
	for n < len(msgs) {
		c.seq++
		msgs[n].Seq = c.seq
		raw := msgs[n].Serialize()
		if n > 0 && len(pack)+len(raw) > packBytes {
			c.seq--
			break
		}
		last = len(pack)
		pack = append(pack, raw...)
		pack = append(pack, make([]byte, -len(pack)&(unix.NLMSG_ALIGNTO-1))...)
		n++
	}
	flags := pack[last+6 : last+8]
	binary.NativeEndian.PutUint16(flags, binary.NativeEndian.Uint16(flags)|unix.NLM_F_ACK)
	if err := c.send(pack); err != nil {
		return 0, err
	}
	for {
		answers, err := c.receive()
		if err != nil {
			return 0, err
		}
		for _, a := range answers {
			if a.Header.Type != unix.NLMSG_ERROR || a.Header.Seq-first >= uint32(n) {
				continue // an answer to an earlier request that timed out
			}
			errs[a.Header.Seq-first] = answerError(a)
			if a.Header.Seq == c.seq {
				return n, nil
			}
		}
	}
}

// get asks for one object and returns the answer's body.
func (c *conn) get(m message) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var bodies [][]byte
	err := c.ask(m, func(body []byte) error {
		bodies = append(bodies, slices.Clone(body))
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(bodies) != 1 {
		return nil, fmt.Errorf("netlink answered with %d messages to a request for one", len(bodies))
	}
	return bodies[0], nil
}

// errInterrupted is NLM_F_DUMP_INTR: something changed while the kernel was
// listing, entries may be missing or doubled.
var errInterrupted = errors.New("dump interrupted by a change")

// dump lists objects and returns the answers' bodies.
func (c *conn) dump(m message) (bodies [][]byte, err error) {
	err = c.scan(m, func() { bodies = nil }, func(body []byte) error {
		bodies = append(bodies, slices.Clone(body))
		return nil
	})
	return bodies, err
}

// scan lists objects and hands over the body of each answer, which only lasts
// for the call. A list that a change interrupted is begun again: an incomplete
// one would read as deletions.
func (c *conn) scan(m message, begin func(), each func(body []byte) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	m.Flags |= unix.NLM_F_DUMP
	var err error
	for range dumpTries {
		begin()
		if err = c.ask(m, each); !errors.Is(err, errInterrupted) {
			return err
		}
		runtime.Gosched()
	}
	return fmt.Errorf("%w, %d times in a row", err, dumpTries)
}

// ask sends one request and hands over the bodies of its answers. All answers
// are read, also after an error of each.
func (c *conn) ask(m message, each func(body []byte) error) error {
	c.seq++
	m.Seq = c.seq
	if err := c.send(m.Serialize()); err != nil {
		return err
	}
	var failed error
	interrupted := false
	for {
		answers, err := c.receive()
		if err != nil {
			return err
		}
		for _, a := range answers {
			if a.Header.Seq != c.seq {
				continue
			}
			interrupted = interrupted || a.Header.Flags&unix.NLM_F_DUMP_INTR != 0
			switch a.Header.Type {
			case unix.NLMSG_ERROR:
				if err := answerError(a); err != nil {
					return err
				}
				return failed
			case unix.NLMSG_DONE:
				// Its body is the dump's result, like that of an error.
				if err := answerError(a); err != nil {
					return err
				}
				if interrupted {
					return errInterrupted
				}
				return failed
			}
			if failed == nil {
				failed = each(a.Data)
			}
			if a.Header.Flags&unix.NLM_F_MULTI == 0 {
				return failed
			}
		}
	}
}

func (c *conn) sendToKernel(pack []byte) error {
	if err := unix.Sendto(c.fd, pack, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send to netlink: %w", err)
	}
	return nil
}

// receive returns the messages of one datagram, which last until the next call.
// Only the kernel is heard.
func (c *conn) receive() ([]syscall.NetlinkMessage, error) {
	for {
		n, from, err := unix.Recvfrom(c.fd, c.buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("receive from netlink: %w", err)
		}
		if sa, ok := from.(*unix.SockaddrNetlink); !ok || sa.Pid != nl.PidKernel {
			continue
		}
		if c.msgs, err = splitMessages(c.msgs[:0], c.buf[:n]); err != nil {
			return nil, fmt.Errorf("parse netlink answer: %w", err)
		}
		return c.msgs, nil
	}
}

// splitMessages appends the messages of a datagram, which share its bytes. It is
// syscall.ParseNetlinkMessage without its copies.
func splitMessages(out []syscall.NetlinkMessage, b []byte) ([]syscall.NetlinkMessage, error) {
	for len(b) >= unix.NLMSG_HDRLEN {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.NLMSG_HDRLEN || size > len(b) {
			return nil, unix.EINVAL
		}
		head := syscall.NlMsghdr{
			Len:   uint32(size),
			Type:  binary.NativeEndian.Uint16(b[4:]),
			Flags: binary.NativeEndian.Uint16(b[6:]),
			Seq:   binary.NativeEndian.Uint32(b[8:]),
			Pid:   binary.NativeEndian.Uint32(b[12:]),
		}
		out = append(out, syscall.NetlinkMessage{Header: head, Data: b[unix.NLMSG_HDRLEN:size]})
		b = b[min(len(b), (size+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1)):]
	}
	return out, nil
}

// answerError returns the error that an NLMSG_ERROR or NLMSG_DONE carries, in
// the kernel's own words where it has any.
func answerError(m syscall.NetlinkMessage) error {
	if len(m.Data) < 4 {
		return nil
	}
	code := int32(binary.NativeEndian.Uint32(m.Data))
	if code == 0 {
		return nil
	}
	err := syscall.Errno(-code)
	if m.Header.Type != unix.NLMSG_ERROR || m.Header.Flags&unix.NLM_F_ACK_TLVS == 0 {
		return err
	}
	if words := extendedAck(m); words != "" {
		return fmt.Errorf("%w: %s", err, words)
	}
	return err
}

// extendedAck finds NLMSGERR_ATTR_MSG behind the error code and the header of
// the request (or all of it, where the kernel does not know NETLINK_CAP_ACK).
func extendedAck(m syscall.NetlinkMessage) string {
	skip := 4 + unix.SizeofNlMsghdr
	if m.Header.Flags&unix.NLM_F_CAPPED == 0 && len(m.Data) >= 8 {
		skip = 4 + int(binary.NativeEndian.Uint32(m.Data[4:]))
	}
	if skip > len(m.Data) {
		return ""
	}
	attrs, err := nl.ParseRouteAttr(m.Data[skip:])
	if err != nil {
		return ""
	}
	for _, a := range attrs {
		if a.Attr.Type == nl.NLMSGERR_ATTR_MSG {
			return unix.ByteSliceToString(a.Value)
		}
	}
	return ""
}
