package daemon

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/await"
	"github.com/overspan/overspan/agent/local"
	"github.com/overspan/overspan/agent/publication"
	"github.com/overspan/overspan/agent/reconcile"
	"github.com/overspan/overspan/store"
)

const (
	// publishBound is how long one step of publishing again may take.
	publishBound = 2 * time.Second

	// publishEvery is the pause before what has failed is tried again.
	publishEvery = time.Second

	// publishAtOnce bounds how many endpoints are published at once: as many as
	// may share a transaction.
	publishAtOnce = 60
)

// publisher writes to etcd again what this node serves and etcd does not have:
// after the node's removal, and while the cluster is frozen. What cannot be
// published is lost: the planner takes it off its network.
//
// What is to be done is decided by publication.Input.Plan; publisher does it.
type publisher struct {
	d *Daemon

	// told learns how far the node is, whenever there is nothing more to be done
	// at once. After an error it is told again.
	told func(context.Context, publicationState) error

	due chan struct{} // size 1: there may be something to publish

	// Only run uses these.
	surveyed surveyPoint // when all networks were looked at
	missing  []string    // what was logged last as not published

	mu    sync.Mutex // guards state
	state publicationState
}

// newPublisher returns a publisher that tells nobody how far it is.
func newPublisher(d *Daemon) *publisher {
	return &publisher{
		d:    d,
		told: func(context.Context, publicationState) error { return nil },
		due:  make(chan struct{}, 1),

		surveyed: surveyPoint{accepted: d.journal.Identity().Accepted},
	}
}

// A surveyPoint is a point at which etcd may show what is of the past: a freeze, or an
// acceptance of which a node hears that has missed the freeze.
type surveyPoint struct {
	freeze   int64 // revision of the freeze; 0: none
	accepted uint64
}

// A publicationState is how far a node is in publishing again.
type publicationState struct {
	// Registration is the one under which it is so, and Freeze the revision of
	// the freeze; 0: none.
	Registration, Freeze int64

	Networks, Blocks, Endpoints int // that were written since

	Lost    map[overspan.EndpointID]string // not published: why, and what to do
	Waiting map[overspan.EndpointID]string // not published yet, and why not
	Failed  []string                       // what else could not be done yet, a sentence each
}

// clone returns a state of its own.
func (s publicationState) clone() publicationState {
	s.Lost, s.Waiting, s.Failed = maps.Clone(s.Lost), maps.Clone(s.Waiting), slices.Clone(s.Failed)
	return s
}

// failures tells what is not published yet and why not, a sentence each.
func (s publicationState) failures(attachments []overspan.Attachment) []string {
	var out []string
	for _, a := range attachments {
		if why, waits := s.Waiting[a.Endpoint.ID]; waits {
			out = append(out, fmt.Sprintf("endpoint %s of network %s is not in etcd: %s", a.Endpoint.Name, a.NetworkLabel(), why))
		}
	}
	return append(out, s.Failed...)
}

// lost returns why endpoints are lost.
func (p *publisher) lost() map[overspan.EndpointID]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.state.Lost)
}

// now returns how far the node is.
func (p *publisher) now() publicationState {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state.clone()
}

// reserve returns an error if a name belongs to an endpoint of this node that is
// still to be published: no newcomer takes it meanwhile.
func (p *publisher) reserve(n *overspan.Network, name string, registration int64) error {
	lost := p.lost()
	for _, a := range p.d.local.InNetwork(n.ID) {
		if a.Registration == registration || !a.Committed || a.Endpoint.Name != name {
			continue
		}
		if _, is := lost[a.Endpoint.ID]; is {
			continue
		}
		return overspan.Errorf(overspan.ErrExists, "endpoint with name %s already exists in network %s: it is on this node, and not in etcd yet", name, n.Name)
	}
	return nil
}

// run publishes again whatever is due, until ctx ends. While something cannot
// be published it looks again at each snapshot.
func (p *publisher) run(ctx context.Context) error {
	for {
		changed := p.d.snapshots.Wait()
		pause := make(<-chan time.Time)
		switch p.pass(ctx) {
		case passAgain:
			continue
		case passFailed:
			pause = time.After(publishEvery)
			changed = nil
		case passIdle:
			changed = nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-p.due:
		case <-changed:
		case <-pause:
		}
	}
}

// A passOutcome says when the publisher has to look again.
type passOutcome int

const (
	passIdle    passOutcome = iota // when it is woken
	passWaiting                    // also at the next snapshot
	passFailed                     // after a while
	passAgain                      // at once
)

// pass looks once at what is due, and does what can be done.
func (p *publisher) pass(ctx context.Context) passOutcome {
	session, err := p.d.registrar.session()
	if err != nil {
		return passIdle // a new session wakes it
	}
	in, err := p.input(ctx, session)
	if err != nil {
		p.d.log.Debug("cannot tell yet what must be published again", "error", err)
		return passFailed
	}
	todo := in.Plan()
	p.note(in, todo)
	if err := p.revisit(ctx, in.Snapshot, todo.Obsolete); err != nil {
		p.d.log.Warn("cannot look at a network that came back from the past", "error", err)
	}
	if todo.HasWork() {
		done := p.carryOut(ctx, session, in, todo)
		if ctx.Err() != nil {
			return passIdle
		}
		if done {
			return p.caughtUp(ctx)
		}
	}
	state := p.now()
	p.logMissing(state.failures(in.Attachments))
	bounded, cancel := context.WithTimeout(ctx, publishBound)
	defer cancel()
	if err = p.told(bounded, state); err != nil {
		p.d.log.Warn("cannot report what was published again", "error", err)
	}
	switch {
	case err != nil || todo.HasWork():
		return passFailed
	case in.Frozen() || len(state.Lost)+len(state.Waiting) > 0:
		return passWaiting
	}
	return passIdle
}

// logMissing says what is not published, where that has changed.
func (p *publisher) logMissing(missing []string) {
	switch {
	case slices.Equal(missing, p.missing):
	case len(missing) > 0:
		p.d.log.Warn("not all that is served here is in etcd", "missing", missing)
	default:
		p.d.log.Info("all that is served here is in etcd again")
	}
	p.missing = missing
}

// caughtUp waits until the snapshot shows what was done.
func (p *publisher) caughtUp(ctx context.Context) passOutcome {
	ctx, cancel := context.WithTimeout(ctx, publishBound)
	defer cancel()
	if p.d.Sync(ctx) != nil {
		return passFailed
	}
	return passAgain
}

// input returns what to decide by: a snapshot that is no older than the
// registration, so that it shows what a removal took.
func (p *publisher) input(ctx context.Context, session *store.Session) (publication.Input, error) {
	bounded, cancel := context.WithTimeout(ctx, publishBound)
	defer cancel()
	snapshot, err := p.d.clusterSnapshot(bounded, session.Registration())
	if err != nil {
		return publication.Input{}, err
	}
	in := publication.Input{Self: p.d.Self(), Snapshot: snapshot, Registration: session.Registration()}
	if was := p.now(); was.Registration != in.Registration || was.Freeze != in.FreezeRevision() {
		// What was disconnected by force is not to be published.
		if err := p.d.takeOffEvicted(bounded, session); err != nil {
			return publication.Input{}, err
		}
	}
	if snapshot.Frozen != nil {
		in.Memory = p.d.knowledge().Memory
	}
	if err := p.survey(ctx, snapshot, surveyPoint{in.FreezeRevision(), snapshot.Accepted}); err != nil {
		return publication.Input{}, err
	}
	for _, a := range p.d.local.AllAttachments() {
		if !p.d.namespaceGone(a.Sandbox) {
			in.Attachments = append(in.Attachments, a)
		}
	}
	in.Ports = p.d.portsNow()
	return in, nil
}

// survey finds the networks that this node does not follow and in which etcd,
// back from the past, says that it has something: they are followed until that
// is given up. Once at each such point is enough.
func (p *publisher) survey(ctx context.Context, s *overspan.Snapshot, now surveyPoint) error {
	if p.surveyed == now {
		return nil
	}
	for id := range s.Networks {
		if s.Segments.Get(id) != nil {
			continue
		}
		if err := p.look(ctx, id); err != nil {
			return err
		}
	}
	p.surveyed = now
	return nil
}

// revisit follows those networks that are in the way of others and in which this
// node has something all the same: a survey may have been older than that.
func (p *publisher) revisit(ctx context.Context, s *overspan.Snapshot, obsolete []*overspan.Network) error {
	for _, n := range obsolete {
		if s.Segments.Get(n.ID) != nil {
			continue
		}
		if err := p.look(ctx, n.ID); err != nil {
			return err
		}
	}
	return nil
}

// look follows a network if this node has something there.
func (p *publisher) look(ctx context.Context, id overspan.NetworkID) error {
	ctx, cancel := context.WithTimeout(ctx, publishBound)
	defer cancel()
	seg, err := p.d.mirror.Segment(ctx, id)
	if err != nil || !mentions(seg, p.d.Self()) {
		return err
	}
	if err := p.d.journal.PutFollowed(id); err != nil {
		return err
	}
	p.d.follows.keep(id)
	return p.d.releaser.abandon(seg)
}

// mentions reports whether a node has a block or an endpoint in a network.
func mentions(seg *overspan.Segment, node overspan.NodeID) bool {
	if seg.HeldBy(node) {
		return true
	}
	for e := range seg.Endpoints.Values() {
		if e.Node == node {
			return true
		}
	}
	return false
}

// note remembers what was decided of endpoints, and has those that are lost
// taken off their networks. One that was lost stays so until it is published.
func (p *publisher) note(in publication.Input, todo publication.Plan) {
	lost, waiting := maps.Clone(todo.Lost), maps.Clone(todo.Waiting)
	var fresh []overspan.Attachment
	p.mu.Lock()
	if p.state.Registration != in.Registration || p.state.Freeze != in.FreezeRevision() {
		p.state = publicationState{Registration: in.Registration, Freeze: in.FreezeRevision(), Lost: p.state.Lost}
	}
	for _, a := range in.Attachments {
		id := a.Endpoint.ID
		was, before := p.state.Lost[id]
		if _, is := lost[id]; is && !before {
			fresh = append(fresh, a)
		} else if before && !is && in.Due(a) {
			lost[id] = was
		}
		if _, is := lost[id]; is {
			delete(waiting, id)
		}
	}
	p.state.Lost, p.state.Waiting, p.state.Failed = lost, waiting, nil
	p.mu.Unlock()
	for _, a := range fresh {
		p.lose(a, lost[a.Endpoint.ID])
	}
	if len(waiting) > 0 {
		await.Wake(p.d.releaser.pending)
	}
}

// lose has a lost endpoint taken off its network, and tells of it.
func (p *publisher) lose(a overspan.Attachment, why string) {
	p.d.log.Warn("endpoint is lost", "endpoint", a.Endpoint.Name, "network", a.NetworkLabel(), "why", why)
	scope := local.ScopeOf(a)
	scope.Global, scope.Networks = true, []overspan.NetworkID{a.Endpoint.Network}
	p.d.rec.Mark(scope, reconcile.CauseChange)
	event := p.d.attachmentEvent("lost", a)
	event.Attributes["reason"] = why
	p.d.events.Publish(event)
}
