package dns

import (
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/overspan/overspan"
	inventory "github.com/overspan/overspan/agent/local"
)

// A model is a node that changes at random, and what a server that looks at all of it
// at each step would have settled.
type model struct {
	*town
	here    *inventory.Inventory
	records map[overspan.NetworkID]*overspan.Network // that may be in the snapshot
	clock   int64

	doors map[spot]struct{}
	files map[string]string
}

// Plugged implements Node.
func (m *model) Plugged() overspan.Plugged { return m.here.View().Plugged() }

// step changes one thing.
func (m *model) step(t *rapid.T) {
	id := overspan.SandboxID(rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "sandbox"))
	network := rapid.SampledFrom(slices.Sorted(maps.Keys(m.records))).Draw(t, "network")
	next := *m.snapshot
	switch rapid.IntRange(0, 9).Draw(t, "what") {
	case 0: // a network's record comes or goes
		next.Networks = maps.Clone(next.Networks)
		if next.Networks[network] == nil {
			next.Networks[network] = m.records[network]
		} else {
			delete(next.Networks, network)
		}
	case 1: // something cannot be read any more, or again
		if next.Bad == nil {
			next.Bad = []overspan.BadRecord{{Key: "x"}}
		} else {
			next.Bad = nil
		}
	case 2, 3: // a sandbox comes, or another of its id
		m.clock++
		m.here.PutSandbox(overspan.Sandbox{
			ID: id, Kind: rapid.SampledFrom([]overspan.SandboxKind{overspan.SandboxNetns, overspan.SandboxNetns, overspan.SandboxMade}).Draw(t, "kind"),
			Netns:   rapid.SampledFrom([]string{"/run/netns/x", "/var/run/netns/x", "/run/netns/y", "/tmp/x"}).Draw(t, "netns"),
			Created: time.Unix(rapid.Int64Range(m.clock-1, m.clock).Draw(t, "created"), 0),
		})
	case 4: // one goes
		m.here.DropSandbox(id)
	case 5: // one leaves a network
		for _, a := range m.here.InSandbox(id) {
			if a.Endpoint.Network == network {
				m.here.DropAttachment(a.Endpoint.ID, nil)
			}
		}
	default: // one joins a network
		m.clock++
		e := overspan.Endpoint{
			ID: overspan.EndpointID(fmt.Sprint("e", m.clock)), Network: network, Created: time.Unix(m.clock, 0),
			IPv4: m.records[network].IPv4.Addr(overspan.Slot(m.clock)),
		}
		m.here.PutAttachment(overspan.Attachment{Endpoint: e, Sandbox: id})
	}
	m.snapshot = &next
}

// settle settles all anew.
func (m *model) settle() {
	unread := func(id overspan.NetworkID) bool { return m.snapshot.Networks[id] == nil && m.snapshot.Bad != nil }
	doors := map[spot]struct{}{}
	unsure := map[overspan.SandboxID]bool{}
	networks := map[overspan.SandboxID][]*overspan.Network{}
	for _, a := range m.here.AllAttachments() {
		id := a.Endpoint.Network
		if unread(id) {
			unsure[a.Sandbox] = true
			for at := range m.doors {
				if at.network == id {
					doors[at] = struct{}{}
				}
			}
		}
		if n := m.snapshot.Networks[id]; n != nil {
			networks[a.Sandbox] = append(networks[a.Sandbox], n)
			for _, addr := range n.Gateways() {
				doors[spot{id, addr}] = struct{}{}
			}
		}
	}
	m.doors = doors
	files, doubted := map[string]string{}, map[string]bool{}
	for _, sb := range m.here.AllSandboxes() {
		name := netnsName(sb)
		if name == "" {
			continue
		}
		doubted[name] = doubted[name] || unsure[sb.ID]
		if servers := overspan.Nameservers(networks[sb.ID]...); len(servers) > 0 {
			files[name] = netnsMark + overspan.Resolver{}.Within(servers, sb.Resolver).String()
		}
	}
	for name, text := range m.files {
		if doubted[name] {
			files[name] = text
		}
	}
	m.files = files
}

// check compares the server with the model.
func (m *model) check(t *rapid.T, s *Server) {
	doors := map[spot]struct{}{}
	for _, open := range s.doors {
		for _, d := range open {
			doors[d.at] = struct{}{}
		}
	}
	if !maps.Equal(doors, m.doors) {
		t.Fatalf("doors are at %v; want them at %v", doors, m.doors)
	}
	files := map[string]string{}
	for _, name := range []string{"x", "y"} {
		if text, err := os.ReadFile(s.files.path(name)); err == nil {
			files[name] = string(text)
		}
	}
	if diff := cmp.Diff(m.files, files); diff != "" {
		t.Fatalf("files (-want +got):\n%s", diff)
	}
	now, want := s.moment().local, new(local).follow(m.Plugged())
	if got, want := maps.Collect(now.askers.All()), maps.Collect(want.askers.All()); !sameAskers(got, want) {
		t.Fatalf("askers are %v; want %v", got, want)
	}
}

func sameAskers(a, b map[spotKey]*asker) bool {
	return cmp.Equal(a, b, cmp.AllowUnexported(asker{}, place{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }))
}

// TestSettleFollows holds what is settled by differences against what is settled by a
// look at all, over random histories, after each step.
func TestSettleFollows(t *testing.T) {
	records := newTown().snapshot.Networks
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "netns")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		m := &model{town: &town{snapshot: &overspan.Snapshot{}}, here: inventory.New(nil, nil), records: records}
		m.snapshot.Networks = maps.Clone(records)
		s := New(m, Config{ResolvConf: filepath.Join(dir, "none"), NetnsDir: dir}, slog.New(slog.DiscardHandler))
		defer s.close()
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			m.step(t)
			s.settle(rapid.SampledFrom([]look{lookChanged, lookChanged, lookChanged, lookAgain, lookAll}).Draw(t, "look"))
			m.settle()
			m.check(t, s)
		}
	})
}
