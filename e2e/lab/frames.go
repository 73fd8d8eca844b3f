package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// ethAll is ETH_P_ALL in network byte order, as packet(7) wants it.
const ethAll = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8

// A Capture hears every frame that passes an interface, in and out.
type Capture struct {
	file *os.File
	done sync.WaitGroup

	mu     sync.Mutex // guards frames
	frames [][]byte
}

// openPacket opens a packet socket on an interface of a namespace.
func openPacket(ns namespace, dev string) (*os.File, error) {
	var file *os.File
	err := ns.do(func() error {
		link, err := net.InterfaceByName(dev)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		file = os.NewFile(uintptr(fd), "packet socket on "+dev)
		return errors.Join(enlarge(fd), unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: ethAll, Ifindex: link.Index}))
	})
	if err != nil {
		return nil, fmt.Errorf("open a packet socket on %s: %w", dev, err)
	}
	return file, nil
}

// Capture starts to record the frames that pass an interface of the host.
func (h *Host) Capture(dev string) (*Capture, error) { return capture(h.net, dev) }

// Capture starts to record the frames that pass an interface of the sandbox.
func (s *Sandbox) Capture(dev string) (*Capture, error) { return capture(s.net, dev) }

func capture(ns namespace, dev string) (*Capture, error) {
	file, err := openPacket(ns, dev)
	if err != nil {
		return nil, err
	}
	c := &Capture{file: file}
	c.done.Go(c.record)
	return c, nil
}

func (c *Capture) record() {
	buf := make([]byte, 1<<16)
	for {
		n, err := c.file.Read(buf)
		if errors.Is(err, unix.ENETDOWN) {
			continue // said once, when the interface goes down
		}
		if err != nil {
			return
		}
		c.mu.Lock()
		c.frames = append(c.frames, append([]byte(nil), buf[:n]...))
		c.mu.Unlock()
	}
}

// Frames returns the frames so far that match.
func (c *Capture) Frames(match func(frame []byte) bool) [][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out [][]byte
	for _, f := range c.frames {
		if match(f) {
			out = append(out, f)
		}
	}
	return out
}

// Stop ends the recording. What was recorded stays.
func (c *Capture) Stop() {
	c.file.Close()
	c.done.Wait()
}

// Send sends raw frames out of an interface of the sandbox.
func (s *Sandbox) Send(dev string, frames ...[]byte) error {
	file, err := openPacket(s.net, dev)
	if err != nil {
		return err
	}
	defer file.Close()
	for _, f := range frames {
		if _, err := file.Write(f); err != nil {
			return fmt.Errorf("send a frame from %s on %s: %w", s.Name, s.Node.Name, err)
		}
	}
	return nil
}

// Lengths of headers, in bytes.
const (
	etherLen = 14
	udpLen   = 8
	vxlanLen = 8
)

// EtherType returns the type of an Ethernet frame's payload, 0 if it is none.
func EtherType(frame []byte) uint16 {
	if len(frame) < etherLen {
		return 0
	}
	return binary.BigEndian.Uint16(frame[12:])
}

// InVXLAN returns the frame inside a VXLAN packet for a UDP port, and its VNI;
// ok is false if the frame is no such packet.
func InVXLAN(frame []byte, port uint16) (inner []byte, vni uint32, ok bool) {
	var ip int
	switch EtherType(frame) {
	case unix.ETH_P_IP:
		if len(frame) < etherLen+20 || frame[etherLen+9] != unix.IPPROTO_UDP {
			return nil, 0, false
		}
		ip = int(frame[etherLen]&0xf) * 4
	case unix.ETH_P_IPV6:
		if len(frame) < etherLen+40 || frame[etherLen+6] != unix.IPPROTO_UDP {
			return nil, 0, false
		}
		ip = 40
	default:
		return nil, 0, false
	}
	udp := etherLen + ip
	start := udp + udpLen + vxlanLen
	if len(frame) < start+etherLen || binary.BigEndian.Uint16(frame[udp+2:]) != port {
		return nil, 0, false
	}
	return frame[start:], binary.BigEndian.Uint32(frame[udp+udpLen+4:]) >> 8, true
}
