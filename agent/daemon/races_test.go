package daemon

import (
	"testing"

	"github.com/overspan/overspan/ipam"
	"github.com/overspan/overspan/store"
)

// txn changes etcd behind the agents' backs.
func (c *testCluster) txn(ops ...store.Op) {
	c.t.Helper()
	if _, err := c.etcd.Txn(c.t.Context(), store.Txn{Then: ops}); err != nil {
		c.t.Fatal(err)
	}
}

func TestInteriorOutlivesTheRecordOfItsNetwork(t *testing.T) {
	c := newTestCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	net := h1.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	h1.connect(ConnectRequest{Network: "demo", Target: h1.container("web")})
	h2.connect(ConnectRequest{Network: "demo", Target: h2.container("web")})

	const root = "/overspan/test/v1/"
	c.txn(store.Delete(store.Key(root + "networks/" + string(net.ID))))
	h1.eventually("the record is gone", func() bool { return h1.networkByID(net.ID) == nil })
	l, err := c.etcd.List(t.Context(), store.Prefix(root+"net/"+string(net.ID)+"/blocks/"), 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range l.KVs { // every block asks to be acknowledged again
		c.txn(store.Put(kv.Key, kv.Value))
	}
	h1.eventually("the blocks have been looked at", func() bool { return h1.health.appliedTo(net.ID) > l.Revision })
	h1.eventually("nothing is left to look at", h1.rec.settled)
}
