package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/reconcile"
	"github.com/overspan/overspan/ipam"
	"github.com/overspan/overspan/kernel"
	"github.com/overspan/overspan/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A testCluster is nodes whose kernels and whose etcd are in memory: the same
// daemon, reconciler, planners and store as anywhere.
type testCluster struct {
	t     *testing.T
	etcd  *store.Memory
	nodes []*testNode
}

// A testNode is one agent; its kernel, journal and line to etcd outlive it.
type testNode struct {
	*Daemon
	t      *testing.T
	cfg    Config
	kernel *kernel.Fake
	ops    opLog
	line   *store.Faulty
	kv     store.KV // what the agent is given: line, unless a test stands between
	stop   func()
}

// An opLog is the line between an agent and its kernel.
type opLog struct {
	reconcile.Kernel
	mu      sync.Mutex // guards applied
	applied []string
}

func (l *opLog) Apply(ctx context.Context, ops []kernel.Op) error {
	l.mu.Lock()
	for _, op := range ops {
		l.applied = append(l.applied, op.String())
	}
	l.mu.Unlock()
	return l.Kernel.Apply(ctx, ops)
}

// since returns what was tried of the kernel after the first n ops.
func (l *opLog) since(n int) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.applied[n:])
}

func newTestCluster(t *testing.T, nodes int) *testCluster {
	c := &testCluster{t: t, etcd: store.NewMemory(1)}
	for range nodes {
		c.add()
	}
	for _, n := range c.nodes {
		n.eventually("every node is seen", func() bool { return len(n.Snapshot().Nodes) == nodes })
	}
	return c
}

// add starts one more node.
func (c *testCluster) add() *testNode { return c.addWith(func(*Config) {}) }

// addWith starts one more node, which is told what tell says.
func (c *testCluster) addWith(tell func(*Config)) *testNode {
	i := len(c.nodes) + 1
	addr := netip.AddrFrom4([4]byte{10, 99, 0, byte(i)})
	n := &testNode{
		t: c.t,
		cfg: Config{
			NodeName: fmt.Sprintf("h%d", i), Underlay: []string{addr.String()}, Cluster: "test",
			StateDir: c.t.TempDir(), RunDir: c.t.TempDir(), VXLANPort: 4789,
			TTL: time.Minute, Resync: time.Hour, BlockIdle: time.Hour,
		},
		kernel: kernel.NewFake(kernel.Underlay{Device: "eth0", MTU: 1500, Addrs: []netip.Addr{addr}}, netip.MustParsePrefix("10.99.0.0/24")),
		line:   store.NewFaulty(c.etcd),
	}
	tell(&n.cfg)
	n.ops.Kernel, n.kv = n.kernel, n.line
	n.kernel.MakeNetns(kernel.OwnNetns, "eth0")
	n.start()
	c.t.Cleanup(func() { n.stop() })
	c.nodes = append(c.nodes, n)
	return n
}

// start runs an agent on the node until stop.
func (n *testNode) start() {
	n.t.Helper()
	n.launch()
	ctx, cancel := context.WithTimeout(n.t.Context(), 20*time.Second)
	defer cancel()
	if !n.Ready(ctx) {
		n.t.Fatalf("%s is not ready", n.cfg.NodeName)
	}
}

func (n *testNode) launch() {
	n.t.Helper()
	journal, err := store.OpenJournal(filepath.Join(n.cfg.StateDir, "journal.db"))
	if err != nil {
		n.t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(testWriter{n.t}, &slog.HandlerOptions{Level: slog.LevelInfo})).With("on", n.cfg.NodeName)
	d, err := New(n.cfg, Parts{KV: n.kv, Journal: journal, Kernel: &n.ops, Host: n.kernel, Log: log})
	if err != nil {
		n.t.Fatal(err)
	}
	n.Daemon = d
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			n.t.Errorf("%s ends: %v", n.cfg.NodeName, err)
		}
		if err := journal.Close(); err != nil {
			n.t.Error(err)
		}
	})
}

// testWriter sends logs to the test.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// eventually waits until a condition holds, looking again at each new snapshot
// and now and then.
func (n *testNode) eventually(what string, cond func() bool) {
	n.t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline.C:
			n.t.Fatalf("%s: not in time: %s", n.cfg.NodeName, what)
		}
	}
}

func (n *testNode) create(req CreateRequest) *overspan.Network {
	n.t.Helper()
	req.Driver = "overlay"
	net, err := n.CreateNetwork(n.t.Context(), req)
	if err != nil {
		n.t.Fatalf("create network on %s: %v", n.cfg.NodeName, err)
	}
	return net
}

// container makes a namespace that is not ours and returns its target.
func (n *testNode) container(name string) string {
	path := "/run/netns/" + n.cfg.NodeName + "-" + name
	n.kernel.MakeNetns(path)
	return "netns:" + path
}

func (n *testNode) connect(req ConnectRequest) overspan.Endpoint {
	n.t.Helper()
	res, err := n.Connect(n.t.Context(), req)
	if err != nil {
		n.t.Fatalf("connect on %s: %v", n.cfg.NodeName, err)
	}
	if len(res.Unconfirmed) > 0 {
		n.t.Errorf("connect on %s: not confirmed by %v", n.cfg.NodeName, res.Unconfirmed)
	}
	return res.Endpoint
}

// clean checks that a node's kernel is what its plan says.
func (n *testNode) clean() {
	n.t.Helper()
	n.eventually("nothing is left to look at", n.rec.Settled)
	if _, drift, err := n.Verify(n.t.Context()); err != nil || len(drift) > 0 {
		n.t.Errorf("%s: verify: %v, %d ops:\n%s", n.cfg.NodeName, err, len(drift), strings.Join(drift, "\n"))
	}
}

// sendsTo reports whether a node's kernel sends frames for an endpoint to another.
func (n *testNode) sendsTo(e overspan.Endpoint, to *testNode) bool {
	dev := overspan.VXLANName(e.Network)
	state := n.kernel.State()
	return state.FDB[kernel.FDBKey{Dev: dev, MAC: e.MAC}].String() == to.cfg.Underlay[0] &&
		state.Neighs[kernel.NeighKey{Dev: dev, IP: e.Addrs()[0]}].MAC == e.MAC
}

func TestConnectReturnsOnceEveryPeerCanReach(t *testing.T) {
	c := newTestCluster(t, 3)
	net := c.nodes[0].create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	var ends []overspan.Endpoint
	for i, n := range c.nodes {
		e := n.connect(ConnectRequest{Network: "demo", Target: n.container("web")})
		for j, peer := range c.nodes[:i] {
			if !peer.sendsTo(e, n) || !n.sendsTo(ends[j], peer) {
				t.Errorf("connect returned, but h%d and h%d do not reach each other", j+1, i+1)
			}
		}
		ends = append(ends, e)
	}
	for _, n := range c.nodes {
		n.clean()
		if got := n.kernel.State().Links[overspan.VXLANName(net.ID)].VXLAN.VNI; got != net.VNI {
			t.Errorf("%s has VNI %d, want %d", n.cfg.NodeName, got, net.VNI)
		}
	}
	for i, n := range c.nodes {
		if _, _, err := n.Disconnect(t.Context(), "demo", ends[i].Name); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.nodes[2].RemoveNetwork(t.Context(), "demo"); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.nodes {
		n.eventually("the network is off the kernel", func() bool { return len(n.kernel.State().Links) == 0 })
		n.clean()
	}
	if left := c.keys("net/", "names/", "vnis/", "networks/", "acks/"); len(left) > 0 {
		t.Errorf("left in etcd: %v", left)
	}
}

// A holder that gave a slot of its block away has other blocks than before; its
// peers must confirm these too, else every attach into them waits in vain.
func TestConnectAfterYieldIsConfirmed(t *testing.T) {
	c := newTestCluster(t, 2)
	holder, asker := c.nodes[0], c.nodes[1]
	holder.create(CreateRequest{Spec: ipam.Spec{Name: "demo", Subnets: []string{"10.20.0.0/24"}}})
	holder.connect(ConnectRequest{Network: "demo", Target: holder.container("a")})
	asker.connect(ConnectRequest{Network: "demo", Target: asker.container("b")})
	asker.connect(ConnectRequest{Network: "demo", Target: asker.container("c"), IP: "10.20.0.3"})
	e := holder.connect(ConnectRequest{Network: "demo", Target: holder.container("d")})
	if want := netip.MustParseAddr("10.20.0.4"); e.IPv4 != want {
		t.Errorf("the holder chose %s, want %s, of a block that it kept", e.IPv4, want)
	}
	if !asker.sendsTo(e, holder) {
		t.Error("connect returned, but the asker does not reach the endpoint")
	}
}

// keys lists the cluster's keys below some prefixes.
func (c *testCluster) keys(below ...string) []string {
	c.t.Helper()
	const root = "/overspan/test/v1/"
	l, err := c.etcd.List(c.t.Context(), store.Prefix(root), 0)
	if err != nil {
		c.t.Fatal(err)
	}
	var out []string
	for _, kv := range l.KVs {
		key := strings.TrimPrefix(kv.Key, root)
		if slices.ContainsFunc(below, func(p string) bool { return strings.HasPrefix(key, p) }) {
			out = append(out, key)
		}
	}
	return out
}

// expire ends a node's presence, as time does in etcd.
func (c *testCluster) expire(n *testNode) {
	c.t.Helper()
	l, err := c.etcd.List(c.t.Context(), store.Key("/overspan/test/v1/live/"+string(n.Self())), 0)
	if err != nil || len(l.KVs) != 1 || !c.etcd.Expire(l.KVs[0].Lease) {
		c.t.Fatalf("the presence of %s cannot be ended: %v, %v", n.cfg.NodeName, l.KVs, err)
	}
}

func TestAttachThatFailsInTheKernelLeavesNothing(t *testing.T) {
	c := newTestCluster(t, 1)
	n := c.nodes[0]
	n.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	n.connect(ConnectRequest{Network: "demo", Target: n.container("first")})
	before, endpoints := n.kernel.State(), c.keys("net/")
	target := n.container("web")
	for _, step := range []string{"add link osv-", "set link osv-", "master static"} {
		n.kernel.FailNext(step, overspan.Errorf(overspan.ErrUnsupported, "not today"))
		if _, err := n.Connect(t.Context(), ConnectRequest{Network: "demo", Target: target}); err == nil || !strings.Contains(err.Error(), "not today") {
			t.Errorf("%s fails, but connect says %v", step, err)
		}
		n.eventually("the veth is gone", func() bool { return n.kernel.State().Equal(before) })
		if got := c.keys("net/"); !slices.Equal(got, endpoints) {
			t.Errorf("%s fails: in etcd are %v, want %v", step, got, endpoints)
		}
		if got := n.Sandboxes(); len(got) != 1 {
			t.Errorf("%s fails: %d sandboxes are known, want 1", step, len(got))
		}
		n.clean()
	}
	n.connect(ConnectRequest{Network: "demo", Target: target})
}

func TestRestartChangesNothingInTheKernel(t *testing.T) {
	c := newTestCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	h1.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	kept := h1.connect(ConnectRequest{Network: "demo", Target: h1.container("web1")})
	h2.connect(ConnectRequest{Network: "demo", Target: h2.container("web2")})
	before := h1.atRest()
	h1.stop()
	if !h1.kernel.State().Equal(before) {
		t.Error("stopping the agent changed the kernel")
	}
	late := h2.connect(ConnectRequest{Network: "demo", Target: h2.container("web3")})
	h1.start()
	if !h1.kernel.State().Equal(before) {
		t.Error("starting the agent changed the kernel")
	}
	if !h1.sendsTo(late, h2) || !h2.sendsTo(kept, h1) {
		t.Error("after the restart h1 and h2 do not reach each other")
	}
	next := h1.connect(ConnectRequest{Network: "demo", Target: h1.container("web4")})
	if next.Slot == kept.Slot {
		t.Errorf("slot %d was lent twice", next.Slot)
	}
	h1.clean()
}

func TestEtcdAway(t *testing.T) {
	c := newTestCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	h1.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	web := h1.connect(ConnectRequest{Network: "demo", Target: h1.container("web")})
	other := h1.connect(ConnectRequest{Network: "demo", Target: h1.container("other")})
	far := h2.connect(ConnectRequest{Network: "demo", Target: h2.container("far")})
	knows := func(s *overspan.Snapshot) bool {
		return s != nil && s.Segments.Get(far.Network) != nil && s.Segments.Get(far.Network).Endpoints.Get(far.Slot) != nil
	}
	h1.eventually("the other node's endpoint is known", func() bool { return knows(h1.Snapshot()) })
	h1.eventually("nothing is left to look at", h1.rec.Settled)
	h1.line.SetDown(true)
	before := h1.kernel.State()

	begin := time.Now()
	_, err := h1.Connect(t.Context(), ConnectRequest{Network: "demo", Target: h1.container("new")})
	if err == nil || time.Since(begin) > 8*time.Second {
		t.Errorf("connect without etcd: %v after %s", err, time.Since(begin))
	}
	if _, err := h1.CreateNetwork(t.Context(), CreateRequest{Spec: ipam.Spec{Name: "two", Driver: "overlay"}}); err == nil {
		t.Error("a network was created without etcd")
	}
	h1.eventually("what was tried is taken back", func() bool { return h1.kernel.State().Equal(before) })
	_, pending, err := h1.Disconnect(t.Context(), "demo", web.Name)
	if err != nil || !pending {
		t.Fatalf("disconnect without etcd: pending %t, %v", pending, err)
	}
	h1.stop()
	c.expire(h1)
	h1.launch()
	changed := h1.Changed()
	h1.eventually("names are answered from the journal", func() bool { return knows(h1.Called()) })
	<-changed
	h1.eventually("the journal's snapshot stands in", func() bool { return knows(h1.Snapshot()) })
	if _, reason := h1.Stale(); reason == "" {
		t.Error("nothing says that the snapshot is stale")
	}
	h1.eventually("a full pass", h1.health.looked)
	if _, there := h1.kernel.State().Links[overspan.VethName(other.ID)]; !there {
		t.Error("the restart took an endpoint off the kernel")
	}

	h1.line.SetDown(false)
	h2.eventually("the release is carried out", func() bool {
		seg := h2.mirrorSegment(web.Network)
		return seg != nil && seg.Endpoints.Get(web.Slot) == nil && seg.Endpoints.Get(other.Slot) != nil
	})
	h1.eventually("the node is registered again", func() bool { _, err := h1.registrar.session(); return err == nil })
	h1.connect(ConnectRequest{Network: "demo", Target: h1.container("web")})
	h1.clean()
}

func TestDriftIsRepairedAndTold(t *testing.T) {
	c := newTestCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	net := h1.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	h1.connect(ConnectRequest{Network: "demo", Target: h1.container("web1")})
	events := h1.Subscribe(t.Context(), Span{})
	far := h2.connect(ConnectRequest{Network: "demo", Target: h2.container("web2")})
	h1.awaits(events, "endpoint", "connect", far.Name) // no other comes after it
	before := h1.atRest()
	for name, spoil := range map[string]func(*kernel.State){
		"neighbour deleted": func(s *kernel.State) {
			delete(s.Neighs, kernel.NeighKey{Dev: overspan.VXLANName(net.ID), IP: far.IPv4})
		},
		"forwarding entry moved": func(s *kernel.State) {
			s.FDB[kernel.FDBKey{Dev: overspan.VXLANName(net.ID), MAC: far.MAC}] = kernel.Dest{VTEP: netip.MustParseAddr("10.99.0.9")}
		},
		"device down": func(s *kernel.State) {
			l := s.Links[overspan.VXLANName(net.ID)]
			l.Up = false
			s.Links[overspan.VXLANName(net.ID)] = l
		},
	} {
		h1.kernel.Mutate(spoil)
		h1.eventually(name+": repaired", func() bool { return h1.kernel.State().Equal(before) })
		if e := <-events; e.Type != "kernel" || e.Action != "repair" {
			t.Errorf("%s: told as %+v", name, e)
		}
	}
}

// What took packets at the underlay's device goes with the device: who makes that
// anew is heard.
func TestUnderlayDeviceMadeAnewGetsItsProgram(t *testing.T) {
	c := newTestCluster(t, 1)
	n := c.nodes[0]
	n.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	n.connect(ConnectRequest{Network: "demo", Target: n.container("web")})
	n.eventually("nothing is left to look at", n.rec.Settled)
	has := func() bool { return n.kernel.State().Programs["eth0"].Attached }
	n.eventually("the underlay's device has its program", has)
	n.kernel.RemakeUnderlay()
	n.eventually("the new one has it", has) // the resync is an hour away
}

func TestEndOfANamespaceEndsItsEndpoint(t *testing.T) {
	c := newTestCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	h1.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	target := h1.container("web")
	web := h1.connect(ConnectRequest{Network: "demo", Target: target})
	h2.connect(ConnectRequest{Network: "demo", Target: h2.container("peer")})
	h1.kernel.LoseNetns(strings.TrimPrefix(target, "netns:"))
	h2.eventually("the endpoint is gone everywhere", func() bool {
		return h2.Snapshot().Segments.Get(web.Network).Endpoints.Get(web.Slot) == nil
	})
	h1.eventually("its sandbox is forgotten", func() bool { return len(h1.Sandboxes()) == 0 })
	h1.clean()
}

func TestASmallNetworkLendsAllItHas(t *testing.T) {
	c := newTestCluster(t, 3)
	c.nodes[0].create(CreateRequest{Spec: ipam.Spec{Name: "tiny", Subnets: []string{"10.7.0.0/28"}}})
	// The first takes blocks of the size that suits an empty network; the
	// others get theirs by splitting them.
	var last overspan.Endpoint
	slots := map[overspan.Slot]bool{}
	for i := range 13 {
		n := c.nodes[min(i/5, 2)]
		last = n.connect(ConnectRequest{Network: "tiny", Target: n.container(fmt.Sprint(i))})
		slots[last.Slot] = true
	}
	if len(slots) != 13 {
		t.Errorf("13 endpoints have %d slots", len(slots))
	}
	one := c.nodes[0].container("more")
	_, err := c.nodes[0].Connect(t.Context(), ConnectRequest{Network: "tiny", Target: one})
	if err == nil || !strings.Contains(err.Error(), "h2 holds") {
		t.Errorf("the fourteenth is told %v, want who holds what", err)
	}
	if _, _, err := c.nodes[2].Disconnect(t.Context(), "tiny", last.Name); err != nil {
		t.Fatal(err)
	}
	if moved := c.nodes[0].connect(ConnectRequest{Network: "tiny", Target: one}); moved.Slot != last.Slot {
		t.Errorf("slot %d was freed, but %d lent", last.Slot, moved.Slot)
	} else {
		for _, peer := range c.nodes[1:] {
			if !peer.sendsTo(moved, c.nodes[0]) {
				t.Errorf("%s does not send to the address's new home", peer.cfg.NodeName)
			}
		}
	}
	for _, n := range c.nodes {
		n.clean()
	}
}
