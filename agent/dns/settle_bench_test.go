package dns

import (
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/overspan/overspan"
)

// newBusy returns a server of a node with so many attachments in ten networks, each of
// a namespace of its own, which has settled; and what is plugged in with the last of
// them and without.
func newBusy(b testing.TB, size int) (s *Server, node *town, ways [2]overspan.Plugged) {
	b.Helper()
	node = &town{snapshot: &overspan.Snapshot{Networks: map[overspan.NetworkID]*overspan.Network{}}}
	const networks = 10
	for i := range networks {
		n := &overspan.Network{ID: overspan.NetworkID(fmt.Sprint("network", i))}
		n.IPv4.Prefix = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, 0}), 16)
		n.IPv4.Gateway = n.IPv4.Addr(1)
		node.snapshot.Networks[n.ID] = n
	}
	for i := range size {
		n := node.snapshot.Networks[overspan.NetworkID(fmt.Sprint("network", i%networks))]
		name := fmt.Sprint("box", i)
		node.sandboxes = append(node.sandboxes, &overspan.Sandbox{
			ID: overspan.SandboxID(name), Name: name, Kind: overspan.SandboxNetns, Netns: "/run/netns/" + name,
		})
		e := overspan.Endpoint{ID: overspan.EndpointID(name), Network: n.ID, Name: name, IPv4: n.IPv4.Addr(overspan.Slot(10 + i))}
		node.attachments = append(node.attachments, &overspan.Attachment{Endpoint: e, Sandbox: overspan.SandboxID(name)})
	}
	ways[0] = pluggedOf(node.sandboxes, node.attachments)
	ways[1] = ways[0]
	last := node.attachments[size-1]
	ways[1].Sandboxes.Delete(last.Sandbox)
	ways[1].Attachments.Delete(last.Endpoint.ID)
	ways[1].InSandbox.Delete(last.Sandbox)
	id := last.Endpoint.Network
	rest := ways[0].InNetwork.Get(id).All()
	ways[1].InNetwork.Delete(id)
	if len(rest) > 1 {
		ways[1].InNetwork.Put(id, overspan.AttachmentGroupOf(rest[:len(rest)-1]))
	}
	s = New(node, Config{ResolvConf: filepath.Join(b.TempDir(), "resolv.conf"), NetnsDir: b.TempDir()}, slog.New(slog.DiscardHandler))
	node.plugged = &ways[0]
	s.settle(lookAll)
	b.Cleanup(s.close)
	return s, node, ways
}

// BenchmarkSettle measures what names cost an attach, and a detach, by turns: a
// namespace's file is written, or removed. Moment is what the first question after it
// costs beside its answer.
func BenchmarkSettle(b *testing.B) {
	for _, size := range []int{20, 1000} {
		for _, part := range []struct {
			name string
			of   func(s *Server)
		}{{"settle", (*Server).Settle}, {"moment", func(s *Server) { s.moment() }}} {
			b.Run(fmt.Sprintf("attachments=%d/%s", size, part.name), func(b *testing.B) {
				s, node, ways := newBusy(b, size)
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					node.plugged = &ways[(i+1)%2]
					part.of(s)
				}
			})
		}
	}
}

// TestSettleCostsWhatHasChanged: an attach has names look at no more where more is
// plugged in.
func TestSettleCostsWhatHasChanged(t *testing.T) {
	cost := func(size int) float64 {
		s, node, ways := newBusy(t, size)
		i := 0
		return testing.AllocsPerRun(10, func() {
			i++
			node.plugged = &ways[i%2]
			s.Settle()
			s.moment()
		})
	}
	if few, many := cost(20), cost(500); many > 2*few {
		t.Errorf("one of 500 attachments costs %v allocations, one of 20 %v", many, few)
	}
}
