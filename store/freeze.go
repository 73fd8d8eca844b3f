package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// A FreezeRequest is what a node says that takes etcd for rolled back or
// replaced.
type FreezeRequest struct {
	Freeze overspan.Freeze // its Revision is not read
	Meta   overspan.Meta   // as the node remembers it: written where etcd has none; zero: not known

	// Accepted is how many acceptances the node knows. Where etcd counts more,
	// an operator has spoken while the node was away: then nothing is frozen.
	Accepted uint64
}

// Freeze puts meta/frozen, unless it stands already, and the cluster's settings
// where they are gone. What the node had reported in a freeze of the past goes.
// It needs no registration, for that may be what etcd has lost. It returns how
// many acceptances etcd counts. ErrConflict if what it compares was changed each
// time.
func Freeze(ctx context.Context, kv KV, keys Keys, r FreezeRequest) (accepted uint64, err error) {
	for range maxRaces {
		res, err := kv.Txn(ctx, Txn{Then: []Op{
			Get(Key(keys.Meta())), Get(Key(keys.Frozen())), Get(Key(keys.Accepted())), Get(Key(keys.Report(r.Freeze.Node))),
		}})
		if err != nil {
			return 0, fmt.Errorf("freeze the cluster: %w", err)
		}
		kvs := found(res)
		if accepted = countAccepted(keys, kvs); accepted > r.Accepted {
			return accepted, nil
		}
		t, err := freezeTxn(keys, kvs, r)
		if err != nil {
			return 0, fmt.Errorf("freeze the cluster: %w", err)
		}
		res, err = kv.Txn(ctx, t)
		if err != nil {
			return 0, fmt.Errorf("freeze the cluster: %w", err)
		}
		if res.OK {
			return accepted, nil
		}
	}
	return 0, overspan.Errorf(overspan.ErrConflict, "freeze the cluster: its settings change all the time")
}

// freezeTxn writes what is missing of a freeze beside what was read, all of which
// it guards: one that comes late deletes no report of the freeze that stands.
func freezeTxn(keys Keys, kvs map[string]KeyValue, r FreezeRequest) (Txn, error) {
	var t Txn
	for _, key := range []string{keys.Meta(), keys.Frozen(), keys.Accepted(), keys.Report(r.Freeze.Node)} {
		t.If = append(t.If, Unchanged(key, kvs[key].ModRevision))
	}
	t.Then = append(t.Then, Delete(Key(keys.Report(r.Freeze.Node))))
	if kvs[keys.Frozen()].Key == "" {
		value, err := Marshal(overspanv1.FrozenRecord(r.Freeze))
		if err != nil {
			return t, err
		}
		t.Then = append(t.Then, Put(keys.Frozen(), value))
	}
	if kvs[keys.Meta()].Key == "" && r.Meta != (overspan.Meta{}) {
		value, err := Marshal(overspanv1.MetaRecord(r.Meta))
		if err != nil {
			return t, err
		}
		t.Then = append(t.Then, Put(keys.Meta(), value))
	}
	return t, nil
}

// countAccepted reads the acceptances; one that cannot be read counts as none.
func countAccepted(keys Keys, kvs map[string]KeyValue) uint64 {
	kv, there := kvs[keys.Accepted()]
	if !there {
		return 0
	}
	n, err := keys.acceptances(kv)
	if err != nil {
		return 0
	}
	return n
}

// PutReport tells what this node has published again in a freeze; it replaces
// what the node said before. It does not fly: nobody else writes it, and nothing
// depends on it but an operator's decision. One that comes late replaces nothing
// that was said after it.
//
// Errors: ErrNotFound if the freeze is over or the node was removed; ErrConflict
// if reports that were late came between each time.
func (s *Session) PutReport(ctx context.Context, f overspan.Freeze, p overspan.Report) error {
	const what = "report what was published again"
	value, err := Marshal(overspanv1.ReportRecord(p))
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	key := s.keys.Report(s.cfg.Node.ID)
	for range maxRaces {
		last, err := s.get(ctx, key)
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		res, err := s.kv.Txn(ctx, Txn{
			If: []Cmp{
				Created(s.keys.Frozen(), f.Revision),
				Created(s.keys.Node(s.cfg.Node.ID), s.registration),
				Unchanged(key, last.ModRevision),
			},
			Then: []Op{Put(key, value)},
			Else: []Op{Get(Key(key))},
		})
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if res.OK {
			return nil
		}
		if found(res)[key].ModRevision == last.ModRevision {
			s.Recheck()
			return overspan.Errorf(overspan.ErrNotFound, "%s: the freeze is over, or this node was removed", what)
		}
	}
	return overspan.Errorf(overspan.ErrConflict, "%s: it was changed meanwhile; will try again", what)
}

// A NodeReport is how far a node is in a freeze.
type NodeReport struct {
	Node   overspan.NodeID
	Name   string
	Up     bool
	Report *overspan.Report // nil: it has not reported
}

// problem says why an acceptance would be premature; "" if it would not for this
// node. One that was up when etcd forgot is waited for.
func (r NodeReport) problem(wasUp bool) string {
	switch {
	case r.Report == nil && r.Up:
		return "node " + r.Name + " has not published again what it holds"
	case r.Report == nil && wasUp:
		return "node " + r.Name + " was up and has not come back"
	case r.Report != nil && len(r.Report.Failures) > 0:
		return fmt.Sprintf("node %s could not publish all that it holds: %s", r.Name, strings.Join(r.Report.Failures, ", "))
	}
	return ""
}

// Reports tells of every registered node how far it is in a freeze, and of those
// of memory, the last snapshot before it, which have not registered again;
// sorted by name. Memory may be nil.
func Reports(ctx context.Context, kv KV, keys Keys, memory *overspan.Snapshot) ([]NodeReport, error) {
	const what = "read the reports of the nodes"
	nodes, err := kv.List(ctx, keys.Nodes(), 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	lives, err := kv.List(ctx, keys.Lives(), nodes.Revision)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	reports, err := kv.List(ctx, keys.Reports(), nodes.Revision)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	by := map[overspan.NodeID]*NodeReport{}
	if memory != nil {
		for id, n := range memory.Nodes {
			by[id] = &NodeReport{Node: id, Name: n.Name}
		}
	}
	for _, list := range []Listing{nodes, lives, reports} {
		for _, kv := range list.KVs {
			if err := addReport(keys, kv, by); err != nil {
				return nil, fmt.Errorf("%s: %w", what, err)
			}
		}
	}
	out := make([]NodeReport, 0, len(by))
	for _, r := range by {
		out = append(out, *r)
	}
	slices.SortFunc(out, func(a, b NodeReport) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Node, b.Node))
	})
	return out, nil
}

// addReport takes what one key says of a node.
func addReport(keys Keys, kv KeyValue, by map[overspan.NodeID]*NodeReport) error {
	name, err := keys.Parse(kv.Key)
	if err != nil {
		return err
	}
	r := by[name.Node]
	if r == nil {
		r = &NodeReport{Node: name.Node, Name: overspan.ShortID(name.Node)}
		by[name.Node] = r
	}
	switch name.Kind {
	case KeyNode:
		if n, err := keys.node(kv); err == nil { // else the mirror reports it
			r.Name = n.Name
		}
	case KeyLive:
		r.Up = true
	case KeyReport:
		var rec overspanv1.Report
		if _, err := keys.record(kv, KeyReport, &rec); err != nil {
			return err
		}
		report := rec.Noun()
		r.Report = &report
	}
	return nil
}

// An AcceptRequest is an operator's word that what etcd holds now is the truth.
type AcceptRequest struct {
	By     overspan.NodeID    // who was asked to
	Known  uint64             // acceptances that it knows
	Memory *overspan.Snapshot // its last snapshot before the freeze; may be nil
	Force  bool               // whatever the nodes have reported
}

// Accept ends the freeze, and returns how many acceptances there were, this one
// included, and what the nodes had reported. The count never falls below one
// that a node may know, so that whoever was away can tell that it was spoken.
//
// Errors: ErrNotFound if the cluster is not frozen; ErrUnavailable names the
// nodes that have yet to publish what they hold, or could not, and goes with their
// reports; ErrConflict if others froze and accepted meanwhile.
func Accept(ctx context.Context, kv KV, keys Keys, r AcceptRequest) (uint64, []NodeReport, error) {
	const what = "accept what etcd holds"
	for range maxRaces {
		res, err := kv.Txn(ctx, Txn{Then: []Op{Get(Key(keys.Frozen())), Get(Key(keys.Accepted()))}})
		if err != nil {
			return 0, nil, fmt.Errorf("%s: %w", what, err)
		}
		kvs := found(res)
		frozen := kvs[keys.Frozen()]
		if frozen.Key == "" {
			return 0, nil, overspan.Errorf(overspan.ErrNotFound, "the cluster is not frozen: there is nothing to accept")
		}
		reports, err := Reports(ctx, kv, keys, r.Memory)
		if err != nil {
			return 0, nil, fmt.Errorf("%s: %w", what, err)
		}
		if err := premature(reports, r.Memory); err != nil && !r.Force {
			return 0, reports, err
		}
		count := max(countAccepted(keys, kvs), r.Known) + 1
		value, err := Marshal(&overspanv1.Accepted{Count: count, Node: string(r.By), Since: timestamppb.Now()})
		if err != nil {
			return 0, nil, fmt.Errorf("%s: %w", what, err)
		}
		res, err = kv.Txn(ctx, Txn{
			If:   []Cmp{Created(frozen.Key, frozen.CreateRevision), Unchanged(keys.Accepted(), kvs[keys.Accepted()].ModRevision)},
			Then: []Op{Delete(Key(frozen.Key)), Delete(keys.Reports()), Put(keys.Accepted(), value)},
		})
		if err != nil {
			return 0, nil, fmt.Errorf("%s: %w; it may be carried out all the same: see ctl status", what, err)
		}
		if res.OK {
			return count, reports, nil
		}
	}
	return 0, nil, overspan.Errorf(overspan.ErrConflict, "%s: it was frozen and accepted meanwhile; look at ctl status", what)
}

// premature names the nodes for which it is too early to accept; nil if there
// are none.
func premature(reports []NodeReport, memory *overspan.Snapshot) error {
	var problems []string
	for _, r := range reports {
		wasUp := memory != nil && memory.Nodes[r.Node] != nil && memory.Nodes[r.Node].Presence != nil
		if p := r.problem(wasUp); p != "" {
			problems = append(problems, p)
		}
	}
	if len(problems) == 0 {
		return nil
	}
	if more := len(problems) - maxNamed; more > 0 {
		problems = append(problems[:maxNamed], fmt.Sprintf("%d more", more))
	}
	return overspan.Errorf(overspan.ErrUnavailable, "%s; wait for that, see ctl status, or accept with --force what etcd holds without it", strings.Join(problems, "; "))
}
