package kernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/overspan/overspan"
	"golang.org/x/sys/unix"
)

func TestNetns(t *testing.T) {
	h := newTestHost(t)
	pin := newTestNetns(t, h, "c1")
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		path  string
		class error
		text  string
	}{
		{path: pin},
		{path: fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())},
		{"/nowhere", overspan.ErrNotFound, "network namespace /nowhere not found"},
		{"/etc/passwd/x", overspan.ErrNotFound, "network namespace /etc/passwd/x not found"},
		{"/proc/99999999/ns/net", overspan.ErrNotFound, "network namespace /proc/99999999/ns/net not found"},
		{"/etc/passwd", overspan.ErrInvalid, "/etc/passwd is not a network namespace"},
		{"/proc/self/ns/mnt", overspan.ErrInvalid, "/proc/self/ns/mnt is not a network namespace"},
		{fifo, overspan.ErrInvalid, fifo + " is not a network namespace"},
	} {
		id, err := h.Netns(test.path)
		if test.class == nil {
			if err != nil || id == (overspan.NetnsID{}) {
				t.Errorf("Netns(%s) = %v, %v", test.path, id, err)
			}
			continue
		}
		if !errors.Is(err, test.class) || err.Error() != test.text {
			t.Errorf("Netns(%s): %v, want %q", test.path, err, test.text)
		}
		if _, err := h.Interfaces(test.path); !errors.Is(err, test.class) {
			t.Errorf("Interfaces(%s): %v", test.path, err)
		}
	}
}

// TestNumberOfADeadNetns: the kernel gives it to a new one, which is another one
// all the same.
func TestNumberOfADeadNetns(t *testing.T) {
	h := newTestHost(t)
	first, err := h.Netns(newTestNetns(t, h, "c1"))
	if err != nil || first.Boot == "" || first.Cookie == 0 {
		t.Fatalf("Netns = %+v, %v", first, err)
	}
	// A number is free some time after its namespace has gone, and others on the
	// machine may get it. So each that is made goes again, until one comes with the
	// number of any before it.
	path := filepath.Join(h.config.NetnsDir, "c1")
	dead := map[uint64]overspan.NetnsID{first.Ino: first}
	apply(t, h, DelNetns{path})
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		apply(t, h, AddNetns{path})
		now, err := h.Netns(path)
		if err != nil {
			t.Fatal(err)
		}
		apply(t, h, DelNetns{path})
		if before, again := dead[now.Ino]; again {
			if now.Is(before) || now.Boot != before.Boot {
				t.Errorf("%+v is taken for %+v", now, before)
			}
			return
		}
		dead[now.Ino] = now
	}
	t.Fatalf("none of %d namespaces got the number of one that is gone", len(dead))
}

func BenchmarkNetns(b *testing.B) {
	h := &Host{}
	for b.Loop() {
		if _, err := h.Netns(OwnNetns); err != nil {
			b.Fatal(err)
		}
	}
}

// TestPins makes, doubles and removes namespaces; a file that a reboot left
// behind is no pin, and in nobody's way.
func TestPins(t *testing.T) {
	h := newTestHost(t)
	pin := newTestNetns(t, h, "c1")
	first, err := h.Netns(pin)
	if err != nil {
		t.Fatal(err)
	}
	apply(t, h, AddNetns{pin})
	if again, err := h.Netns(pin); err != nil || again != first {
		t.Errorf("a second AddNetns made another namespace: %v, %v", again, err)
	}
	shIn(t, pin, "ip -br link show lo | grep -q UP")

	left := filepath.Join(h.config.NetnsDir, "left")
	if err := os.WriteFile(left, nil, 0o444); err != nil {
		t.Fatal(err)
	}
	want := map[string]struct{}{pin: {}}
	if diff := cmp.Diff(want, read(t, h, Scope{Global: true}).Netns); diff != "" {
		t.Errorf("pins (-want +got):\n%s", diff)
	}
	apply(t, h, AddNetns{left}, DelNetns{left}, DelNetns{left}, DelNetns{pin}, DelNetns{pin})
	if got := read(t, h, Scope{Global: true}).Netns; len(got) > 0 {
		t.Errorf("pins left: %v", got)
	}
	if files, err := os.ReadDir(h.config.NetnsDir); err != nil || len(files) > 0 {
		t.Errorf("files left: %v, %v", files, err)
	}
}

func TestInterfaces(t *testing.T) {
	h := newTestHost(t)
	pin := newTestNetns(t, h, "c1")
	shIn(t, pin, "ip link add eth1 type bridge; ip link add eth0 type bridge")
	names, err := h.Interfaces(pin)
	if err != nil || !slices.Equal(names, []string{"eth0", "eth1", "lo"}) {
		t.Errorf("Interfaces = %v, %v", names, err)
	}
}

// TestTwoNetworksInOneSandbox gives a container two default routes: the lower
// interface's is used, the other's when that is gone.
func TestTwoNetworksInOneSandbox(t *testing.T) {
	s := newTestSite(t)
	second := newTestNet(8)
	second.v4.Prefix, second.v4.Gateway = prefix("10.78.0.0/16"), addr("10.78.0.1")
	second.v6.Prefix, second.v6.Gateway = prefix("fd78::/64"), addr("fd78::1")
	plan := second.plan(addr("192.0.2.1"))
	key := second.addEndpoint(&plan, 2, s.netns)
	veth := overspan.VethName(key.Endpoint)
	in := plan.Insides[veth]
	in.call("eth1")
	plan.Insides[veth] = in
	want := s.want.Clone()
	want.Add(plan)
	scope := s.scope
	scope.Endpoints = append(slices.Clone(scope.Endpoints), key)
	converge(t, s.host, scope, want)

	shIn(t, s.netns, "ip route get 1.1.1.1 | grep -q eth0; ip -6 route get 2000::1 | grep -q eth0")
	apply(t, s.host, DoomLink{overspan.VethName(s.key.Endpoint)})
	if err := s.host.Retire(t.Context()); err != nil {
		t.Fatal(err)
	}
	shIn(t, s.netns, "ip route get 1.1.1.1 | grep -q eth1; ip -6 route get 2000::1 | grep -q eth1")
}

// TestSandboxWithoutIPv6 attaches to a namespace in which IPv6 is off.
func TestSandboxWithoutIPv6(t *testing.T) {
	s := newTestSite(t)
	apply(t, s.host, Diff(State{}, State{Netns: s.want.Netns})...)
	shIn(t, s.netns, "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6; echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6")
	converge(t, s.host, s.scope, s.want)
}

// TestVisitsLeaveNoThreadBehind: a thread that stayed in a container's namespace
// would keep it alive, and the process's first thread stand for all of it.
func TestVisitsLeaveNoThreadBehind(t *testing.T) {
	h := newTestHost(t)
	path := newTestNetns(t, h, "c")
	visited, err := h.Netns(path)
	if err != nil {
		t.Fatal(err)
	}
	for range 200 { // so that every thread has its turn
		if _, err := h.Interfaces(path); err != nil {
			t.Fatal(err)
		}
	}
	threads, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil || len(threads) == 0 {
		t.Fatalf("list threads: %v, %v", threads, err)
	}
	for _, thread := range threads {
		if at, err := h.Netns(thread); err == nil && at == visited {
			t.Errorf("%s is still in the container's namespace", thread)
		}
	}
}
