package store

import (
	"encoding/json"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

func TestMarshalIsCompactAndAlwaysTheSame(t *testing.T) {
	n := overspanv1.NetworkRecord(testNetwork(1))
	n.Labels = map[string]string{"b": "<2>", "a": "1", "c": "3"}
	want := `{"id":"` + string(netID(1)) + `","name":"net1","driver":"overlay",` +
		`"ipv4":{"prefix":"10.0.1.0/24","gateway":"10.0.1.1"},"vni":70001,"underlay":"ipv4","mtu":1450,` +
		`"labels":{"a":"1","b":"<2>","c":"3"},"created":"2026-01-02T03:04:05Z"}`
	for range 20 {
		got, err := Marshal(n)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != want {
			t.Fatalf("record is\n%s, want\n%s", got, want)
		}
	}
	_, err := Marshal(&overspanv1.Network{Name: "\xff"})
	wantClass(t, err, overspan.ErrInvalid)
}

func TestRewriteKeepsWhatItDoesNotKnow(t *testing.T) {
	network := &overspanv1.Network{
		Id: "x", Deleting: true, Vni: 9,
		Ipv4:   &overspanv1.Subnet{Prefix: "10.0.0.0/24", Aux: map[string]string{"a": "10.0.0.9"}},
		Labels: map[string]string{"<": ">"},
	}
	for _, tt := range []struct {
		name, old, want string
	}{
		{"nothing unknown", `{"id":"x","vni":5}`, `{"id":"x","ipv4":{"prefix":"10.0.0.0/24","aux":{"a":"10.0.0.9"}},"vni":9,"deleting":true,"labels":{"<":">"}}`},
		{
			"at every depth", `{"id":"x","shape":{"a":[1,{"b":18446744073709551615}]},"ipv4":{"colour":"<red>"}}`,
			`{"deleting":true,"id":"x","ipv4":{"aux":{"a":"10.0.0.9"},"colour":"<red>","prefix":"10.0.0.0/24"},"labels":{"<":">"},"shape":{"a":[1,{"b":18446744073709551615}]},"vni":9}`,
		},
		{
			"in a message that is gone", `{"id":"x","ipv6":{"prefix":"fd00::/64","colour":"red"}}`,
			`{"id":"x","ipv4":{"prefix":"10.0.0.0/24","aux":{"a":"10.0.0.9"}},"vni":9,"deleting":true,"labels":{"<":">"}}`,
		},
		{
			"known fields that are gone", `{"internal":true,"created":"2026-01-02T03:04:05Z"}`,
			`{"id":"x","ipv4":{"prefix":"10.0.0.0/24","aux":{"a":"10.0.0.9"}},"vni":9,"deleting":true,"labels":{"<":">"}}`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Rewrite([]byte(tt.old), network)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, string(got)); diff != "" {
				t.Errorf("record (-want +got):\n%s", diff)
			}
		})
	}
	for _, old := range []string{``, `{"id":"x"`, `[]`, `{"vni":"many"}`} {
		_, err := Rewrite([]byte(old), network)
		wantClass(t, err, overspan.ErrCorrupt)
	}
}

func FuzzRewrite(f *testing.F) {
	f.Add([]byte(`{"id":"x","new":{"a":1},"ipv4":{"colour":"red"},"aux":null}`))
	f.Fuzz(func(t *testing.T, old []byte) {
		network := overspanv1.NetworkRecord(testNetwork(1))
		value, err := Rewrite(old, network)
		if err != nil {
			wantClass(t, err, overspan.ErrCorrupt)
			return
		}
		var got overspanv1.Network
		if err := Unmarshal(value, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(network, &got, protocmp.Transform()); diff != "" {
			t.Errorf("known fields (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(unknown(t, old), unknown(t, value)); diff != "" {
			t.Errorf("unknown fields (-want +got):\n%s", diff)
		}
	})
}

// unknown returns the names of the fields of a network that are none.
func unknown(t *testing.T, value []byte) []string {
	t.Helper()
	var o object
	if err := json.Unmarshal(value, &o); err != nil {
		t.Fatal(err)
	}
	desc := (&overspanv1.Network{}).ProtoReflect().Descriptor()
	maps.DeleteFunc(o, func(name string, _ json.RawMessage) bool { return fieldNamed(desc, name) != nil })
	return slices.Sorted(maps.Keys(o))
}

// TestRecordsThatContradictTheirKeys reads each kind of record from a key that
// says otherwise.
func TestRecordsThatContradictTheirKeys(t *testing.T) {
	k := testKeys(t, "test")
	e := overspan.Endpoint{
		ID: testID[overspan.EndpointID]('a', 1), Network: netID(1), Node: nodeID(1), Name: "web",
		Slots: []overspan.Slot{2}, IPv4: testNetworkAddr(2), MAC: overspan.MAC{2, 0x42, 10, 0, 1, 2},
	}
	for _, tt := range []struct {
		name, key string
		msg       proto.Message
		read      func(KeyValue) error
	}{
		{"node", k.Node(nodeID(2)), overspanv1.NodeRecord(testNode(1)), func(kv KeyValue) error { _, err := k.node(kv); return err }},
		{"network", k.Network(netID(2)), overspanv1.NetworkRecord(testNetwork(1)), func(kv KeyValue) error { _, err := k.network(kv); return err }},
		{"endpoint's network", k.Endpoint(netID(2), 2), overspanv1.EndpointRecord(e), func(kv KeyValue) error { _, err := k.endpoint(kv); return err }},
		{"endpoint's slot", k.Endpoint(netID(1), 3), overspanv1.EndpointRecord(e), func(kv KeyValue) error { _, err := k.endpoint(kv); return err }},
		{"other kind", k.Node(nodeID(1)), overspanv1.EndpointRecord(e), func(kv KeyValue) error { _, err := k.endpoint(kv); return err }},
		{"own want", k.Want(netID(1), nodeID(1), nodeID(1)), &overspanv1.Want{Registration: 1}, func(kv KeyValue) error { _, _, err := k.want(kv); return err }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			wantClass(t, tt.read(KeyValue{Key: tt.key, Value: mustMarshal(tt.msg)}), overspan.ErrCorrupt, tt.key)
		})
	}
}
