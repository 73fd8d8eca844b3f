package history

import (
	"fmt"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/local"
)

// An outlook is what a node goes by, and what it has to know to tell whether the next
// snapshot of etcd follows upon that. It holds no lock and does nothing: take, doubt,
// excuse and registered return the outlook that follows, and what is to be done about it.
//
//	waiting    nothing of etcd is known yet; the journal's snapshot may stand in
//	trusting   etcd is taken at its word
//	doubting   etcd has lost its past: memory alone is shown. The cluster is frozen,
//	           unless an operator has spoken; then the mirror starts anew
//	recalling  memory is shown, merged with what etcd has now
//
// What a snapshot leads to:
//
//	           neither    frozen     accepted once more   both
//	waiting    trusting   recalling  trusting             recalling
//	trusting   trusting   (doubt)    (doubt)              (doubt)
//	doubting   trusting   recalling  trusting             recalling
//	recalling  trusting   recalling  trusting             (doubt)
//
// At a doubt the mirror is made to suspect etcd; doubt is called when it does, for
// whatever reason. A snapshot that is neither, and lacks what this node has written, is
// held: nothing of it is shown before etcd was asked why.
type outlook struct {
	saved    *overspan.Snapshot               // the journal's, for the case that etcd is away; nil once etcd has told something
	newest   *overspan.Snapshot               // of etcd; nil while waiting or doubting
	memory   *overspan.Snapshot               // nil while waiting or trusting
	shown    *overspan.Snapshot               // newest, memory, or both merged
	accepted uint64                           // acceptances that this node knows
	anew     bool                             // etcd may hold a registration that this node does not know
	held     *overspan.Snapshot               // not shown yet: it lacks what this node has written
	lacking  []overspan.Endpoint              // what held does not show; none if it lacks the registration
	excused  map[overspan.EndpointID]struct{} // lacking, and rightly gone, as etcd said
	expelled int64                            // a registration that is rightly gone, as etcd said
}

// A reaction is what is to be done as an outlook changes.
type reaction struct {
	Suspect string // why the mirror is to doubt etcd
	Disown  bool   // no record of this node's endpoints is known to stand: each is to be looked for
	Ask     bool   // etcd is to be asked why a snapshot lacks what this node has written
}

// has reports whether a snapshot is none, or was taken in before.
func (o outlook) has(now *overspan.Snapshot) bool {
	return now == nil || now == o.newest || now == o.held
}

// take takes in a snapshot of etcd, as the mirror shows it, beside the attachments of
// this node.
func (o outlook) take(now *overspan.Snapshot, self overspan.NodeID, here local.Attachments) (outlook, reaction) {
	if why := o.turned(now); why != "" {
		return o, reaction{Suspect: why}
	}
	if lacking, lacks := o.lacks(now, self, here); lacks {
		o.held, o.lacking = now, lacking
		return o, reaction{Ask: true}
	}
	var do reaction
	switch {
	case o.memory == nil && now.Frozen != nil:
		o, do = o.remember()
	case o.memory != nil && now.Frozen == nil:
		o.memory = nil
	case o.memory == nil && now.Accepted > o.accepted:
		o, do = o.disown() // what this node has written may be of the past that was lost
	}
	o.accepted = max(o.accepted, now.Accepted)
	o.newest, o.shown, o.saved, o.held = now, now, nil, nil
	if o.memory != nil {
		o.shown = recall(o.memory, now)
	}
	return o, do
}

// turned says why a snapshot tells of an etcd that has lost its past since this node
// looked last; "" if it does not. Watches and session are of the history before then:
// the mirror's next snapshots may be of two histories, and what they miss would look
// like another loss. So all begins anew, as it does where this node finds out first.
func (o outlook) turned(now *overspan.Snapshot) string {
	switch accepted := now.Accepted > o.accepted; {
	case o.newest == nil:
		return ""
	case o.memory == nil && now.Frozen != nil:
		return fmt.Sprintf("node %s has frozen the cluster: %s", now.Frozen.NodeName, now.Frozen.Reason)
	case o.memory == nil && accepted:
		return "an operator has accepted what etcd holds, and this node did not see it frozen"
	case now.Frozen != nil && accepted:
		return "an operator has accepted what etcd held, and it was frozen again"
	}
	return ""
}

// lacks reports whether a snapshot shows less of this node than it has written, and
// which endpoints. Of one that tells of a loss that is to be expected.
func (o outlook) lacks(now *overspan.Snapshot, self overspan.NodeID, here local.Attachments) ([]overspan.Endpoint, bool) {
	if o.memory != nil || now.Frozen != nil || now.Accepted > o.accepted {
		return nil, false
	}
	lacking := suspects(o.newest, now, self, here)
	for _, e := range lacking {
		if _, excused := o.excused[e.ID]; !excused {
			return lacking, true
		}
	}
	return nil, unregistered(o.newest, now, self) && o.newest.Nodes[self].CreateRevision != o.expelled
}

// doubt is what follows when the mirror doubts etcd.
func (o outlook) doubt(why overspan.Freeze) (outlook, reaction) {
	o, do := o.remember()
	o.newest, o.held = nil, nil
	o.shown = unproven(o.memory, why)
	return o, do
}

// remember makes a memory of what was shown last.
func (o outlook) remember() (outlook, reaction) {
	switch {
	case o.shown != nil:
		o.memory = o.shown
	case o.saved != nil:
		o.memory = o.saved
	default:
		o.memory = &overspan.Snapshot{}
	}
	return o.disown()
}

// disown forgets under which registration the records of this node's endpoints were
// written: each is to be looked for, and published again where it is gone.
func (o outlook) disown() (outlook, reaction) {
	o.anew, o.excused = true, nil
	return o, reaction{Disown: true}
}

// registered is what follows from a session: its registration is known.
func (o outlook) registered() outlook {
	o.anew = false
	return o
}

// excuse lets a snapshot be shown though it lacks what was held against asked, the
// outlook when etcd was asked: that was taken rightly.
func (o outlook) excuse(asked outlook, self overspan.NodeID) outlook {
	o.excused = map[overspan.EndpointID]struct{}{}
	for _, e := range asked.lacking {
		o.excused[e.ID] = struct{}{}
	}
	if unregistered(asked.newest, asked.held, self) {
		o.expelled = asked.newest.Nodes[self].CreateRevision
	}
	o.held = nil
	return o
}
