package ipam

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/overspan/overspan"
)

// A scene is a View in few words.
type scene struct {
	spec    Spec
	blocks  map[string]string // "first+size" to node
	used    map[overspan.Slot]string
	held    []overspan.Slot
	resting []overspan.Slot
	waiting int
	away    []overspan.NodeID
}

// view is what node h1 sees. Names of nodes are their ids in capitals.
func (s scene) view(t testing.TB) View {
	t.Helper()
	v := View{
		Network: network(t, s.spec), Self: "h1",
		Segment: &overspan.Segment{},
		Held:    map[overspan.Slot]struct{}{}, Resting: map[overspan.Slot]time.Time{}, Waiting: s.waiting,
		Name: func(id overspan.NodeID) string { return strings.ToUpper(string(id)) },
		Up: func(id overspan.NodeID) bool {
			for _, away := range s.away {
				if id == away {
					return false
				}
			}
			return true
		},
	}
	for text, node := range s.blocks {
		b := block(t, text, overspan.NodeID(node))
		v.Segment.Blocks.Put(b.First, b)
	}
	for slot, node := range s.used {
		v.Segment.Endpoints.Put(slot, &overspan.Endpoint{Name: fmt.Sprintf("web%d", slot), Node: overspan.NodeID(node), Slot: slot, Slots: []overspan.Slot{slot}})
	}
	for _, slot := range s.held {
		v.Held[slot] = struct{}{}
	}
	for _, slot := range s.resting {
		v.Resting[slot] = time.Time{}
	}
	return v
}

func block(t testing.TB, text string, node overspan.NodeID) overspan.Block {
	t.Helper()
	b := overspan.Block{Node: node}
	if _, err := fmt.Sscanf(text, "%d+%d", &b.First, &b.Size); err != nil || !b.IsBlock() {
		t.Fatalf("%q is no block: %v", text, err)
	}
	return b
}

func slot(s overspan.Slot) *overspan.Slot { return &s }

func TestDecide(t *testing.T) {
	small := Spec{Subnets: []string{"10.0.0.0/29"}} // lends 2 to 6
	large := Spec{Subnets: []string{"10.0.0.0/24"}} // lends 2 to 254
	dual := Spec{Subnets: []string{"10.0.0.0/24", "fd00::/64"}, Gateways: []string{"10.0.0.254"}}
	full := map[string]string{"0+2": "h1", "2+1": "h1", "3+1": "h2", "4+4": "h3"}

	for _, tc := range []struct {
		name    string
		scene   scene
		request Request
		want    Decision
		class   error
		text    string // part of the error's
	}{
		{
			name: "the first claim of all is the lowest", scene: scene{spec: large},
			want: Claim{overspan.Range{First: 0, Size: 8}},
		},
		{
			name:  "the lowest free slot of an own block",
			scene: scene{spec: large, blocks: map[string]string{"8+8": "h1", "0+8": "h1"}, used: map[overspan.Slot]string{2: "h1", 4: "h1"}, held: []overspan.Slot{3}},
			want:  Take{Slot: 5, Block: block(t, "0+8", "h1")},
		},
		{
			name:  "a resting slot is passed over",
			scene: scene{spec: large, blocks: map[string]string{"0+4": "h1"}, resting: []overspan.Slot{2}},
			want:  Take{Slot: 3, Block: block(t, "0+4", "h1")},
		},
		{
			name:  "rather a new block than a resting slot",
			scene: scene{spec: large, blocks: map[string]string{"0+4": "h1"}, resting: []overspan.Slot{2, 3}},
			want:  Claim{overspan.Range{First: 8, Size: 8}},
		},
		{
			name:  "rather a resting slot than another's",
			scene: scene{spec: small, blocks: full, resting: []overspan.Slot{2}},
			want:  Take{Slot: 2, Block: block(t, "2+1", "h1")},
		},
		{
			name:  "who has most to spare is asked",
			scene: scene{spec: small, blocks: full, used: map[overspan.Slot]string{2: "h1"}},
			want:  Ask{Holder: "h3"},
		},
		{
			name:  "who is away is not asked",
			scene: scene{spec: small, blocks: full, used: map[overspan.Slot]string{2: "h1"}, away: []overspan.NodeID{"h3"}},
			want:  Ask{Holder: "h2"},
		},
		{
			name:    "who refused is not asked again",
			scene:   scene{spec: small, blocks: full, used: map[overspan.Slot]string{2: "h1"}},
			request: Request{Refused: map[overspan.NodeID]uint64{"h3": 3}},
			want:    Ask{Holder: "h2"},
		},
		{
			name:    "unless it has more than when it refused",
			scene:   scene{spec: small, blocks: full, used: map[overspan.Slot]string{2: "h1"}},
			request: Request{Refused: map[overspan.NodeID]uint64{"h3": 2}},
			want:    Ask{Holder: "h3"},
		},
		{
			name:  "nobody has any",
			scene: scene{spec: small, blocks: full, used: map[overspan.Slot]string{2: "h1", 3: "h2", 4: "h3", 6: "h3"}, away: []overspan.NodeID{"h3"}},
			class: overspan.ErrExhausted,
			text:  "network demo has no free address left in 10.0.0.0/29: node H1 holds 1 (1 in use), node H2 holds 1 (1 in use), node H3 holds 3 (2 in use, away); disconnect an endpoint, make a larger network, or remove a node that is gone for good: ctl node rm H3",
		},
		{
			name:  "a single slot remains unclaimed",
			scene: scene{spec: small, blocks: map[string]string{"0+4": "h2", "4+1": "h2", "6+1": "h2"}},
			want:  Claim{overspan.Range{First: 5, Size: 1}},
		},
		{
			name:  "what is unclaimed but reserved is not claimed",
			scene: scene{spec: small, blocks: map[string]string{"2+2": "h2", "4+2": "h2", "6+1": "h2"}},
			want:  Ask{Holder: "h2"},
		},
		{
			name:    "what could not be claimed is avoided",
			scene:   scene{spec: large},
			request: Request{Avoid: []overspan.Range{{First: 0, Size: 8}, {First: 8, Size: 8}}},
			want:    Claim{overspan.Range{First: 16, Size: 8}},
		},
		{
			name:  "a block outside the range serves no dynamic address",
			scene: scene{spec: Spec{Subnets: large.Subnets, Ranges: []string{"10.0.0.128/28"}}, blocks: map[string]string{"5+1": "h1"}},
			want:  Claim{overspan.Range{First: 128, Size: 1}},
		},
		{
			name: "an address in unclaimed space", scene: scene{spec: large},
			request: Request{Addr: addr("10.0.0.9")}, want: Claim{overspan.Range{First: 9, Size: 1}},
		},
		{
			name: "an address beyond the derived slots", scene: scene{spec: dual},
			request: Request{Addr: addr("fd00::ffff:ffff:ffff:ffff")}, want: Claim{overspan.Range{First: 1<<64 - 1, Size: 1}},
		},
		{
			name: "an own address, even one that rests", scene: scene{spec: small, blocks: full, resting: []overspan.Slot{2}},
			request: Request{Addr: addr("10.0.0.2")}, want: Take{Slot: 2, Block: block(t, "2+1", "h1")},
		},
		{
			name: "an address that is about to be used here", scene: scene{spec: small, blocks: full, held: []overspan.Slot{2}},
			request: Request{Addr: addr("10.0.0.2")},
			class:   overspan.ErrInUse, text: "address already in use: 10.0.0.2 of network demo is held by node H1",
		},
		{
			name: "an address of another", scene: scene{spec: small, blocks: full},
			request: Request{Addr: addr("10.0.0.4")}, want: Ask{Holder: "h3", Slot: slot(4)},
		},
		{
			name: "an address that another uses", scene: scene{spec: small, blocks: full, used: map[overspan.Slot]string{4: "h3"}},
			request: Request{Addr: addr("10.0.0.4")},
			class:   overspan.ErrInUse, text: "address already in use: endpoint web4 on node H3 has 10.0.0.4 in network demo",
		},
		{
			name:    "an address of an endpoint whose node is away",
			scene:   scene{spec: small, blocks: full, used: map[overspan.Slot]string{4: "h3"}, away: []overspan.NodeID{"h3"}},
			request: Request{Addr: addr("10.0.0.4")},
			class:   overspan.ErrInUse, text: "in network demo; that node is away: wait until it is back, or remove it for good with ctl node rm H3",
		},
		{
			name: "an address that another keeps", scene: scene{spec: small, blocks: full},
			request: Request{Addr: addr("10.0.0.4"), Refused: map[overspan.NodeID]uint64{"h3": 3}},
			class:   overspan.ErrInUse, text: "address already in use: 10.0.0.4 of network demo is held by node H3",
		},
		{
			name: "an address of a node that is away", scene: scene{spec: small, blocks: full, away: []overspan.NodeID{"h3"}},
			request: Request{Addr: addr("10.0.0.4")},
			class:   overspan.ErrUnavailable, text: "address 10.0.0.4 of network demo is held by node H3, which is away: take another address, wait until the node is back, or remove it for good with ctl node rm H3",
		},
		{
			name: "an address that cannot be claimed", scene: scene{spec: large},
			request: Request{Addr: addr("10.0.0.9"), Avoid: []overspan.Range{{First: 9, Size: 1}}},
			class:   overspan.ErrUnavailable, text: "address 10.0.0.9 of network demo cannot be claimed although nobody seems to hold it",
		},
		{
			name: "an address outside", scene: scene{spec: dual},
			request: Request{Addr: addr("10.21.0.5")},
			class:   overspan.ErrInvalid, text: "address 10.21.0.5 is not in this network's subnets (10.0.0.0/24, fd00::/64)",
		},
		{
			name: "an address of a family that the network lacks", scene: scene{spec: large},
			request: Request{Addr: addr("fd00::2")},
			class:   overspan.ErrInvalid, text: "address fd00::2 is not in this network's subnets (10.0.0.0/24)",
		},
		{
			name: "an address that goes with a reserved one", scene: scene{spec: dual},
			request: Request{Addr: addr("fd00::fe")},
			class:   overspan.ErrInvalid, text: "address fd00::fe cannot be lent: 10.0.0.254, which goes with it, is the gateway of network demo",
		},
		{
			name:    "an address too far up",
			scene:   scene{spec: Spec{Subnets: []string{"fd00::/48"}, NoIPv4: true}},
			request: Request{Addr: addr("fd00:0:0:1::2")},
			class:   overspan.ErrInvalid, text: "address fd00:0:0:1::2 is too far up in fd00::/48",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Decide(tc.scene.view(t), tc.request)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("decision (-want +got):\n%s", diff)
			}
			if !errors.Is(err, tc.class) || err != nil && !strings.Contains(err.Error(), tc.text) {
				t.Errorf("got error %v, want %v: %s", err, tc.class, tc.text)
			}
		})
	}
}

func TestDecideInRemovedNetwork(t *testing.T) {
	v := scene{spec: Spec{Subnets: []string{"10.0.0.0/24"}}}.view(t)
	v.Network.Deleting = true
	if _, err := Decide(v, Request{}); !errors.Is(err, overspan.ErrNotFound) {
		t.Errorf("got %v, want %v", err, overspan.ErrNotFound)
	}
}

// TestMembersScatter lets many nodes that see the same claim at once: few of
// them want the same block, and all want a low one.
func TestMembersScatter(t *testing.T) {
	v := scene{spec: Spec{Subnets: []string{"10.0.0.0/16"}}, blocks: map[string]string{"0+64": "other"}}.view(t)
	racers := map[overspan.Slot]int{}
	for _, id := range nodes(64) {
		v.Self = id
		d, err := Decide(v, Request{})
		if err != nil {
			t.Fatal(err)
		}
		racers[d.(Claim).First]++
	}
	for first, n := range racers {
		if n > 6 || first > 64*overspan.MaxBlockSize {
			t.Errorf("%d of 64 nodes claim the block at %d", n, first)
		}
	}
	if len(racers) < 32 {
		t.Errorf("64 nodes claim only %d different blocks: %v", len(racers), maps.Collect(maps.All(racers)))
	}
}

func TestManyHoldersAreCounted(t *testing.T) {
	s := scene{spec: Spec{Subnets: []string{"10.0.0.0/28"}}, blocks: map[string]string{}, used: map[overspan.Slot]string{}}
	for i := range overspan.Slot(16) {
		node := fmt.Sprintf("h%02d", i)
		s.blocks[fmt.Sprintf("%d+1", i)] = node
		s.used[i] = node
	}
	_, err := Decide(s.view(t), Request{})
	if !errors.Is(err, overspan.ErrExhausted) || !strings.Contains(err.Error(), "8 more nodes hold the rest") {
		t.Errorf("got %v", err)
	}
}

// TestAsksAreSpread: nodes that find a network full at the same moment ask
// different holders, though none that has much less than others.
func TestAsksAreSpread(t *testing.T) {
	const holders, askers = 16, 64
	v := scene{spec: Spec{Driver: "overlay", Subnets: []string{"10.0.0.0/22"}}}.view(t)
	for i := range holders {
		b := overspan.Block{Range: overspan.Range{First: overspan.Slot(i * 64), Size: 64}, Node: overspan.NodeID(fmt.Sprintf("h%d", 10+i))}
		v.Segment.Blocks.Put(b.First, b)
	}
	for s := range overspan.Slot(40) { // of the first holder's
		v.Segment.Endpoints.Put(s, &overspan.Endpoint{Node: "h10", Slot: s, Slots: []overspan.Slot{s}})
	}
	asked := map[overspan.NodeID]int{}
	for i := range askers {
		v.Self = overspan.NodeID(overspan.NewID())
		first, err := Decide(v, Request{})
		if err != nil {
			t.Fatal(err)
		}
		if again, err := Decide(v, Request{}); err != nil || again != first {
			t.Errorf("asker %d changes its mind: %v, then %v, %v", i, first, again, err)
		}
		asked[first.(Ask).Holder]++
	}
	if asked["h10"] > 0 {
		t.Errorf("one that has little to spare was asked %d times", asked["h10"])
	}
	if len(asked) < holders/2 {
		t.Errorf("%d askers ask %d of %d holders: %v", askers, len(asked), holders, asked)
	}
}
