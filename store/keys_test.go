package store

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/overspan/overspan"
)

func TestKeysLayout(t *testing.T) {
	k := testKeys(t, "prod")
	n, node := netID(1), nodeID(2)
	netHex, nodeHex := string(n), string(node)
	mac := overspan.MAC{0x0a, 0, 0, 0, 0, 1}
	for _, tt := range []struct {
		key  string
		want string // below /overspan/prod/v1/
		name KeyName
	}{
		{k.Meta(), "meta", KeyName{Kind: KeyMeta}},
		{k.Frozen(), "meta/frozen", KeyName{Kind: KeyFrozen}},
		{k.Accepted(), "meta/accepted", KeyName{Kind: KeyAccepted}},
		{k.Report(node), "reports/" + nodeHex, KeyName{Kind: KeyReport, Node: node}},
		{k.Eviction(node, overspan.EndpointID(nodeHex)), "evicted/" + nodeHex + "/" + nodeHex, KeyName{Kind: KeyEviction, Node: node, Evicted: overspan.EndpointID(nodeHex)}},
		{k.Node(node), "nodes/" + nodeHex, KeyName{Kind: KeyNode, Node: node}},
		{k.Live(node), "live/" + nodeHex, KeyName{Kind: KeyLive, Node: node}},
		{k.Removing(node), "removing/" + nodeHex, KeyName{Kind: KeyRemoving, Node: node}},
		{k.Flight(node), "flights/" + nodeHex, KeyName{Kind: KeyFlight, Node: node}},
		{k.Network(n), "networks/" + netHex, KeyName{Kind: KeyNetwork, Network: n}},
		{k.NetworkName("demo", ""), "names/demo/global", KeyName{Kind: KeyNetworkName, Name: "demo"}},
		{k.NetworkName("demo", node), "names/demo/" + nodeHex, KeyName{Kind: KeyNetworkName, Name: "demo", Node: node}},
		{k.VNI(65536), "vnis/00065536", KeyName{Kind: KeyVNI, VNI: 65536}},
		{
			k.Subnet(netip.MustParsePrefix("10.0.7.0/24")), "subnets/ipv4/0a000700/024",
			KeyName{Kind: KeySubnet, Subnet: netip.MustParsePrefix("10.0.7.0/24")},
		},
		{
			k.Subnet(netip.MustParsePrefix("fd00::/64")), "subnets/ipv6/fd000000000000000000000000000000/064",
			KeyName{Kind: KeySubnet, Subnet: netip.MustParsePrefix("fd00::/64")},
		},
		{k.SubnetsVersion(), "subnets/version", KeyName{Kind: KeySubnetsVersion}},
		{
			k.Block(n, overspan.Range{First: 64, Size: 8}), "net/" + netHex + "/blocks/08/0000000000000040",
			KeyName{Kind: KeyBlock, Network: n, Block: overspan.Range{First: 64, Size: 8}},
		},
		{k.Endpoint(n, 254), "net/" + netHex + "/endpoints/00000000000000fe", KeyName{Kind: KeyEndpoint, Network: n, Slot: 254}},
		{k.EndpointName(n, "web1"), "net/" + netHex + "/names/web1", KeyName{Kind: KeyEndpointName, Network: n, Name: "web1"}},
		{k.MAC(n, mac), "net/" + netHex + "/macs/0a:00:00:00:00:01", KeyName{Kind: KeyMAC, Network: n, MAC: mac}},
		{
			k.Want(n, node, nodeID(3)), "net/" + netHex + "/wants/" + nodeHex + "/" + string(nodeID(3)),
			KeyName{Kind: KeyWant, Network: n, Node: node, Asker: nodeID(3)},
		},
		{k.Ack(n, node), "acks/" + netHex + "/" + nodeHex, KeyName{Kind: KeyAck, Network: n, Node: node}},
	} {
		if want := "/overspan/prod/v1/" + tt.want; tt.key != want {
			t.Errorf("key is %s, want %s", tt.key, want)
		}
		got, err := k.Parse(tt.key)
		if err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(tt.name, got, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.key, diff)
		}
		if !k.All().contains(tt.key) {
			t.Errorf("%s is not of the cluster", tt.key)
		}
		if _, err := testKeys(t, "other").Parse(tt.key); err == nil {
			t.Errorf("%s is of another cluster, too", tt.key)
		}
	}
}

func TestKeysRefusesAClusterThatIsNoPath(t *testing.T) {
	for _, name := range []string{"", "a/b", "..", "a b"} {
		_, err := NewKeys(name)
		wantClass(t, err, overspan.ErrInvalid, "cluster")
	}
}

// TestRangesOfKeysAreRangesOfSlots compares ranges of keys with the arithmetic
// that they stand for.
func TestRangesOfKeysAreRangesOfSlots(t *testing.T) {
	k := testKeys(t, "test")
	rapid.Check(t, func(t *rapid.T) {
		block := func(label string) overspan.Range {
			size := rapid.SampledFrom(overspan.BlockSizes()).Draw(t, label+" size")
			at := overspan.Slot(rapid.OneOf(rapid.Uint64Max(300), rapid.Uint64()).Draw(t, label+" slot"))
			return overspan.BlockAt(at, size)
		}
		a, b := block("a"), block("b")
		overlaps := slices.ContainsFunc(overspan.BlockSizes(), func(size uint64) bool {
			if size <= a.Size {
				return k.BlocksWithin(netID(1), a, size).contains(k.Block(netID(1), b))
			}
			return k.Block(netID(1), overspan.BlockAt(a.First, size)) == k.Block(netID(1), b)
		})
		if overlaps != a.Overlaps(b) {
			t.Errorf("%v and %v overlap: %v, by their keys %v", a, b, a.Overlaps(b), overlaps)
		}
		if in := k.EndpointsWithin(netID(1), a).contains(k.Endpoint(netID(1), b.First)); in != a.Contains(b.First) {
			t.Errorf("slot %d lies in %v: %v, by its key %v", b.First, a, a.Contains(b.First), in)
		}
	})
}

func FuzzParseKey(f *testing.F) {
	k, err := NewKeys("c")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(k.Meta())
	f.Add(k.Subnet(netip.MustParsePrefix("10.0.7.0/24")))
	f.Add(k.Block(netID(1), overspan.Range{First: 64, Size: 8}))
	f.Add(k.Want(netID(1), nodeID(2), nodeID(3)))
	f.Fuzz(func(t *testing.T, key string) {
		name, err := k.Parse(key)
		if err != nil {
			wantClass(t, err, overspan.ErrCorrupt)
			return
		}
		if again := k.build(name); again != key {
			t.Errorf("%q was read as %+v, which is %q", key, name, again)
		}
	})
}
