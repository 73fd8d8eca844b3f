package daemon

import (
	"context"
	"errors"
	"time"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/store"
)

// acksPerSecond bounds how many acknowledgements the members of a network put into
// etcd together. Each is a write, and all owe one for each block that asks: where
// hundreds of nodes claim at once, one has to answer for many blocks.
const acksPerSecond = 1000

// ackAgain is when an acknowledgement that etcd did not take is tried again:
// somebody may wait for it, for peersBound.
const ackAgain = 250 * time.Millisecond

// A lastAck is what this node has acknowledged in a network, and when it may do so
// again.
type lastAck struct {
	revision int64
	mod      int64 // of its key
	again    time.Time
}

// acknowledge tells the cluster how far this node has programmed the networks
// that ask for it.
func (d *Daemon) acknowledge(ctx context.Context) error {
	tally := newAckTally()
	var ackedBy *store.Session // who told that: what a removed node told is deleted with it
	for {
		applied := d.health.changed.Wait()
		var later <-chan time.Time
		if session, err := d.registrar.session(); err == nil {
			if session != ackedBy {
				tally, ackedBy = newAckTally(), session
			}
			if again := d.putAcks(ctx, session, tally); !again.IsZero() {
				later = time.After(time.Until(again))
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-applied:
		case <-later:
		}
	}
}

// putAcks acknowledges what is owed, and returns when to look again because it was
// too early for some of it, or failed; zero if for none.
func (d *Daemon) putAcks(ctx context.Context, session *store.Session, tally *ackTally) (again time.Time) {
	later := func(at time.Time) {
		if again.IsZero() || at.Before(again) {
			again = at
		}
	}
	for id, rev := range d.owedAcks(tally) {
		if at := tally.acked[id].again; time.Now().Before(at) {
			later(at)
			continue
		}
		n := d.networkByID(id)
		if n == nil {
			continue // removed: its record may be seen to go before its interior
		}
		mod, err := session.PutAck(ctx, n, rev, tally.acked[id].mod)
		if errors.Is(err, overspan.ErrUnavailable) || errors.Is(err, overspan.ErrConflict) {
			d.log.Debug("cannot acknowledge; will try again", "network", n.Name, "error", err)
			later(time.Now().Add(ackAgain))
			continue
		}
		if err != nil {
			d.log.Warn("cannot acknowledge", "network", n.Name, "error", err)
			continue
		}
		pause := time.Duration(len(members(tally.asked[id].segment))) * time.Second / acksPerSecond
		tally.acked[id] = lastAck{rev, mod, time.Now().Add(pause)}
	}
	return again
}

// owedAcks returns the revision applied of each network in which something
// newer than what was told asks for it.
func (d *Daemon) owedAcks(tally *ackTally) map[overspan.NetworkID]int64 {
	owed := map[overspan.NetworkID]int64{}
	s := d.knowledge().Etcd
	if s == nil {
		return owed
	}
	tally.look(s.Segments, d.Self())
	for id := range tally.open {
		p := tally.asked[id]
		if p.newest <= tally.acked[id].revision {
			delete(tally.open, id)
		} else if applied := d.health.appliedTo(id); applied >= p.newest && p.segment.HeldBy(d.Self()) {
			owed[id] = applied
		}
	}
	return owed
}

// An ackTally is what was asked of this node in each network that it follows, and
// what one session has told.
type ackTally struct {
	seen  overspan.Segments // what was looked at
	asked map[overspan.NetworkID]ackDemand
	acked map[overspan.NetworkID]lastAck
	open  map[overspan.NetworkID]struct{} // where something may be owed
}

func newAckTally() *ackTally {
	return &ackTally{
		asked: map[overspan.NetworkID]ackDemand{},
		acked: map[overspan.NetworkID]lastAck{},
		open:  map[overspan.NetworkID]struct{}{},
	}
}

// look takes in what has changed since the last look.
func (t *ackTally) look(now overspan.Segments, self overspan.NodeID) {
	for id := range now.Changes(t.seen) {
		if seg := now.Get(id); seg != nil {
			t.asked[id] = t.asked[id].after(seg, self)
			t.open[id] = struct{}{}
		} else {
			delete(t.asked, id)
			delete(t.acked, id)
			delete(t.open, id)
		}
	}
	t.seen = now
}

// An ackDemand is the newest revision of a network that asks its members to
// acknowledge it, of all that were seen up to a segment; 0 if nothing does. What
// has asked and is gone still counts: an acknowledgement too many harms nobody.
type ackDemand struct {
	segment *overspan.Segment
	newest  int64
}

// after returns the demand as of a newer segment, of which it looks at what
// has changed. Self asks nothing of itself.
func (p ackDemand) after(seg *overspan.Segment, self overspan.NodeID) ackDemand {
	old := p.segment
	if old == nil || seg.Revision < old.Revision { // the first one, or another history
		old, p.newest = &overspan.Segment{}, 0
	}
	next := ackDemand{segment: seg, newest: p.newest}
	for first := range seg.Blocks.Changes(old.Blocks) {
		if b := seg.Blocks.Get(first); b.Ack && b.Node != self {
			next.newest = max(next.newest, b.ModRevision)
		}
	}
	for slot := range seg.Endpoints.Changes(old.Endpoints) {
		if e := seg.Endpoints.Get(slot); e != nil && e.Ack && e.Node != self {
			next.newest = max(next.newest, e.ModRevision)
		}
	}
	return next
}
