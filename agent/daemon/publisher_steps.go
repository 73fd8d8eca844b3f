package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/local"
	"github.com/overspan/overspan/agent/publication"
	"github.com/overspan/overspan/agent/reconcile"
	"github.com/overspan/overspan/kernel"
	"github.com/overspan/overspan/store"
)

// carryOut does what is to be done, in the order of the plan's fields,
// and reports whether anything of it was: what fails is tried again.
func (p *publisher) carryOut(ctx context.Context, session *store.Session, in publication.Input, todo publication.Plan) bool {
	var steps []step
	for _, n := range todo.Obsolete {
		steps = append(steps, func(ctx context.Context) error { return session.DiscardNetwork(ctx, n) })
	}
	for _, n := range todo.Networks {
		steps = append(steps, p.restoreNetwork(session, n))
	}
	for _, w := range todo.Surplus {
		steps = append(steps, p.reshape(session, w))
	}
	for _, w := range todo.Claims {
		steps = append(steps, p.reclaim(session, w))
	}
	done := p.take(ctx, steps)
	done = p.reattach(ctx, session, in, todo.Records) || done
	steps = nil
	for _, w := range todo.Around {
		steps = append(steps, p.reclaim(session, w))
	}
	for _, e := range todo.Withdraw {
		steps = append(steps, p.withdraw(session, e))
	}
	return p.take(ctx, steps) || done
}

// A step is one thing to be done in etcd.
type step func(context.Context) error

// take takes steps one after the other, notes those that fail, and reports
// whether one succeeded.
func (p *publisher) take(ctx context.Context, steps []step) (done bool) {
	for _, do := range steps {
		bounded, cancel := context.WithTimeout(ctx, publishBound)
		err := do(bounded)
		cancel()
		switch {
		case err == nil:
			done = true
		case ctx.Err() != nil || errors.Is(err, overspan.ErrFenced):
			return done
		default:
			p.update(func(s *publicationState) { s.Failed = append(s.Failed, err.Error()) })
		}
	}
	return done
}

func (p *publisher) restoreNetwork(session *store.Session, n *overspan.Network) step {
	return func(ctx context.Context) error {
		if _, err := session.RestoreNetwork(ctx, *n); err != nil {
			return err
		}
		p.d.log.Info("network is in etcd again", "network", n.Name, "id", overspan.ShortID(n.ID))
		p.update(func(s *publicationState) { s.Networks++ })
		return nil
	}
}

func (p *publisher) reshape(session *store.Session, w publication.Surplus) step {
	return func(ctx context.Context) error {
		if _, err := session.Reshape(ctx, w.Network, w.Block, w.Keep); err != nil {
			return err
		}
		p.d.log.Info("gave up a block that came back from the past", "network", w.Network.Name, "slots", w.Block.String(), "kept", fmt.Sprint(w.Keep))
		return nil
	}
}

func (p *publisher) reclaim(session *store.Session, w publication.Claim) step {
	return func(ctx context.Context) error {
		if err := p.d.journal.PutFollowed(w.Network.ID); err != nil {
			return err
		}
		b, err := session.Reclaim(ctx, w.Network, w.Range, true)
		if err != nil {
			return err
		}
		p.d.log.Info("claimed a block again", "network", w.Network.Name, "slots", w.Range.String(), "epoch", b.CreateRevision)
		p.update(func(s *publicationState) { s.Blocks++ })
		return nil
	}
}

func (p *publisher) withdraw(session *store.Session, e overspan.Endpoint) step {
	return func(ctx context.Context) error {
		e.CreateRevision = 0 // another record than the one that was written
		_, err := session.Detach(ctx, e)
		return err
	}
}

func (p *publisher) update(change func(*publicationState)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&p.state)
}

// reattach publishes endpoints, many at once so that they share transactions,
// and reports whether one succeeded.
func (p *publisher) reattach(ctx context.Context, session *store.Session, in publication.Input, records []publication.Record) bool {
	var done atomic.Bool
	var g errgroup.Group
	g.SetLimit(publishAtOnce)
	for _, w := range records {
		g.Go(func() error {
			bounded, cancel := context.WithTimeout(ctx, publishBound)
			defer cancel()
			err := p.publish(bounded, session, w)
			switch {
			case err == nil:
				done.Store(true)
			case ctx.Err() == nil && (!w.Stands || w.Attachment.Registration != in.Registration):
				p.failed(in, w.Attachment, err)
			default: // it stands, and tells of ports that led here before: that is tried again
				p.d.log.Debug("cannot write again which ports lead to an endpoint", "endpoint", w.Attachment.Endpoint.Name, "error", err)
			}
			return nil
		})
	}
	_ = g.Wait() // each has told of its own error
	return done.Load()
}

// publish writes one endpoint's record. Its sandbox's gate is held: who ends the
// endpoint meanwhile waits, and finds the record.
func (p *publisher) publish(ctx context.Context, session *store.Session, w publication.Record) error {
	a := w.Attachment
	unlock, err := p.d.lockSandbox(ctx, a.Sandbox, a.Endpoint.Sandbox)
	if err != nil {
		return err
	}
	defer unlock()
	if _, known := p.d.local.Attachment(a.Endpoint.ID); !known {
		return nil
	}
	// Whoever had the gate may have changed that.
	if ports, known := p.d.portsNow()[a.Endpoint.ID]; known {
		a.Endpoint.Ports = ports
	}
	e, err := session.Reattach(ctx, store.AttachRequest{Endpoint: a.Endpoint, Network: w.Network, Blocks: w.Blocks})
	if err != nil {
		return err
	}
	if now, known := p.d.local.Register(e, session.Registration()); known {
		if err := p.d.journal.PutAttachment(now); err != nil {
			return err
		}
	}
	p.mu.Lock()
	_, lost := p.state.Lost[e.ID]
	delete(p.state.Lost, e.ID)
	if !w.Stands {
		p.state.Endpoints++
	}
	p.mu.Unlock()
	if lost {
		p.d.rec.Mark(kernel.Scope{Global: true, Networks: []overspan.NetworkID{e.Network}, Endpoints: []kernel.EndpointKey{local.KeyOf(&a)}}, reconcile.CauseChange)
	}
	if !w.Stands {
		p.d.log.Info("endpoint is in etcd again", "endpoint", e.Name, "network", w.Network.Name, "addresses", fmt.Sprint(e.Addrs()))
		p.d.events.Publish(p.d.attachmentEvent("publish", a))
	}
	return nil
}

// failed notes why an endpoint was not published though the snapshot shows
// nothing in its way: another was faster, or something cannot be read.
func (p *publisher) failed(in publication.Input, a overspan.Attachment, err error) {
	id, why := a.Endpoint.ID, err.Error()
	taken := errors.Is(err, overspan.ErrInUse) || errors.Is(err, overspan.ErrExists)
	readable := in.Snapshot.Segments.Get(a.Endpoint.Network).Bad == 0
	p.mu.Lock()
	_, before := p.state.Lost[id]
	final := taken && readable && !in.Frozen()
	switch {
	case final && !before:
		p.state.Lost[id] = why + local.ConnectAgain
	case !before:
		p.state.Waiting[id] = why
	}
	p.mu.Unlock()
	if final && !before {
		p.lose(a, why+local.ConnectAgain)
	}
}
