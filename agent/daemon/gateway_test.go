package daemon

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/reconcile"
	"github.com/overspan/overspan/ipam"
	"github.com/overspan/overspan/kernel"
)

// byInterface returns the interfaces of a container by the family whose default
// route leads through them.
func (n *testNode) byInterface() map[overspan.Family]string {
	out := map[overspan.Family]string{}
	for _, in := range n.kernel.State().Insides {
		for _, r := range in.Routes {
			f := overspan.FamilyOf(r.Via)
			out[f] = strings.TrimSpace(out[f] + " " + in.Name)
		}
	}
	return out
}

// chosen returns the same as the rule has it.
func (n *testNode) chosen() map[overspan.Family]string {
	in, _ := n.planInput(kernel.Scope{})
	out := map[overspan.Family]string{}
	for _, a := range in.Local.Attachments.List {
		for f, id := range reconcile.GatewayOf(in.Local.Attachments.InSandbox(a.Sandbox), in.Snapshot.Networks, in.Works) {
			if id == a.Endpoint.ID {
				out[f] = a.Endpoint.Interface
			}
		}
	}
	return out
}

// publishesAt checks that some ports lead to the endpoint at an interface and to no
// other, or nowhere if there is none; and that the records come to say so, if they
// are to be waited for.
func (n *testNode) publishesAt(t *rapid.T, ifname string, ports int, recorded bool) {
	t.Helper()
	want := map[netip.Addr]int{}
	for _, a := range n.local.AllAttachments() {
		if a.Endpoint.Interface == ifname && ports > 0 {
			want[a.Endpoint.IPv4] = ports
		}
	}
	got := map[netip.Addr]int{}
	for _, c := range n.kernel.State().Chains {
		for _, r := range c.Rules {
			if r.Flow.Protocol != "" {
				got[r.Flow.To.Addr()]++
			}
		}
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Fatalf("rules for ports by where they lead (-want +got):\n%s", diff)
	}
	n.eventually("the records tell of the ports", func() bool {
		known := map[netip.Addr]int{}
		for _, seg := range n.Snapshot().Segments.All() {
			for e := range seg.Endpoints.Values() {
				if len(e.Ports) > 0 {
					known[e.IPv4] = len(e.Ports)
				}
			}
		}
		return !recorded || maps.Equal(want, known)
	})
}

// TestDefaultRoutesFollowTheAttachments connects and disconnects a container in
// any order: after each step its default routes are where the rule says, and its
// published ports with them, and nobody calls it a repair.
func TestDefaultRoutesFollowTheAttachments(t *testing.T) {
	c := newTestCluster(t, 1)
	n := c.nodes[0]
	n.create(CreateRequest{Spec: ipam.Spec{Name: "a"}})
	n.create(CreateRequest{Spec: ipam.Spec{Name: "b", IPv6: true}})
	n.create(CreateRequest{Spec: ipam.Spec{Name: "c"}})
	n.create(CreateRequest{Spec: ipam.Spec{Name: "in"}, Internal: true})
	target := n.container("web")
	n.eventually("nothing is left to look at", n.rec.Settled)
	listening, stop := context.WithCancel(t.Context())
	events, heard := n.Subscribe(listening, Span{}), make(chan struct{})
	go func() {
		defer close(heard)
		for e := range events {
			if e.Action == "repair" {
				t.Errorf("told as a repair: %s", e.Name)
			}
		}
	}()
	rapid.Check(t, func(t *rapid.T) {
		var plugged []string
		published := 0
		for range rapid.IntRange(1, 10).Draw(t, "steps") {
			network := rapid.SampledFrom([]string{"a", "b", "c", "in"}).Draw(t, "network")
			if i := slices.Index(plugged, network); i >= 0 {
				n.disconnect(network, target)
				plugged = slices.Delete(plugged, i, i+1)
			} else {
				req := ConnectRequest{Network: network, Target: target, GatewayPriority: rapid.Int32Range(-1, 1).Draw(t, "priority")}
				if network != "in" && rapid.Bool().Draw(t, "publishes") {
					req.Publish = []string{"127.0.0.1::80"}
					published++
				}
				n.connect(req)
				plugged = append(plugged, network)
			}
			if len(plugged) == 0 {
				published = 0
			}
			n.publishesAt(t, n.chosen()[overspan.IPv4], published, false)
			if diff := cmp.Diff(n.chosen(), n.byInterface()); diff != "" {
				t.Fatalf("default routes (-want +got):\n%s", diff)
			}
		}
		n.publishesAt(t, n.chosen()[overspan.IPv4], published, true)
		for _, network := range plugged {
			n.disconnect(network, target)
		}
	})
	n.clean()
	stop()
	<-heard
}

func (n *testNode) disconnect(network, target string) {
	n.t.Helper()
	if _, _, err := n.Disconnect(n.t.Context(), network, target); err != nil {
		n.t.Fatalf("disconnect %s on %s: %v", target, n.cfg.NodeName, err)
	}
}

// TestDefaultRouteLeavesALostEndpoint: what has become another node's is no way
// out any more. Priority and options outlive the agent.
func TestDefaultRouteLeavesALostEndpoint(t *testing.T) {
	c := newTestCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	h1.create(CreateRequest{Spec: ipam.Spec{Name: "a"}})
	h1.create(CreateRequest{Spec: ipam.Spec{Name: "b"}})
	target := h1.container("web")
	const sysctl = "com.docker.network.endpoint.sysctls"
	options := map[string]string{sysctl: "net.ipv4.conf.IFNAME.log_martians=1"}
	web := h1.connect(ConnectRequest{Network: "a", Target: target, Name: "web", GatewayPriority: 3, DriverOptions: options})
	h1.connect(ConnectRequest{Network: "b", Target: target, Name: "web"})
	by := func(ifname string) func() bool {
		return func() bool { return maps.Equal(h1.byInterface(), map[overspan.Family]string{overspan.IPv4: ifname}) }
	}
	h1.eventually("it leaves by network a", by("eth0"))
	h1.stop()
	c.remove(h1)
	h2.eventually("h2 has seen it", func() bool { return h2.Snapshot().Nodes[h1.Self()] == nil })
	h2.connect(ConnectRequest{Network: "a", Target: h2.container("thief"), IP: web.IPv4.String()})

	h1.start()
	h1.eventually("it leaves by network b", by("eth1"))
	a, _ := h1.local.Attachment(web.ID)
	if diff := cmp.Diff(options, a.DriverOptions); diff != "" || a.GatewayPriority != 3 {
		t.Errorf("after the restart the priority is %d, the options are (-want +got):\n%s", a.GatewayPriority, diff)
	}
	if got := h1.kernel.State().Insides[overspan.VethName(web.ID)].Sysctls; len(got) != 1 || got[0].Path != "net/ipv4/conf/eth0/log_martians" {
		t.Errorf("sysctls of the interface: %v", got)
	}
	h1.clean()
}
