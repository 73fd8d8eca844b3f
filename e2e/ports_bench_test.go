package e2e

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/overspan/overspan/e2e/lab"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// publishedCounts are how many ports are published beside the one that is
// measured.
var publishedCounts = []int{1, 1000}

// publish plugs a sandbox in, with ports that are published.
func (m *bench) publish(network, target string, ports ...string) error {
	_, err := m.networks.Connect(m.b.Context(), &overspanv1.ConnectRequest{Network: network, Target: target, Publish: ports})
	return err
}

// startPublished makes a lab whose first node has so many ports published, from
// 10000 on, of a sandbox that serves each by the same number less 10000 plus 1.
func startPublished(b *testing.B, nodes, ports int) (*bench, *lab.Sandbox) {
	b.Helper()
	m := startBenchOf(b, nodes, 1)
	m.create("demo")
	box := m.netns(m.Nodes[0], "first")
	m.must(m.publish("demo", box.Name, fmt.Sprintf("10000-%d:1-%d", 9999+ports, ports)))
	return m, box
}

// BenchmarkPublish measures attach and detach of an endpoint with a published
// port, turn and turn about with one that has none.
func BenchmarkPublish(b *testing.B) {
	for _, ports := range publishedCounts {
		b.Run(fmt.Sprintf("ports=%d", ports), func(b *testing.B) {
			m, _ := startPublished(b, 1, ports)
			h1 := m.Nodes[0]
			before := m.veths(h1)
			var bare, boxes []*lab.Sandbox
			var plain, published, detach times
			for i := 0; b.Loop(); i++ {
				if i%attachBatch == 0 {
					m.replace(h1, before, &bare, &boxes)
				}
				without, box := bare[i%attachBatch], boxes[i%attachBatch]
				m.must(plain.measure(func() error { return m.attach("demo", without.Name) }))
				m.must(m.detach("demo", without.Name))
				m.must(published.measure(func() error { return m.publish("demo", box.Name, "9999:80") }))
				m.must(detach.measure(func() error { return m.detach("demo", box.Name) }))
			}
			b.ReportMetric(0, "ns/op") // with all that was not measured
			plain.report(b, "attach")
			published.report(b, "publish")
			detach.report(b, "unpublish")
			published.against(b, "publish", plain, "attach", "")
		})
	}
}

// BenchmarkPublishedPort measures connections from another host to a published
// port, to the last one of many, turn and turn about with those to a container on
// a host where one DNAT rule was made by hand.
func BenchmarkPublishedPort(b *testing.B) {
	for _, ports := range publishedCounts {
		b.Run(fmt.Sprintf("ports=%d", ports), func(b *testing.B) {
			m, box := startPublished(b, 3, ports)
			byHand, client := m.Nodes[1], m.Nodes[2]
			hand := m.netns(byHand, "hand")
			_, err := byHand.Exec(b.Context(), "sh", "-ec", `
sysctl -qw net.ipv4.ip_forward=1
ip link add br0 type bridge
ip addr add 10.9.0.1/24 dev br0
ip link set br0 up
ip link add ve0 type veth peer name eth0 netns hand
ip link set ve0 master br0 up
ip -n hand link set eth0 up
ip -n hand addr add 10.9.0.2/24 dev eth0
ip -n hand route add default via 10.9.0.1
iptables -w -t nat -A PREROUTING -p tcp --dport 10000 -m addrtype --dst-type LOCAL -j DNAT --to-destination 10.9.0.2:1`)
			m.must(err)
			for sandbox, port := range map[*lab.Sandbox]uint16{box: uint16(ports), hand: 1} {
				srv, err := sandbox.Serve(sandbox.Name, port)
				m.must(err)
				b.Cleanup(func() { srv.Close() })
			}
			doors := []netip.AddrPort{
				netip.AddrPortFrom(m.Nodes[0].Addrs[0], uint16(9999+ports)),
				netip.AddrPortFrom(byHand.Addrs[0], 10000),
			}
			var got [2][]float64
			for round := 0; b.Loop(); round++ {
				for i := range doors {
					which := (round + i) % len(doors)
					speed, err := lab.Connections(b.Context(), client, doors[which].String(), trafficWhile)
					m.must(err)
					got[which] = append(got[which], speed)
				}
			}
			b.ReportMetric(0, "ns/op") // a round's length says nothing
			var ratios []float64
			for round := range got[0] {
				ratios = append(ratios, got[0][round]/got[1][round])
			}
			b.ReportMetric(median(got[0]), "published-conns/s")
			b.ReportMetric(median(got[1]), "rule-conns/s")
			b.ReportMetric(median(ratios), "published-conns/s:rule-conns/s")
		})
	}
}
