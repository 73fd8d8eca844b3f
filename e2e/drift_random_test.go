package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overspan/overspan/e2e/lab"
	"github.com/overspan/overspan/internal/mutation"
)

const (
	// mutations is how many are done to all nodes together.
	mutations = 1000

	// mutationsWithin bounds them, and cleanWithin what is left of them then.
	mutationsWithin = 3 * time.Minute
	cleanWithin     = 15 * time.Second
)

// seedVar names a variable with the seed of the drawn mutations.
const seedVar = "OVERSPAN_E2E_SEED"

// seed returns the seed to draw by, and prints it.
func seed(t *testing.T) uint64 {
	t.Helper()
	n := uint64(time.Now().UnixNano())
	if text := os.Getenv(seedVar); text != "" {
		var err error
		if n, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%s=%d", seedVar, n)
	return n
}

// furnish gives a node what others have made there, in every table and beside
// every kind of object of ours.
const furnish = `
	ip link add fbr type bridge; ip link add fv0 type veth peer name fv1
	ip link add fvx1 type vxlan id 77 dstport 8472 nolearning; ip link add fvx2 type vxlan id 99 dstport 4789 nolearning
	for d in fbr fv0 fv1 fvx1 fvx2; do ip link set $d addrgenmode none; ip link set $d up; done
	ip link set fv0 master fbr; ip link set fvx1 master fbr
	bridge link set dev fv0 learning off; bridge link set dev fvx1 learning off
	ip addr add 10.200.0.1/24 dev fbr; ip addr add fd20::1/64 dev fbr nodad
	bridge fdb add 02:00:00:00:0f:01 dev fv0 master static
	ip neigh add 10.200.0.9 lladdr 02:00:00:00:0f:02 dev fbr nud permanent
	for d in fvx1 fvx2; do
		bridge fdb append 02:00:00:00:0f:03 dev $d dst 192.0.2.7
		ip neigh add 10.202.0.9 lladdr 02:00:00:00:0f:04 dev $d nud permanent
	done
	ip route add 10.201.0.0/16 via 10.200.0.9; ip -6 route add fd21::/64 via fd20::9
	ipset create foreign hash:ip; ipset add foreign 192.0.2.8
	for tables in iptables ip6tables; do
		$tables -w -N FOREIGN; $tables -w -A FOREIGN -p tcp --dport 9 -j REJECT
		$tables -w -A FORWARD -j FOREIGN; $tables -w -A INPUT -p 253 -j DROP
		$tables -w -t nat -A POSTROUTING -p 253 -j MASQUERADE; $tables -w -t nat -A OUTPUT -p 253 -j ACCEPT
		$tables -w -t raw -A PREROUTING -p 253 -j CT --notrack; $tables -w -t raw -A OUTPUT -p 253 -j ACCEPT
		$tables -w -t mangle -A PREROUTING -p 253 -j MARK --set-mark 1
	done
	nft add table inet foreign; nft 'add chain inet foreign c { type filter hook forward priority 10; }'
	nft add rule inet foreign c meta l4proto 253 drop`

// sameAt prints what tells a thing that was always there from one made anew: numbers
// of links, and of a table's chains and rules.
const sameAt = `for d in fbr fv0 fv1 fvx1 fvx2; do echo $d is $(cat /sys/class/net/$d/ifindex); done; nft -a list table inet foreign`

// foreign returns what a node holds that is not ours.
func foreign(ctx context.Context, n *lab.Node) ([]string, error) {
	all, err := look(ctx, n)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(line string) bool {
		for _, mark := range []string{"osb-", "osx-", "osv-", "OVERSPAN", "overspan-"} {
			if strings.Contains(line, mark) {
				return true
			}
		}
		return false
	})
	same, err := n.Exec(ctx, "sh", "-ec", sameAt)
	return append(all, still(same)...), err
}

// Scenario 22: "1,000 random such mutations under traffic end clean; a foreign
// bridge, VXLAN device and rules are untouched throughout."
func TestScenario22_ThousandRandomMutations(t *testing.T) {
	c := build(t, lab.Options{Nodes: 3})
	for _, n := range c.Nodes {
		n.Flags = resync(shortResync)
		_, err := n.Exec(t.Context(), "sh", "-ec", furnish)
		c.must(err)
	}
	c.start()
	c.create(c.Nodes[0], "--ipv6", "demo")
	var boxes []*lab.Sandbox
	for i, n := range c.Nodes {
		boxes = append(boxes, c.attach(n, "demo", fmt.Sprintf("box%d", i)))
	}
	var sites []*site
	var others [][]string
	for i, box := range boxes {
		sites = append(sites, c.newSite("demo", box, boxes[(i+1)%len(boxes)]))
		held, err := foreign(t.Context(), box.Node)
		c.must(err)
		others = append(others, held)
	}
	pings := c.ring(boxes)
	begin, from := time.Now(), seed(t)
	const warmUp = mutations / 4
	done := c.mutate(sites, from, warmUp)
	early := c.sizes()
	done += c.mutate(sites, from+1, mutations-warmUp)
	took := time.Since(begin)
	if took > mutationsWithin {
		t.Errorf("it took %s", took)
	}
	for i, s := range sites {
		c.eventually(cleanWithin, s.whole)
		now, err := foreign(t.Context(), s.node)
		c.must(err)
		if diff := cmp.Diff(others[i], now); diff != "" {
			t.Errorf("foreign state of %s (-before +after):\n%s", s.node.Name, diff)
		}
		repairs, err := repaired(t.Context(), s.node)
		c.must(err)
		t.Logf("%s: repairs by kind and change: %v", s.node.Name, repairs)
	}
	c.eventually(cleanWithin, c.verified)
	if done < mutations {
		t.Errorf("only %d mutations met what they were to spoil; want %d", done, mutations)
	}
	t.Logf("%d mutations in %s, clean %s later", done, took.Round(time.Millisecond), (time.Since(begin) - took).Round(time.Millisecond))
	for _, p := range pings {
		c.must(p.Recover(t.Context(), settleWithin))
	}
	stopAll(pings)
	c.mesh(boxes...)
	c.grewLittle(early, c.sizes())
}

// ring sends pings from each sandbox to the next.
func (c *cluster) ring(boxes []*lab.Sandbox) []*lab.Pinger {
	c.t.Helper()
	var out []*lab.Pinger
	for i, box := range boxes {
		addrs, err := boxes[(i+1)%len(boxes)].Addrs(eth0)
		c.must(err)
		for _, to := range addrs {
			ping, err := box.StartPing(to)
			c.must(err)
			out = append(out, ping)
		}
	}
	return out
}

// stopAll ends pings of which some may be lost.
func stopAll(pings []*lab.Pinger) {
	var all sync.WaitGroup
	for _, p := range pings {
		all.Go(func() { p.Stop(context.Background()) })
	}
	all.Wait()
}

// mutate draws mutations and does them to all sites at once, in each one after
// the other, whatever the agent has made of the last, until a count of them has met
// what they were to spoil, or time is up. It returns how many had.
func (c *cluster) mutate(sites []*site, seed uint64, count int) int {
	c.t.Helper()
	var done atomic.Int64
	all, _ := split(mutation.All(), func(m mutation.Mutation) bool { return !m.Broad && m.Noticed != mutation.ByVeth })
	var running sync.WaitGroup
	ctx, cancel := lab.WithTimeout(c.t.Context(), mutationsWithin)
	defer cancel()
	for i, s := range sites {
		random := rand.New(rand.NewPCG(seed, uint64(i)))
		running.Go(func() {
			met := 0
			for met < (count+len(sites)-1)/len(sites) && ctx.Err() == nil {
				m := all[random.IntN(len(all))]
				// What it is about may be gone: then it fails.
				if s.spoil(ctx, mutation.Mutation{Host: m.Host + "\n" + m.Left, Inside: m.Inside}) == nil {
					met++
				}
			}
			done.Add(int64(met))
			if err := s.spoil(c.t.Context(), mutation.Mutation{Host: mutation.Sweep}); err != nil {
				c.t.Error(err)
			}
		})
	}
	running.Wait()
	return int(done.Load())
}

// sizes are measures of an agent that may not grow.
type sizes struct{ files, goroutines, memory float64 }

// sizes waits until the agents have nothing to do and measures them.
func (c *cluster) sizes() map[*lab.Node]sizes {
	c.t.Helper()
	c.eventually(cleanWithin, c.verified)
	out := map[*lab.Node]sizes{}
	for _, n := range c.Nodes {
		m, err := n.Metrics(c.t.Context())
		c.must(err)
		out[n] = sizes{m["process_open_fds"], m["go_goroutines"], m["process_resident_memory_bytes"]}
	}
	return out
}

// grewLittle compares what agents take: files and goroutines come and go by a
// few, and the runtime keeps some memory for later.
func (c *cluster) grewLittle(before, after map[*lab.Node]sizes) {
	c.t.Helper()
	for _, n := range c.Nodes {
		b, a := before[n], after[n]
		c.t.Logf("%s: files %v → %v, goroutines %v → %v, memory %.0f → %.0f MB", n.Name,
			b.files, a.files, b.goroutines, a.goroutines, b.memory/1e6, a.memory/1e6)
		if a.files > b.files+5 || a.goroutines > b.goroutines+10 || a.memory > 1.5*b.memory+20e6 {
			c.t.Errorf("the agent of %s grew", n.Name)
		}
	}
}
