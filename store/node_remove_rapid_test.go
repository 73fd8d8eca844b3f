package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/overspan/overspan"
)

// TestRemovalFreesWhatIsTheNodesAndNothingElse lets three nodes take what they
// like in two networks, and removes one of them while the line to etcd is bad.
func TestRemovalFreesWhatIsTheNodesAndNothingElse(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c := newCrowd(t, rt)
		defer c.stop()
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			c.step(rt)
		}
		victim := rapid.IntRange(0, 2).Draw(rt, "victim")
		remover := c.nodes[(victim+1)%3]
		id := c.nodes[victim].cfg.Node.ID
		before := c.dump(rt)
		c.line.InjectTxn(rapid.SliceOfN(rapid.SampledFrom([]TxnFault{TxnPasses, TxnLost, TxnUnanswered, TxnLate}), 0, 6).Draw(rt, "faults")...)
		node := c.nodes[victim].cfg.Node
		node.CreateRevision = c.nodes[victim].Registration()
		var err error
		for err = overspan.ErrUnavailable; errors.Is(err, overspan.ErrUnavailable); {
			_, err = removeNode(c.ctx, remover.Session, node, true)
		}
		if err != nil && !errors.Is(err, overspan.ErrNotFound) {
			rt.Fatal(err)
		}
		if _, err := c.line.Deliver(c.ctx); err != nil {
			rt.Fatal(err)
		}
		after := c.dump(rt)
		for key := range mentioning(c.keys, after, id) {
			rt.Errorf("left of the removed node: %s", key)
		}
		for key := range mentioning(c.keys, before, id) {
			delete(before, key)
		}
		if diff := cmp.Diff(without(before), without(after)); diff != "" {
			rt.Errorf("what is not the node's (-want +got):\n%s", diff)
		}
	})
}

// A crowd is three nodes on one line to etcd.
type crowd struct {
	ctx      context.Context
	stop     func()
	line     *Faulty
	keys     Keys
	nodes    [3]run
	networks [2]overspan.Network
	blocks   map[[2]int][]overspan.Block // of node and network
}

func newCrowd(t *testing.T, rt *rapid.T) *crowd {
	c := &crowd{line: NewFaulty(NewMemory(1)), keys: testKeys(t, "test"), blocks: make(map[[2]int][]overspan.Block)}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	c.ctx, c.stop = ctx, func() { cancel(); running.Wait() }
	for i := range c.nodes {
		s, err := Open(ctx, c.line, testConfig(i))
		if err != nil {
			rt.Fatal(err)
		}
		s.flights.timeout, s.flights.backoff = 2*time.Millisecond, 100*time.Microsecond
		c.nodes[i] = run{Session: s}
		running.Go(func() { _ = s.Run(ctx) })
	}
	for i := range c.networks {
		var err error
		if c.networks[i], err = c.nodes[0].CreateNetwork(ctx, fixed(testNetwork(i))); err != nil {
			rt.Fatal(err)
		}
	}
	return c
}

// step lets one node do one thing. That another was faster is no failure.
func (c *crowd) step(t *rapid.T) {
	i, j := rapid.IntRange(0, 2).Draw(t, "node"), rapid.IntRange(0, 1).Draw(t, "network")
	r, n := c.nodes[i], &c.networks[j]
	held := c.blocks[[2]int{i, j}]
	var err error
	switch what := rapid.SampledFrom([]string{"claim", "attach", "want", "ack"}).Draw(t, "what"); {
	case what == "claim":
		var b overspan.Block
		at := overspan.BlockAt(overspan.Slot(rapid.IntRange(1, 31).Draw(t, "first")*4), 4)
		if b, err = r.Claim(c.ctx, n, at, false); err == nil {
			c.blocks[[2]int{i, j}] = append(held, b)
		}
	case what == "attach" && len(held) > 0:
		b := rapid.SampledFrom(held).Draw(t, "block")
		e := r.endpoint(n, fmt.Sprintf("web%d", rapid.IntRange(0, 9).Draw(t, "name")), b.First+overspan.Slot(rapid.IntRange(0, 3).Draw(t, "slot")))
		if rapid.Bool().Draw(t, "odd") {
			e.MAC = overspan.MAC{0x06, byte(rapid.IntRange(0, 3).Draw(t, "mac"))}
		}
		_, err = r.Attach(c.ctx, AttachRequest{Endpoint: e, Network: n, Blocks: []overspan.Block{b}})
	case what == "want":
		if _, err = r.PutWant(c.ctx, n, nodeID((i+1)%3), nil); errors.Is(err, overspan.ErrUnavailable) {
			err = nil // of a node that was removed
		}
	case what == "ack":
		err = putAck(c.ctx, r, n, int64(rapid.IntRange(1, 9).Draw(t, "revision")))
	}
	if err != nil && !errors.Is(err, overspan.ErrConflict) && !errors.Is(err, overspan.ErrInUse) && !errors.Is(err, overspan.ErrExists) {
		t.Fatal(err)
	}
}

func (c *crowd) dump(t *rapid.T) map[string]string {
	list, err := c.line.List(c.ctx, c.keys.All(), 0)
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]string)
	for _, kv := range list.KVs {
		out[kv.Key] = string(kv.Value)
	}
	return out
}

// mentioning returns the keys of a dump that stand in a node's name: that name
// it, or an endpoint of it, in key or value.
func mentioning(keys Keys, dump map[string]string, node overspan.NodeID) map[string]string {
	ids := []string{string(node)}
	for key, value := range dump {
		if e, err := keys.endpoint(KeyValue{Key: key, Value: []byte(value)}); err == nil && e.Node == node {
			ids = append(ids, string(e.ID))
		}
	}
	out := maps.Clone(dump)
	maps.DeleteFunc(out, func(key, value string) bool {
		for _, id := range ids {
			if strings.Contains(key, id) || strings.Contains(value, id) {
				return false
			}
		}
		return true
	})
	return out
}
