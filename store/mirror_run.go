package store

import (
	"context"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/overspan/overspan"
)

// updatesAhead is how many updates feeds may leave while the loop works; it
// takes all that are there before it publishes.
const updatesAhead = 64

// A mirrorLoop is what the goroutine of Run owns.
type mirrorLoop struct {
	*Mirror
	updates chan update
	wg      sync.WaitGroup // feeds

	following int // the history that the feeds are of

	meta, nodes, lives, networks *feed
	segments                     map[overspan.NetworkID]*feed

	touched    map[*feed]struct{} // those of segments that have told something since the last snapshot
	unreadable map[*feed]struct{} // those, of any range, in which a record cannot be read

	// What the last snapshot shows, as far as the next is made from it.
	shown    map[overspan.NodeID]*overspan.Node
	interior overspan.Segments
	least    int64 // revision of those

	published time.Time // the last snapshot was
}

// Run follows etcd until ctx ends; then it returns nil. It is called once.
func (m *Mirror) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	l := &mirrorLoop{
		Mirror:  m,
		updates: make(chan update, updatesAhead),
	}
	defer l.wg.Wait()
	defer cancel()
	l.begin(ctx)
	l.wg.Go(func() { m.probe(ctx, l.updates) })
	l.wg.Go(func() { m.askProgress(ctx) })
	gathered := time.NewTimer(0)
	defer gathered.Stop()
	for {
		select {
		case <-gathered.C:
		case u := <-l.updates:
			l.take(u)
		case <-m.refeed:
			l.matchFollowed(ctx)
		case <-m.renewed:
			l.renew(ctx)
		case <-ctx.Done():
			return nil
		}
		l.takeAll()
		if d := l.gather(time.Now()); d > 0 {
			gathered.Reset(d)
			continue
		}
		l.publish()
	}
}

// start starts the feed of a range; network is whose interior it is, if it is one.
func (l *mirrorLoop) start(ctx context.Context, r KeyRange, network overspan.NetworkID) *feed {
	ctx, cancel := context.WithCancel(ctx)
	f := &feed{
		m: l.Mirror, keys: r, network: network, history: l.following,
		kick: make(chan struct{}, 1), updates: l.updates, cancel: cancel, ended: make(chan struct{}),
	}
	l.wg.Go(func() {
		defer close(f.ended)
		defer cancel()
		f.run(ctx)
	})
	return f
}

// matchFollowed starts and ends feeds.
func (l *mirrorLoop) matchFollowed(ctx context.Context) {
	l.mu.Lock()
	followed := maps.Clone(l.followed)
	l.mu.Unlock()
	for n := range followed {
		if l.segments[n] == nil {
			l.segments[n] = l.start(ctx, l.keys.Segment(n), n)
		}
	}
	for n, f := range l.segments {
		if _, ok := followed[n]; !ok {
			f.cancel()
			l.leave(f)
		}
	}
}

// leave forgets the feed of a segment.
func (l *mirrorLoop) leave(f *feed) {
	delete(l.segments, f.network)
	delete(l.touched, f)
	delete(l.unreadable, f)
	l.interior.Delete(f.network)
	l.least = leastRevision(l.interior)
}

// takeAll takes what else is there, so that a burst makes one snapshot.
func (l *mirrorLoop) takeAll() {
	for {
		select {
		case u := <-l.updates:
			l.take(u)
		default:
			return
		}
	}
}

func (l *mirrorLoop) feeds() []*feed {
	return slices.AppendSeq([]*feed{l.meta, l.nodes, l.lives, l.networks}, maps.Values(l.segments))
}

func (l *mirrorLoop) take(u update) {
	f := u.feed
	switch {
	case f == nil:
		l.kickLagging(u.probe)
		return
	case f.history != l.following, f.network != "" && l.segments[f.network] != f:
		return // left behind by a feed that has ended
	case u.listing != nil:
		f.breached = false
		l.replace(f, u.listing)
	case f.breached:
		return
	case u.check != nil:
		l.compare(f, u.check)
	case u.batch != nil && f.part.breaches(u.batch.Events):
		l.log.Warn("what etcd tells does not follow upon what it has told; asking again", "range", f.keys.Key, "revision", u.batch.Revision)
		f.breached = true
		poke(f.kick)
		return
	case u.batch != nil:
		for _, e := range u.batch.Events {
			f.part.apply(e)
			f.dirty = f.dirty || f != l.meta || e.Key != l.keys.Claimed()
		}
		l.advance(f, u.batch.Revision)
	}
	l.note(f)
	if f == l.meta {
		l.confirm(l.following, f.part, f.frontier)
	}
}

// note remembers of a feed that has told something what the next snapshot needs.
func (l *mirrorLoop) note(f *feed) {
	if f.network != "" {
		l.touched[f] = struct{}{}
	}
	if len(f.part.bad.rows) > 0 {
		l.unreadable[f] = struct{}{}
	} else {
		delete(l.unreadable, f)
	}
}

// replace takes a listing from which a new watch goes on.
func (l *mirrorLoop) replace(f *feed, listing *Listing) {
	fresh := newPart(l.keys, listing.KVs, f.part)
	if f.part == nil || f.part.differences(fresh) > 0 {
		f.part, f.dirty = fresh, true
	}
	f.part.claimedAt = fresh.claimedAt
	l.advance(f, listing.Revision)
}

// compare takes a listing at the frontier: what differs was lost on the way.
func (l *mirrorLoop) compare(f *feed, listing *Listing) {
	fresh := newPart(l.keys, listing.KVs, f.part)
	lost := f.part.differences(fresh)
	if lost == 0 {
		return
	}
	f.part, f.dirty = fresh, true
	l.log.Error("watch lost events", "range", f.keys.Key, "records", lost, "revision", listing.Revision)
	l.mu.Lock()
	l.lost += int64(lost)
	l.mu.Unlock()
}

func (l *mirrorLoop) advance(f *feed, rev int64) {
	f.frontier = max(f.frontier, rev)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.following == l.history {
		l.health.revision = max(l.health.revision, rev)
	}
}

// kickLagging lists those ranges again whose watch has not reached, from one
// probe to the next, a revision that somebody waits for.
func (l *mirrorLoop) kickLagging(reach int64) {
	for _, f := range l.feeds() {
		switch {
		case f.part == nil || f.frontier >= reach:
			f.behind = 0
		case f.behind != 0 && f.frontier < f.behind:
			poke(f.kick)
			f.behind = 0
		default:
			f.behind = reach
		}
	}
}

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
