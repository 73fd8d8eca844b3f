package e2e

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/ipam"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
	"github.com/overspan/overspan/store"
)

const (
	allocNodes   = 64
	allocPerNode = 64 // attaches of each node in a round
	allocAtOnce  = 16 // of them at the same time
)

// An allocNode is as much of an agent as takes part in an allocation.
type allocNode struct {
	id      overspan.NodeID
	kv      *store.Etcd
	session *store.Session
	mirror  *store.Mirror
	alloc   *ipam.Allocator
}

// View is the node's view of the network: it is ipam.Claims.
func (n *allocNode) View(_ context.Context, id overspan.NetworkID) (ipam.View, error) {
	s := n.mirror.Snapshot()
	return ipam.View{
		Network: s.Networks[id], Segment: s.Segments.Get(id), Self: n.id,
		Up:   func(overspan.NodeID) bool { return true },
		Name: func(id overspan.NodeID) string { return string(id) },
	}, nil
}

func (n *allocNode) Refresh(ctx context.Context, _ overspan.NetworkID) error {
	return n.mirror.Sync(ctx)
}

func (n *allocNode) Claim(ctx context.Context, network *overspan.Network, r overspan.Range) error {
	b, err := n.session.Claim(ctx, network, r, false)
	if err != nil {
		return err
	}
	return n.mirror.WaitSegment(ctx, network.ID, b.ModRevision)
}

func (n *allocNode) Ask(context.Context, *overspan.Network, overspan.NodeID, *overspan.Slot) error {
	return fmt.Errorf("%s: the network is large enough for all", n.id)
}

// attach is what an agent does of an attach but for the kernel and the journal.
func (n *allocNode) attach(ctx context.Context, network *overspan.Network, name string) error {
	lease, err := n.alloc.Acquire(ctx, network.ID, ipam.Addrs{})
	if err != nil {
		return err
	}
	_, err = n.session.Attach(ctx, store.AttachRequest{Endpoint: n.endpoint(network, name, lease.Slots[0]), Network: network, Blocks: lease.Blocks})
	return err
}

func (n *allocNode) endpoint(network *overspan.Network, name string, slot overspan.Slot) overspan.Endpoint {
	return overspan.Endpoint{
		ID: overspan.EndpointID(overspan.NewID()), Network: network.ID, Node: n.id, Name: name,
		Slots: []overspan.Slot{slot}, Slot: slot, IPv4: network.IPv4.Addr(slot), MAC: network.MAC(slot),
		Sandbox: name, Interface: eth0, Created: time.Now().UTC(),
	}
}

// A crowd is many nodes on one etcd.
type crowd struct {
	b     *testing.B
	keys  store.Keys
	nodes []*allocNode
	vnis  overspan.VNIRange

	mirror *store.Mirror // of all nodes
}

// startCrowd starts etcd and the nodes.
func startCrowd(b *testing.B) *crowd {
	b.Helper()
	c := &crowd{b: b}
	var err error
	c.keys, err = store.NewKeys("bench")
	c.must(err)
	url := freeURL(b)
	server, err := store.StartEmbedded(b.Context(), store.EmbeddedConfig{Dir: b.TempDir(), Name: "bench", ClientURLs: []string{url}})
	c.must(err)
	b.Cleanup(server.Close)
	ctx, cancel := context.WithCancel(context.Background())
	var running errgroup.Group
	b.Cleanup(func() {
		cancel()
		if err := running.Wait(); err != nil {
			b.Error(err)
		}
		for _, n := range c.nodes {
			n.kv.Close()
		}
	})
	for i := range allocNodes {
		n := &allocNode{id: overspan.NodeID(overspan.NewID())}
		n.kv, err = store.Dial(store.DialConfig{Endpoints: server.Endpoints()})
		c.must(err)
		c.nodes = append(c.nodes, n)
		if i == 0 {
			c.mirror = store.NewMirror(n.kv, c.keys, store.MirrorConfig{})
			running.Go(func() error { return c.mirror.Run(ctx) })
		}
		n.mirror = c.mirror
		n.session, err = store.Open(ctx, n.kv, store.Config{
			Cluster:  "bench",
			Node:     overspan.Node{ID: n.id, Name: fmt.Sprintf("h%d", i), VTEPs: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)})}, MTU: 1500},
			Presence: overspan.Presence{MachineID: string(n.id), BootID: "boot", PIDSpace: "1", PID: i + 2, StartTime: 1, Instance: overspan.NewID()},
		})
		c.must(err)
		c.vnis = n.session.Meta().VNIs
		running.Go(func() error { return n.session.Run(ctx) })
		n.alloc = ipam.New(n, ipam.Config{})
	}
	return c
}

func (c *crowd) must(err error) {
	c.b.Helper()
	if err != nil {
		c.b.Fatal(err)
	}
}

// network makes a /16 that no node has a block in yet.
func (c *crowd) network(round int) *overspan.Network {
	c.b.Helper()
	subnet := netip.AddrFrom4([4]byte{10, byte(round), 0, 0})
	n, err := c.nodes[0].session.CreateNetwork(c.b.Context(), func(store.Taken) (overspan.Network, error) {
		return overspan.Network{
			ID: overspan.NetworkID(overspan.NewID()), Name: fmt.Sprintf("round%d", round), Driver: overspan.DriverOverlay,
			IPv4: overspan.Subnet{Prefix: netip.PrefixFrom(subnet, 16), Gateway: subnet.Next()},
			VNI:  c.vnis.First + uint32(round), Underlay: overspan.IPv4, MTU: 1450, Created: time.Now().UTC(),
		}, nil
	})
	c.must(err)
	return &n
}

func freeURL(b *testing.B) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

// everyNode runs f for each node at once and returns how many attaches a second
// that makes.
func (c *crowd) everyNode(f func(n *allocNode) error) float64 {
	c.b.Helper()
	begin := time.Now()
	var g errgroup.Group
	for _, n := range c.nodes {
		g.Go(func() error { return f(n) })
	}
	c.must(g.Wait())
	return allocNodes * allocPerNode / time.Since(begin).Seconds()
}

// allocate lets every node attach as agents do.
func (c *crowd) allocate(network *overspan.Network) float64 {
	c.b.Helper()
	c.mirror.Follow(network.ID)
	defer c.mirror.Unfollow(network.ID)
	c.must(c.mirror.Sync(c.b.Context()))
	return c.everyNode(func(n *allocNode) error {
		var g errgroup.Group
		g.SetLimit(allocAtOnce)
		for i := range allocPerNode {
			g.Go(func() error { return n.attach(c.b.Context(), network, fmt.Sprintf("%.8s-%d", n.id, i)) })
		}
		return g.Wait()
	})
}

// limit lets every node write the same records under the same guards, each in a
// transaction of its own and one after the other, where nobody contends and
// nobody watches: as fast as etcd takes it.
func (c *crowd) limit(network *overspan.Network) float64 {
	c.b.Helper()
	blocks := map[overspan.NodeID]overspan.Block{}
	for i, n := range c.nodes {
		at := overspan.Range{First: overspan.Slot(i) * allocPerNode, Size: allocPerNode}
		b, err := n.session.Claim(c.b.Context(), network, at, false)
		c.must(err)
		blocks[n.id] = b
	}
	return c.everyNode(func(n *allocNode) error {
		var flight int64
		for i := range allocPerNode {
			t, err := c.attachAlone(n, network, blocks[n.id], overspan.Slot(i), flight)
			if err != nil {
				return err
			}
			res, err := n.kv.Txn(c.b.Context(), t)
			if err != nil {
				return err
			}
			if !res.OK {
				return fmt.Errorf("transaction %d of %s was refused", i, n.id)
			}
			flight = res.Revision
		}
		return nil
	})
}

// attachAlone is the transaction of an attach that shares its flight with none.
func (c *crowd) attachAlone(n *allocNode, network *overspan.Network, block overspan.Block, i overspan.Slot, flight int64) (store.Txn, error) {
	e := n.endpoint(network, fmt.Sprintf("%.8s-%d", n.id, i), block.First+i)
	value, err := store.Marshal(overspanv1.EndpointRecord(e))
	if err != nil {
		return store.Txn{}, err
	}
	ref, err := store.Marshal(&overspanv1.Reference{Network: string(e.Network), Slot: uint64(e.Slot), Endpoint: string(e.ID)})
	if err != nil {
		return store.Txn{}, err
	}
	record, name := c.keys.Endpoint(network.ID, e.Slot), c.keys.EndpointName(network.ID, e.Name)
	// The node's own flight key is the session's.
	flightKey := c.keys.Flight(overspan.NodeID("alone-"+network.Name+"-") + n.id)
	return store.Txn{
		If: []store.Cmp{
			store.Created(c.keys.Node(n.id), n.session.Registration()),
			store.Unchanged(flightKey, flight),
			store.Unchanged(c.keys.Network(network.ID), network.ModRevision),
			store.Created(c.keys.Block(network.ID, block.Range), block.CreateRevision),
			store.Absent(store.Key(record)),
			store.Absent(store.Key(name)),
		},
		Then: []store.Op{store.Put(flightKey, nil), store.Put(record, value), store.Put(name, ref)},
	}, nil
}

// BenchmarkAllocate measures how many endpoints a second 64 nodes attach to one
// /16 in etcd, claims included, beside as many clients that write the same
// records one by one. The nodes share one view of the network: 64 of them on
// one machine would be measured, not etcd.
func BenchmarkAllocate(b *testing.B) {
	b.Run(fmt.Sprintf("nodes=%d", allocNodes), func(b *testing.B) {
		c := startCrowd(b)
		var ours, limit, ratios []float64
		for round := 0; b.Loop(); round++ {
			ours = append(ours, c.allocate(c.network(2*round)))
			limit = append(limit, c.limit(c.network(2*round+1)))
			ratios = append(ratios, ours[round]/limit[round])
		}
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(median(ours), "attaches/s")
		b.ReportMetric(median(limit), "transactions/s")
		b.ReportMetric(median(ratios), "attaches/s:transactions/s≥1")
	})
}
