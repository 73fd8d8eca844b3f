package reconcile

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/local"
	"github.com/overspan/overspan/bridge"
	"github.com/overspan/overspan/internal/twonodes"
	"github.com/overspan/overspan/kernel"
)

// A scopedKernel notes which networks are read as a whole.
type scopedKernel struct {
	*kernel.Fake
	whole []overspan.NetworkID
}

func (k *scopedKernel) Read(ctx context.Context, scope kernel.Scope) (kernel.State, error) {
	k.whole = append(k.whole, scope.Networks...)
	return k.Fake.Read(ctx, scope)
}

// A narrowing is a node whose input changes at random, and its reconciler.
type narrowing struct {
	*Reconciler
	fake *scopedKernel
	in   Input
	rev  int64
}

func newNarrowing() *narrowing {
	h := &narrowing{fake: &scopedKernel{Fake: kernel.NewFake(kernel.Underlay{Device: "eth0", MTU: 1500})}, in: twoNodes(), rev: 100}
	h.fake.MakeNetns("/run/netns/web1")
	h.Reconciler = New(h.fake, slog.New(slog.DiscardHandler), Hooks{
		Input: func(kernel.Scope) (Input, bool) { return h.in, true },
	})
	return h
}

// change edits a copy of the snapshot and of its segment, and reconciles what
// differs as a new snapshot from etcd does.
func (h *narrowing) change(ctx context.Context, edit func(*overspan.Snapshot, *overspan.Segment)) error {
	h.rev++
	next := *h.in.Snapshot
	seg := *next.Segments.Get(twonodes.Demo)
	seg.Revision, next.Revision = h.rev, h.rev
	next.Segments = overspan.IDMapOf(map[overspan.NetworkID]*overspan.Segment{twonodes.Demo: &seg})
	edit(&next, &seg)
	networks, global := Changed(h.in.Snapshot, &next, h.in.Self)
	h.in.Snapshot = &next
	if len(networks) == 0 && !global {
		return nil
	}
	h.dirty.mark(kernel.Scope{Global: global, Networks: networks}, CauseChange)
	scope, only, cause, _ := h.dirty.take()
	_, err := h.passOver(ctx, scope, only, cause)
	return err
}

// drift returns what a look at everything would change.
func (h *narrowing) drift(ctx context.Context) (string, error) {
	res, err := h.compare(ctx, kernel.Scope{All: true, Global: true}, nil)
	var out []string
	for _, op := range res.Ops {
		out = append(out, op.String())
	}
	return strings.Join(out, "\n"), err
}

// TestNarrowPassesLeaveNothingBehind: after any history of blocks, endpoints
// and nodes, in which passes looked at single entries, a look at everything
// finds nothing to do.
func TestNarrowPassesLeaveNothingBehind(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ctx := context.Background()
		h := newNarrowing()
		if _, err := h.pass(ctx, kernel.Scope{All: true, Global: true}, CauseResync); err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(1, 25).Draw(t, "changes") {
			if err := h.change(ctx, func(s *overspan.Snapshot, seg *overspan.Segment) { editAtRandom(t, h.rev, s, seg) }); err != nil {
				t.Fatal(err)
			}
			if drift, err := h.drift(ctx); drift != "" || err != nil {
				t.Fatalf("left: %v\n%s", err, drift)
			}
		}
	})
}

// editAtRandom does what etcd may tell at once: one change or several.
func editAtRandom(t *rapid.T, rev int64, s *overspan.Snapshot, seg *overspan.Segment) {
	n := s.Networks[twonodes.Demo]
	holders := []overspan.NodeID{twonodes.Self, twonodes.Other, "cccc", "ghost"}
	for range rapid.IntRange(1, 3).Draw(t, "at once") {
		slot := overspan.Slot(rapid.IntRange(0, 255).Draw(t, "slot"))
		switch rapid.SampledFrom([]string{"claim", "claim", "release", "move", "attach", "detach", "node", "all nodes"}).Draw(t, "what") {
		case "claim":
			r := overspan.BlockAt(slot, rapid.SampledFrom(overspan.BlockSizes()).Draw(t, "size"))
			free := !slices.ContainsFunc(slices.Collect(seg.Blocks.Values()), func(b overspan.Block) bool { return b.Overlaps(r) })
			if free {
				seg.Blocks.Put(r.First, overspan.Block{Range: r, Node: rapid.SampledFrom(holders).Draw(t, "holder"), CreateRevision: rev, ModRevision: rev})
			}
		case "release":
			if b, held := seg.Holder(slot); held {
				seg.Blocks.Delete(b.First)
			}
		case "move":
			if b, held := seg.Holder(slot); held {
				b.Node, b.CreateRevision, b.ModRevision = rapid.SampledFrom(holders).Draw(t, "holder"), rev, rev
				seg.Blocks.Put(b.First, b)
			}
		case "attach":
			if b, held := seg.Holder(slot); held && n.Reserved(slot) == "" && seg.Endpoints.Get(slot) == nil {
				e := &overspan.Endpoint{
					ID: overspan.EndpointID(overspan.NewID()), Node: b.Node, Slot: slot, Slots: []overspan.Slot{slot},
					IPv4: n.IPv4.Addr(slot), MAC: n.MAC(slot), ModRevision: rev,
				}
				if rapid.Bool().Draw(t, "exception") {
					e.MAC = overspan.MAC{0x0a, 0, 0, 0, 0, byte(slot)}
				}
				seg.Endpoints.Put(slot, e)
			}
		case "detach":
			seg.Endpoints.Delete(slot)
		case "node":
			s.Nodes = maps.Clone(s.Nodes)
			id := rapid.SampledFrom(holders[1:]).Draw(t, "node")
			if rapid.Bool().Draw(t, "leaves") {
				delete(s.Nodes, id)
				break
			}
			addr := netip.AddrFrom4([4]byte{10, 99, 0, byte(rapid.IntRange(2, 9).Draw(t, "VTEP"))})
			s.Nodes[id] = &overspan.Node{ID: id, Name: string(id), VTEPs: []netip.Addr{addr}, MTU: 1500}
		case "all nodes": // a presence changed
			s.Nodes = maps.Clone(s.Nodes)
		}
	}
}

// TestAClaimIsALookAtItsBlock: who claims a block, gives one back, or attaches
// an exception makes no peer read the whole network, unless more than that may
// have changed.
func TestAClaimIsALookAtItsBlock(t *testing.T) {
	ctx := t.Context()
	h := newNarrowing()
	if _, err := h.pass(ctx, kernel.Scope{Global: true}, CauseRequest); err != nil {
		t.Fatal(err)
	}
	whole := func(what string, want int, edit func(*overspan.Snapshot, *overspan.Segment)) {
		t.Helper()
		h.fake.whole = nil
		if err := h.change(ctx, edit); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if got := len(h.fake.whole); got != want {
			t.Errorf("%s: the network was read %d times, want %d", what, got, want)
		}
		if drift, err := h.drift(ctx); drift != "" || err != nil {
			t.Fatalf("%s: left: %v\n%s", what, err, drift)
		}
	}
	claim := func(first overspan.Slot, by overspan.NodeID) func(*overspan.Snapshot, *overspan.Segment) {
		return func(_ *overspan.Snapshot, seg *overspan.Segment) {
			seg.Blocks.Put(first, overspan.Block{Range: overspan.Range{First: first, Size: 8}, Node: by, CreateRevision: h.rev, ModRevision: h.rev})
		}
	}
	whole("a claim before everything was looked at", 1, claim(32, twonodes.Other))
	whole("a claim", 0, claim(40, twonodes.Other))
	whole("a claim of this node", 0, claim(48, twonodes.Self))
	whole("a block moves here", 0, claim(40, twonodes.Self))
	whole("a block that this node serves moves away", 0, func(_ *overspan.Snapshot, seg *overspan.Segment) {
		b := seg.Blocks.Get(0)
		b.Node = twonodes.Other
		seg.Blocks.Put(0, b)
	})
	if l := h.fake.State().Links[overspan.VethName(twonodes.Web)]; l.Master != "" {
		t.Errorf("the endpoint's port is still on %s", l.Master)
	}
	whole("an exception", 0, func(_ *overspan.Snapshot, seg *overspan.Segment) {
		seg.Endpoints.Put(33, &overspan.Endpoint{
			Node: twonodes.Other, Slot: 33, Slots: []overspan.Slot{33}, IPv4: twonodes.Network().IPv4.Addr(33),
			MAC: overspan.MAC{0x0a, 1}, ModRevision: h.rev,
		})
	})
	whole("a node's VTEP", 0, func(s *overspan.Snapshot, _ *overspan.Segment) {
		s.Nodes = maps.Clone(s.Nodes)
		s.Nodes[twonodes.Other] = &overspan.Node{ID: twonodes.Other, VTEPs: []netip.Addr{netip.MustParseAddr("10.99.0.7")}}
	})
	whole("the network's record", 1, func(s *overspan.Snapshot, _ *overspan.Segment) {
		n := *s.Networks[twonodes.Demo]
		n.ModRevision++
		s.Networks = map[overspan.NetworkID]*overspan.Network{twonodes.Demo: &n}
	})
	h.fake.FailNext(fmt.Sprintf("add fdb %s", twonodes.Network().MAC(57)), overspan.Errorf(overspan.ErrUnsupported, "not today"))
	if err := h.change(ctx, claim(56, twonodes.Other)); err == nil {
		t.Error("an entry that cannot be written is no error")
	}
	h.retry(ctx)
	whole("a claim after the retry", 0, claim(64, twonodes.Other))
}

// The sets that rules ask go in the pass that takes the rules, not in one that looks
// at the sets alone.
func TestSetsOutliveTheRulesThatAskThem(t *testing.T) {
	h := newNarrowing()
	if _, err := h.pass(t.Context(), kernel.Scope{All: true, Global: true}, CauseResync); err != nil {
		t.Fatal(err)
	}
	h.in.Local.Attachments = local.Attachments{}
	h.in.Local.Version++
	h.in.Snapshot.Segments.Get(twonodes.Demo).Blocks.Delete(0)
	sets := kernel.Scope{Sets: bridge.SubnetSets()}
	for _, step := range []struct {
		scope kernel.Scope
		have  int
	}{{sets, 2}, {kernel.Scope{Global: true}, 0}, {sets, 0}} {
		if res, err := h.pass(t.Context(), step.scope, CauseRequest); err != nil {
			t.Errorf("a pass over %+v: %v, %v", step.scope, res.Ops, err)
		}
		have := h.fake.State().Within(sets)
		if len(have.Sets) != step.have {
			t.Errorf("after a pass over %+v there are the sets %v; want %d", step.scope, have.Sets, step.have)
		}
	}
}
