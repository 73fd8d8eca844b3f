package daemon

import (
	"context"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/store"
)

// acknowledge tells the cluster how far this node has programmed the networks
// that ask for it.
func (d *Daemon) acknowledge(ctx context.Context) error {
	told := map[overspan.NetworkID]int64{}
	var teller *store.Session // who told that: what a removed node told is deleted with it
	for {
		applied := d.health.changed.wait()
		if session, err := d.registrar.session(); err == nil {
			if session != teller {
				clear(told)
				teller = session
			}
			d.putAcks(ctx, session, told)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-applied:
		}
	}
}

func (d *Daemon) putAcks(ctx context.Context, session *store.Session, told map[overspan.NetworkID]int64) {
	for id, rev := range d.owedAcks(told) {
		n := d.networkByID(id)
		if n == nil {
			continue // removed: its record may be seen to go before its interior
		}
		if err := session.PutAck(ctx, n, rev); err != nil {
			d.log.Warn("cannot acknowledge", "network", n.Name, "error", err)
			continue
		}
		told[id] = rev
	}
}

// owedAcks returns the revision applied of each network in which something
// newer than what was told asks for it.
func (d *Daemon) owedAcks(told map[overspan.NetworkID]int64) map[overspan.NetworkID]int64 {
	owed := map[overspan.NetworkID]int64{}
	s := d.believed()
	if s == nil {
		return owed
	}
	for id, seg := range s.Segments {
		if !holds(seg, d.Self()) {
			continue
		}
		asked, applied := askedToAcknowledge(seg, d.Self()), d.health.appliedTo(id)
		if asked > told[id] && applied >= asked {
			owed[id] = applied
		}
	}
	return owed
}

// askedToAcknowledge returns the newest revision in a segment that asks its
// members, of whom self is one, to acknowledge it; 0 if nothing does.
func askedToAcknowledge(seg *overspan.Segment, self overspan.NodeID) int64 {
	var newest int64
	for b := range seg.Blocks.Values() {
		if b.Ack && b.Node != self {
			newest = max(newest, b.ModRevision)
		}
	}
	for e := range seg.Endpoints.Values() {
		if e.Ack && e.Node != self {
			newest = max(newest, e.ModRevision)
		}
	}
	return newest
}
