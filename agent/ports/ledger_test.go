package ports_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/ports"
)

// alone runs a test in a network namespace of its own that has nothing but its
// loopback: nobody else's ports are in the way.
func alone(t *testing.T, test func(t *testing.T, l *ports.Ledger)) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		// The thread is not given back: it ends with the goroutine.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("unshare: %v", err)
			return
		}
		if err := loopbackUp(); err != nil {
			t.Errorf("set lo up: %v", err)
			return
		}
		l := ports.NewLedger()
		defer l.Close()
		test(t, l)
	}()
	<-done
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

func specs(t *testing.T, texts ...string) (out []ports.Spec) {
	t.Helper()
	for _, text := range texts {
		parsed, err := ports.ParseSpecs(text)
		if err != nil {
			t.Error(err)
		}
		out = append(out, parsed...)
	}
	return out
}

var both = []overspan.Family{overspan.IPv4, overspan.IPv6}

// refused checks an error's class and words.
func refused(t *testing.T, err, class error, words ...string) {
	t.Helper()
	if !errors.Is(err, class) {
		t.Errorf("%v; want %v", err, class)
		return
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q does not say %q", err, word)
		}
	}
}

func TestLedgerHoldsPorts(t *testing.T) {
	alone(t, func(t *testing.T, l *ports.Ledger) {
		got, err := l.Reserve("a", "web", specs(t, "8080:80", "127.0.0.1:9000:90/udp"), both...)
		if err != nil || fmt.Sprint(got) != "[0.0.0.0:8080->80/tcp [::]:8080->80/tcp 127.0.0.1:9000->90/udp]" {
			t.Errorf("reserved %v, %v", got, err)
		}
		for _, text := range []string{"8080:1", "127.0.0.1:8080:1", "[::]:8080:1", "9000:1/udp"} {
			_, err := l.Reserve("b", "other", specs(t, "8081:81", text), both...)
			refused(t, err, overspan.ErrInUse, "port is already allocated to sandbox web")
		}
		// What was taken for a request that failed is free.
		if _, err := l.Reserve("b", "other", specs(t, "8081:81", "9000:90/tcp", "127.0.0.2:9000:90/udp"), both...); err != nil {
			t.Error(err)
		}
		for _, at := range []string{"127.0.0.1:8080", "[::1]:8080", ":8080"} {
			if listener, err := net.Listen("tcp", at); !errors.Is(err, syscall.EADDRINUSE) {
				t.Errorf("a program listens at %s: %v", at, err)
				listener.Close()
			}
		}
		// What it has itself is no obstacle; what it takes later goes by itself.
		more, err := l.Reserve("a", "web", specs(t, "8080:80", "8082:82"), overspan.IPv4)
		if err != nil || fmt.Sprint(more) != "[0.0.0.0:8082->82/tcp]" {
			t.Errorf("reserved again %v, %v", more, err)
		}
		l.Keep("a", got)
		if _, err := l.Reserve("b", "other", specs(t, "8082:82"), both...); err != nil {
			t.Error(err)
		}
		l.Keep("a", nil)
		l.Keep("a", nil)
		if _, err := l.Reserve("c", "next", specs(t, "8080:80", "127.0.0.1:9000:90/udp"), overspan.IPv4); err != nil {
			t.Error(err)
		}
	})
}

func TestLedgerMeetsForeignListener(t *testing.T) {
	alone(t, func(t *testing.T, l *ports.Ledger) {
		listener, err := net.Listen("tcp4", "127.0.0.1:8080")
		if err != nil {
			t.Error(err)
			return
		}
		_, err = l.Reserve("a", "web", specs(t, "8080:80"), both...)
		refused(t, err, overspan.ErrInUse, "0.0.0.0:8080/tcp", fmt.Sprintf("process %d", os.Getpid()))

		// After a restart the port is tried for until it is free.
		port := overspan.Port{Protocol: overspan.TCP, Port: 80, HostIP: netip.IPv4Unspecified(), HostPort: 8080}
		single := port
		single.HostIP = netip.MustParseAddr("127.0.0.1") // the one listener is in the way of both
		l.Restore("a", "web", []overspan.Port{port})
		l.Restore("b", "db", []overspan.Port{single})
		conflicts := l.Retry()
		if len(conflicts) != 2 || !strings.Contains(conflicts[0], "sandbox web is not held") || !strings.Contains(conflicts[1], "sandbox db is not held") {
			t.Errorf("conflicts: %q", conflicts)
		}
		for _, c := range conflicts {
			if !strings.Contains(c, fmt.Sprintf("(process %d)", os.Getpid())) {
				t.Errorf("%q does not name the process that listens", c)
			}
		}
		l.Keep("b", nil)
		listener.Close()
		if conflicts := l.Retry(); len(conflicts) > 0 {
			t.Errorf("conflicts: %q", conflicts)
		}
		if _, err := net.Listen("tcp4", "127.0.0.1:8080"); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("the port is not held after all: %v", err)
		}
	})
}

func TestLedgerDraws(t *testing.T) {
	alone(t, func(t *testing.T, l *ports.Ledger) {
		got, err := l.Reserve("a", "web", specs(t, "80"), both...)
		if err != nil || len(got) != 2 || got[0].HostPort != got[1].HostPort || got[0].HostPort == 0 {
			t.Errorf("reserved %v, %v; want one port in both families", got, err)
		}
		for i := range 6 {
			id := overspan.SandboxID(fmt.Sprint("ssh", i))
			if got, err := l.Reserve(id, string(id), specs(t, "8100-8105:22"), overspan.IPv4); err != nil || got[0].HostPort != uint16(8100+i) {
				t.Errorf("%s: reserved %v, %v", id, got, err)
			}
		}
		_, err = l.Reserve("ssh6", "ssh6", specs(t, "8100-8105:22"), overspan.IPv4)
		refused(t, err, overspan.ErrInUse, "none of the host ports is free", "sandbox ssh5")
		// One request may have a drawn port and the one that would be drawn.
		if _, err := l.Reserve("b", "b", specs(t, "80", "8100:80", "8101:81/udp"), overspan.IPv6); err != nil {
			t.Error(err)
		}
	})
}

func TestLedgerRefuses(t *testing.T) {
	alone(t, func(t *testing.T, l *ports.Ledger) {
		_, err := l.Reserve("a", "a", specs(t, "192.0.2.9:80:80"), both...)
		refused(t, err, overspan.ErrInvalid, "192.0.2.9 is no address of this host")
		_, err = l.Reserve("a", "a", specs(t, "[::1]:80:80"), both...)
		refused(t, err, overspan.ErrInvalid, "does not route ::1")
		_, err = l.Reserve("a", "a", specs(t, "[::]:80:80"), overspan.IPv4)
		refused(t, err, overspan.ErrInvalid, "the network has no ipv6")
		for _, second := range []string{"80:80", "80:81", "127.0.0.1:80:80", "[::]:80:81"} {
			_, err = l.Reserve("a", "a", specs(t, "80:80", second), both...)
			refused(t, err, overspan.ErrInvalid, "given twice in this very command, first as ", ":80->80/tcp")
		}
		_, err = l.Reserve("a", "a", specs(t, "80-81:80", "80:80", "81:81"), overspan.IPv4)
		refused(t, err, overspan.ErrInUse, "none of the host ports is free", "given twice in this very command, first as 0.0.0.0:81->81/tcp")
		if _, err := l.Reserve("c", "c", specs(t, "80:80", "80:80/udp"), both...); err != nil {
			t.Error(err)
		}
		l.Keep("c", nil)
		if _, err := l.Reserve("a", "a", specs(t, "80:80/sctp"), both...); err != nil {
			refused(t, err, overspan.ErrUnsupported, "kernel has no sctp")
		}
	})
}

// TestLedgerLeavesPortOfNames: what is published at port 53 of all addresses would
// keep the gateways from answering names.
func TestLedgerLeavesPortOfNames(t *testing.T) {
	alone(t, func(t *testing.T, l *ports.Ledger) {
		for _, text := range []string{"53:80", "53:80/udp", "[::]:53:80"} {
			_, err := l.Reserve("a", "a", specs(t, text), both...)
			refused(t, err, overspan.ErrInUse, "names are answered at port 53 of every network's gateway", "-p ADDRESS:53:80")
		}
		got, err := l.Reserve("a", "a", specs(t, "127.0.0.1:53:53", "127.0.0.1:53:53/udp", "53-54:80"), overspan.IPv4)
		if err != nil || fmt.Sprint(got) != "[127.0.0.1:53->53/tcp 127.0.0.1:53->53/udp 0.0.0.0:54->80/tcp]" {
			t.Errorf("reserved %v, %v", got, err)
		}
		// Nor is it after a restart, when another version has published it.
		l.Restore("b", "b", []overspan.Port{{Protocol: overspan.UDP, Port: 53, HostIP: netip.IPv4Unspecified(), HostPort: 53}})
		if conflicts := l.Retry(); len(conflicts) != 1 || !strings.Contains(conflicts[0], "names are answered") {
			t.Errorf("conflicts: %q", conflicts)
		}
		gateway, err := net.ListenPacket("udp4", "127.0.0.9:53")
		if err != nil {
			t.Error(err)
			return
		}
		gateway.Close()
	})
}

// TestLedgerReadsNothing: what comes to a port while its rule is missing does
// not wait in the socket's queue.
func TestLedgerReadsNothing(t *testing.T) {
	alone(t, func(t *testing.T, l *ports.Ledger) {
		if _, err := l.Reserve("a", "a", specs(t, "9000:90/udp"), overspan.IPv4); err != nil {
			t.Error(err)
		}
		conn, err := net.Dial("udp4", "127.0.0.1:9000")
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		for range 2 { // the second would tell that the first was answered by an error
			if _, err := conn.Write([]byte("x")); err != nil {
				t.Error(err)
			}
		}
		table, err := os.ReadFile("/proc/thread-self/net/udp")
		if err != nil {
			t.Error(err)
		}
		for line := range strings.Lines(string(table)) {
			if f := strings.Fields(line); len(f) > 4 && strings.HasSuffix(f[1], ":2328") && f[4] != "00000000:00000000" {
				t.Errorf("datagrams wait: %s", line)
			}
		}
	})
}
