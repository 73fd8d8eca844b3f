package reconcile

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/local"
	"github.com/overspan/overspan/kernel"
)

// moved must name every part whose plan differs, or what this node does itself
// would be told as a repair.
func TestMovedNamesEveryPartThatDiffers(t *testing.T) {
	const self = overspan.NodeID("self")
	demo := overspan.NetworkID(strings.Repeat("d", 64))
	web := overspan.EndpointID(strings.Repeat("e", 64))
	base := func() Input {
		return Input{
			Self: self,
			Snapshot: &overspan.Snapshot{
				Networks: map[overspan.NetworkID]*overspan.Network{demo: {ID: demo}},
				Segments: overspan.IDMapOf(map[overspan.NetworkID]*overspan.Segment{demo: {}}),
			},
			Local: local.View{Attachments: local.AttachmentsOf(overspan.Attachment{Endpoint: overspan.Endpoint{ID: web, Network: demo}})},
		}
	}
	endpoint, network, global := Part{demo, web}, Part{Network: demo}, Part{}
	for _, test := range []struct {
		name   string
		change func(*Input)
		want   []Part
	}{
		{"nothing", func(*Input) {}, nil},
		{"committed", func(in *Input) { in.Local.Version, in.Local.Attachments.List[0].Committed = 1, true }, []Part{endpoint}},
		{"detached", func(in *Input) { in.Local = local.View{Version: 1} }, []Part{endpoint, network, global, subnets}},
		{"lost", func(in *Input) { in.Lost = map[overspan.EndpointID]string{web: "gone"} }, []Part{endpoint}},
		{"sandbox made", func(in *Input) {
			in.Local.Version, in.Local.Sandboxes = 1, local.SandboxesOf(overspan.Sandbox{ID: "s"})
		}, []Part{global}},
		{"frozen", func(in *Input) {
			s := *in.Snapshot
			s.Frozen = &overspan.Freeze{}
			in.Snapshot = &s
		}, []Part{network, global, subnets}},
		{"network changed", func(in *Input) {
			s := *in.Snapshot
			s.Networks = map[overspan.NetworkID]*overspan.Network{demo: {ID: demo, ModRevision: 9}}
			in.Snapshot = &s
		}, []Part{network}},
		{"a network elsewhere", func(in *Input) {
			s := *in.Snapshot
			s.Networks = maps.Clone(s.Networks)
			s.Networks["elsewhere"] = &overspan.Network{ID: "elsewhere"}
			in.Snapshot = &s
		}, []Part{subnets}},
	} {
		old, now := base(), base()
		now.Snapshot = old.Snapshot
		test.change(&now)
		want := partSet{}
		want.add(test.want...)
		if got := moved(old, now, rewired(old, now)); !maps.Equal(got, want) {
			t.Errorf("%s: moved are %v, want %v", test.name, got, want)
		}
	}
}

// An attach that asks for the port alone does not hide a hint that the
// container's end may have changed, nor does a mark of its network.
func TestDirtySetKeepsContainersEnds(t *testing.T) {
	set := newDirtySet()
	end := kernel.EndpointKey{Network: "n", Endpoint: "e", Netns: "/run/netns/web"}
	port := end
	port.Netns = ""
	set.mark(kernel.Scope{Endpoints: []kernel.EndpointKey{port}}, CauseChange)
	set.mark(kernel.Scope{Endpoints: []kernel.EndpointKey{end}}, CauseHint)
	set.mark(kernel.Scope{Networks: []overspan.NetworkID{"n"}, Endpoints: []kernel.EndpointKey{port}}, CauseHint)
	scope, _, _, _ := set.take()
	if !slices.Equal(scope.Endpoints, []kernel.EndpointKey{end}) || !slices.Equal(scope.Networks, []overspan.NetworkID{"n"}) {
		t.Errorf("taken is %+v", scope)
	}
}
