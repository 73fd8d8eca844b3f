package lab

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	RunRole()
	os.Exit(m.Run())
}

// newLab builds a lab that is closed, and must close well, when the test ends.
func newLab(t *testing.T, opts Options) *Lab {
	t.Helper()
	l, err := New(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return l
}

// root returns the node's own network namespace as a sandbox.
func root(t *testing.T, n *Node) *Sandbox {
	t.Helper()
	s, err := n.OpenSandbox(n.Name, "/proc/1/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func TestUnderlayReachesAllUntilCut(t *testing.T) {
	l := newLab(t, Options{Nodes: 3, Underlay: UnderlayDual})
	var nodes []*Sandbox
	for _, n := range l.Nodes {
		nodes = append(nodes, root(t, n))
	}
	sent, lost, err := Mesh(nodes, underlayDev)
	if err != nil || sent != 12 || len(lost) > 0 {
		t.Fatalf("sent %d, lost %v, %v; want 12 sent, none lost", sent, lost, err)
	}
	if err := l.Nodes[1].Cut(); err != nil {
		t.Fatal(err)
	}
	silent, err := nodes[0].PingOnce(l.Nodes[1].Addrs[0], l.Nodes[2].Addrs[0])
	if err != nil || len(silent) != 1 || silent[0] != l.Nodes[1].Addrs[0] {
		t.Fatalf("with h2 cut: lost %v, %v; want h2 alone", silent, err)
	}
	if err := l.Nodes[1].Heal(); err != nil {
		t.Fatal(err)
	}
	err = Eventually(t.Context(), 5*time.Second, func(context.Context) error {
		silent, err := nodes[0].PingOnce(l.Nodes[1].Addrs...)
		if len(silent) > 0 {
			return errors.New("still cut")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestHostsAreApart(t *testing.T) {
	l := newLab(t, Options{Nodes: 2, ForwardDrop: true, MTU: []int{9000}})
	h1, h2 := l.Nodes[0], l.Nodes[1]
	before, err := h1.Footprint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if name, err := h2.Exec(t.Context(), "hostname"); err != nil || strings.TrimSpace(name) != "h2" {
		t.Errorf("host name %q, %v; want h2", name, err)
	}
	policy, err := h1.Exec(t.Context(), "iptables", "-S", "FORWARD")
	if err != nil || strings.TrimSpace(policy) != "-P FORWARD DROP" {
		t.Errorf("forward policy %q, %v", policy, err)
	}
	s, err := h1.AddNetns(t.Context(), "web1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(h2.Path("/run/netns/web1")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("h2 sees h1's namespace: %v", err)
	}
	if eth0, err := root(t, h1).Link(underlayDev); err != nil || eth0.MTU != 9000 {
		t.Errorf("underlay link of h1: %v, %v; want MTU 9000", eth0, err)
	}
	sleeper, err := h1.Host.Start(exec.Command("sleep", "infinity"))
	if err != nil {
		t.Fatal(err)
	}
	during, err := h1.Footprint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	added := strings.Join(before.Diff(during), "\n")
	for _, want := range []string{"+ mount: /run/netns/web1", "+ ip: web1", "+ process: sleep"} {
		if !strings.Contains(added, want) {
			t.Errorf("footprint grew by %q; %q is missing", added, want)
		}
	}
	if err := errors.Join(sleeper.Stop(t.Context(), os.Kill), s.DelNetns(t.Context())); err != nil {
		t.Fatal(err)
	}
}

func TestEtcdKeepsItsData(t *testing.T) {
	l := newLab(t, Options{})
	client, err := l.Etcd.Client()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Put(t.Context(), "/a/b", "c"); err != nil {
		t.Fatal(err)
	}
	if err := l.Etcd.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.Etcd.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := l.Etcd.Dump(t.Context(), "/a/"); err != nil || len(got) != 1 || got["/a/b"] != "c" {
		t.Fatalf("after a kill: %v, %v", got, err)
	}
	if err := l.Etcd.Pause(); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if got, err := l.Etcd.Dump(short, "/a/"); err == nil {
		t.Errorf("a paused server answered %v", got)
	}
	if err := l.Etcd.Resume(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Etcd.Dump(t.Context(), "/a/"); err != nil {
		t.Error(err)
	}
}

func TestCaptureHearsPings(t *testing.T) {
	l := newLab(t, Options{Nodes: 2})
	h1 := root(t, l.Nodes[0])
	c, err := l.Nodes[1].Capture(underlayDev)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Stop()
	p, err := h1.StartPing(l.Nodes[1].Addrs[0])
	if err != nil {
		t.Fatal(err)
	}
	st, err := h1.StartStream(t.Context(), root(t, l.Nodes[1]), l.Nodes[1].Addrs[0])
	if err != nil {
		t.Fatal(err)
	}
	err = Eventually(t.Context(), 5*time.Second, func(context.Context) error {
		if p.Sent() < 100 {
			return errors.New("fewer than 100 sent")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	sent, missing, err := p.Stop(t.Context())
	if err != nil || missing > 0 {
		t.Errorf("sent %d, lost %d, %v", sent, missing, err)
	}
	if turns, err := st.Stop(); err != nil || turns == 0 {
		t.Errorf("stream: %d turns, %v", turns, err)
	}
	icmp := func(f []byte) bool { return EtherType(f) == 0x0800 && f[etherLen+9] == 1 }
	if got := len(c.Frames(icmp)); got < int(sent) {
		t.Errorf("captured %d ICMP frames of %d requests", got, sent)
	}
}

func TestInVXLAN(t *testing.T) {
	inner := append(make([]byte, 12), 0x08, 0x06)
	frame := append(make([]byte, 12), 0x08, 0x00, 0x45)
	frame = append(frame, make([]byte, 19)...)
	frame[etherLen+9] = 17
	frame = append(frame, 0, 0, 0x12, 0xb5, 0, 0, 0, 0) // UDP to 4789
	frame = append(frame, 8, 0, 0, 0, 0, 1, 2, 0)       // VNI 258
	frame = append(frame, inner...)
	got, vni, ok := InVXLAN(frame, 4789)
	if !ok || vni != 258 || EtherType(got) != 0x0806 {
		t.Errorf("got %x, %d, %v", got, vni, ok)
	}
	for cut := range frame {
		if _, _, ok := InVXLAN(frame[:cut], 4789); ok {
			t.Errorf("took a frame cut to %d bytes", cut)
		}
	}
}

func TestNothingIsLeft(t *testing.T) {
	l, err := New(t.Context(), Options{Nodes: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Nodes[0].AddNetns(t.Context(), "web1"); err != nil {
		t.Fatal(err)
	}
	pid := l.Nodes[0].first.PID()
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), l.Dir) {
		t.Errorf("a mount is left:\n%s", mounts)
	}
	for _, path := range []string{l.Dir, filepath.Join("/proc", strconv.Itoa(pid))} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", path, err)
		}
	}
}
