package history

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/local"
	"github.com/overspan/overspan/internal/twonodes"
)

// freezeRevision is when the freezes of these tests began.
const freezeRevision = 100

// A recollection is what recall is asked about, in few words: blocks as
// "node first size revision".
type recollection struct {
	memory, now []string
}

func segmentOf(blocks []string) *overspan.Segment {
	seg := &overspan.Segment{}
	for _, text := range blocks {
		var b overspan.Block
		if _, err := fmt.Sscan(text, &b.Node, &b.First, &b.Size, &b.ModRevision); err != nil {
			panic(err)
		}
		seg.Blocks.Put(b.First, b)
	}
	return seg
}

func frozenWith(seg *overspan.Segment) *overspan.Snapshot {
	return &overspan.Snapshot{
		Frozen:   &overspan.Freeze{Revision: freezeRevision},
		Segments: overspan.IDMapOf(map[overspan.NetworkID]*overspan.Segment{twonodes.Demo: seg}),
	}
}

// holders lists who holds which slots.
func holders(seg *overspan.Segment) string {
	var out []string
	for b := range seg.Blocks.Values() {
		out = append(out, fmt.Sprintf("%s:%s", b.Node, b.Range))
	}
	return strings.Join(out, " ")
}

func TestRecallBlocks(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   recollection
		want string
	}{
		{"what etcd lost stays", recollection{memory: []string{"h1 0 8 50"}}, "h1:0-7"},
		{"what is new comes beside it", recollection{memory: []string{"h1 0 8 50"}, now: []string{"h2 8 8 60"}}, "h1:0-7 h2:8-15"},
		{"memory wins over what came back from the past", recollection{memory: []string{"h1 0 8 50"}, now: []string{"h2 0 64 20"}}, "h1:0-7"},
		{"what came back may be smaller", recollection{memory: []string{"h1 0 8 50"}, now: []string{"h2 4 1 20"}}, "h1:0-7"},
		{"what was published since wins over memory", recollection{memory: []string{"h1 0 8 50"}, now: []string{"h2 4 4 101"}}, "h1:0-3 h2:4-7"},
		{"what is published bit by bit loses nothing", recollection{memory: []string{"h1 0 8 50"}, now: []string{"h1 5 1 101"}}, "h1:0-3 h1:4-4 h1:5-5 h1:6-7"},
		{"what was published since may be larger", recollection{memory: []string{"h1 0 2 50", "h3 6 2 40"}, now: []string{"h2 0 8 101"}}, "h2:0-7"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := recall(frozenWith(segmentOf(tt.in.memory)), frozenWith(segmentOf(tt.in.now)))
			if diff := cmp.Diff(tt.want, holders(got.Segments.Get(twonodes.Demo))); diff != "" {
				t.Errorf("holders (-want +got):\n%s", diff)
			}
		})
	}
}

// Whatever blocks memory and etcd have, no slot that memory knows a holder of is
// without one, and none has two.
func TestRecallForgetsNoSlot(t *testing.T) {
	draw := rapid.Custom(func(t *rapid.T) *overspan.Segment {
		seg := &overspan.Segment{}
		for i := range rapid.IntRange(0, 12).Draw(t, "blocks") {
			size := rapid.SampledFrom(overspan.BlockSizes()).Draw(t, "size")
			r := overspan.BlockAt(overspan.Slot(rapid.IntRange(0, 255).Draw(t, "slot")), size)
			if len(overlapping(seg, r)) == 0 {
				revision := int64(rapid.IntRange(freezeRevision-1, freezeRevision+1).Draw(t, "revision"))
				seg.Blocks.Put(r.First, overspan.Block{Range: r, Node: overspan.NodeID(fmt.Sprint("h", i%3)), ModRevision: revision})
			}
		}
		return seg
	})
	rapid.Check(t, func(t *rapid.T) {
		memory, now := draw.Draw(t, "memory"), draw.Draw(t, "now")
		got := recall(frozenWith(memory), frozenWith(now)).Segments.Get(twonodes.Demo)
		claimed := map[overspan.Slot]int{}
		for b := range got.Blocks.Values() {
			if !b.IsBlock() {
				t.Fatalf("%s is no block", b.Range)
			}
			for s := b.First; s <= b.Last(); s++ {
				claimed[s]++
			}
		}
		for s := range overspan.Slot(320) {
			was, known := memory.Holder(s)
			is, there := now.Holder(s)
			if known && claimed[s] != 1 || claimed[s] > 1 {
				t.Fatalf("slot %d is in %d blocks", s, claimed[s])
			}
			b, _ := got.Holder(s)
			switch {
			case there && is.ModRevision > freezeRevision:
				if b.Node != is.Node {
					t.Fatalf("slot %d is %s's, though %s has published it", s, b.Node, is.Node)
				}
			case known && b.Node != was.Node:
				t.Fatalf("slot %d is %s's, though memory has it as %s's", s, b.Node, was.Node)
			}
		}
	})
}

func TestRecallNodesNetworksAndEndpoints(t *testing.T) {
	node := func(version string, mod int64, up bool) *overspan.Node {
		n := &overspan.Node{ID: "h", Version: version, ModRevision: mod}
		if up {
			n.Presence = &overspan.Presence{}
		}
		return n
	}
	memory, now := frozenWith(&overspan.Segment{}), frozenWith(&overspan.Segment{Revision: 130})
	memory.Revision, now.Revision = 900, 120
	memory.Meta.ClusterID, now.Meta.ClusterID = "old", "new"
	memory.Accepted, now.Accepted = 2, 1
	memory.Nodes = map[overspan.NodeID]*overspan.Node{
		"gone": node("memory", 50, true), "old": node("memory", 50, true), "back": node("memory", 50, false),
	}
	now.Nodes = map[overspan.NodeID]*overspan.Node{
		"old": node("past", 20, true), "back": node("today", 110, true), "new": node("today", 90, false),
	}
	memory.Networks = map[overspan.NetworkID]*overspan.Network{"gone": {Name: "memory"}, "old": {Name: "memory", ModRevision: 60}, "back": {Name: "memory", ModRevision: 60}}
	now.Networks = map[overspan.NetworkID]*overspan.Network{"old": {Name: "past", ModRevision: 20}, "back": {Name: "today", ModRevision: 110}, "new": {Name: "today", ModRevision: 90}}
	for slot, mod := range map[overspan.Slot]int64{2: 0, 3: 20, 4: 110} {
		memory.Segments.Get(twonodes.Demo).Endpoints.Put(slot, &overspan.Endpoint{Name: "memory"})
		if mod > 0 {
			now.Segments.Get(twonodes.Demo).Endpoints.Put(slot, &overspan.Endpoint{Name: fmt.Sprint("at ", mod), ModRevision: mod})
		}
	}

	got := recall(memory, now)
	var told []string
	for _, id := range slices.Sorted(maps.Keys(got.Nodes)) {
		told = append(told, fmt.Sprintf("node %s: %s up=%t", id, got.Nodes[id].Version, got.Nodes[id].Presence != nil))
	}
	for _, id := range slices.Sorted(maps.Keys(got.Networks)) {
		told = append(told, fmt.Sprintf("network %s: %s", id, got.Networks[id].Name))
	}
	for slot, e := range got.Segments.Get(twonodes.Demo).Endpoints.All() {
		told = append(told, fmt.Sprintf("endpoint %d: %s", slot, e.Name))
	}
	told = append(told, fmt.Sprintf("settings %s, accepted %d, revision %d, segment %d", got.Meta.ClusterID, got.Accepted, got.Revision, got.Segments.Get(twonodes.Demo).Revision))
	if diff := cmp.Diff([]string{
		"node back: today up=true", "node gone: memory up=false", "node new: today up=false", "node old: memory up=true",
		"network back: today", "network gone: memory", "network new: today", "network old: memory",
		"endpoint 2: memory", "endpoint 3: memory", "endpoint 4: at 110",
		"settings old, accepted 1, revision 120, segment 130",
	}, told); diff != "" {
		t.Errorf("recalled (-want +got):\n%s", diff)
	}
	if memory.Nodes["old"].Presence == nil || now.Nodes["old"].Version != "past" {
		t.Error("recall changed what it was given")
	}
}

func TestSuspects(t *testing.T) {
	const self = overspan.NodeID("h1")
	attachment := func(id string, slot overspan.Slot, registration, mod int64) overspan.Attachment {
		return overspan.Attachment{
			Committed: true, Registration: registration,
			Endpoint: overspan.Endpoint{
				ID: overspan.EndpointID(id), Name: id, Network: twonodes.Demo, Slot: slot, Slots: []overspan.Slot{slot}, ModRevision: mod,
				Created: time.Unix(int64(slot), 0),
			},
		}
	}
	seg := &overspan.Segment{Revision: 50}
	seg.Endpoints.Put(2, &overspan.Endpoint{ID: "stands"})
	seg.Endpoints.Put(3, &overspan.Endpoint{ID: "another"})
	now := &overspan.Snapshot{
		Revision: 50,
		Nodes:    map[overspan.NodeID]*overspan.Node{self: {CreateRevision: 7}},
		Networks: map[overspan.NetworkID]*overspan.Network{twonodes.Demo: {}},
		Segments: overspan.IDMapOf(map[overspan.NetworkID]*overspan.Segment{twonodes.Demo: seg}),
	}
	all := local.AttachmentsOf(
		attachment("stands", 2, 7, 20), attachment("foreign", 3, 7, 20), attachment("gone", 4, 7, 0),
		attachment("not seen yet", 5, 7, 60), attachment("of another registration", 6, 5, 20),
	)
	names := func(shown, now *overspan.Snapshot) []string {
		var out []string
		for _, e := range suspects(shown, now, self, all) {
			out = append(out, e.Name)
		}
		return out
	}
	if diff := cmp.Diff([]string{"foreign", "gone"}, names(nil, now)); diff != "" {
		t.Errorf("suspects (-want +got):\n%s", diff)
	}
	if got := names(now, now); got != nil {
		t.Errorf("a network that has not changed: %v", got)
	}
	without := *now
	without.Networks, without.Segments = nil, overspan.Segments{}
	if diff := cmp.Diff([]string{"stands", "foreign", "gone"}, names(now, &without)); diff != "" {
		t.Errorf("a network that is gone with all that is in it (-want +got):\n%s", diff)
	}
	listed := *now
	listed.Networks = nil
	if diff := cmp.Diff([]string{"stands", "foreign", "gone"}, names(now, &listed)); diff != "" {
		t.Errorf("a network that is gone, with what was read of it before (-want +got):\n%s", diff)
	}
	if got := names(&without, &without); got != nil {
		t.Errorf("a network that had gone before: %v", got)
	}
	unread := *seg
	unread.Bad = 1
	for name, change := range map[string]func(*overspan.Snapshot){
		"records that cannot be read": func(s *overspan.Snapshot) { s.Segments.Put(twonodes.Demo, &unread) },
		"an interior not read yet":    func(s *overspan.Snapshot) { s.Segments.Delete(twonodes.Demo) },
		"a node not registered":       func(s *overspan.Snapshot) { delete(s.Nodes, self) },
	} {
		s := *now
		s.Nodes, s.Segments = maps.Clone(now.Nodes), now.Segments
		change(&s)
		if got := names(nil, &s); got != nil {
			t.Errorf("%s: %v", name, got)
		}
	}
}
