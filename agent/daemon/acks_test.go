package daemon

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/ipam"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
	"github.com/overspan/overspan/store"
)

// TestAcknowledgementsAreFewWhereMembersAreMany: a member of a network of many
// answers for all blocks of a while at once, the last ones too.
func TestAcknowledgementsAreFewWhereMembersAreMany(t *testing.T) {
	const others, claims = 400, 50
	c := newTestCluster(t, 1)
	h1 := c.nodes[0]
	net := h1.create(CreateRequest{Spec: ipam.Spec{Name: "demo", Subnets: []string{"10.7.0.0/16"}}})
	h1.connect(ConnectRequest{Network: "demo", Target: h1.container("web")})
	claim := func(slot overspan.Slot, node overspan.NodeID, ack bool) store.Op {
		r := overspan.Range{First: slot, Size: 1}
		value, err := store.Marshal(overspanv1.BlockRecord(overspan.Block{Range: r, Node: node, Ack: ack}))
		if err != nil {
			t.Fatal(err)
		}
		return store.Put(h1.keys.Block(net.ID, r), value)
	}
	for i := range others {
		n := overspan.Node{
			ID: overspan.NodeID(overspan.NewID()), Name: fmt.Sprintf("n%d", i), MTU: 1500,
			VTEPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 98, byte(i >> 8), byte(i)})},
		}
		value, err := store.Marshal(overspanv1.NodeRecord(n))
		if err != nil {
			t.Fatal(err)
		}
		c.txn(store.Put(h1.keys.Node(n.ID), value), claim(overspan.Slot(1000+i), n.ID, false))
	}
	h1.eventually("all members are seen, and programmed", func() bool {
		seg := h1.Snapshot().Segments.Get(net.ID)
		return len(members(seg)) == others+1 && h1.health.appliedTo(net.ID) >= seg.Revision
	})

	key := h1.keys.Ack(net.ID, h1.Self())
	l, err := c.etcd.List(t.Context(), store.Prefix(key), 0)
	if err != nil {
		t.Fatal(err)
	}
	begin, acks := time.Now(), c.etcd.Watch(t.Context(), store.Prefix(key), l.Revision)
	claimer := h1.Snapshot().Segments.Get(net.ID).Blocks.Get(1000).Node
	var last overspan.Block
	for i := range claims {
		slot := overspan.Slot(2000 + i)
		c.txn(claim(slot, claimer, true))
		h1.eventually("the block is programmed", func() bool {
			last = h1.Snapshot().Segments.Get(net.ID).Blocks.Get(slot)
			return last.Node == claimer && h1.health.appliedTo(net.ID) >= last.ModRevision
		})
	}
	session, err := h1.registrar.session()
	if err != nil {
		t.Fatal(err)
	}
	h1.eventually("all are acknowledged", func() bool {
		acked, err := session.Acks(t.Context(), net.ID)
		return err == nil && acked[h1.Self()] >= last.ModRevision
	})
	took := time.Since(begin)

	end := key + "/end"
	c.txn(store.Put(end, nil))
	writes := 0
	for ended := false; !ended; {
		for _, e := range (<-acks).Events {
			if ended = e.Key == end; !ended {
				writes++
			}
		}
	}
	gap := (others + 1) * time.Second / acksPerSecond
	if most := 2 + int(took/gap); writes > most {
		t.Errorf("%d blocks were acknowledged in %d writes, want at most %d", claims, writes, most)
	}
}
