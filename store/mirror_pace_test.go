package store

import (
	"testing"
	"time"

	"github.com/overspan/overspan"
)

// TestManyNodesAskMoreRarely: what all of them together ask for stays the same
// from some size on.
func TestManyNodesAskMoreRarely(t *testing.T) {
	for _, tt := range []struct {
		name           string
		nodes, records int
		probe, compare time.Duration // less a quarter, and as much more
		retry          time.Duration // so too
		relist         time.Duration // at most
	}{
		{"before the first snapshot", 0, 10, 2 * time.Second, 5 * time.Minute, time.Second, 2 * time.Millisecond},
		{"three nodes", 3, 1000, 2 * time.Second, 5 * time.Minute, time.Second, 6 * time.Millisecond},
		{"a thousand nodes", 1000, 1000, 10 * time.Second, 5 * time.Minute, 10 * time.Second, 2 * time.Second},
		{"a thousand nodes in a large network", 1000, 100_000, 10 * time.Second, 20_000 * time.Second, 10 * time.Second, 2 * time.Second},
	} {
		m := NewMirror(nil, Keys{}, MirrorConfig{})
		if tt.nodes > 0 {
			m.snapshot = &overspan.Snapshot{Nodes: map[overspan.NodeID]*overspan.Node{}}
			for i := range tt.nodes {
				m.snapshot.Nodes[nodeID(i)] = nil
			}
		}
		near := func(what string, got, want time.Duration) {
			t.Helper()
			if got < want*3/4 || got > want*5/4 {
				t.Errorf("%s: %s after %s, want about %s", tt.name, what, got, want)
			}
		}
		near("a probe", m.probePause(), tt.probe)
		near("a comparison", m.comparePause(tt.records), tt.compare)
		near("a try to register", m.RetryPause(), tt.retry)
		if got := m.relistPause(); got < 0 || got > tt.relist {
			t.Errorf("%s: a range is listed again after %s, want at most %s", tt.name, got, tt.relist)
		}
	}
}

// TestNodesThatComeAndGoGather: a snapshot waits for others only where it tells
// of nothing but nodes, and nobody waits for it.
func TestNodesThatComeAndGoGather(t *testing.T) {
	const nodes = 100
	published := time.Now()
	for _, tt := range []struct {
		name   string
		dirty  func(l *mirrorLoop) []*feed
		wanted int64
		after  time.Duration // since the last snapshot
		want   time.Duration
	}{
		{name: "a node registers", dirty: func(l *mirrorLoop) []*feed { return []*feed{l.nodes} }, want: nodes * gatherEach},
		{name: "a node goes", dirty: func(l *mirrorLoop) []*feed { return []*feed{l.lives} }, want: nodes * gatherEach},
		{
			name: "some have gathered", dirty: func(l *mirrorLoop) []*feed { return []*feed{l.nodes, l.lives} },
			after: nodes * gatherEach, want: 0,
		},
		{name: "nothing is new", dirty: func(*mirrorLoop) []*feed { return nil }},
		{name: "a network is new, too", dirty: func(l *mirrorLoop) []*feed { return []*feed{l.nodes, l.networks} }},
		{name: "a block is, too", dirty: func(l *mirrorLoop) []*feed { return []*feed{l.lives, l.segments[netID(1)]} }},
		{name: "somebody waits", dirty: func(l *mirrorLoop) []*feed { return []*feed{l.nodes} }, wanted: 8},
		{name: "somebody has waited", dirty: func(l *mirrorLoop) []*feed { return []*feed{l.nodes} }, wanted: 7, want: nodes * gatherEach},
	} {
		m := NewMirror(nil, Keys{}, MirrorConfig{})
		m.snapshot = &overspan.Snapshot{Revision: 7, Nodes: map[overspan.NodeID]*overspan.Node{}}
		for i := range nodes {
			m.snapshot.Nodes[nodeID(i)] = nil
		}
		m.wanted = tt.wanted
		l := &mirrorLoop{
			Mirror: m, meta: &feed{}, nodes: &feed{}, lives: &feed{}, networks: &feed{}, published: published,
			segments: map[overspan.NetworkID]*feed{netID(1): {}}, touched: map[*feed]struct{}{},
		}
		l.touched[l.segments[netID(1)]] = struct{}{}
		for _, f := range tt.dirty(l) {
			f.dirty = true
		}
		if got := l.gather(published.Add(tt.after)); got != tt.want {
			t.Errorf("%s: a snapshot waits %s, want %s", tt.name, got, tt.want)
		}
	}
}
