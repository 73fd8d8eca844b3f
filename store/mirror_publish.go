package store

import (
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/overspan/overspan"
)

// gather returns how long to hold back a snapshot in which only nodes or presences
// have changed, so that several such changes share one: each costs every agent a
// look at all nodes. Any other change, or somebody who waits, ends the delay.
func (l *mirrorLoop) gather(now time.Time) time.Duration {
	others := l.meta.dirty || l.networks.dirty
	for f := range l.touched {
		others = others || f.dirty
	}
	if others || !l.nodes.dirty && !l.lives.dirty {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.snapshot == nil || l.snapshot.Revision < l.wanted {
		return 0
	}
	return l.published.Add(time.Duration(len(l.snapshot.Nodes)) * gatherEach).Sub(now)
}

// publish makes a snapshot if it would be complete and tell something new.
func (l *mirrorLoop) publish() {
	base := []*feed{l.meta, l.nodes, l.lives, l.networks}
	last := l.Snapshot()
	wait := base
	if last == nil {
		wait = l.feeds()
		last = &overspan.Snapshot{Revision: -1}
	}
	if slices.ContainsFunc(wait, func(f *feed) bool { return f.part == nil }) {
		return
	}
	s := &overspan.Snapshot{
		Revision: minFrontier(base),
		Meta:     l.meta.part.meta,
		Frozen:   l.meta.part.frozen,
		Accepted: l.meta.part.accepted,
		Nodes:    l.composeNodes(),
		Networks: l.networks.part.networks.share(),
	}
	news := l.addSegments(s, last)
	news = news || slices.ContainsFunc(base, func(f *feed) bool { return f.dirty })
	if !news && s.Revision == last.Revision && s.Segments.Len() == last.Segments.Len() {
		return
	}
	s.Bad = l.badRecords()
	for _, f := range base {
		f.dirty = false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.follows(l.following) != nil {
		return
	}
	l.snapshot, l.published = s, time.Now()
	l.wakeWaiters()
	poke(l.changed)
}

// addSegments adds the interiors that are complete, and reports whether one of
// them has changed; it looks at those that have told something. One that was listed
// before the last snapshot's revision waits until its watch has got there: a
// snapshot's revision never goes back.
func (l *mirrorLoop) addSegments(s, last *overspan.Snapshot) (news bool) {
	behind := false
	for f := range l.touched {
		was := l.interior.Get(f.network)
		if was == nil && f.frontier < last.Revision {
			l.want(last.Revision)
			continue
		}
		delete(l.touched, f)
		if was == nil || f.dirty || was.Revision != f.frontier {
			l.interior.Put(f.network, f.part.segment(f.frontier))
			f.dirty = false
			news = true
			behind = behind || was == nil || was.Revision == l.least
		}
	}
	if behind {
		l.least = leastRevision(l.interior)
	}
	s.Revision, s.Segments = min(s.Revision, l.least), l.interior
	return news
}

// leastRevision returns the least revision of some segments; of none, the highest
// that there is.
func leastRevision(segments overspan.Segments) int64 {
	least := int64(math.MaxInt64)
	for _, seg := range segments.All() {
		least = min(least, seg.Revision)
	}
	return least
}

// composeNodes puts registrations and presences together. A node of which
// neither has changed stays the same object.
func (l *mirrorLoop) composeNodes() map[overspan.NodeID]*overspan.Node {
	if l.shown != nil && !l.nodes.dirty && !l.lives.dirty {
		return l.shown
	}
	nodes, lives := l.nodes.part, l.lives.part
	shown := maps.Clone(l.shown)
	if l.shown == nil || nodes.touched == nil || lives.touched == nil {
		shown = make(map[overspan.NodeID]*overspan.Node, len(nodes.nodes.rows))
		for id := range nodes.nodes.rows {
			l.composeNode(shown, id)
		}
	} else {
		for _, touched := range []map[overspan.NodeID]struct{}{nodes.touched, lives.touched} {
			for id := range touched {
				l.composeNode(shown, id)
			}
		}
	}
	nodes.touched, lives.touched = map[overspan.NodeID]struct{}{}, map[overspan.NodeID]struct{}{}
	l.shown = shown
	return shown
}

// composeNode brings one node up to date.
func (l *mirrorLoop) composeNode(shown map[overspan.NodeID]*overspan.Node, id overspan.NodeID) {
	registration := l.nodes.part.nodes.rows[id]
	if registration == nil {
		delete(shown, id)
		return
	}
	n := *registration
	n.Presence = l.lives.part.lives.rows[id]
	shown[id] = &n
	if was := l.shown[id]; was != nil && reflect.DeepEqual(*was, n) {
		shown[id] = was
	}
}

func (l *mirrorLoop) badRecords() []overspan.BadRecord {
	var out []overspan.BadRecord
	for f := range l.unreadable {
		for key, err := range f.part.bad.rows {
			out = append(out, overspan.BadRecord{Key: key, Err: err})
		}
	}
	slices.SortFunc(out, func(a, b overspan.BadRecord) int { return strings.Compare(a.Key, b.Key) })
	return out
}

func minFrontier(feeds []*feed) int64 {
	least := feeds[0].frontier
	for _, f := range feeds[1:] {
		least = min(least, f.frontier)
	}
	return least
}
