package publication

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/internal/twonodes"
)

// returned is what the tests of publications begin with: web1 of this node at slot
// 2 of demo, which etcd has forgotten, and nobody holds a block.
func returned() Input {
	shown, web := twonodes.Snapshot(), twonodes.Attachment()
	web.NetworkName = "demo"
	web.Registration = 3
	shown.Segments.Get(twonodes.Demo).Blocks = overspan.SlotMap[overspan.Block]{}
	shown.Segments.Get(twonodes.Demo).Endpoints = overspan.SlotMap[*overspan.Endpoint]{}
	return Input{Self: twonodes.Self, Snapshot: shown, Registration: 5, Attachments: []overspan.Attachment{web}}
}

func hold(seg *overspan.Segment, node overspan.NodeID, first overspan.Slot, size uint64) {
	seg.Blocks.Put(first, overspan.Block{Range: overspan.Range{First: first, Size: size}, Node: node, CreateRevision: 6})
}

// stand puts an endpoint's record into a segment.
func stand(seg *overspan.Segment, e overspan.Endpoint) {
	for _, slot := range e.Slots {
		seg.Endpoints.Put(slot, &e)
	}
}

// other is an endpoint of demo under another id.
func other(node overspan.NodeID, name string, slot overspan.Slot) overspan.Endpoint {
	n := twonodes.Network()
	return overspan.Endpoint{
		ID: overspan.EndpointID(strings.Repeat("9", 63) + fmt.Sprint(slot%10)), Network: n.ID, Node: node, Name: name,
		Slot: slot, Slots: []overspan.Slot{slot}, IPv4: n.IPv4.Addr(slot), MAC: n.MAC(slot),
	}
}

// freezeWith freezes the cluster; memory is what the snapshot was before, and
// what it says of demo's interior.
func (in *Input) freezeWith(memory func(*overspan.Segment)) {
	seg := &overspan.Segment{}
	memory(seg)
	in.Memory = &overspan.Snapshot{
		Networks: maps.Clone(in.Snapshot.Networks),
		Segments: overspan.IDMapOf(map[overspan.NetworkID]*overspan.Segment{twonodes.Demo: seg}),
	}
	in.Snapshot.Frozen = &overspan.Freeze{Reason: "a test", Revision: 4}
}

// text renders a plan, a line each step.
func (p Plan) text() []string {
	var out []string
	for _, n := range p.Obsolete {
		out = append(out, "discard "+n.Name)
	}
	for _, n := range p.Networks {
		out = append(out, "network "+n.Name)
	}
	for _, w := range p.Surplus {
		out = append(out, fmt.Sprintf("keep %v of %s", w.Keep, w.Block))
	}
	for _, w := range p.Claims {
		out = append(out, "claim "+w.String())
	}
	for _, w := range p.Records {
		out = append(out, "record "+w.Attachment.Endpoint.Name)
	}
	for _, w := range p.Around {
		out = append(out, "around "+w.String())
	}
	for _, e := range p.Withdraw {
		out = append(out, "withdraw "+e.Name)
	}
	for _, why := range slices.Sorted(maps.Values(p.Lost)) {
		out = append(out, "lost: "+why)
	}
	for _, why := range slices.Sorted(maps.Values(p.Waiting)) {
		out = append(out, "waiting: "+why)
	}
	return out
}

func TestPublication(t *testing.T) {
	demoSeg := func(in *Input) *overspan.Segment { return in.Snapshot.Segments.Get(twonodes.Demo) }
	web := returned().Attachments[0].Endpoint
	for _, tc := range []struct {
		name   string
		change func(*Input)
		want   []string
	}{
		{"nobody holds its slot", func(*Input) {}, []string{"claim 2-2"}},
		{"this node holds its slot", func(in *Input) { hold(demoSeg(in), twonodes.Self, 0, 8) }, []string{"record web1"}},
		{"its record was written under this registration", func(in *Input) { in.Attachments[0].Registration = 5 }, nil},
		{"its attach is under way", func(in *Input) { in.Attachments[0].Committed = false }, nil},
		{
			"another node holds its slot", func(in *Input) { hold(demoSeg(in), twonodes.Other, 2, 1) },
			[]string{"lost: 10.1.0.2 now belongs to node h2; disconnect it and connect it again"},
		},
		{
			"its name is another's", func(in *Input) { stand(demoSeg(in), other(twonodes.Other, "web1", 9)) },
			[]string{"lost: its name now belongs to endpoint web1 on node h2; disconnect it and connect it again"},
		},
		{"its MAC is another's", func(in *Input) {
			mac := overspan.MAC{0x0a, 1}
			in.Attachments[0].Endpoint.MAC = mac
			e := other(twonodes.Other, "db", 9)
			e.MAC = mac
			stand(demoSeg(in), e)
		}, []string{"lost: its MAC address 0a:01:00:00:00:00 now belongs to endpoint db on node h2; disconnect it and connect it again"}},
		{"its slot has a record that nobody here knows", func(in *Input) {
			hold(demoSeg(in), twonodes.Self, 0, 8)
			stand(demoSeg(in), other(twonodes.Self, "old", 2))
		}, []string{"waiting: 10.1.0.2 is still to be released by endpoint 999999999999"}},
		{
			"its network is gone", func(in *Input) { delete(in.Snapshot.Networks, twonodes.Demo) },
			[]string{"lost: network demo was removed; disconnect it"},
		},
		{"its network cannot be found among unreadable records", func(in *Input) {
			delete(in.Snapshot.Networks, twonodes.Demo)
			in.Snapshot.Bad = []overspan.BadRecord{{Key: "networks/x"}}
		}, []string{"waiting: network demo cannot be found, and there are records that cannot be read"}},
		{"its network is on its way out", func(in *Input) {
			n := twonodes.Network()
			n.Deleting = true
			in.Snapshot.Networks[twonodes.Demo] = n
		}, []string{"lost: network demo is being removed; disconnect it"}},
		{
			"its network is not read yet", func(in *Input) { in.Snapshot.Segments.Delete(twonodes.Demo) },
			[]string{"waiting: network demo has not been read from etcd yet"},
		},
		{"two of this node have one name", func(in *Input) {
			newer := in.Attachments[0]
			newer.Endpoint = other(twonodes.Self, "web1", 4)
			in.Attachments = append(in.Attachments, newer)
		}, []string{"claim 4-4", "lost: its name now belongs to endpoint 999999999999 on this node; disconnect it and connect it again"}},

		{"frozen: an empty etcd", func(in *Input) {
			in.freezeWith(func(seg *overspan.Segment) { hold(seg, twonodes.Self, 0, 4); stand(seg, web) })
			in.Snapshot.Networks, in.Snapshot.Segments = nil, overspan.Segments{}
		}, []string{"network demo", "waiting: network demo is not in etcd"}},
		{"frozen: its block is forgotten", func(in *Input) {
			in.freezeWith(func(seg *overspan.Segment) { hold(seg, twonodes.Self, 0, 4); stand(seg, web) })
		}, []string{"claim 2-2", "around 0-1", "around 3-3"}},
		{"frozen: a network that this node has nothing to do with", func(in *Input) {
			in.freezeWith(func(seg *overspan.Segment) {})
			in.Attachments, in.Snapshot.Networks, in.Snapshot.Segments = nil, nil, overspan.Segments{}
		}, []string{"network demo"}},
		{"frozen: its network had been removed, and is back", func(in *Input) {
			in.freezeWith(func(seg *overspan.Segment) {})
			in.Memory.Networks, in.Memory.Segments, in.Memory.Revision = nil, overspan.Segments{}, 20
			hold(demoSeg(in), twonodes.Self, 0, 4)
			stand(demoSeg(in), web)
		}, []string{"keep [] of 0-3", "withdraw web1", "lost: network demo was removed; disconnect it"}},
		{"frozen: networks that had been removed are back, some in the way", func(in *Input) {
			in.freezeWith(func(seg *overspan.Segment) { hold(seg, twonodes.Self, 0, 4); stand(seg, web) })
			in.Memory.Revision = 20
			in.Snapshot.Networks, in.Snapshot.Segments = map[overspan.NetworkID]*overspan.Network{}, overspan.Segments{}
			for id, change := range map[overspan.NetworkID]func(*overspan.Network){
				"1": func(n *overspan.Network) { n.Name = "name" },
				"2": func(n *overspan.Network) { n.VNI, n.IPv4 = 7, overspan.Subnet{}; n.Name = "demo" },
				"3": func(n *overspan.Network) { n.VNI, n.IPv4 = 8, overspan.Subnet{}; n.Name = "apart" },
				"4": func(n *overspan.Network) { n.CreateRevision, n.Name = 21, "newer" },
			} {
				n := twonodes.Network()
				n.ID, n.CreateRevision = id, 10
				change(n)
				in.Snapshot.Networks[id] = n
			}
		}, []string{"discard name", "discard demo", "network demo", "waiting: network demo is not in etcd"}},
		{"frozen: nothing is remembered", func(in *Input) {
			in.Snapshot.Frozen = &overspan.Freeze{}
			hold(demoSeg(in), twonodes.Self, 0, 4)
			hold(demoSeg(in), twonodes.Self, 8, 4)
		}, []string{"record web1"}},
		{"frozen: a block of the past around its slot is another's", func(in *Input) {
			in.freezeWith(func(seg *overspan.Segment) { hold(seg, twonodes.Self, 0, 4); stand(seg, web) })
			hold(demoSeg(in), twonodes.Other, 0, 16)
		}, []string{"waiting: 10.1.0.2 now belongs to node h2"}},
		{"frozen: it was lost before", func(in *Input) {
			in.freezeWith(func(seg *overspan.Segment) { hold(seg, twonodes.Other, 2, 1) })
			hold(demoSeg(in), twonodes.Self, 0, 4)
			stand(demoSeg(in), web)
		}, []string{
			"keep [] of 0-3", "withdraw web1",
			"lost: 10.1.0.2 now belongs to node h2; disconnect it and connect it again",
		}},
		{"frozen: its name was another's before", func(in *Input) {
			in.freezeWith(func(seg *overspan.Segment) { stand(seg, other(twonodes.Other, "web1", 9)) })
			hold(demoSeg(in), twonodes.Self, 0, 4)
		}, []string{"keep [] of 0-3", "lost: its name now belongs to endpoint web1 on node h2; disconnect it and connect it again"}},
		{"frozen: a block that was given up is back", func(in *Input) {
			in.freezeWith(func(seg *overspan.Segment) { hold(seg, twonodes.Self, 0, 4); hold(seg, twonodes.Other, 4, 4) })
			in.Attachments[0].Registration = 5
			hold(demoSeg(in), twonodes.Self, 0, 8)
		}, []string{"keep [0-3] of 0-7"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := returned()
			tc.change(&in)
			if diff := cmp.Diff(tc.want, in.Plan().text()); diff != "" {
				t.Errorf("publication (-want +got):\n%s", diff)
			}
		})
	}
}
