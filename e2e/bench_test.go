package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/overspan/overspan/e2e/lab"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// times are how long something took, over and over.
type times []time.Duration

func (ts *times) measure(f func() error) error {
	begin := time.Now()
	err := f()
	*ts = append(*ts, time.Since(begin))
	return err
}

// quantile returns the duration that a share of the times does not exceed.
func (ts times) quantile(share float64) time.Duration {
	sorted := slices.Sorted(slices.Values(ts))
	return sorted[int(share*float64(len(sorted)-1))]
}

// report adds the median and the 99th percentile to a benchmark's line.
func (ts times) report(b *testing.B, name string) {
	b.ReportMetric(ts.micros(0.5), name+"-µs")
	b.ReportMetric(ts.micros(0.99), name+"-p99-µs")
}

func (ts times) micros(share float64) float64 {
	return float64(ts.quantile(share)) / float64(time.Microsecond)
}

// against adds the ratios of two that were reported, with a goal for that of
// the medians; "" for none.
func (ts times) against(b *testing.B, name string, floor times, floorName, goal string) {
	b.ReportMetric(ts.micros(0.5)/floor.micros(0.5), name+"-µs:"+floorName+"-µs"+goal)
	b.ReportMetric(ts.micros(0.99)/floor.micros(0.99), name+"-p99-µs:"+floorName+"-p99-µs")
}

// bench is a lab under measurement and a connection to the first node's agent.
type bench struct {
	*lab.Lab
	b        *testing.B
	networks overspanv1.NetworkServiceClient
	made     int // sandboxes, by replace
}

// startBench makes a lab of two nodes.
func startBench(b *testing.B) *bench {
	b.Helper()
	return startBenchOf(b, 2, 2)
}

// startBenchOf makes a lab of which the first so many nodes run agents.
func startBenchOf(b *testing.B, nodes, agents int) *bench {
	b.Helper()
	bin, err := fastBinaries()
	if err != nil {
		b.Fatal(err)
	}
	l, err := lab.New(b.Context(), lab.Options{Nodes: nodes, Bin: bin, Flags: []string{"--log-level", "warn"}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := l.Close(context.Background()); err != nil {
			b.Error(err)
		}
	})
	m := &bench{Lab: l, b: b}
	for _, n := range l.Nodes[:agents] {
		m.must(n.Start(b.Context()))
	}
	conn, err := grpc.NewClient("unix:"+l.Nodes[0].Socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	m.must(err)
	b.Cleanup(func() { conn.Close() })
	m.networks = overspanv1.NewNetworkServiceClient(conn)
	return m
}

func (m *bench) must(err error) {
	m.b.Helper()
	if err != nil {
		m.b.Fatal(err)
	}
}

// create makes a network so large that no address is used twice in a run.
func (m *bench) create(name string) {
	m.b.Helper()
	m.must(m.createSubnet(name, "10.128.0.0/9"))
}

func (m *bench) createSubnet(name, subnet string) error {
	_, err := m.networks.CreateNetwork(m.b.Context(), &overspanv1.CreateNetworkRequest{
		Name: name, Driver: "overlay", Subnets: []string{subnet},
	})
	return err
}

func (m *bench) netns(n *lab.Node, name string) *lab.Sandbox {
	m.b.Helper()
	box, err := n.AddNetns(m.b.Context(), name)
	m.must(err)
	return box
}

func (m *bench) attach(network, target string) error {
	_, err := m.networks.Connect(m.b.Context(), &overspanv1.ConnectRequest{Network: network, Target: target})
	return err
}

func (m *bench) detach(network, target string) error {
	_, err := m.networks.Disconnect(m.b.Context(), &overspanv1.DisconnectRequest{Network: network, Target: target})
	return err
}

// attachBatch is how many sandboxes BenchmarkAttach makes at a time.
const attachBatch = 20

// BenchmarkAttach measures attach and detach by RPC, turn and turn about with
// the least that any attach must do: make a veth pair across two namespaces,
// give its inner end an address and set both up.
func BenchmarkAttach(b *testing.B) {
	m := startBench(b)
	m.create("demo")
	h1 := m.Nodes[0]
	m.netns(m.Nodes[1], "peer")
	m.must(m.attach("demo", m.netns(h1, "first").Name)) // the network's devices stand from here on
	before := m.veths(h1)
	var bare, boxes []*lab.Sandbox
	var floor, attach, detach times
	for i := 0; b.Loop(); i++ {
		if i%attachBatch == 0 {
			m.replace(h1, before, &bare, &boxes)
		}
		plain, box := bare[i%attachBatch], boxes[i%attachBatch]
		addr := &net.IPNet{IP: net.IPv4(192, 0, 2, 1), Mask: net.CIDRMask(24, 32)}
		m.must(floor.measure(func() error { return plain.Plug(fmt.Sprintf("v%d", i), eth0, addr) }))
		m.must(attach.measure(func() error { return m.attach("demo", box.Name) }))
		m.must(detach.measure(func() error { return m.detach("demo", box.Name) }))
	}
	b.ReportMetric(0, "ns/op") // with all that was not measured
	floor.report(b, "floor")
	attach.report(b, "attach")
	detach.report(b, "detach")
	attach.against(b, "attach", floor, "floor", "≤5")
	detach.against(b, "detach", floor, "floor", "")
}

// replace deletes two batches of sandboxes and makes new ones, and waits until
// the kernel has deleted the old ones' interfaces: it does so in the background,
// with the lock held that every attach takes several times, and the floor once.
func (m *bench) replace(n *lab.Node, veths int, batches ...*[]*lab.Sandbox) {
	m.b.Helper()
	for _, batch := range batches {
		for _, box := range *batch {
			m.must(box.DelNetns(m.b.Context()))
		}
	}
	m.must(lab.Eventually(m.b.Context(), settleWithin, func(context.Context) error {
		if left := m.veths(n) - veths; left != 0 {
			return fmt.Errorf("%d veths of deleted sandboxes are left on %s", left, n.Name)
		}
		return nil
	}))
	for i, batch := range batches {
		*batch = nil
		for range attachBatch {
			m.made++
			*batch = append(*batch, m.netns(n, fmt.Sprintf("box%d-%d", i, m.made)))
		}
	}
}

// veths counts the veths on a node.
func (m *bench) veths(n *lab.Node) int {
	m.b.Helper()
	out, err := n.Exec(m.b.Context(), "ip", "-o", "link", "show", "type", "veth")
	m.must(err)
	return strings.Count(out, "\n")
}

// neighbourTableFull returns how often the kernel found no room for the neighbour
// of a packet, and dropped it: the table is one for all namespaces of a machine.
func neighbourTableFull() (full float64, err error) {
	raw, err := os.ReadFile("/proc/thread-self/net/stat/arp_cache")
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil // the kernel shows it in its first namespace alone
	}
	for line := range strings.Lines(string(raw)) {
		words := strings.Fields(line)
		if n, err := strconv.ParseUint(words[len(words)-1], 16, 64); err == nil { // else a heading
			full += float64(n)
		}
	}
	return full, err
}

// BenchmarkFirstPacket attaches sandboxes one after the other and sends a
// single packet from another node to each the moment its attach returns. Other
// labs on the machine can fill its neighbour table; that is told beside.
func BenchmarkFirstPacket(b *testing.B) {
	attaches := 1000
	if testing.Short() {
		attaches = 20
	}
	b.Run(fmt.Sprintf("attaches=%d", attaches), func(b *testing.B) {
		m := startBench(b)
		m.create("demo")
		peer := m.netns(m.Nodes[1], "peer")
		_, err := m.Nodes[1].MustCtl(b.Context(), "network", "connect", "demo", "peer")
		m.must(err)
		before, err := neighbourTableFull()
		m.must(err)
		lost := 0
		for round := 0; b.Loop(); round++ {
			for i := range attaches {
				box := m.netns(m.Nodes[0], fmt.Sprintf("box%d-%d", round, i))
				m.must(m.attach("demo", box.Name))
				addrs, err := box.Addrs(eth0)
				m.must(err)
				silent, err := peer.PingOnce(addrs...)
				m.must(err)
				lost += len(silent)
				m.must(m.detach("demo", box.Name))
				m.must(box.DelNetns(b.Context()))
			}
		}
		after, err := neighbourTableFull()
		m.must(err)
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(float64(lost)/float64(b.N), "lost≤0")
		b.ReportMetric(after-before, "neighbour-table-full")
	})
}

// BenchmarkCreateNetwork measures the making of a network by RPC, turn and turn
// about with a single write to the same etcd.
func BenchmarkCreateNetwork(b *testing.B) {
	m := startBench(b)
	client, err := m.Etcd.Client()
	m.must(err)
	var write, create times
	for i := 0; b.Loop(); i++ {
		name := fmt.Sprintf("net%d", i)
		m.must(write.measure(func() error {
			_, err := client.Put(b.Context(), "/bench", name)
			return err
		}))
		m.must(create.measure(func() error {
			_, err := m.networks.CreateNetwork(b.Context(), &overspanv1.CreateNetworkRequest{Name: name, Driver: "overlay"})
			return err
		}))
		_, err := m.networks.RemoveNetwork(b.Context(), &overspanv1.RemoveNetworkRequest{Network: name})
		m.must(err)
	}
	b.ReportMetric(0, "ns/op")
	write.report(b, "write")
	create.report(b, "create")
	create.against(b, "create", write, "write", "≤3")
}
