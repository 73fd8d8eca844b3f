package ipam

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/overspan/overspan"
)

func TestGiveBack(t *testing.T) {
	now := time.Unix(0, 0)
	c := newCluster(t, network(t, Spec{Subnets: []string{"10.0.0.0/24"}}))
	h1 := c.join("h1", func() time.Time { return now })
	for _, text := range []string{"8+8", "16+8", "24+8"} {
		c.give(t, text, "h1")
	}
	lease, err := h1.attach(t.Context(), Addrs{IPv4: addr("10.0.0.9")})
	if err != nil {
		t.Fatal(err)
	}
	giveBack := func(want ...overspan.Range) {
		t.Helper()
		var got []overspan.Range
		err := h1.alloc.GiveBack(t.Context(), "net", func(_ context.Context, n *overspan.Network, b overspan.Block) error {
			got = append(got, b.Range)
			if other, err := h1.alloc.Acquire(t.Context(), "net", Addrs{IPv4: n.IPv4.Addr(b.First)}); err == nil {
				t.Errorf("%s is lent out of a block that goes", other.IPv4)
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			c.change(func(s *overspan.Segment, _ int64) { s.Blocks.Delete(b.First) })
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("given back (-want +got):\n%s", diff)
		}
	}
	giveBack()
	now = now.Add(DefaultIdleAfter - 1)
	giveBack()
	now = now.Add(1)
	giveBack(overspan.Range{First: 24, Size: 8}) // 16+8 stays to lend from
	h1.detach(lease)
	giveBack()
	now = now.Add(DefaultCooldown) // the slot has rested: the block begins to be idle
	giveBack()
	now = now.Add(DefaultIdleAfter - DefaultCooldown)
	giveBack(overspan.Range{First: 16, Size: 8})
	now = now.Add(DefaultCooldown)
	giveBack(overspan.Range{First: 8, Size: 8})

	failure := errors.New("etcd cannot be reached")
	c.give(t, "8+8", "h1")
	giveBack()
	now = now.Add(DefaultIdleAfter)
	err = h1.alloc.GiveBack(t.Context(), "net", func(context.Context, *overspan.Network, overspan.Block) error { return failure })
	if !errors.Is(err, failure) || !strings.Contains(err.Error(), "give back slots 8-15 of network demo") {
		t.Errorf("got %v", err)
	}
	if _, err := h1.attach(t.Context(), Addrs{IPv4: addr("10.0.0.9")}); err != nil {
		t.Errorf("a block that could not be given back lends no more: %v", err)
	}
}

func TestDrainGivesBackWhatIsEmptyAtOnce(t *testing.T) {
	now := time.Unix(0, 0)
	c := newCluster(t, network(t, Spec{Subnets: []string{"10.0.0.0/24"}}))
	h1 := c.join("h1", func() time.Time { return now })
	for _, text := range []string{"8+8", "16+8"} {
		c.give(t, text, "h1")
	}
	lease, err := h1.attach(t.Context(), Addrs{IPv4: addr("10.0.0.9")})
	if err != nil {
		t.Fatal(err)
	}
	drain := func(want ...overspan.Range) {
		t.Helper()
		var got []overspan.Range
		err := h1.alloc.Drain(t.Context(), "net", func(_ context.Context, _ *overspan.Network, b overspan.Block) error {
			got = append(got, b.Range)
			c.mu.Lock()
			defer c.mu.Unlock()
			c.change(func(s *overspan.Segment, _ int64) { s.Blocks.Delete(b.First) })
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("given back (-want +got):\n%s", diff)
		}
	}
	drain(overspan.Range{First: 16, Size: 8})
	drain()
	h1.detach(lease)
	drain(overspan.Range{First: 8, Size: 8}) // though its slot rests
}

func TestGrantThatFails(t *testing.T) {
	c := newCluster(t, network(t, Spec{Subnets: []string{"10.0.0.0/24"}}), "h1")
	c.give(t, "8+1", "h1")
	h1 := c.members["h1"]
	failure := errors.New("etcd cannot be reached")
	wants := []overspan.Want{{Holder: "h1", Asker: "h3", CreateRevision: 7}, {Holder: "h1", Asker: "h2", CreateRevision: 6}}
	var askers []overspan.NodeID
	err := h1.alloc.Grants(t.Context(), "net", wants, func(_ context.Context, _ *overspan.Network, w overspan.Want, g *Grant) error {
		askers = append(askers, w.Asker)
		if g == nil {
			t.Errorf("%s is refused", w.Asker)
		}
		return failure
	})
	if !errors.Is(err, failure) || !strings.Contains(err.Error(), "answer want of node h2 in network net: etcd cannot be reached") {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff([]overspan.NodeID{"h2", "h3"}, askers); diff != "" {
		t.Errorf("askers (-want +got):\n%s", diff)
	}
}
