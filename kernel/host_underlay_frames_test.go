package kernel

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/overspan/overspan"
	"golang.org/x/sys/unix"
)

// A tunnelled frame is one with the headers of the tunnel, all of which can be
// other than they should.
type tunnelled struct {
	to, from   net.HardwareAddr
	src, dst   netip.Addr
	tos        byte
	fragment   uint16
	options    []byte
	port       uint16
	checksum   uint16 // of UDP
	flags      [4]byte
	vni        [4]byte
	frame      []byte
	trailer    []byte // behind what the headers tell of
	longer     int    // than it is, by its IPv4 header
	udpLonger  int    // than it is, by its UDP header
	unsound    bool   // the sum of its IPv4 header is wrong
	otherProto byte
}

func (f tunnelled) bytes() []byte {
	udp := binary.BigEndian.AppendUint16(nil, 50000)
	udp = binary.BigEndian.AppendUint16(udp, f.port)
	udp = binary.BigEndian.AppendUint16(udp, uint16(16+len(f.frame)+f.udpLonger))
	udp = binary.BigEndian.AppendUint16(udp, f.checksum)
	udp = slices.Concat(udp, f.flags[:], f.vni[:], f.frame)
	ip := []byte{byte(0x45 + len(f.options)/4), f.tos, 0, 0, 0, 1, 0, 0, 64, unix.IPPROTO_UDP + f.otherProto, 0, 0}
	binary.BigEndian.PutUint16(ip[2:], uint16(20+len(f.options)+len(udp)+f.longer))
	binary.BigEndian.PutUint16(ip[6:], f.fragment)
	ip = slices.Concat(ip, f.src.AsSlice(), f.dst.AsSlice(), f.options)
	binary.BigEndian.PutUint16(ip[10:], ^onesSum(ip))
	if f.unsound {
		ip[11] ^= 1
	}
	return slices.Concat(f.to, f.from, []byte{8, 0}, ip, udp, f.trailer)
}

// onesSum adds 16-bit words as the checksums of the Internet do.
func onesSum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}

// datagram4 and datagram6 make datagrams that carry a text.
func datagram4(src, dst netip.Addr, tos byte, text string) []byte {
	b := []byte{0x45, tos, 0, byte(28 + len(text)), 0, 1, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
	b = slices.Concat(b, src.AsSlice(), dst.AsSlice())
	binary.BigEndian.PutUint16(b[10:], ^onesSum(b))
	return slices.Concat(b, []byte{0, 7, 0, 7, 0, byte(8 + len(text)), 0, 0}, []byte(text))
}

func datagram6(src, dst netip.Addr, text string) []byte {
	return ipv6Of(src, dst, unix.IPPROTO_UDP, []byte{0, 7, 0, 7, 0, byte(8 + len(text)), 0, 0}, []byte(text))
}

// plain is a frame from slot 64 to slot 2 as the tunnel carries it, with a text.
func (s testTunnel) plain(t testing.TB, text string) tunnelled {
	t.Helper()
	c := newCast(s.net)
	return tunnelled{
		to: macOf(t, s.a.path, "ul"), from: macOf(t, s.b.path, "ul"), src: s.vtep[1], dst: s.vtep[0],
		port: s.net.port, flags: [4]byte{8}, vni: vniKey(s.net.vni),
		frame: ether(c.self.mac, s.net.mac(64), unix.ETH_P_IP, datagram4(s.net.v4.Addr(64), c.self.v4, 0, text)),
	}
}

func macOf(t testing.TB, path, dev string) net.HardwareAddr {
	t.Helper()
	ns, err := openNetns(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	var link *net.Interface
	if err := do(ns, func() (err error) {
		link, err = net.InterfaceByName(dev)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return link.HardwareAddr
}

// An ear hears at a device what slot 64 sends.
type ear struct {
	file *os.File
	from overspan.MAC
}

func (s testTunnel) listenAt(t testing.TB, path, dev string) ear {
	t.Helper()
	return ear{packetAt(t, path, dev), s.net.mac(64)}
}

// until reads until a frame ends with a text, and returns all before it.
func (e ear) until(t testing.TB, text string) (heard [][]byte) {
	t.Helper()
	if err := e.file.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for {
		buf := make([]byte, 4096)
		n, err := e.file.Read(buf)
		if err != nil {
			t.Fatalf("waiting for %q: %v", text, err)
		}
		if n < 14 || !bytes.Equal(buf[6:12], e.from[:]) {
			continue
		}
		if bytes.HasSuffix(buf[:n], []byte(text)) {
			return heard
		}
		heard = append(heard, buf[:n])
	}
}

func hears(frames [][]byte, text string) bool {
	return slices.ContainsFunc(frames, func(f []byte) bool { return bytes.Contains(f, []byte(text)) })
}

// packetAt opens a packet socket on a device of the namespace at path.
func packetAt(t testing.TB, path, dev string) *os.File {
	t.Helper()
	ns, err := openNetns(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	var file *os.File
	err = do(ns, func() error {
		link, err := net.InterfaceByName(dev)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		file = os.NewFile(uintptr(fd), "packet socket")
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: unix.ETH_P_ALL << 8, Ifindex: link.Index})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}
