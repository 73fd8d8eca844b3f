package store

import (
	"context"
	"maps"
	"slices"
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

// begin starts the feeds of the history that is followed by now.
func (l *mirrorLoop) begin(ctx context.Context) {
	l.following = l.currentHistory()
	l.segments, l.touched, l.unreadable = map[overspan.NetworkID]*feed{}, map[*feed]struct{}{}, map[*feed]struct{}{}
	l.shown, l.interior, l.least = nil, overspan.Segments{}, leastRevision(overspan.Segments{})
	l.meta = l.start(ctx, Prefix(l.keys.Meta()), "")
	l.nodes = l.start(ctx, l.keys.Nodes(), "")
	l.lives = l.start(ctx, l.keys.Lives(), "")
	l.networks = l.start(ctx, l.keys.Networks(), "")
	l.matchFollowed(ctx)
}

// renew ends the feeds of an old history and starts those of the new one.
func (l *mirrorLoop) renew(ctx context.Context) {
	for _, f := range l.feeds() {
		f.cancel()
		<-f.ended
	}
	l.begin(ctx)
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
