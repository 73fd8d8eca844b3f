package daemon

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/reconcile"
	"github.com/overspan/overspan/ipam"
	"github.com/overspan/overspan/kernel"
)

// A jammedKernel refuses ops while something stands in their way.
type jammedKernel struct {
	reconcile.Kernel
	mu    sync.Mutex // guards all below
	jam   string     // what the refused ops contain; "" for none
	tries int        // of refused ops
}

var errJam = overspan.Errorf(overspan.ErrInUse, "something foreign is in the way")

func (k *jammedKernel) set(jam string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.jam, k.tries = jam, 0
}

func (k *jammedKernel) tried() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.tries
}

func (k *jammedKernel) Apply(ctx context.Context, ops []kernel.Op) error {
	k.mu.Lock()
	var failed kernel.ApplyError
	jammed := func(op kernel.Op) bool { return k.jam != "" && strings.Contains(op.String(), k.jam) }
	for _, op := range ops {
		if jammed(op) {
			k.tries++
			failed.Failed = append(failed.Failed, kernel.OpError{Op: op, Err: errJam})
		}
	}
	k.mu.Unlock()
	free := kernel.Without(ops, jammed)
	carried := map[string]bool{}
	for _, op := range free {
		carried[op.String()] = true
	}
	for _, op := range ops {
		if !carried[op.String()] && !jammed(op) {
			failed.Skipped = append(failed.Skipped, op)
		}
	}
	err := k.Kernel.Apply(ctx, free)
	if len(failed.Failed) > 0 {
		return errors.Join(&failed, err)
	}
	return err
}

// newJammedCluster is two nodes with a network and an endpoint each; the first
// one's kernel can be jammed.
func newJammedCluster(t *testing.T) (h1 *testNode, jam *jammedKernel, net *overspan.Network, far overspan.Endpoint) {
	c := newTestCluster(t, 2)
	h1 = c.nodes[0]
	h1.stop()
	jam = &jammedKernel{Kernel: h1.kernel}
	h1.ops.Kernel = jam
	h1.start()
	net = h1.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	h1.connect(ConnectRequest{Network: "demo", Target: h1.container("web1")})
	events := h1.Subscribe(t.Context(), Span{})
	far = c.nodes[1].connect(ConnectRequest{Network: "demo", Target: c.nodes[1].container("web2")})
	h1.awaits(events, "endpoint", "connect", far.Name) // no other comes after it
	h1.eventually("nothing is left to look at", h1.rec.Settled)
	return h1, jam, net, far
}

func TestConflictIsNamedAndHealed(t *testing.T) {
	h1, jam, net, far := newJammedCluster(t)
	before := h1.kernel.State()
	events := h1.Subscribe(t.Context(), Span{})
	vxlan, bridge := overspan.VXLANName(net.ID), overspan.BridgeName(net.ID)
	jam.set("add link " + vxlan)
	h1.kernel.Mutate(func(s *kernel.State) {
		gone := kernel.Apply(*s, []kernel.Op{kernel.DelLink{Name: vxlan}})
		*s = gone
		clear(s.Addrs)
	})
	if e := <-events; e.Action != "repair" || !strings.Contains(e.Name, bridge) {
		t.Errorf("told first: %+v, want the gateway's repair", e)
	}
	e := <-events
	if e.Action != "conflict" || !strings.Contains(e.Name, vxlan) || !strings.Contains(e.Name, errJam.Error()) || e.Attributes["network"] != "demo" {
		t.Errorf("told second: %+v, want the conflict", e)
	}
	shown := func() bool {
		return slices.ContainsFunc(h1.Status(t.Context()).Warnings, func(w string) bool { return strings.Contains(w, errJam.Error()) })
	}
	h1.eventually("status names the conflict", shown)

	// Drift beside the conflict is repaired, without a try at the conflict.
	tried := jam.tried()
	h1.kernel.Mutate(func(s *kernel.State) { clear(s.Addrs) })
	h1.eventually("the gateway is back", func() bool { return len(h1.kernel.State().Addrs) > 0 })
	if now := jam.tried(); now > tried+1 {
		t.Errorf("a hint led to %d tries of what is known to fail", now-tried)
	}

	jam.set("")
	h1.rec.TryAgain()
	h1.eventually("all is as before", func() bool { return h1.kernel.State().Equal(before) && h1.rec.Settled() })
	h1.eventually("status is clean", func() bool { return !shown() && h1.Status(t.Context()).LastError == "" })
	var told []string
	for !slices.Contains(told, "resolve") {
		told = append(told, (<-events).Action)
	}
	if slices.Contains(told, "conflict") {
		t.Errorf("told afterwards: %v", told)
	}
	if got := h1.kernel.State().FDB[kernel.FDBKey{Dev: vxlan, MAC: far.MAC}].VTEP; got != netip.MustParseAddr("10.99.0.2") {
		t.Errorf("the peer is found at %s", got)
	}
}

// Tries of what fails become rarer, down to one in retryMost.
func TestConflictIsTriedEverMoreRarely(t *testing.T) {
	h1, jam, net, _ := newJammedCluster(t)
	vxlan := overspan.VXLANName(net.ID)
	jam.set("add link " + vxlan)
	h1.kernel.Mutate(func(s *kernel.State) { *s = kernel.Apply(*s, []kernel.Op{kernel.DelLink{Name: vxlan}}) })
	h1.eventually("five tries", func() bool { return jam.tried() >= 5 })
	if h1.rec.Settled() {
		t.Error("nothing waits to be tried again")
	}
	// 0.1 + 0.2 + 0.4 + 0.8 s lie behind: a sixth is more than a second away.
	h1.kernel.Mutate(func(s *kernel.State) { clear(s.Addrs) })
	h1.eventually("the gateway is back", func() bool { return len(h1.kernel.State().Addrs) > 0 })
	if got := jam.tried(); got > 6 {
		t.Errorf("tried %d times", got)
	}
}

// A network in which something is in the way does not keep others from being
// told as programmed.
func TestConflictDelaysNoOtherNetwork(t *testing.T) {
	h1, jam, net, _ := newJammedCluster(t)
	vxlan := overspan.VXLANName(net.ID)
	jam.set("add link " + vxlan)
	h1.kernel.Mutate(func(s *kernel.State) { *s = kernel.Apply(*s, []kernel.Op{kernel.DelLink{Name: vxlan}}) })
	h1.eventually("it fails", func() bool { return jam.tried() >= 2 })
	other := h1.create(CreateRequest{Spec: ipam.Spec{Name: "other"}})
	h1.connect(ConnectRequest{Network: "other", Target: h1.container("web3")})
	h1.eventually("the other network is in line", func() bool { return h1.health.appliedTo(other.ID) > 0 })
	was := h1.health.appliedTo(net.ID)
	if err := h1.rec.Do(t.Context(), kernel.Scope{Networks: []overspan.NetworkID{net.ID, other.ID}}); err == nil {
		t.Error("a pass over both is told as one in which nothing failed")
	}
	if now := h1.health.appliedTo(net.ID); now != was {
		t.Errorf("the network is told as programmed up to %d, %d before", now, was)
	}
}

// What is changed here is no repair, whatever a pass was begun for; what others
// change meanwhile is one.
func TestRepairsAreToldFromChanges(t *testing.T) {
	c := newTestCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	net := h1.create(CreateRequest{Spec: ipam.Spec{Name: "demo"}})
	h1.connect(ConnectRequest{Network: "demo", Target: h1.container("web")})
	h1.eventually("nothing is left to look at", h1.rec.Settled)
	events := h1.Subscribe(t.Context(), Span{})
	everything := kernel.Scope{All: true, Global: true}
	for range 20 {
		h1.rec.Mark(everything, reconcile.CauseHint)
		h1.connect(ConnectRequest{Network: "demo", Target: h1.container("churn")})
		h1.rec.Mark(everything, reconcile.CauseResync)
		h2.connect(ConnectRequest{Network: "demo", Target: h2.container("churn")})
		h1.rec.Mark(everything, reconcile.CauseHint)
		for _, n := range c.nodes {
			if _, _, err := n.Disconnect(t.Context(), "demo", n.cfg.NodeName+"-churn"); err != nil {
				t.Fatal(err)
			}
		}
	}
	h1.eventually("nothing is left to look at", h1.rec.Settled)
	spoilt := netip.MustParsePrefix("192.0.2.1/24")
	h1.kernel.Mutate(func(s *kernel.State) {
		s.Addrs[kernel.Addr{Dev: overspan.BridgeName(net.ID), Prefix: spoilt}] = struct{}{}
	})
	for {
		e := <-events
		if e.Type != "kernel" {
			continue
		}
		if !strings.Contains(e.Name, spoilt.String()) {
			t.Errorf("told as a repair: %+v", e)
			continue
		}
		return
	}
}
