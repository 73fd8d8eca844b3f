package store

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/overspan/overspan"
)

// forEachKV runs a test against the store in memory and against etcd. open
// returns a connection of its own for each node.
func forEachKV(t *testing.T, test func(t *testing.T, open func(t *testing.T) KV)) {
	t.Helper()
	t.Run("memory", func(t *testing.T) {
		memory := NewMemory(1)
		test(t, func(*testing.T) KV { return memory })
	})
	t.Run("etcd", func(t *testing.T) {
		server := newServer(t)
		test(t, func(t *testing.T) KV {
			t.Helper()
			return dialServer(t, server)
		})
	})
}

// A row is one case of a table whose cases want an empty cluster each.
type row struct {
	name string
	test func(t *testing.T, open func(*testing.T) KV)
}

func forEachKVAndRow(t *testing.T, rows []row) {
	t.Helper()
	forEachKV(t, func(t *testing.T, open func(*testing.T) KV) {
		for _, r := range rows {
			t.Run(r.name, func(t *testing.T) {
				mustTxn(t, open(t), Txn{Then: []Op{Delete(testKeys(t, "test").All())}})
				r.test(t, open)
			})
		}
	})
}

// testNode returns node n of a test: h1 with the VTEP 192.0.2.1.
func testNode(n int) overspan.Node {
	return overspan.Node{
		ID:    nodeID(n),
		Name:  fmt.Sprintf("h%d", n),
		VTEPs: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(n)})},
		MTU:   1500,
	}
}

func testConfig(n int) Config {
	return Config{
		Cluster: "test",
		Node:    testNode(n),
		Presence: overspan.Presence{
			MachineID: fmt.Sprintf("machine-%d", n), BootID: fmt.Sprintf("boot-%d", n), PIDSpace: "1",
			PID: 100 + n, StartTime: 1, Instance: overspan.NewID(),
		},
		TTL:   2 * time.Second,
		Alive: func(overspan.Presence) bool { return false },
	}
}

// A run is a session that runs.
type run struct {
	*Session
	stop func() error // ends Run and returns what it returned
}

// open opens a session and runs it until the test ends or stop is called.
func open(t *testing.T, kv KV, cfg Config) run {
	t.Helper()
	s, err := Open(testContext(t), kv, cfg)
	if err != nil {
		t.Fatalf("open session of %s: %v", cfg.Node.Name, err)
	}
	// A flight whose outcome is lost is settled soon.
	s.flights.timeout = 500 * time.Millisecond
	return start(t, s)
}

func start(t *testing.T, s *Session) run {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		err = s.Run(ctx)
	}()
	stop := sync.OnceValue(func() error {
		cancel()
		<-done
		return err
	})
	t.Cleanup(func() { _ = stop() })
	return run{Session: s, stop: stop}
}

// wait returns what Run returns when it ends by itself.
func (r run) wait(t *testing.T) error {
	t.Helper()
	select {
	case <-r.flights.ended:
	case <-testContext(t).Done():
		t.Fatal("session is still running")
	}
	return r.stop()
}

// testNetwork returns overlay network n: 10.0.n.0/24 with its gateway at .1.
func testNetwork(n int) overspan.Network {
	base := [4]byte{10, 0, byte(n), 0}
	gateway := base
	gateway[3] = 1
	return overspan.Network{
		ID:       netID(n),
		Name:     fmt.Sprintf("net%d", n),
		Driver:   overspan.DriverOverlay,
		IPv4:     overspan.Subnet{Prefix: netip.PrefixFrom(netip.AddrFrom4(base), 24), Gateway: netip.AddrFrom4(gateway)},
		VNI:      uint32(70000 + n),
		Underlay: overspan.IPv4,
		MTU:      1450,
		Created:  time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
}

// create creates a network as it is given.
func (r run) create(t *testing.T, n overspan.Network) *overspan.Network {
	t.Helper()
	got, err := r.CreateNetwork(testContext(t), fixed(n))
	if err != nil {
		t.Fatalf("create network %s: %v", n.Name, err)
	}
	return &got
}

func fixed(n overspan.Network) func(Taken) (overspan.Network, error) {
	return func(Taken) (overspan.Network, error) { return n, nil }
}

func (r run) claim(t *testing.T, n *overspan.Network, first overspan.Slot, size uint64) overspan.Block {
	t.Helper()
	b, err := r.Claim(testContext(t), n, overspan.Range{First: first, Size: size}, false)
	if err != nil {
		t.Fatalf("claim %d+%d: %v", first, size, err)
	}
	return b
}

// endpoint returns an endpoint of the session's node at one slot.
func (r run) endpoint(n *overspan.Network, name string, slot overspan.Slot) overspan.Endpoint {
	return overspan.Endpoint{
		ID: overspan.EndpointID(overspan.NewID()), Network: n.ID, Node: r.cfg.Node.ID, Name: name,
		Slot: slot, Slots: []overspan.Slot{slot}, IPv4: n.IPv4.Addr(slot), MAC: n.MAC(slot),
		Sandbox: name, Interface: "eth0",
	}
}

func (r run) attach(t *testing.T, n *overspan.Network, b overspan.Block, name string, slot overspan.Slot) overspan.Endpoint {
	t.Helper()
	e, err := r.Attach(testContext(t), AttachRequest{Endpoint: r.endpoint(n, name, slot), Network: n, Blocks: []overspan.Block{b}})
	if err != nil {
		t.Fatalf("attach %s: %v", name, err)
	}
	return e
}

func wantClass(t *testing.T, err, class error, texts ...string) {
	t.Helper()
	if !errors.Is(err, class) {
		t.Fatalf("error is %v, want class %v", err, class)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error is %q, want it to say %q", err, text)
		}
	}
}

// dump returns every key of a cluster with its value.
func dump(t *testing.T, kv KV) map[string]string {
	t.Helper()
	out := make(map[string]string)
	for _, e := range mustList(t, kv, testKeys(t, "test").All(), 0).KVs {
		out[e.Key] = string(e.Value)
	}
	delete(out, testKeys(t, "test").Claimed()) // of the past: it stays
	return out
}
