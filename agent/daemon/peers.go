package daemon

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/await"
	"github.com/overspan/overspan/internal/steps"
	"github.com/overspan/overspan/store"
)

// The peers' acknowledgements are read again after pollFirst, then ever more
// rarely up to pollMost: nobody watches them, so that they cost nothing when
// nobody waits.
const (
	pollFirst = time.Millisecond
	pollMost  = 50 * time.Millisecond
)

// blockKey is a block as long as it stays the same one.
type blockKey struct {
	network overspan.NetworkID
	first   overspan.Slot
	epoch   int64
}

func keyOf(id overspan.NetworkID, b overspan.Block) blockKey {
	return blockKey{network: id, first: b.First, epoch: b.CreateRevision}
}

// confirmedBlocks is the own blocks that every member was seen to have
// programmed: attaches into them need not wait.
type confirmedBlocks struct {
	mu  sync.Mutex // guards set
	set map[blockKey]struct{}
}

func (c *confirmedBlocks) add(keys []blockKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.set == nil {
		c.set = map[blockKey]struct{}{}
	}
	for _, k := range keys {
		c.set[k] = struct{}{}
	}
}

func (c *confirmedBlocks) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.set)
}

// keep forgets those blocks that are not in a snapshot any more.
func (c *confirmedBlocks) keep(s *overspan.Snapshot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.set, func(k blockKey, _ struct{}) bool {
		seg := s.Segments.Get(k.network)
		return seg == nil || seg.Blocks.Get(k.first).CreateRevision != k.epoch
	})
}

func (c *confirmedBlocks) has(k blockKey) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.set[k]
	return ok
}

// awaitPeers waits until every present member of the network has programmed
// what leads to the endpoint, and returns the names of those that had not
// when the time was up.
func (d *Daemon) awaitPeers(ctx context.Context, session *store.Session, n *overspan.Network, e overspan.Endpoint) []string {
	ctx, cancel := context.WithTimeout(ctx, peersBound)
	defer cancel()
	pause := pollFirst
	d.askForAcks(ctx, n, e)
	for {
		s := d.knowledge().Shown
		seg := s.Segments.Get(n.ID)
		if seg == nil {
			return nil
		}
		need, keys := d.unconfirmed(n, seg, e)
		if need == 0 || d.taken(session, n, e) != nil {
			return nil
		}
		missing := presentMembers(s, seg, d.Self())
		if len(missing) > 0 {
			if acks, err := session.Acks(ctx, n.ID); err == nil {
				missing = slices.DeleteFunc(missing, func(id overspan.NodeID) bool { return acks[id] >= need })
			}
		}
		if len(missing) == 0 {
			d.confirmed.add(keys)
			return nil
		}
		if await.Sleep(ctx, pause) != nil {
			return d.nodeNames(missing)
		}
		pause = min(2*pause, pollMost)
	}
}

// askForAcks has the members acknowledge those blocks of the endpoint that
// nobody has asked about yet: what is left of a block that was split.
func (d *Daemon) askForAcks(ctx context.Context, n *overspan.Network, e overspan.Endpoint) {
	s := d.knowledge().Shown
	seg := s.Segments.Get(n.ID)
	session, err := d.registrar.session()
	if seg == nil || err != nil {
		return
	}
	for _, slot := range e.Slots {
		b, ok := seg.Holder(slot)
		if !ok || b.Ack || b.Node != d.Self() || d.confirmed.has(keyOf(n.ID, b)) || len(presentMembers(s, seg, d.Self())) == 0 {
			continue
		}
		asked, err := session.AskAck(ctx, n.ID, b)
		if err == nil {
			err = d.mirror.WaitSegment(ctx, n.ID, asked.ModRevision)
		}
		if err != nil {
			d.log.Warn("cannot ask for acknowledgements", "network", n.Name, "slots", b.String(), "error", err)
		}
	}
}

// unconfirmed returns the revision that peers must have applied for the
// endpoint to be reachable, 0 if that is known already; and the blocks that
// are confirmed once they have.
func (d *Daemon) unconfirmed(n *overspan.Network, seg *overspan.Segment, e overspan.Endpoint) (need int64, keys []blockKey) {
	if n.IsException(e) {
		need = e.ModRevision
	}
	for _, slot := range e.Slots {
		b, ok := seg.Holder(slot)
		if !ok {
			continue
		}
		key := keyOf(n.ID, b)
		if !d.confirmed.has(key) {
			need = max(need, b.ModRevision)
			keys = append(keys, key)
		}
	}
	return need, keys
}

// presentMembers lists the other nodes that hold a block and are up.
func presentMembers(s *overspan.Snapshot, seg *overspan.Segment, self overspan.NodeID) []overspan.NodeID {
	return slices.DeleteFunc(members(seg), func(id overspan.NodeID) bool {
		n := s.Nodes[id]
		return id == self || n == nil || n.Presence == nil
	})
}

// members lists the nodes that hold a block, by their id.
func members(seg *overspan.Segment) []overspan.NodeID {
	all := map[overspan.NodeID]struct{}{}
	for b := range seg.Blocks.Values() {
		all[b.Node] = struct{}{}
	}
	return slices.Sorted(maps.Keys(all))
}

func (d *Daemon) nodeNames(ids []overspan.NodeID) []string {
	s := d.knowledge().Shown
	names := make([]string, 0, len(ids))
	for _, id := range ids {
		names = append(names, s.NodeName(id))
	}
	return names
}

// returnIdle gives back blocks that stayed empty for long enough.
func (d *Daemon) returnIdle(ctx context.Context) {
	for _, id := range d.follows.all() {
		if err := d.alloc.GiveBack(ctx, id, d.giveBack); err != nil && !errors.Is(err, overspan.ErrNotFound) {
			d.log.Warn("cannot give back blocks", "network", overspan.ShortID(id), "error", err)
		}
	}
	d.leaveIdle(ctx)
}

func (d *Daemon) giveBack(ctx context.Context, n *overspan.Network, b overspan.Block) error {
	session, err := d.registrar.session()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, requestBound)
	defer cancel()
	steps.At(steps.GiveBackBegun)
	if err := session.ReleaseBlock(ctx, n.ID, b); err != nil {
		return err
	}
	steps.At(steps.GiveBackDone)
	d.log.Info("gave back a block", "network", n.Name, "slots", b.String())
	return nil
}
