package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/overspan/overspan/e2e/lab"
)

// The ways that BenchmarkTraffic compares. Those by name are as hosts are on
// which another program, Docker or Kubernetes, has switched br_netfilter on, or
// whose kernel has it on from the start: bridged packets pass iptables. The
// plain ones are without it.
const (
	overlayWay      = "overlay" // an overlay network, by two agents
	kernelWay       = "kernel"  // bridge and VXLAN device made by hand, and no rule
	plainOverlayWay = "plain-overlay"
	plainKernelWay  = "plain-kernel"
	underlayWay     = "underlay"
)

// trafficPairs says which way is held against which.
var trafficPairs = []struct{ ours, reference, goal string }{
	{overlayWay, kernelWay, "≥1"},
	{plainOverlayWay, plainKernelWay, "≥1"},
	{overlayWay, underlayWay, ""},
}

// A trafficLab has two hosts with agents and two without, all alike, on one
// underlay, and ways from one sandbox to another.
type trafficLab struct {
	*bench
	built []*lab.Node
	paths map[string]lab.Path
}

func startTraffic(b *testing.B) *trafficLab {
	b.Helper()
	m := startBenchOf(b, 4, 2)
	tr := &trafficLab{bench: m, built: m.Nodes[2:], paths: map[string]lab.Path{}}
	m.create("demo")
	var boxes []*lab.Sandbox
	for i, n := range m.Nodes[:2] {
		box := m.netns(n, fmt.Sprintf("box%d", i))
		_, err := n.MustCtl(b.Context(), "network", "connect", "demo", box.Name)
		m.must(err)
		boxes = append(boxes, box)
	}
	addrs, err := boxes[1].Addrs(eth0)
	m.must(err)
	overlay := lab.Path{From: boxes[0], To: boxes[1], Addr: addrs[0]}
	tr.paths[overlayWay], tr.paths[plainOverlayWay] = overlay, overlay
	hand := []*lab.Sandbox{tr.build(0), tr.build(1)}
	byHand := lab.Path{From: hand[0], To: hand[1], Addr: netip.MustParseAddr("10.9.0.2")}
	tr.paths[kernelWay], tr.paths[plainKernelWay] = byHand, byHand
	tr.paths[underlayWay] = lab.Path{From: tr.built[0], To: tr.built[1], Addr: tr.built[1].Addrs[0]}
	return tr
}

// build makes by hand, on one of two hosts, what joins a sandbox to the other's
// by a bridge and a VXLAN device that learn nothing, and no rule.
func (tr *trafficLab) build(i int) *lab.Sandbox {
	tr.b.Helper()
	n, peer := tr.built[i], tr.built[1-i]
	box := tr.netns(n, "hand")
	mac := func(i int) string { return fmt.Sprintf("02:00:00:00:00:0%d", i+1) }
	_, err := n.Exec(tr.b.Context(), "sh", "-ec", fmt.Sprintf(`
ip link add br0 type bridge mcast_snooping 0
ip link set br0 mtu 1450 up
ip link add vx0 type vxlan id 77 local %[1]s dstport 4789 nolearning
ip link set vx0 mtu 1450 master br0 up
ip link add ve0 mtu 1450 type veth peer name eth0 mtu 1450 address %[3]s netns hand
ip link set ve0 master br0 up
ip -n hand link set eth0 up
ip -n hand addr add 10.9.0.%[5]d/24 dev eth0
ip -n hand neigh add 10.9.0.%[6]d lladdr %[4]s dev eth0 nud permanent
bridge fdb replace %[4]s dev vx0 dst %[2]s self permanent
bridge fdb replace %[4]s dev vx0 master static
bridge fdb replace %[3]s dev ve0 master static
`, n.Addrs[0], peer.Addrs[0], mac(i), mac(1-i), i+1, 2-i))
	tr.must(err)
	return box
}

// choose makes a way the one that the next measurement takes.
func (tr *trafficLab) choose(way string) lab.Path {
	tr.b.Helper()
	call := "1"
	if way == plainOverlayWay || way == plainKernelWay {
		call = "0"
	}
	for _, n := range tr.Nodes {
		tr.must(n.Sysctl(map[string]string{
			"net/bridge/bridge-nf-call-iptables":  call,
			"net/bridge/bridge-nf-call-ip6tables": call,
		}))
	}
	return tr.paths[way]
}

// turnAbout measures all ways once a round, each round beginning with another,
// so that what else the machine does hits all alike. It reports every way's
// medians, and the medians of the rounds' ratios. The first unit is what the
// goals are for.
func (tr *trafficLab) turnAbout(b *testing.B, units []string, measure func(lab.Path) ([]float64, error)) {
	ways := []string{overlayWay, kernelWay, underlayWay, plainOverlayWay, plainKernelWay}
	got := map[string][][]float64{} // of each way, round by round
	for round := 0; b.Loop(); round++ {
		for i := range ways {
			way := ways[(round+i)%len(ways)]
			figures, err := measure(tr.choose(way))
			tr.must(err)
			got[way] = append(got[way], figures)
		}
	}
	b.ReportMetric(0, "ns/op") // a round's length says nothing
	for i, unit := range units {
		for _, way := range ways {
			b.ReportMetric(medianOf(got[way], func(_ int, f []float64) float64 { return f[i] }), way+"-"+unit)
		}
		for _, p := range trafficPairs {
			ratio := medianOf(got[p.ours], func(round int, f []float64) float64 { return f[i] / got[p.reference][round][i] })
			held := fmt.Sprintf("%s-%s:%s-%s", p.ours, unit, p.reference, unit)
			if i == 0 {
				held += p.goal
			}
			b.ReportMetric(ratio, held)
		}
	}
}

func medianOf(rounds [][]float64, figure func(round int, figures []float64) float64) float64 {
	var figures []float64
	for round, f := range rounds {
		figures = append(figures, figure(round, f))
	}
	return median(figures)
}

func median(figures []float64) float64 {
	sorted := slices.Sorted(slices.Values(figures))
	return sorted[len(sorted)/2]
}

// trafficWhile is how long each way is measured in a round.
const trafficWhile = 100 * time.Millisecond

// BenchmarkTraffic measures traffic between two sandboxes on two hosts over an
// overlay, over a bridge and a VXLAN device made by hand, and between the bare
// hosts: the speed of TCP connections, and how many requests of one byte are
// answered one after the other, with the processor's time for each.
func BenchmarkTraffic(b *testing.B) {
	tr := startTraffic(b)
	for _, connections := range []int{1, 4} {
		b.Run(fmt.Sprintf("tcp=%d", connections), func(b *testing.B) {
			tr.turnAbout(b, []string{"Mbit/s"}, func(p lab.Path) ([]float64, error) {
				speed, err := p.Bulk(b.Context(), connections, trafficWhile)
				return []float64{speed * 8 / 1e6}, err
			})
		})
	}
	b.Run("turns", func(b *testing.B) {
		tr.turnAbout(b, []string{"turns/s", "turn-µs", "turn-p99-µs", "work-µs"}, func(p lab.Path) ([]float64, error) {
			turns, err := p.Turns(b.Context(), trafficWhile)
			if err != nil {
				return nil, err
			}
			took := times(turns.Took)
			return []float64{
				float64(len(took)) / trafficWhile.Seconds(),
				took.micros(0.5), took.micros(0.99), times{turns.Work}.micros(1),
			}, nil
		})
	})
}
