package store

import (
	"context"
	"fmt"
	"time"

	"github.com/overspan/overspan"
)

// WaitSegment returns when the snapshot has everything up to a revision that
// lies inside one network, whose interior is followed. It costs etcd nothing:
// what was written there comes by the network's own watch. Errors are those of
// WaitRevision.
func (m *Mirror) WaitSegment(ctx context.Context, n overspan.NetworkID, rev int64) error {
	const overdue = 100 * time.Millisecond
	retry := time.NewTicker(overdue)
	defer retry.Stop()
	history := m.currentHistory()
	for {
		newer, err := m.segmentReached(history, n, rev)
		if newer == nil {
			return err
		}
		select {
		case <-newer:
		case <-retry.C:
			// The revision may be one at which nothing happened there.
			m.want(rev)
		case <-ctx.Done():
			return m.overdue(ctx, fmt.Sprintf("revision %d of network %s", rev, overspan.ShortID(n)))
		}
	}
}

// segmentReached is reached for one network. One that is not followed any more
// has nothing to wait for.
func (m *Mirror) segmentReached(history int, n overspan.NetworkID, rev int64) (<-chan struct{}, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.follows(history); err != nil {
		return nil, overspan.Errorf(overspan.ErrUnavailable, "wait for revision %d: %w", rev, err)
	}
	if _, followed := m.followed[n]; !followed {
		return nil, nil
	}
	if seg := m.snapshot.Segment(n); seg == nil || seg.Revision < rev {
		return m.newer, nil
	}
	return nil, nil
}
