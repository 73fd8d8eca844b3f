package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/await"
	"github.com/overspan/overspan/agent/local"
	"github.com/overspan/overspan/store"
)

// ForceDisconnect is Disconnect that also frees an endpoint, named by itself, of
// another node that is absent. That node takes it off when it is back.
func (d *Daemon) ForceDisconnect(ctx context.Context, network, target string) (overspan.Endpoint, bool, error) {
	e, pending, err := d.Disconnect(ctx, network, target)
	if !errors.Is(err, overspan.ErrNotFound) {
		return e, pending, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestBound)
	defer cancel()
	n, err := d.network(ctx, network)
	if err != nil {
		return overspan.Endpoint{}, false, err
	}
	session, err := d.registrar.session()
	if err != nil {
		return overspan.Endpoint{}, false, err
	}
	if err := d.Sync(ctx); err != nil {
		return overspan.Endpoint{}, false, err
	}
	if err := d.refuseFrozen(); err != nil {
		return overspan.Endpoint{}, false, err
	}
	seg, err := d.Segment(ctx, n.ID)
	if err != nil {
		return overspan.Endpoint{}, false, err
	}
	e, err = findEndpoint(seg, n, target)
	if err != nil {
		return overspan.Endpoint{}, false, err
	}
	if err := session.Evict(ctx, n.Name, e); err != nil {
		return overspan.Endpoint{}, false, err
	}
	node := d.knowledge().Shown.NodeName(e.Node)
	d.log.Info("freed an endpoint of an absent node", "endpoint", e.Name, "network", n.Name, "node", node)
	d.events.Publish(endpointEvent("evict", e, n.Name, node))
	d.awaitSeen(ctx, "the disconnecting of "+e.Name)
	return e, false, nil
}

// findEndpoint finds an endpoint of any node by name, id, or a unique prefix of
// its id.
func findEndpoint(seg *overspan.Segment, n *overspan.Network, ref string) (overspan.Endpoint, error) {
	names := map[overspan.EndpointID]string{}
	byID := map[overspan.EndpointID]*overspan.Endpoint{}
	for e := range seg.Endpoints.Values() {
		names[e.ID], byID[e.ID] = e.Name, e
	}
	id, err := overspan.Match("endpoint", ref, maps.All(names))
	if errors.Is(err, overspan.ErrNotFound) {
		return overspan.Endpoint{}, overspan.Errorf(overspan.ErrNotFound, "%s is not connected to network %s on any node", ref, n.Name)
	}
	if err != nil {
		return overspan.Endpoint{}, err
	}
	return *byID[id], nil
}

// heedEvictions takes off their networks the endpoints that others have freed
// while this node was absent, whenever there is reason to look.
func (d *Daemon) heedEvictions(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.evictionsDue:
		}
		session, err := d.registrar.session()
		if err != nil {
			continue // the next session is reason to look
		}
		if err := d.takeOffEvicted(ctx, session); err != nil {
			d.log.Warn("cannot take off what was disconnected by force; will try again", "error", err)
			await.WakeIn(d.evictionsDue, releaseEvery)
		}
	}
}

// takeOffEvicted carries out all evictions that are noted for this node, within
// requestBound: others wait for it.
func (d *Daemon) takeOffEvicted(ctx context.Context, session *store.Session) error {
	d.evicted.heed.Lock()
	defer d.evicted.heed.Unlock()
	ctx, cancel := context.WithTimeout(ctx, requestBound)
	defer cancel()
	notes, err := session.Evictions(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, v := range notes {
		err := d.takeOff(ctx, v)
		if err == nil {
			err = session.DropEviction(ctx, v)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// takeOff ends the attachment that an eviction is about, and tells of it. One that
// is not known here was taken off before. It ends also where detach fails, which
// goes on in the background: it is told now or never.
func (d *Daemon) takeOff(ctx context.Context, v store.Eviction) error {
	a, known := d.local.Attachment(v.Endpoint)
	if !known {
		return nil
	}
	unlock, err := d.lockSandbox(ctx, a.Sandbox, a.Endpoint.Sandbox)
	if err != nil {
		return err
	}
	defer unlock()
	d.log.Warn("an endpoint was disconnected by force while this node was away", "endpoint", v.Name, "network", a.NetworkLabel(), "by", v.By, "at", v.Since)
	_, err = d.detach(ctx, a)
	if errors.Is(err, overspan.ErrNotFound) {
		err = nil // it has ended already
	}
	if sb, ok := d.local.Sandbox(a.Sandbox); ok {
		d.forgetIfUnused(sb)
	}
	event := d.attachmentEvent("evict", a)
	event.Attributes["by"] = v.By
	d.events.Publish(event)
	d.evicted.add(v, fmt.Sprintf("endpoint %s of %s was disconnected from network %s by node %s at %s, while this node was away; connect it again if that was wrong",
		v.Name, a.Endpoint.Sandbox, a.NetworkLabel(), v.By, v.Since.Local().Format(time.DateTime)))
	return err
}

// recordMissing reports whether the record of an endpoint that this node serves is
// missing from a snapshot. Networks that are as in the one before are not looked at.
func recordMissing(before, now *overspan.Snapshot, attachments local.Attachments) bool {
	for _, a := range attachments.ConcernedBy(before, now) {
		seg := now.Segments.Get(a.Endpoint.Network)
		if !a.Committed || seg == nil || seg.Bad > 0 || a.Endpoint.CreateRevision > seg.Revision {
			continue
		}
		if before != nil && before.Segments.Get(a.Endpoint.Network) == seg {
			continue
		}
		if at := seg.Endpoints.Get(a.Endpoint.Slot); at == nil || at.ID != a.Endpoint.ID {
			return true
		}
	}
	return false
}

// shownEvictions is how many evictions status tells of.
const shownEvictions = 10

// evictions is what status tells of them: the latest, of this run of the agent.
type evictions struct {
	heed sync.Mutex // held by whoever carries them out: a note goes only when that is done

	mu   sync.Mutex // guards told
	told []toldEviction
}

type toldEviction struct {
	network overspan.NetworkID
	name    string // of the endpoint
	text    string
}

func (v *evictions) add(e store.Eviction, text string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.told = append(v.told, toldEviction{e.Network, e.Name, text})
	v.told = v.told[max(0, len(v.told)-shownEvictions):]
}

// connected ends the telling of an endpoint that has been connected again.
func (v *evictions) connected(e overspan.Endpoint) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.told = slices.DeleteFunc(v.told, func(t toldEviction) bool { return t.network == e.Network && t.name == e.Name })
}

func (v *evictions) all() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	var out []string
	for _, t := range v.told {
		out = append(out, t.text)
	}
	return out
}
