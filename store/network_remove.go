package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/internal/steps"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// maxNamed bounds how many endpoints an error names.
const maxNamed = 10

// RemoveNetwork removes a network in steps, each a transaction of its own, so
// that a crash between two leaves a removal that any node can finish. The first
// marks the record and frees the name: from then on nothing can be attached or
// claimed. Then go blocks, wants and acknowledgements, then record, VNI and
// subnets.
//
// Errors: ErrInUse names the endpoints; ErrNotFound; ErrUnavailable while the
// cluster is frozen.
func (s *Session) RemoveNetwork(ctx context.Context, n *overspan.Network) error {
	for range maxRaces {
		marked, err := s.mark(ctx, n)
		if err != nil {
			return err
		}
		if marked {
			return s.finishRemoval(ctx, n)
		}
	}
	return networkChanged(n)
}

// mark marks the record for removal, if no endpoint stands in the network;
// false if somebody changed the record meanwhile.
func (s *Session) mark(ctx context.Context, n *overspan.Network) (bool, error) {
	what := "remove network " + n.Name
	old, err := s.get(ctx, s.keys.Network(n.ID))
	if err != nil {
		return false, fmt.Errorf("%s: %w", what, err)
	}
	if old.Key == "" {
		return false, overspan.Errorf(overspan.ErrNotFound, "network %s not found", n.Name)
	}
	var rec overspanv1.Network
	if err := Unmarshal(old.Value, &rec); err != nil {
		return false, atKey(old, err)
	}
	if rec.GetDeleting() {
		return true, nil
	}
	removal := Txn{
		If:   []Cmp{Unchanged(old.Key, old.ModRevision), Absent(s.keys.Endpoints(n.ID)), Absent(Key(s.keys.Frozen()))},
		Else: []Op{Get(Key(old.Key)), Get(Key(s.keys.Frozen()))},
	}
	if rec.GetConfigOnly() {
		version, err := s.unusedConfig(ctx, n)
		if err != nil {
			return false, err
		}
		// Every network that is made rewrites the version: none is made from it
		// meanwhile, and none that was to be made from it afterwards.
		removal.If = append(removal.If, Unchanged(s.keys.SubnetsVersion(), version))
		removal.Then = append(removal.Then, s.keys.touchSubnets(n.ID))
	}
	rec.Deleting = true
	value, err := Rewrite(old.Value, &rec)
	if err != nil {
		return false, atKey(old, err)
	}
	removal.Then = append(removal.Then, Delete(Key(s.keys.NetworkName(rec.GetName(), overspan.NodeID(rec.GetNode())))))
	res, err := s.flights.fly(ctx, &request{step: steps.Mark, what: what, look: "ctl network ls", witness: Put(old.Key, value), txn: removal})
	if err != nil || res.OK {
		return res.OK, err
	}
	if err := s.frozen(found(res)); err != nil {
		return false, err
	}
	switch now, there := found(res)[old.Key]; {
	case !there:
		return true, nil // marked by this or by another, and erased since
	case now.ModRevision != old.ModRevision:
		return false, nil
	}
	return false, s.hasEndpoints(ctx, n)
}

// unusedConfig returns the mod-revision of the subnets' version at which no
// network was made from a configuration network; ErrInUse names one that was.
func (s *Session) unusedConfig(ctx context.Context, n *overspan.Network) (int64, error) {
	what := "remove network " + n.Name
	res, err := s.kv.Txn(ctx, Txn{Then: []Op{Get(Key(s.keys.SubnetsVersion())), Get(s.keys.Networks())}})
	if err != nil {
		return 0, fmt.Errorf("%s: %w", what, err)
	}
	kvs := found(res)
	for _, key := range slices.Sorted(maps.Keys(kvs)) {
		if key == s.keys.SubnetsVersion() {
			continue
		}
		user, err := s.keys.network(kvs[key])
		if err != nil {
			return 0, fmt.Errorf("%s: %w", what, err) // it may be one that was
		}
		if user.ConfigFrom == n.Name && !user.Deleting {
			return 0, overspan.Errorf(overspan.ErrInUse, "configuration network %q is in use: remove network %s first", n.Name, user.Name)
		}
	}
	return kvs[s.keys.SubnetsVersion()].ModRevision, nil
}

// hasEndpoints returns the error that names a network's endpoints; nil if the
// last has just gone.
func (s *Session) hasEndpoints(ctx context.Context, n *overspan.Network) error {
	list, err := s.kv.List(ctx, s.keys.Endpoints(n.ID), 0)
	if err != nil {
		return fmt.Errorf("remove network %s: %w", n.Name, err)
	}
	seen := make(map[overspan.EndpointID]bool)
	nodes := make(map[overspan.NodeID]string)
	var names []string
	for _, kv := range list.KVs {
		e, err := s.keys.endpoint(kv)
		if err != nil {
			return err
		}
		if seen[e.ID] {
			continue // it owns several slots
		}
		seen[e.ID] = true
		if len(names) >= maxNamed {
			continue
		}
		if nodes[e.Node] == "" {
			nodes[e.Node] = s.nodeName(ctx, e.Node)
		}
		names = append(names, e.Name+" on "+nodes[e.Node])
	}
	if len(seen) == 0 {
		return nil
	}
	if more := len(seen) - len(names); more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	return overspan.Errorf(overspan.ErrInUse, "network %s has active endpoints: %s; disconnect them first", n.Name, strings.Join(names, ", "))
}

// FinishRemovals finishes what removers have left half done: it removes every
// network that a snapshot shows as marked. Several nodes may do so at once. It
// goes on behind one that fails and joins their errors.
func (s *Session) FinishRemovals(ctx context.Context, snap *overspan.Snapshot) error {
	var errs []error
	for _, n := range snap.Networks {
		if n.Deleting {
			errs = append(errs, s.finishRemoval(ctx, n))
		}
	}
	return errors.Join(errs...)
}

// finishRemoval takes a marked network's remaining keys away. A network that is
// gone is success.
func (s *Session) finishRemoval(ctx context.Context, n *overspan.Network) error {
	what := "remove network " + n.Name
	for range maxRaces {
		now, version, err := s.networkAndVersion(ctx, n.ID)
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if now == nil {
			return nil
		}
		if !now.Deleting {
			return networkChanged(n)
		}
		record := s.keys.Network(n.ID)
		guards := []Cmp{Unchanged(record, now.ModRevision), Absent(Key(s.keys.Frozen()))}
		if _, err := s.flights.fly(ctx, &request{step: steps.Empty, what: what, witness: Delete(s.keys.Segment(n.ID)), txn: Txn{
			If:   guards,
			Then: []Op{Delete(s.keys.Acks(n.ID))},
		}}); err != nil {
			return err
		}
		last := Txn{
			If:   append(guards, Unchanged(s.keys.SubnetsVersion(), version), Absent(s.keys.Blocks(n.ID))),
			Then: []Op{Delete(s.keys.Acks(n.ID))},
			Else: []Op{Get(Key(s.keys.Frozen()))},
		}
		last.Then = append(last.Then, s.keys.freeLeases(*now)...)
		res, err := s.flights.fly(ctx, &request{step: steps.Erase, what: what, witness: Delete(Key(record)), txn: last})
		if err != nil || res.OK {
			return err
		}
		if err := s.frozen(found(res)); err != nil {
			return err
		}
	}
	return overspan.Errorf(overspan.ErrConflict, "%s: others created and removed networks at the same time; try again", what)
}

// freeLeases gives a network's VNI and subnets back.
func (k Keys) freeLeases(n overspan.Network) []Op {
	ops := []Op{k.touchSubnets(n.ID)}
	if n.VNI != 0 {
		ops = append(ops, Delete(Key(k.VNI(n.VNI))))
	}
	for _, p := range subnets(n) {
		ops = append(ops, Delete(Key(k.Subnet(p))))
	}
	return ops
}

// touchSubnets rewrites the version of what networks hold, on behalf of one.
func (k Keys) touchSubnets(id overspan.NetworkID) Op {
	return Put(k.SubnetsVersion(), mustMarshal(&overspanv1.Reference{Network: string(id)}))
}

// networkAndVersion reads a network, nil if it is gone, and the mod-revision of the
// subnets' version.
func (s *Session) networkAndVersion(ctx context.Context, id overspan.NetworkID) (*overspan.Network, int64, error) {
	res, err := s.kv.Txn(ctx, Txn{Then: []Op{Get(Key(s.keys.Network(id))), Get(Key(s.keys.SubnetsVersion()))}})
	if err != nil {
		return nil, 0, err
	}
	kvs := found(res)
	version := kvs[s.keys.SubnetsVersion()].ModRevision
	record, there := kvs[s.keys.Network(id)]
	if !there {
		return nil, version, nil
	}
	n, err := s.keys.network(record)
	if err != nil {
		return nil, 0, err
	}
	return &n, version, nil
}
