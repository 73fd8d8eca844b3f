package store

import (
	"context"
	"time"

	"github.com/overspan/overspan"
)

// errRenewed says that an answer was asked of a history that is not followed any
// more.
var errRenewed = overspan.Errorf(overspan.ErrUnavailable, "etcd was rolled back or replaced meanwhile; try again")

// Doubt says why etcd is not taken for the one that the mirror followed, ""
// if it is: it was replaced, or rolled back to a revision that had passed. What
// is missing in it is unknown, not gone. The mirror publishes nothing until
// Renew.
func (m *Mirror) Doubt() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.health.doubt
}

// Trusted is Snapshot, or nil while etcd is doubted.
func (m *Mirror) Trusted() *overspan.Snapshot {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.health.doubt != "" {
		return nil
	}
	return m.snapshot
}

// Doubted returns a channel that closes when the history that is followed is
// doubted. After Renew there is another.
func (m *Mirror) Doubted() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.health.doubted
}

// Suspect makes the mirror doubt etcd for a reason that others have found.
func (m *Mirror) Suspect(why string) { m.suspect(m.currentHistory(), why) }

// suspect is Suspect by one that looked at a history; one that is followed no
// more was doubted before.
func (m *Mirror) suspect(history int, why string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.history == history {
		m.health.suspect(why)
		m.wakeWaiters()
	}
}

// Check asks etcd at once whether it is still the one that is followed, and
// returns its freeze, if it is frozen, and the acceptances. An error of class
// overspan.ErrUnavailable means that it cannot be asked, or that there is a
// doubt.
func (m *Mirror) Check(ctx context.Context) (frozen *overspan.Freeze, accepted uint64, err error) {
	p, _, err := m.check(ctx)
	if err != nil {
		return nil, 0, err
	}
	return p.frozen, p.accepted, nil
}

// check returns what stands below meta, and at which revision.
func (m *Mirror) check(ctx context.Context) (*part, int64, error) {
	history := m.currentHistory()
	l, err := m.list(ctx, Prefix(m.keys.Meta()))
	if err != nil {
		return nil, 0, err
	}
	p := newPart(m.keys, l.KVs, nil)
	m.confirm(history, p, l.Revision)
	m.mu.Lock()
	defer m.mu.Unlock()
	return p, l.Revision, m.follows(history)
}

// confirm holds what stands below meta at a revision of a history against what
// was seen of it.
func (m *Mirror) confirm(history int, p *part, rev int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.follows(history) != nil {
		return
	}
	if m.health.confirm(m.keys, p, rev); m.health.doubt != "" {
		m.wakeWaiters()
	}
}

// Renew ends a doubt: the mirror follows from now on what etcd holds now,
// whatever it held before. There is no snapshot until all ranges are complete
// again, and its revision may be lower than any before. Who waits for a
// revision of the old history is told that there is none.
func (m *Mirror) Renew() {
	m.mu.Lock()
	m.history++
	m.snapshot, m.wanted = nil, 0
	m.health = newHealth(MirrorConfig{})
	m.wakeWaiters()
	m.mu.Unlock()
	poke(m.renewed)
}

// Seen returns the etcd cluster and the highest revision seen, to be given to
// the next run's MirrorConfig.
func (m *Mirror) Seen() (clusterID uint64, revision int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.health.cluster, m.health.revision
}

// Claimed returns the mod-revision of the last claim that the key claimed has told
// of, 0 if it has of none, and when that was; zero if it was before this run.
func (m *Mirror) Claimed() (rev int64, heard time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.health.claimed, m.health.heard
}

func (m *Mirror) currentHistory() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.history
}

// follows returns why nothing can be said of a history; mu is held.
func (m *Mirror) follows(history int) error {
	switch {
	case m.history != history:
		return errRenewed
	case m.health.doubt != "":
		return overspan.Errorf(overspan.ErrUnavailable, "%s", m.health.doubt)
	}
	return nil
}
