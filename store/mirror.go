package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/overspan/overspan"
)

// MirrorConfig has useful zeros.
type MirrorConfig struct {
	// Resync is about how often each range is listed and compared with what
	// its watch told; 0: 5 minutes. Large ranges of many nodes more rarely.
	Resync time.Duration

	// Probe is how often etcd is asked whether it is there; an answer is
	// waited for as long. 0: 2 seconds, so that its loss is known within 4. Beside
	// more than 200 nodes more rarely.
	Probe time.Duration

	// What an earlier run of the agent has seen, zero if nothing: etcd's cluster
	// id, its revision, the cluster id in the settings, the acceptances, and the
	// revision of the last claim. An etcd that differs, or is behind, was replaced or
	// rolled back: the mirror doubts it and publishes nothing of it.
	ClusterID uint64
	Revision  int64
	Settings  string
	Accepted  uint64
	Claimed   int64

	Log *slog.Logger // nil: silent
}

// A Mirror follows etcd into snapshots. It watches what every agent must know
// and, of the networks that it is told to follow, their interior. A snapshot is
// complete: each range in it was listed at one revision and is followed by a
// watch from there; after any doubt about a watch its range is listed again.
//
// Its methods may be called from any goroutine.
type Mirror struct {
	kv   KV
	keys Keys
	cfg  MirrorConfig
	log  *slog.Logger

	changed chan struct{} // size 1
	refeed  chan struct{} // size 1: the set of followed networks has changed
	ask     chan struct{} // size 1: somebody waits for progress
	renewed chan struct{} // size 1: the history has changed

	mu       sync.Mutex // guards all fields below
	history  int        // which of etcd's histories is followed; Renew begins another
	snapshot *overspan.Snapshot
	newer    chan struct{} // closed and replaced with each snapshot, and at a doubt
	followed map[overspan.NetworkID]struct{}
	wanted   int64 // highest revision that somebody waited for
	health   health
	lost     int64
}

// NewMirror returns a mirror of a cluster. It does nothing before Run.
func NewMirror(kv KV, keys Keys, cfg MirrorConfig) *Mirror {
	if cfg.Resync == 0 {
		cfg.Resync = 5 * time.Minute
	}
	if cfg.Probe == 0 {
		cfg.Probe = 2 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Mirror{
		kv: kv, keys: keys, cfg: cfg, log: cfg.Log,
		changed:  make(chan struct{}, 1),
		refeed:   make(chan struct{}, 1),
		ask:      make(chan struct{}, 1),
		renewed:  make(chan struct{}, 1),
		newer:    make(chan struct{}),
		followed: map[overspan.NetworkID]struct{}{},
		health:   newHealth(cfg),
	}
}

// Snapshot returns the newest complete snapshot; nil before the first one,
// which waits for all networks that are followed by then.
func (m *Mirror) Snapshot() *overspan.Snapshot {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.snapshot
}

// Changed returns a channel of size 1 that has a value whenever there is a
// snapshot that its reader may not have seen. It has one reader.
func (m *Mirror) Changed() <-chan struct{} { return m.changed }

// Follow has the interior of a network in the snapshots from the one on in
// which it is complete. WaitRevision and Sync wait for that.
func (m *Mirror) Follow(n overspan.NetworkID) {
	m.mu.Lock()
	m.followed[n] = struct{}{}
	m.mu.Unlock()
	poke(m.refeed)
}

// Unfollow ends that; a network that is not followed is none of its business.
func (m *Mirror) Unfollow(n overspan.NetworkID) {
	m.mu.Lock()
	delete(m.followed, n)
	m.mu.Unlock()
	poke(m.refeed)
}

// WaitRevision returns when the snapshot has everything up to a revision, and
// the interior of every network that is followed as it is called. The error is
// of class overspan.ErrUnavailable: ctx has ended before, or the mirror is in
// doubt.
func (m *Mirror) WaitRevision(ctx context.Context, rev int64) error {
	return m.waitRevision(ctx, m.currentHistory(), rev)
}

// waitRevision is WaitRevision for a revision of one history.
func (m *Mirror) waitRevision(ctx context.Context, history int, rev int64) error {
	m.mu.Lock()
	networks := maps.Clone(m.followed)
	m.mu.Unlock()

	const firstPause, lastPause = 50 * time.Millisecond, time.Second
	pause := firstPause
	retry := time.NewTimer(pause)
	defer retry.Stop()
	for asked := false; ; {
		newer, err := m.reached(history, rev, networks)
		if newer == nil {
			return err
		}
		if !asked {
			// The watches of ranges in which nothing happens stay behind
			// until the server says how far they are. It says nothing while
			// it catches one up: hence again.
			m.want(rev)
			asked = true
		}
		select {
		case <-newer:
		case <-retry.C:
			asked = false
			pause = min(2*pause, lastPause)
			retry.Reset(pause)
		case <-ctx.Done():
			return m.overdue(ctx, fmt.Sprintf("revision %d", rev))
		}
	}
}

// overdue is the error of one who has waited for something in vain.
func (m *Mirror) overdue(ctx context.Context, what string) error {
	if _, stale := m.Stale(); stale != nil {
		return &outage{text: stale.Error(), cause: errors.Join(ctx.Err(), stale)}
	}
	return overspan.Errorf(overspan.ErrUnavailable,
		"etcd at %s is slow: %s has not been heard of in time; try again: %w", strings.Join(m.kv.Endpoints(), ","), what, ctx.Err())
}

// want has every watch asked to reach a revision, and its range listed again if
// it does not.
func (m *Mirror) want(rev int64) {
	m.mu.Lock()
	m.wanted = max(m.wanted, rev)
	m.mu.Unlock()
	poke(m.ask)
}

// reached returns nil and how the wait for a revision has ended, or else a
// channel that closes when that may have changed.
func (m *Mirror) reached(history int, rev int64, networks map[overspan.NetworkID]struct{}) (<-chan struct{}, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.follows(history); err != nil {
		return nil, overspan.Errorf(overspan.ErrUnavailable, "wait for revision %d: %w", rev, err)
	}
	if m.snapshot == nil || m.snapshot.Revision < rev {
		return m.newer, nil
	}
	for n := range networks {
		_, there := m.snapshot.Segments.Lookup(n)
		if _, still := m.followed[n]; still && !there {
			return m.newer, nil
		}
	}
	return nil, nil
}

// Sync returns when the snapshot is at least as new as the moment of the call.
// Errors are those of WaitRevision.
func (m *Mirror) Sync(ctx context.Context) error {
	history := m.currentHistory()
	l, err := m.list(ctx, Key(m.keys.Meta()))
	if err != nil {
		return err
	}
	return m.waitRevision(ctx, history, l.Revision)
}

// Segment lists the interior of a network that need not be followed, once. Errors
// are those of KV.List, and of class overspan.ErrUnavailable where etcd is doubted.
func (m *Mirror) Segment(ctx context.Context, n overspan.NetworkID) (*overspan.Segment, error) {
	l, err := m.list(ctx, m.keys.Segment(n))
	if err != nil {
		return nil, err
	}
	return newPart(m.keys, l.KVs, nil).segment(l.Revision), nil
}

// InUse reports whether a network that need not be followed has endpoints,
// without reading any of them. Errors are those of Segment.
func (m *Mirror) InUse(ctx context.Context, n overspan.NetworkID) (bool, error) {
	history, before := m.frontier()
	res, err := m.kv.Txn(ctx, Txn{
		If: []Cmp{Absent(m.keys.Endpoints(n))},
		// A transaction that reads nothing may be answered by a member that is behind.
		Then: []Op{Get(Key(m.keys.Network(n)))},
	})
	if err != nil {
		return false, err
	}
	return !res.OK, m.weigh("look for endpoints of network "+overspan.ShortID(n), history, before, res.ClusterID, res.Revision)
}

// Stale reports why snapshots may be behind etcd, and since when; a nil error
// if they are not. Sooner or later they are fresh again unless Doubt says
// otherwise.
func (m *Mirror) Stale() (since time.Time, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.health.stale()
}

// LostEvents counts the records in which a listing contradicted a watch.
func (m *Mirror) LostEvents() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lost
}

// list reads a range at the newest revision.
func (m *Mirror) list(ctx context.Context, r KeyRange) (Listing, error) {
	history, before := m.frontier()
	l, err := m.kv.List(ctx, r, 0)
	if err != nil {
		return Listing{}, err
	}
	if err := m.weigh("list "+r.Key, history, before, l.ClusterID, l.Revision); err != nil {
		return Listing{}, err
	}
	return l, nil
}

// frontier returns which history is followed and how far, before a question.
func (m *Mirror) frontier() (history int, revision int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.history, m.health.revision
}

// weigh holds an answer against what was seen before the question: a
// linearizable read never goes back.
func (m *Mirror) weigh(what string, history int, before int64, clusterID uint64, revision int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.history == history && !m.health.trust(clusterID, revision, before) {
		m.wakeWaiters()
	}
	if err := m.follows(history); err != nil {
		return overspan.Errorf(overspan.ErrUnavailable, "%s: %w", what, err)
	}
	return nil
}

// wakeWaiters has every WaitRevision look again; mu is held.
func (m *Mirror) wakeWaiters() {
	close(m.newer)
	m.newer = make(chan struct{})
}

// poke leaves a value in a channel of size 1, unless one is there already.
func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
