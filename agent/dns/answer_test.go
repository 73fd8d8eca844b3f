package dns

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"

	"github.com/overspan/overspan"
)

// A town is a cluster in which names are asked for: h1 asks, h2 is up, h3 down.
//
//	demo    10.0.0.0/24, fd00::/64   web (h1, ports 80/tcp 81/sctp) Db (h2, alias data, ports 80/tcp 53/udp)
//	                                 old (h3, alias data) gone (h4, which is removed)
//	other   10.1.0.0/24              web (h2)
//	secret  10.2.0.0/24, internal    inside (h1)
type town struct {
	mu          sync.Mutex // of a town that is served: held while it changes
	snapshot    *overspan.Snapshot
	sandboxes   []*overspan.Sandbox
	attachments []*overspan.Attachment
	plugged     *overspan.Plugged // both, once somebody has looked
	indexes     map[overspan.NetworkID]*index
}

func newTown() *town {
	n := func(id, name, v4, v6 string, internal bool) *overspan.Network {
		out := &overspan.Network{ID: overspan.NetworkID(id), Name: name, Internal: internal}
		out.IPv4.Prefix = netip.MustParsePrefix(v4)
		out.IPv4.Gateway = out.IPv4.Addr(1)
		if v6 != "" {
			out.IPv6.Prefix = netip.MustParsePrefix(v6)
			out.IPv6.Gateway = out.IPv6.Addr(1)
		}
		return out
	}
	t := &town{indexes: map[overspan.NetworkID]*index{}, snapshot: &overspan.Snapshot{
		Nodes: map[overspan.NodeID]*overspan.Node{
			"h1": {ID: "h1", Presence: &overspan.Presence{}},
			"h2": {ID: "h2", Presence: &overspan.Presence{}},
			"h3": {ID: "h3"},
		},
		Networks: map[overspan.NetworkID]*overspan.Network{
			"demo":   n("demo", "Demo", "10.0.0.0/24", "fd00::/64", false),
			"other":  n("other", "other", "10.1.0.0/24", "", false),
			"secret": n("secret", "secret", "10.2.0.0/24", "", true),
		},
		Segments: overspan.IDMapOf(map[overspan.NetworkID]*overspan.Segment{"demo": {}, "other": {}, "secret": {}}),
	}}
	t.publish(t.endpoint("demo", "h1", "web", 2), "80/tcp", "81/sctp")
	t.publish(t.endpoint("demo", "h2", "Db", 3, "data"), "80/tcp", "80/tcp", "53/udp")
	t.endpoint("demo", "h3", "old", 4, "data")
	t.endpoint("demo", "h4", "gone", 5)
	t.endpoint("other", "h2", "web", 2)
	t.endpoint("secret", "h1", "inside", 2)
	t.plug("demo", "client", 10, overspan.Link{Name: "db", Alias: "Store"})
	t.plug("other", "both", 11)
	t.plug("demo", "both", 11)
	t.plug("secret", "shut", 12)
	return t
}

func (t *town) endpoint(network overspan.NetworkID, node overspan.NodeID, name string, slot overspan.Slot, aliases ...string) overspan.Endpoint {
	n, seg := t.snapshot.Networks[network], t.snapshot.Segments.Get(network)
	e := &overspan.Endpoint{
		ID:      overspan.EndpointID(fmt.Sprintf("%x%s", name, strings.Repeat("0", 64))[:64]),
		Network: network, Node: node, Name: name, Aliases: aliases,
		Slot: slot, Slots: []overspan.Slot{slot}, IPv4: n.IPv4.Addr(slot), IPv6: n.IPv6.Addr(slot),
	}
	seg.Endpoints.Put(slot, e)
	seg.Blocks.Put(slot, overspan.Block{Range: overspan.Range{First: slot, Size: 1}, Node: node})
	if node == "h1" {
		t.attachments = append(t.attachments, &overspan.Attachment{Endpoint: *e, Sandbox: overspan.SandboxID(name)})
		if !slices.ContainsFunc(t.sandboxes, func(s *overspan.Sandbox) bool { return s.Name == name }) {
			t.sandboxes = append(t.sandboxes, &overspan.Sandbox{ID: overspan.SandboxID(name), Name: name})
		}
	}
	return *e
}

// publish has an endpoint's record tell of ports, written "80/tcp".
func (t *town) publish(e overspan.Endpoint, ports ...string) {
	for i, p := range ports {
		number, protocol, _ := strings.Cut(p, "/")
		port, err := strconv.ParseUint(number, 10, 16)
		if err != nil {
			panic(err)
		}
		e.Ports = append(e.Ports, overspan.Port{Protocol: overspan.Protocol(protocol), Port: uint16(port), HostPort: uint16(8000 + i)})
	}
	t.snapshot.Segments.Get(e.Network).Endpoints.Put(e.Slot, &e)
}

func (t *town) plug(network overspan.NetworkID, name string, slot overspan.Slot, links ...overspan.Link) {
	t.endpoint(network, "h1", name, slot)
	t.attachments[len(t.attachments)-1].Links = links
}

// asked returns what a sandbox may know. Of several bearers the one with the
// lowest slot comes first.
func (t *town) asked(network overspan.NetworkID, by string) names {
	l := new(local).follow(pluggedOf(t.sandboxes, t.attachments))
	index := func(id overspan.NetworkID) *index {
		if t.indexes[id] == nil {
			t.indexes[id] = newIndex()
		}
		return t.indexes[id]
	}
	who := l.asker(spot{network, netip.MustParseAddr(by)})
	return names{snapshot: t.snapshot, self: "h1", local: l, asker: who, index: index, port: lookPort, intn: func(n int) int { return 0 }}
}

func TestAnswer(t *testing.T) {
	type row struct {
		name string
		kind uint16
		want string // the result, and the data of the answers
	}
	for _, tt := range []struct {
		asker   string
		network overspan.NetworkID
		addr    string
		change  func(*town)
		rows    []row
	}{
		{asker: "a sandbox in one network", network: "demo", addr: "10.0.0.10", rows: []row{
			{"web.", dns.TypeA, "answer 10.0.0.2"},
			{"WEB.demo.", dns.TypeAAAA, "answer fd00::2"},
			{"web.", dns.TypeANY, "answer 10.0.0.2 fd00::2"},
			{"web.", dns.TypeMX, "nodata"},
			{"db.", dns.TypeA, "answer 10.0.0.3"},
			{"data.", dns.TypeA, "answer 10.0.0.3"}, // h3 is down
			{"old.", dns.TypeA, "answer 10.0.0.4"},  // but nobody else is called that
			{"gone.", dns.TypeA, "forward"},
			{"store.", dns.TypeA, "answer 10.0.0.3"},
			{"store.demo.", dns.TypeA, "answer 10.0.0.3"},
			{"646200000000.", dns.TypeA, "forward"}, // an id is of 12 digits, and "Db" is not "db"
			{"446200000000.", dns.TypeA, "answer 10.0.0.3"},
			{"both.", dns.TypeA, "answer 10.0.0.11"},
			{"web.other.", dns.TypeA, "forward"},
			{"inside.", dns.TypeA, "forward"},
			{"example.org.", dns.TypeA, "forward"},
			{".", dns.TypeNS, "forward"},
			{`w\.eb.`, dns.TypeA, "forward"},
			{"2.0.0.10.in-addr.arpa.", dns.TypePTR, "answer web.Demo."},
			{"2.0.0.10.in-addr.arpa.", dns.TypeTXT, "nodata"},
			{"3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.", dns.TypePTR, "answer Db.Demo."},
			{"99.0.0.10.in-addr.arpa.", dns.TypePTR, "nxdomain"},
			{"1.0.0.10.in-addr.arpa.", dns.TypePTR, "nxdomain"},
			{"2.0.1.10.in-addr.arpa.", dns.TypePTR, "forward"},
			{"0.0.10.in-addr.arpa.", dns.TypePTR, "forward"},
			{"_http._tcp.web.", dns.TypeSRV, "answer 0 0 80 web.Demo. + 10.0.0.2 fd00::2"},
			{"_80._TCP.Web.demo.", dns.TypeSRV, "answer 0 0 80 web.Demo. + 10.0.0.2 fd00::2"},
			{"_81._sctp.web.", dns.TypeANY, "answer 0 0 81 web.Demo. + 10.0.0.2 fd00::2"},
			{"_domain._udp.store.", dns.TypeSRV, "answer 0 0 53 Db.Demo. + 10.0.0.3 fd00::3"},
			{"_http._tcp.446200000000.", dns.TypeSRV, "answer 0 0 80 Db.Demo. + 10.0.0.3 fd00::3"}, // at two ports of its host
			{"_http._tcp.web.", dns.TypeA, "nodata"},
			{"_http._tcp.web.", dns.TypeMX, "nodata"},
			{"_http._udp.web.", dns.TypeSRV, "nxdomain"},
			{"_81._tcp.web.", dns.TypeSRV, "nxdomain"},
			{"_70000._tcp.web.", dns.TypeSRV, "nxdomain"},
			{"_no-such._tcp.web.", dns.TypeSRV, "nxdomain"},
			{"_._.web.", dns.TypeSRV, "nxdomain"},
			{"_http._tcp.old.", dns.TypeSRV, "nxdomain"}, // publishes nothing
			{"_http._tcp.web.other.", dns.TypeSRV, "forward"},
			{"_http._tcp.example.org.", dns.TypeSRV, "forward"},
			{"_http._tcp.", dns.TypeSRV, "forward"},
			{"_tcp.web.", dns.TypeSRV, "forward"},
		}},
		{asker: "a sandbox in two networks, by the younger one", network: "demo", addr: "10.0.0.11", rows: []row{
			{"web.", dns.TypeA, "answer 10.1.0.2"}, // the older one comes first
			{"web.demo.", dns.TypeA, "answer 10.0.0.2"},
			{"store.", dns.TypeA, "forward"}, // a link of another's
		}},
		{asker: "a sandbox in an internal network", network: "secret", addr: "10.2.0.12", rows: []row{
			{"inside.", dns.TypeA, "answer 10.2.0.2"},
			{"_http._tcp.web.", dns.TypeSRV, "nxdomain"},
			{"web.", dns.TypeA, "nxdomain"},
			{"example.org.", dns.TypeA, "nxdomain"},
		}},
		{
			asker: "when an endpoint was disconnected and etcd does not know", network: "demo", addr: "10.0.0.10",
			change: func(t *town) { t.attachments = t.attachments[1:] },
			rows:   []row{{"web.", dns.TypeA, "forward"}, {"2.0.0.10.in-addr.arpa.", dns.TypePTR, "nxdomain"}},
		},
		{
			asker: "when another node holds the slot", network: "demo", addr: "10.0.0.10",
			change: func(t *town) {
				t.snapshot.Segments.Get("demo").Blocks.Put(3, overspan.Block{Range: overspan.Range{First: 3, Size: 1}, Node: "h3"})
			},
			rows: []row{{"db.", dns.TypeA, "forward"}, {"data.", dns.TypeA, "answer 10.0.0.4"}},
		},
		{
			asker: "when a node comes back", network: "demo", addr: "10.0.0.10",
			change: func(t *town) { t.snapshot.Nodes["h3"].Presence = &overspan.Presence{} },
			rows: []row{
				{"data.", dns.TypeA, "answer 10.0.0.3 10.0.0.4"},
				{"_80._tcp.data.", dns.TypeSRV, "answer 0 0 80 Db.Demo. + 10.0.0.3 fd00::3"},
			},
		},
	} {
		t.Run(tt.asker, func(t *testing.T) {
			place := newTown()
			if tt.change != nil {
				tt.change(place)
			}
			v := place.asked(tt.network, tt.addr)
			for _, r := range tt.rows {
				reply := new(dns.Msg).SetReply(new(dns.Msg).SetQuestion(r.name, r.kind))
				got := []string{answer(v, reply)}
				for _, rr := range reply.Answer {
					got = append(got, strings.TrimPrefix(rr.String(), rr.Header().String()))
				}
				slices.Sort(got[1:])
				if len(reply.Extra) > 0 {
					got = append(got, "+")
				}
				for _, rr := range reply.Extra {
					got = append(got, strings.TrimPrefix(rr.String(), rr.Header().String()))
				}
				if got := strings.Join(got, " "); got != r.want {
					t.Errorf("%s %s: %s; want %s", dns.TypeToString[r.kind], r.name, got, r.want)
				}
			}
		})
	}
}

// Whatever an index has followed, it holds what one that is made anew does.
func TestIndexFollows(t *testing.T) {
	place := newTown()
	seg := place.snapshot.Segments.Get("demo")
	followed := newIndex()
	first := seg.Endpoints
	for i := range 300 {
		slot := overspan.Slot(20 + i*7%90)
		if i%3 == 2 {
			seg.Endpoints.Delete(slot)
		} else {
			place.endpoint("demo", "h2", fmt.Sprintf("Name%d", i%11), slot, "shared", fmt.Sprintf("alias%d", i%5))
		}
		if i == 200 {
			first = seg.Endpoints
		}
		at := seg.Endpoints
		if i == 250 {
			at = first // a question that was slow
		}
		fresh := newIndex()
		for _, name := range []string{"shared", "name3", "alias2", "web", "data"} {
			got, want := ids(followed.bearers(at, name)), ids(fresh.bearers(at, name))
			if !slices.Equal(got, want) {
				t.Fatalf("after %d changes %s is borne by %v; want %v", i+1, name, got, want)
			}
		}
		if len(followed.names) != len(fresh.names) {
			t.Fatalf("after %d changes %d names are known; want %d", i+1, len(followed.names), len(fresh.names))
		}
	}
}

func ids(endpoints []*overspan.Endpoint) []string {
	var out []string
	for _, e := range endpoints {
		out = append(out, fmt.Sprint(e.Slot, e.Name))
	}
	slices.Sort(out)
	return out
}

// An alias that very many bear fits into an answer, and different ones get in.
func TestManyBearers(t *testing.T) {
	place := newTown()
	place.snapshot.Networks["demo"].IPv4.Prefix = netip.MustParsePrefix("10.0.0.0/16")
	for i := range overspan.Slot(2000) {
		place.endpoint("demo", "h2", fmt.Sprintf("w%d", i), 20+i, "worker")
	}
	v := place.asked("demo", "10.0.0.10")
	at := 0
	v.intn = func(n int) int { at = (at + 977) % n; return at }
	firsts := map[string]struct{}{}
	for range 4 {
		found := v.called("worker")
		if len(found) != bearersMost {
			t.Fatalf("%d are named; want %d", len(found), bearersMost)
		}
		firsts[found[0].Name] = struct{}{}
	}
	if len(firsts) < 2 {
		t.Errorf("always the same come first: %v", firsts)
	}
}
