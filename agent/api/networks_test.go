package api_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/api/apitest"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// foreign adds a network as another node would have made it.
func foreign(d *apitest.Daemon, n overspan.Network, segment *overspan.Segment) {
	d.Change(func(s *overspan.Snapshot) {
		s.Networks[n.ID] = &n
		if segment != nil {
			s.Segments.Put(n.ID, segment)
		}
	})
}

func id(c string) string { return strings.Repeat(c, 64/len(c)) }

func (c clients) names(t *testing.T, filters map[string]*overspanv1.FilterValues) []string {
	t.Helper()
	resp, err := c.networks.ListNetworks(t.Context(), &overspanv1.ListNetworksRequest{Filters: filters})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, n := range resp.GetNetworks() {
		out = append(out, n.GetName())
	}
	return out
}

// TestListNetworks: readers see the predefined networks, the global ones and
// their own node's, but neither another node's nor those on their way out.
func TestListNetworks(t *testing.T) {
	d, c := start(t)
	foreign(d, overspan.Network{ID: overspan.NetworkID(id("01")), Name: "mine", Driver: overspan.DriverBridge, Node: apitest.Self}, nil)
	foreign(d, overspan.Network{ID: overspan.NetworkID(id("02")), Name: "theirs", Driver: overspan.DriverBridge, Node: apitest.Other}, nil)
	foreign(d, overspan.Network{ID: overspan.NetworkID(id("03")), Name: "all", Driver: overspan.DriverOverlay}, nil)
	foreign(d, overspan.Network{ID: overspan.NetworkID(id("04")), Name: "old", Driver: overspan.DriverOverlay, Deleting: true}, nil)
	if diff := cmp.Diff([]string{"all", "bridge", "host", "mine", "none"}, c.names(t, nil)); diff != "" {
		t.Errorf("networks (-want +got):\n%s", diff)
	}
	for _, ref := range []string{"theirs", "old", id("02"), id("04"), "0202"} {
		_, err := c.networks.GetNetwork(t.Context(), &overspanv1.GetNetworkRequest{Network: ref})
		if !errors.Is(err, overspan.ErrNotFound) || err.Error() != "network "+ref+" not found" {
			t.Errorf("get %s: %v", ref, err)
		}
	}
}

func TestNetworkReferences(t *testing.T) {
	d, c := start(t)
	foreign(d, overspan.Network{ID: overspan.NetworkID(id("ab01")), Name: "one", Driver: overspan.DriverOverlay}, nil)
	foreign(d, overspan.Network{ID: overspan.NetworkID(id("ab02")), Name: "two", Driver: overspan.DriverOverlay}, nil)
	foreign(d, overspan.Network{ID: overspan.NetworkID(id("02ab")), Name: "theirs", Driver: overspan.DriverBridge, Node: apitest.Other}, nil)
	foreign(d, overspan.Network{ID: overspan.NetworkID(id("02ac")), Name: "three", Driver: overspan.DriverOverlay}, nil)
	for _, tt := range []struct {
		name, ref, want string
		class           error
		text            string
	}{
		{name: "name", ref: "one", want: "one"},
		{name: "whole id", ref: id("ab02"), want: "two"},
		{name: "unique prefix", ref: "ab01", want: "one"},
		{name: "prefix that is only unique here", ref: "02a", want: "three"},
		{name: "predefined", ref: "none", want: "none"},
		{name: "ambiguous prefix", ref: "ab0", class: overspan.ErrInvalid, text: "network ab0 is ambiguous: 2 match; give more digits of the id"},
		{name: "unknown", ref: "demo", class: overspan.ErrNotFound, text: "network demo not found"},
		{name: "nothing", ref: "", class: overspan.ErrNotFound, text: `network "" not found: the name is empty`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := c.networks.GetNetwork(t.Context(), &overspanv1.GetNetworkRequest{Network: tt.ref})
			if tt.class != nil {
				if !errors.Is(err, tt.class) || err.Error() != tt.text {
					t.Fatalf("error %v, want %q", err, tt.text)
				}
				return
			}
			if err != nil || got.GetNetwork().GetName() != tt.want {
				t.Fatalf("got %s, %v; want %s", got.GetNetwork().GetName(), err, tt.want)
			}
		})
	}
}

// TestDefaultNetwork: it is shown, under the id that it will have, before its
// record is written; then the record is.
func TestDefaultNetwork(t *testing.T) {
	d, c := start(t)
	unused := must[*overspanv1.GetNetworkResponse](t)(c.networks.GetNetwork(t.Context(), &overspanv1.GetNetworkRequest{Network: "bridge"}))
	n := unused.GetNetwork()
	if !unused.GetPredefined() || n.GetDriver() != "bridge" || n.GetNode() != string(apitest.Self) || n.GetIpv4() != nil {
		t.Errorf("before it is used: %v", unused)
	}
	if got, err := c.networks.GetNetwork(t.Context(), &overspanv1.GetNetworkRequest{Network: n.GetId()[:12]}); err != nil || got.GetNetwork().GetId() != n.GetId() {
		t.Errorf("by its id: %v, %v", got, err)
	}
	for _, empty := range []string{"bridge", "host", "none"} {
		endpoints := must[*overspanv1.ListEndpointsResponse](t)(c.endpoints.ListEndpoints(t.Context(), &overspanv1.ListEndpointsRequest{Network: empty}))
		blocks := must[*overspanv1.ListBlocksResponse](t)(c.system.ListBlocks(t.Context(), &overspanv1.ListBlocksRequest{Network: empty}))
		if len(endpoints.GetEndpoints())+len(blocks.GetBlocks()) > 0 {
			t.Errorf("in %s, which nothing has used: %v, %v", empty, endpoints, blocks)
		}
	}
	must[*overspanv1.CreateSandboxResponse](t)(c.sandboxes.CreateSandbox(t.Context(), &overspanv1.CreateSandboxRequest{Name: "web1"}))
	must[*overspanv1.ConnectResponse](t)(c.networks.Connect(t.Context(), &overspanv1.ConnectRequest{Network: "bridge", Target: "web1"}))
	used := must[*overspanv1.GetNetworkResponse](t)(c.networks.GetNetwork(t.Context(), &overspanv1.GetNetworkRequest{Network: "bridge"}))
	if used.GetNetwork().GetId() != n.GetId() || used.GetNetwork().GetIpv4() == nil || len(used.GetEndpoints()) != 1 {
		t.Errorf("once it is used: %v", used)
	}
	for filter, want := range map[string][]string{"builtin": {"bridge", "host", "none"}, "custom": nil} {
		if diff := cmp.Diff(want, c.names(t, filters(map[string][]string{"type": {filter}}))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", filter, diff)
		}
	}
	foreign(d, overspan.Network{ID: overspan.NetworkID(id("02")), Name: overspan.DefaultNetwork, Driver: overspan.DriverBridge, Node: apitest.Other}, nil)
	if diff := cmp.Diff([]string{"bridge", "host", "none"}, c.names(t, nil)); diff != "" {
		t.Errorf("beside another node's (-want +got):\n%s", diff)
	}
}

func TestFilterNetworks(t *testing.T) {
	d, c := start(t)
	foreign(d, overspan.Network{ID: overspan.NetworkID(id("01")), Name: "web", Driver: overspan.DriverOverlay, Labels: map[string]string{"env": "prod", "team": "a"}}, nil)
	foreign(d, overspan.Network{ID: overspan.NetworkID(id("02")), Name: "web-test", Driver: overspan.DriverOverlay, Labels: map[string]string{"env": "test"}}, nil)
	foreign(d, overspan.Network{ID: overspan.NetworkID(id("03")), Name: "br", Driver: overspan.DriverBridge, Node: apitest.Self}, nil)
	for _, tt := range []struct {
		name    string
		filters map[string][]string
		want    []string
	}{
		{"none", nil, []string{"br", "bridge", "host", "none", "web", "web-test"}},
		{"part of the name", map[string][]string{"name": {"web"}}, []string{"web", "web-test"}},
		{"exactly the name", map[string][]string{"name": {"^web$"}}, []string{"web"}},
		{"either name", map[string][]string{"name": {"test", "br"}}, []string{"br", "bridge", "web-test"}},
		{"id", map[string][]string{"id": {"0202"}}, []string{"web-test"}},
		{"driver", map[string][]string{"driver": {"overlay"}}, []string{"web", "web-test"}},
		{"driver of none", map[string][]string{"driver": {"null", "host"}}, []string{"host", "none"}},
		{"scope", map[string][]string{"scope": {"local"}}, []string{"br", "bridge", "host", "none"}},
		{"builtin", map[string][]string{"type": {"builtin"}}, []string{"bridge", "host", "none"}},
		{"custom", map[string][]string{"type": {"custom"}}, []string{"br", "web", "web-test"}},
		{"label", map[string][]string{"label": {"env"}}, []string{"web", "web-test"}},
		{"label with value", map[string][]string{"label": {"env=prod"}}, []string{"web"}},
		{"both labels", map[string][]string{"label": {"env=prod", "team=b"}}, nil},
		{"two keys", map[string][]string{"name": {"web"}, "label": {"env=test"}}, []string{"web-test"}},
		{"a key without values", map[string][]string{"name": {}}, []string{"br", "bridge", "host", "none", "web", "web-test"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, c.names(t, filters(tt.filters))); diff != "" {
				t.Errorf("networks (-want +got):\n%s", diff)
			}
		})
	}
	for text, bad := range map[string]map[string][]string{
		"invalid filter 'scope=everywhere': use global or local or swarm":             {"scope": {"everywhere"}},
		"invalid filter 'color': use dangling, driver, id, label, name, scope, type":  {"color": {"red"}},
		"invalid filter 'type=odd': use builtin or custom":                            {"type": {"odd"}},
		"invalid filter 'name=(': error parsing regexp: missing closing ): `(`":       {"name": {"("}},
		"invalid filter 'dangling=perhaps': use true or false":                        {"dangling": {"perhaps"}},
		"invalid filter 'label!': use dangling, driver, id, label, name, scope, type": {"label!": {"env"}},
		"invalid filter 'until': use dangling, driver, id, label, name, scope, type":  {"until": {"1h"}},
	} {
		_, err := c.networks.ListNetworks(t.Context(), &overspanv1.ListNetworksRequest{Filters: filters(bad)})
		if !errors.Is(err, overspan.ErrInvalid) || err.Error() != text {
			t.Errorf("error %v, want %s", err, text)
		}
	}
}

// TestDanglingNetworks are those that nothing is plugged into, on any node,
// whether this one follows them or not.
func TestDanglingNetworks(t *testing.T) {
	d, c := start(t)
	c.plug(t, "used", "web1")
	c.plug(t, "far", "web2")
	for _, name := range []string{"empty", "other"} {
		must[*overspanv1.CreateNetworkResponse](t)(c.networks.CreateNetwork(t.Context(), &overspanv1.CreateNetworkRequest{Name: name, Driver: "overlay"}))
	}
	for _, name := range []string{"far", "other"} {
		if err := d.Unfollow(name); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name    string
		filters map[string][]string
		want    []string
	}{
		{"alone", map[string][]string{"dangling": {"true"}}, []string{"empty", "other"}},
		{"in docker's other word", map[string][]string{"dangling": {"1"}}, []string{"empty", "other"}},
		{"left out", map[string][]string{"dangling": {"false"}}, []string{"bridge", "far", "host", "none", "used"}},
		{"both", map[string][]string{"dangling": {"true", "false"}}, []string{"bridge", "empty", "far", "host", "none", "other", "used"}},
		{"and a name", map[string][]string{"dangling": {"true"}, "name": {"^e"}}, []string{"empty"}},
	} {
		if diff := cmp.Diff(tt.want, c.names(t, filters(tt.filters))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
	d.LoseEtcd("connection refused")
	_, err := c.networks.ListNetworks(t.Context(), &overspanv1.ListNetworksRequest{Filters: filters(map[string][]string{"dangling": {"true"}})})
	if want := "cannot tell whether network far is in use: etcd is not reachable: connection refused"; !errors.Is(err, overspan.ErrUnavailable) || err.Error() != want {
		t.Errorf("without etcd: %v, want %s", err, want)
	}
	if diff := cmp.Diff([]string{"empty"}, c.names(t, filters(map[string][]string{"dangling": {"true"}, "name": {"empty"}}))); diff != "" {
		t.Errorf("without etcd, of what is followed (-want +got):\n%s", diff)
	}
}

func filters(in map[string][]string) map[string]*overspanv1.FilterValues {
	out := map[string]*overspanv1.FilterValues{}
	for key, values := range in {
		out[key] = &overspanv1.FilterValues{Values: values}
	}
	return out
}

// TestGetNetwork: an inspected network shows endpoints and blocks of all nodes.
func TestGetNetwork(t *testing.T) {
	d, c := start(t)
	n, e := c.plug(t, "demo", "web1")
	theirs := overspan.Endpoint{
		ID: overspan.EndpointID(id("ee")), Network: overspan.NetworkID(n.GetId()), Node: apitest.Other, Name: "web2",
		Slot: 16, Slots: []overspan.Slot{16, 17}, IPv4: netip.MustParseAddr("10.0.1.16"), MAC: overspan.MAC{2, 0x42, 10, 0, 1, 16},
	}
	d.Change(func(s *overspan.Snapshot) {
		segment := *s.Segments.Get(overspan.NetworkID(n.GetId()))
		segment.Blocks = overspan.SlotMapOf(map[overspan.Slot]overspan.Block{
			0:  segment.Blocks.Get(0),
			16: {Range: overspan.Range{First: 16, Size: 4}, Node: apitest.Other, CreateRevision: 60},
			32: {Range: overspan.Range{First: 32, Size: 1}, Node: apitest.Away, CreateRevision: 61},
		})
		segment.Endpoints = overspan.SlotMapOf(map[overspan.Slot]*overspan.Endpoint{2: segment.Endpoints.Get(2), 16: &theirs, 17: &theirs})
		s.Segments.Put(overspan.NetworkID(n.GetId()), &segment)
	})
	got := must[*overspanv1.GetNetworkResponse](t)(c.networks.GetNetwork(t.Context(), &overspanv1.GetNetworkRequest{Network: "demo"}))
	type row struct {
		name, node, ip string
		bits           uint32
		local          bool
	}
	var rows []row
	for _, v := range got.GetEndpoints() {
		rows = append(rows, row{v.GetEndpoint().GetName(), v.GetNodeName(), v.GetEndpoint().GetIpv4(), v.GetIpv4Bits(), v.GetLocal()})
	}
	want := []row{{"web1", "h1", "10.0.1.2", 24, true}, {"web2", "h2", "10.0.1.16", 24, false}}
	if diff := cmp.Diff(want, rows, cmp.AllowUnexported(row{})); diff != "" {
		t.Errorf("endpoints (-want +got):\n%s", diff)
	}
	var blocks []string
	for _, b := range got.GetBlocks() {
		blocks = append(blocks, strings.Join([]string{b.GetNodeName(), b.GetFirstAddress(), b.GetLastAddress(), strings.Repeat("x", int(b.GetUsed()))}, " "))
	}
	if diff := cmp.Diff([]string{"h1 10.0.1.0 10.0.1.7 x", "h2 10.0.1.16 10.0.1.19 xx", "h3 10.0.1.32 10.0.1.32 "}, blocks); diff != "" {
		t.Errorf("blocks (-want +got):\n%s", diff)
	}
	if e.GetEndpoint().GetInterface() != "eth0" || e.GetNetworkName() != "demo" {
		t.Errorf("connect answered %v", e)
	}
}

// TestPruneNetworks: what is in use, predefined or filtered out stays.
func TestPruneNetworks(t *testing.T) {
	d, c := start(t)
	c.plug(t, "used", "web1")
	foreign(d, overspan.Network{ID: overspan.NetworkID(id("01")), Name: overspan.DefaultNetwork, Driver: overspan.DriverBridge, Node: apitest.Self, Labels: map[string]string{"name": "empty"}}, nil)
	for _, name := range []string{"empty", "kept"} {
		must[*overspanv1.CreateNetworkResponse](t)(c.networks.CreateNetwork(t.Context(), &overspanv1.CreateNetworkRequest{
			Name: name, Driver: "overlay", Labels: map[string]string{"name": name},
		}))
	}
	resp := must[*overspanv1.PruneNetworksResponse](t)(c.networks.PruneNetworks(t.Context(), &overspanv1.PruneNetworksRequest{
		Filters: filters(map[string][]string{"label": {"name=empty"}}),
	}))
	if diff := cmp.Diff([]string{"empty"}, resp.GetNames()); diff != "" {
		t.Errorf("pruned (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"bridge", "host", "kept", "none", "used"}, c.names(t, nil)); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
	for name, tt := range map[string]struct {
		filters map[string][]string
		want    []string
	}{
		"too young":                     {map[string][]string{"until": {apitest.Created.Format(time.RFC3339)}}, nil},
		"label not to be":               {map[string][]string{"label!": {"name"}}, nil},
		"old, and not of another label": {map[string][]string{"until": {apitest.Created.Add(time.Second).Format(time.RFC3339)}, "label!": {"name=empty", "color"}}, []string{"kept"}},
	} {
		resp := must[*overspanv1.PruneNetworksResponse](t)(c.networks.PruneNetworks(t.Context(), &overspanv1.PruneNetworksRequest{Filters: filters(tt.filters)}))
		if diff := cmp.Diff(tt.want, resp.GetNames()); diff != "" {
			t.Errorf("%s: pruned (-want +got):\n%s", name, diff)
		}
	}
	_, err := c.networks.PruneNetworks(t.Context(), &overspanv1.PruneNetworksRequest{Filters: filters(map[string][]string{"until": {"soon"}})})
	if !errors.Is(err, overspan.ErrInvalid) || !strings.HasPrefix(err.Error(), `invalid filter 'until=soon': "soon" is no time`) {
		t.Errorf("prune until soon: %v", err)
	}
	d.LoseEtcd("connection refused")
	if _, err := c.networks.PruneNetworks(t.Context(), &overspanv1.PruneNetworksRequest{}); !errors.Is(err, overspan.ErrUnavailable) {
		t.Errorf("prune without etcd: %v", err)
	}
}

// TestConnectTellsLatePeers, and takes every kind of wait but unknown ones.
func TestConnectTellsLatePeers(t *testing.T) {
	_, c := start(t)
	c.plug(t, "demo", "web1")
	for wait, late := range map[overspanv1.Wait][]string{
		overspanv1.Wait_WAIT_UNSPECIFIED: {"h2"}, overspanv1.Wait_WAIT_PEERS: {"h2"},
		overspanv1.Wait_WAIT_LOCAL: nil, overspanv1.Wait_WAIT_NONE: nil,
	} {
		resp := must[*overspanv1.ConnectResponse](t)(c.networks.Connect(t.Context(), &overspanv1.ConnectRequest{Network: "demo", Target: "web1", Name: "late", Wait: wait}))
		if diff := cmp.Diff(late, resp.GetUnconfirmed()); diff != "" {
			t.Errorf("%v: unconfirmed (-want +got):\n%s", wait, diff)
		}
	}
	_, err := c.networks.Connect(t.Context(), &overspanv1.ConnectRequest{Network: "demo", Target: "web1", Wait: 9})
	if !errors.Is(err, overspan.ErrInvalid) {
		t.Errorf("unknown wait: %v", err)
	}
}
