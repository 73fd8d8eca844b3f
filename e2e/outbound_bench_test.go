package e2e

import (
	"testing"

	"github.com/overspan/overspan/e2e/lab"
)

// outboundByHand joins a sandbox to the world as one would without us: a bridge
// with the overlay's MTU, and one rule.
const outboundByHand = `
sysctl -qw net.ipv4.ip_forward=1
ip link add br0 mtu 1450 type bridge
ip addr add 10.9.0.1/24 dev br0
ip link set br0 up
ip link add ve0 mtu 1450 type veth peer name eth0 mtu 1450 netns hand
ip link set ve0 master br0 up
ip -n hand link set eth0 up
ip -n hand addr add 10.9.0.2/24 dev eth0
ip -n hand route add default via 10.9.0.1
iptables -w -t nat -A POSTROUTING -s 10.9.0.0/24 ! -o br0 -j MASQUERADE`

// BenchmarkOutbound measures traffic from a sandbox to a host of the world, turn
// and turn about with that from one that was joined by hand: the speed of a TCP
// connection, requests of one byte that are answered one after the other, and the
// processor's time for each.
func BenchmarkOutbound(b *testing.B) {
	m := startBenchOf(b, 3, 1)
	m.create("demo")
	h1, byHand, world := m.Nodes[0], m.Nodes[1], m.Nodes[2]
	box, hand := m.netns(h1, "box"), m.netns(byHand, "hand")
	m.must(m.attach("demo", box.Name))
	_, err := byHand.Exec(b.Context(), "sh", "-ec", outboundByHand)
	m.must(err)
	paths := []lab.Path{
		{From: box, To: world, Addr: world.Addrs[0]},
		{From: hand, To: world, Addr: world.Addrs[0]},
	}
	units := []string{"Mbit/s", "turns/s", "work-µs"}
	var got [2][][]float64 // of each path, round by round
	for round := 0; b.Loop(); round++ {
		for i := range paths {
			which := (round + i) % len(paths)
			speed, err := paths[which].Bulk(b.Context(), 1, trafficWhile)
			m.must(err)
			turns, err := paths[which].Turns(b.Context(), trafficWhile)
			m.must(err)
			got[which] = append(got[which], []float64{
				speed * 8 / 1e6, float64(len(turns.Took)) / trafficWhile.Seconds(), times{turns.Work}.micros(1),
			})
		}
	}
	b.ReportMetric(0, "ns/op") // a round's length says nothing
	for i, unit := range units {
		at := func(_ int, f []float64) float64 { return f[i] }
		b.ReportMetric(medianOf(got[0], at), "outbound-"+unit)
		b.ReportMetric(medianOf(got[1], at), "rule-"+unit)
		ratio := medianOf(got[0], func(round int, f []float64) float64 { return f[i] / got[1][round][i] })
		b.ReportMetric(ratio, "outbound-"+unit+":rule-"+unit)
	}
}
