package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/overspan/overspan/e2e/lab"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
	"github.com/overspan/overspan/store"
)

// BenchmarkConvergence measures how long after the claim of a block has been
// seen in etcd its last member has said that it has programmed all of it, beside
// the time from a write to its being seen.
func BenchmarkConvergence(b *testing.B) {
	const members = 4
	b.Run(fmt.Sprintf("members=%d", members), func(b *testing.B) {
		m := startBenchOf(b, members+1, members+1)
		client, err := m.Etcd.Client()
		m.must(err)
		seen := client.Watch(b.Context(), lab.Prefix, clientv3.WithPrefix())
		claimer, others := m.Nodes[0], m.Nodes[1:]
		var converged, watched times
		for round := 0; b.Loop(); round++ {
			name := fmt.Sprintf("net%d", round)
			m.must(m.createSubnet(name, fmt.Sprintf("10.%d.0.0/16", 100+round%100)))
			var boxes []*lab.Sandbox
			for i, n := range append(others, claimer) {
				box := m.netns(n, fmt.Sprintf("%s-%d", name, i))
				boxes = append(boxes, box)
			}
			for _, box := range boxes[:members] {
				_, err := box.Node.MustCtl(b.Context(), "network", "connect", name, box.Name)
				m.must(err)
			}
			watched = append(watched, m.writeSeen(client, seen))
			var g errgroup.Group
			g.Go(func() error { return m.attach(name, boxes[members].Name) })
			converged = append(converged, m.claimAcked(seen, members))
			m.must(g.Wait())
			for _, box := range boxes {
				_, err := box.Node.MustCtl(b.Context(), "network", "disconnect", name, box.Name)
				m.must(err)
				m.must(box.DelNetns(b.Context()))
			}
			_, err := claimer.MustCtl(b.Context(), "network", "rm", name)
			m.must(err)
		}
		b.ReportMetric(0, "ns/op")
		watched.report(b, "watched")
		converged.report(b, "converged")
		converged.against(b, "converged", watched, "watched", "")
	})
}

// writeSeen returns how long it takes from a write to etcd until a watch tells
// of it.
func (m *bench) writeSeen(client *clientv3.Client, seen clientv3.WatchChan) time.Duration {
	m.b.Helper()
	begin := time.Now()
	res, err := client.Put(m.b.Context(), lab.Prefix+"bench", "")
	m.must(err)
	for tells := range seen {
		m.must(tells.Err())
		if tells.Header.Revision >= res.Header.Revision {
			return time.Since(begin)
		}
	}
	m.must(errors.New("the watch has ended"))
	return 0
}

// claimAcked returns how long after the next claim of a block so many members
// have acknowledged it.
func (m *bench) claimAcked(seen clientv3.WatchChan, members int) time.Duration {
	m.b.Helper()
	var claimed time.Time
	var block overspanv1.Block
	var revision int64
	acked := map[string]bool{}
	for tells := range seen {
		m.must(tells.Err())
		for _, ev := range tells.Events {
			key := strings.TrimPrefix(string(ev.Kv.Key), lab.Prefix)
			switch {
			case ev.Type != clientv3.EventTypePut:
			case strings.Contains(key, "/blocks/"):
				claimed, revision = time.Now(), ev.Kv.ModRevision
				m.must(store.Unmarshal(ev.Kv.Value, &block))
			case strings.HasPrefix(key, "acks/") && !strings.HasSuffix(key, "/"+block.GetNode()):
				var ack overspanv1.Ack
				m.must(store.Unmarshal(ev.Kv.Value, &ack))
				acked[key] = revision > 0 && ack.GetRevision() >= revision
			}
		}
		if len(slices.DeleteFunc(slices.Collect(maps.Values(acked)), func(all bool) bool { return !all })) == members {
			return time.Since(claimed)
		}
	}
	m.must(errors.New("the watch has ended"))
	return 0
}

// A spoil damages what a node holds for a network, in shell.
type spoil struct{ name, command string }

// spoils find the network's only VXLAN device by themselves.
var spoils = []spoil{
	{"device", "ip link del $(ls /sys/class/net | grep osx-)"},
	{"fdb", "bridge fdb flush dev $(ls /sys/class/net | grep osx-)"},
	{"chain", "iptables -w -t raw -F OVERSPAN-RAW-VXLAN"},
}

// showSpoilt prints what the spoils damage.
const showSpoilt = "bridge fdb show | grep osx- | sort; iptables-save -t raw | grep ^-A"

// repairPatience is how long a repair is waited for.
const repairPatience = 30 * time.Second

// BenchmarkRepair measures how long it takes from a deletion of ours by others
// until kernel and plan agree again.
func BenchmarkRepair(b *testing.B) {
	m := startBench(b)
	m.create("demo")
	h1 := m.Nodes[0]
	for i, n := range m.Nodes {
		box := m.netns(n, fmt.Sprintf("box%d", i))
		_, err := n.MustCtl(b.Context(), "network", "connect", "demo", box.Name)
		m.must(err)
	}
	for _, s := range spoils {
		b.Run(s.name, func(b *testing.B) {
			var took times
			for b.Loop() {
				before, err := h1.Exec(b.Context(), "sh", "-ec", showSpoilt)
				m.must(err)
				_, err = h1.Exec(b.Context(), "sh", "-ec", s.command)
				m.must(err)
				m.must(took.measure(func() error {
					return lab.Eventually(b.Context(), repairPatience, func(ctx context.Context) error {
						now, err := h1.Exec(ctx, "sh", "-ec", showSpoilt)
						if err == nil && now != before {
							err = fmt.Errorf("not as before:\n%s", now)
						}
						return err
					})
				}))
				_, err = h1.MustCtl(b.Context(), "verify")
				m.must(err)
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(took.quantile(1).Seconds(), "slowest-s≤1")
			b.ReportMetric(took.quantile(0.5).Seconds(), "repair-s")
		})
	}
}

// BenchmarkRestart ends an agent and starts it again under a 1 kHz ping in both
// directions.
func BenchmarkRestart(b *testing.B) {
	m := startBench(b)
	m.create("demo")
	var boxes []*lab.Sandbox
	for i, n := range m.Nodes {
		box := m.netns(n, fmt.Sprintf("box%d", i))
		_, err := n.MustCtl(b.Context(), "network", "connect", "demo", box.Name)
		m.must(err)
		boxes = append(boxes, box)
	}
	for name, end := range map[string]func(*lab.Node, context.Context) error{"SIGTERM": (*lab.Node).Stop, "SIGKILL": (*lab.Node).Kill} {
		b.Run(name, func(b *testing.B) {
			var sent, lost uint64
			for b.Loop() {
				var pingers []*lab.Pinger
				for i, box := range boxes {
					addrs, err := boxes[1-i].Addrs(eth0)
					m.must(err)
					p, err := box.StartPing(addrs[0])
					m.must(err)
					pingers = append(pingers, p)
				}
				m.must(end(m.Nodes[0], b.Context()))
				m.must(m.Nodes[0].Start(b.Context()))
				for _, p := range pingers {
					s, l, err := p.Stop(b.Context())
					m.must(err)
					sent, lost = sent+s, lost+l
				}
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(sent), "sent")
			b.ReportMetric(float64(lost), "lost≤0")
		})
	}
}
