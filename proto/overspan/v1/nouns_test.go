package overspanv1

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/overspan/overspan"
)

var created = time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)

func id(digit string) string { return strings.Repeat(digit, 64) }

func testMeta() overspan.Meta {
	return overspan.Meta{
		Schema:    1,
		ClusterID: id("c"),
		Pools: overspan.Pools{
			Overlay: overspan.Pool{Prefix: netip.MustParsePrefix("10.0.0.0/8"), Bits: 24},
			Bridge:  overspan.Pool{Prefix: netip.MustParsePrefix("172.16.0.0/12"), Bits: 24},
			IPv6:    overspan.Pool{Prefix: netip.MustParsePrefix("fd00:1:2::/48"), Bits: 64},
		},
		VNIs: overspan.VNIRange{First: 65536, Last: 131071},
	}
}

func testNode() overspan.Node {
	return overspan.Node{
		ID: overspan.NodeID(id("d")), Name: "h1", MTU: 1500, Version: "0.1.0",
		VTEPs:  []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
		Routes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
	}
}

func testNetwork() overspan.Network {
	return overspan.Network{
		ID: overspan.NetworkID(id("e")), Name: "demo", Driver: overspan.DriverOverlay,
		IPv4: overspan.Subnet{
			Prefix: netip.MustParsePrefix("10.0.0.0/24"), Gateway: netip.MustParseAddr("10.0.0.1"),
			Range: netip.MustParsePrefix("10.0.0.128/25"), Aux: map[string]netip.Addr{"rtr": netip.MustParseAddr("10.0.0.2")},
		},
		IPv6: overspan.Subnet{Prefix: netip.MustParsePrefix("fd00::/64"), Gateway: netip.MustParseAddr("fd00::1")},
		VNI:  70000, Underlay: overspan.IPv6, MTU: 1430, Internal: true, Deleting: true,
		Options: map[string]string{"mtu": "1430"}, Labels: map[string]string{"a": "b"}, Created: created,
		ConfigFrom: "defaults",
	}
}

func testEndpoint() overspan.Endpoint {
	return overspan.Endpoint{
		ID: overspan.EndpointID(id("a")), Network: overspan.NetworkID(id("e")), Node: overspan.NodeID(id("d")), Name: "web1",
		Slot: 5, Slots: []overspan.Slot{5, 9}, IPv4: netip.MustParseAddr("10.0.0.5"), IPv6: netip.MustParseAddr("fd00::9"),
		MAC: overspan.MAC{2, 0x42, 10, 0, 0, 5}, Sandbox: "web1", Interface: "eth0", Created: created, Ack: true, Aliases: []string{"www", "api"},
	}
}

func testSandbox() overspan.Sandbox {
	return overspan.Sandbox{
		ID: overspan.SandboxID(id("b")), Name: "web1", Kind: overspan.SandboxDocker, Netns: "/proc/7/ns/net",
		Inode: overspan.NetnsID{Dev: 4, Ino: 1 << 63, Boot: "a boot", Cookie: 1 << 63}, PID: 7, Created: created,
		Ports: []overspan.Port{{Protocol: overspan.UDP, Port: 53, HostIP: netip.IPv6Unspecified(), HostPort: 5300}},
		SandboxSettings: overspan.SandboxSettings{
			Hostname: "web",
			Resolver: overspan.Resolver{Servers: []netip.Addr{netip.MustParseAddr("192.0.2.53")}, Search: []string{"example.org"}, Options: []string{"ndots:1"}},
			Hosts:    []overspan.HostName{{Name: "db", Addr: netip.MustParseAddr("2001:db8::9")}},
		},
	}
}

func same(t *testing.T, want, got any, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
		return
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Errorf("%T (-want +got):\n%s", want, diff)
	}
}

func TestNounsSurviveTheirRecords(t *testing.T) {
	meta, err := MetaRecord(testMeta()).Noun()
	same(t, testMeta(), meta, err)
	node, err := NodeRecord(testNode()).Noun()
	same(t, testNode(), node, err)
	network, err := NetworkRecord(testNetwork()).Noun()
	same(t, testNetwork(), network, err)
	endpoint, err := EndpointRecord(testEndpoint()).Noun()
	same(t, testEndpoint(), endpoint, err)
	sandbox, err := SandboxRecord(testSandbox()).Noun()
	same(t, testSandbox(), sandbox, err)

	presence := overspan.Presence{MachineID: "m", BootID: "b", PIDSpace: "4026531836", PID: 7, StartTime: 1 << 63, Instance: "i"}
	gotPresence, err := PresenceRecord(presence).Noun()
	same(t, presence, gotPresence, err)
	block := overspan.Block{Range: overspan.Range{First: 64, Size: 8}, Node: testNode().ID, Ack: true}
	gotBlock, err := BlockRecord(block).Noun(block.Range)
	same(t, block, gotBlock, err)
	attachment := overspan.Attachment{Endpoint: testEndpoint(), Sandbox: testSandbox().ID, Netns: "/proc/7/ns/net", NetworkName: "demo", Committed: true, Registration: 9, Links: []overspan.Link{{Name: "db", Alias: "store"}}}
	local := testNetwork()
	local.Driver, local.Node, local.VNI, local.Underlay = overspan.DriverBridge, overspan.NodeID(id("d")), 0, ""
	attachment.Local = &local
	told := attachment
	told.Lost = "why" // follows from the snapshot and is not stored
	gotAttachment, err := AttachmentRecord(told).Noun()
	same(t, attachment, gotAttachment, err)
	slot := overspan.Slot(0)
	for _, want := range []overspan.Want{{Slot: &slot}, {}} {
		want.Network, want.Holder, want.Asker = testNetwork().ID, "holder", "asker"
		got, err := WantRecord(want, 7).Noun(want.Network, want.Holder, want.Asker)
		same(t, want, got, err)
	}
}

// A broken record is a good one with one field changed.
type broken struct {
	field, value string // which the error names
	read         func() error
}

func brokenNetwork(field, value string, change func(*Network)) broken {
	return broken{field, value, func() error {
		x := NetworkRecord(testNetwork())
		change(x)
		_, err := x.Noun()
		return err
	}}
}

func brokenEndpoint(field, value string, change func(*Endpoint)) broken {
	return broken{field, value, func() error {
		x := EndpointRecord(testEndpoint())
		change(x)
		_, err := x.Noun()
		return err
	}}
}

func brokenNode(field, value string, change func(*Node)) broken {
	return broken{field, value, func() error {
		x := NodeRecord(testNode())
		change(x)
		_, err := x.Noun()
		return err
	}}
}

func brokenMeta(field, value string, change func(*Meta)) broken {
	return broken{field, value, func() error {
		x := MetaRecord(testMeta())
		change(x)
		_, err := x.Noun()
		return err
	}}
}

func brokenSettings() []broken {
	return []broken{
		brokenMeta("schema", "0", func(x *Meta) { x.Schema = 0 }),
		brokenMeta("cluster_id", "x", func(x *Meta) { x.ClusterId = "x" }),
		brokenMeta("overlay_pool.prefix", "", func(x *Meta) { x.OverlayPool = nil }),
		brokenMeta("bridge_pool.prefix", "fd00:1:2::/48", func(x *Meta) { x.BridgePool.Prefix = "fd00:1:2::/48" }),
		brokenMeta("ipv6_pool.bits", "40", func(x *Meta) { x.Ipv6Pool.Bits = 40 }),
		brokenMeta("first_vni to last_vni", "65536 to 1", func(x *Meta) { x.LastVni = 1 }),

		brokenNode("id", "", func(x *Node) { x.Id = "" }),
		brokenNode("name", "", func(x *Node) { x.Name = "" }),
		brokenNode("vteps", "[]", func(x *Node) { x.Vteps = nil }),
		brokenNode("vteps[1]", "192.0.2.2", func(x *Node) { x.Vteps[1] = "192.0.2.2" }),
		brokenNode("vteps[0]", "fe80::1%eth0", func(x *Node) { x.Vteps[0] = "fe80::1%eth0" }),
		brokenNode("mtu", "0", func(x *Node) { x.Mtu = 0 }),
		brokenNode("routes[0]", "10.0.0.1/8", func(x *Node) { x.Routes[0] = "10.0.0.1/8" }),
	}
}

func brokenNetworks() []broken {
	return []broken{
		brokenNetwork("id", id("E"), func(x *Network) { x.Id = id("E") }),
		brokenNetwork("name", "../..", func(x *Network) { x.Name = "../.." }),
		brokenNetwork("driver", "macvlan", func(x *Network) { x.Driver = "macvlan" }),
		brokenNetwork("driver", "host", func(x *Network) { x.Driver = "host" }),
		brokenNetwork("node", id("d"), func(x *Network) { x.Node = id("d") }),
		brokenNetwork("vni", "16777216", func(x *Network) { x.Vni = 1 << 24 }),
		brokenNetwork("vni", "0", func(x *Network) { x.Vni = 0 }),
		brokenNetwork("underlay", "ipx", func(x *Network) { x.Underlay = "ipx" }),
		brokenNetwork("mtu", "70000", func(x *Network) { x.Mtu = 70000 }),
		brokenNetwork("ipv4 and ipv6", "", func(x *Network) { x.Ipv4, x.Ipv6 = nil, nil }),
		brokenNetwork("ipv4.prefix", "10.0.0.5/24", func(x *Network) { x.Ipv4.Prefix = "10.0.0.5/24" }),
		brokenNetwork("ipv4.prefix", "fd00::/64", func(x *Network) { x.Ipv4 = &Subnet{Prefix: "fd00::/64"} }),
		brokenNetwork("ipv4.gateway", "10.0.1.1", func(x *Network) { x.Ipv4.Gateway = "10.0.1.1" }),
		brokenNetwork("ipv6.gateway", "10.0.0.1", func(x *Network) { x.Ipv6.Gateway = "10.0.0.1" }),
		brokenNetwork("ipv4.range", "10.0.0.0/23", func(x *Network) { x.Ipv4.Range = "10.0.0.0/23" }),
		brokenNetwork("ipv4.aux.rtr", "10.9.0.2", func(x *Network) { x.Ipv4.Aux["rtr"] = "10.9.0.2" }),
		brokenNetwork("node", "", func(x *Network) { x.Driver, x.Vni, x.Underlay = "bridge", 0, "" }),
		brokenNetwork("vni", "70000", func(x *Network) { x.Driver, x.Node, x.Underlay = "bridge", id("d"), "" }),
		brokenNetwork("driver", "overlay", func(x *Network) { x.ConfigOnly = true }),
		brokenNetwork("mtu", "1430", func(x *Network) { x.ConfigOnly, x.Driver, x.Vni, x.Underlay = true, "null", 0, "" }),
		brokenNetwork("config_from", "x", func(x *Network) {
			x.ConfigOnly, x.Driver, x.Vni, x.Underlay, x.Mtu, x.ConfigFrom = true, "null", 0, "", 0, "x"
		}),
	}
}

func brokenEndpoints() []broken {
	return []broken{
		brokenEndpoint("node", "h1", func(x *Endpoint) { x.Node = "h1" }),
		brokenEndpoint("name", "a/b", func(x *Endpoint) { x.Name = "a/b" }),
		brokenEndpoint("slots", "[]", func(x *Endpoint) { x.Slots = nil }),
		brokenEndpoint("slots", "[5 5]", func(x *Endpoint) { x.Slots[1] = 5 }),
		brokenEndpoint("slots", "[5 9]", func(x *Endpoint) { x.Ipv6 = "" }),
		brokenEndpoint("ipv4", "fd00::5", func(x *Endpoint) { x.Ipv4 = "fd00::5" }),
		brokenEndpoint("ipv4", "10.0.0.256", func(x *Endpoint) { x.Ipv4 = "10.0.0.256" }),
		brokenEndpoint("mac", "ff:ff:ff:ff:ff:ff", func(x *Endpoint) { x.Mac = "ff:ff:ff:ff:ff:ff" }),
		brokenEndpoint("created", "", func(x *Endpoint) { x.Created.Nanos = -1 }),
	}
}

func brokenRest() []broken {
	return []broken{
		{"instance", "", func() error { _, err := (&Presence{}).Noun(); return err }},
		{"pid", "-1", func() error { _, err := (&Presence{Pid: -1}).Noun(); return err }},
		{"range", "3-4", func() error {
			_, err := (&Block{Node: id("d")}).Noun(overspan.Range{First: 3, Size: 2})
			return err
		}},
		{"node", "", func() error { _, err := (&Block{}).Noun(overspan.Range{Size: 2}); return err }},
		{"slot", "3", func() error { _, err := (&Want{Registration: 1, Slot: 3}).Noun("n", "a", "b"); return err }},
		{"registration", "0", func() error { _, err := (&Want{}).Noun("n", "a", "b"); return err }},
		{"asker", "a", func() error { _, err := (&Want{Registration: 1}).Noun("n", "a", "a"); return err }},
		{"kind", "vm", func() error {
			x := SandboxRecord(testSandbox())
			x.Kind = "vm"
			_, err := x.Noun()
			return err
		}},
		{"id", "", func() error { _, err := (&Attachment{Sandbox: id("b")}).Noun(); return err }},
	}
}

func TestBrokenRecordsAreRefused(t *testing.T) {
	for _, tt := range slices.Concat(brokenSettings(), brokenNetworks(), brokenEndpoints(), brokenRest()) {
		err := tt.read()
		if !errors.Is(err, overspan.ErrCorrupt) {
			t.Errorf("%s = %q: %v, want a corrupt record", tt.field, tt.value, err)
			continue
		}
		for _, text := range []string{"field " + tt.field + " is ", tt.value} {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("%s = %q: %q does not say %q", tt.field, tt.value, err, text)
			}
		}
	}
}

// FuzzNouns reads a value as every kind of record: what is accepted survives
// being written and read again.
func FuzzNouns(f *testing.F) {
	for _, msg := range []proto.Message{
		MetaRecord(testMeta()), NodeRecord(testNode()), NetworkRecord(testNetwork()),
		EndpointRecord(testEndpoint()), SandboxRecord(testSandbox()),
	} {
		value, err := protojson.Marshal(msg)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		survives(t, value, (*Meta).Noun, MetaRecord)
		survives(t, value, (*Node).Noun, NodeRecord)
		survives(t, value, (*Presence).Noun, PresenceRecord)
		survives(t, value, (*Network).Noun, NetworkRecord)
		survives(t, value, (*Endpoint).Noun, EndpointRecord)
		survives(t, value, (*Sandbox).Noun, SandboxRecord)
		survives(t, value, (*Attachment).Noun, AttachmentRecord)
	})
}

func survives[R any, M interface {
	*R
	proto.Message
}, N any](t *testing.T, value []byte, noun func(M) (N, error), record func(N) M) {
	t.Helper()
	msg := M(new(R))
	if (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(value, msg) != nil {
		return
	}
	first, err := noun(msg)
	if err != nil {
		if !errors.Is(err, overspan.ErrCorrupt) {
			t.Errorf("%v is not of class corrupt", err)
		}
		return
	}
	again, err := noun(record(first))
	same(t, first, again, err)
}
