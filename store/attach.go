package store

import (
	"context"
	"fmt"
	"slices"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/internal/steps"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// An AttachRequest asks for an endpoint's records.
type AttachRequest struct {
	Endpoint overspan.Endpoint // of this node; its revisions are not read
	Network  *overspan.Network // as last seen: it must not have changed since
	Blocks   []overspan.Block  // this node's, around each of the endpoint's slots
}

// Attach writes an endpoint: a record at each of its slots, its name, and its
// MAC if that does not follow from the slot. It returns the endpoint with its
// revisions.
//
// Errors: ErrUnavailable while the cluster is frozen, ErrInUse if a slot or the MAC is taken, ErrExists if the name is,
// ErrNotFound if the network is gone or on its way out, ErrConflict if the
// network or a block has changed since. The last also happens when a block was
// split meanwhile, whose remainders have new epochs: look again and retry.
func (s *Session) Attach(ctx context.Context, a AttachRequest) (overspan.Endpoint, error) {
	r, err := s.attach(a, nil)
	if err != nil {
		return overspan.Endpoint{}, err
	}
	r.txn.If = append(r.txn.If, Absent(Key(s.keys.Frozen())))
	r.txn.Else = append(r.txn.Else, Get(Key(s.keys.Frozen())))
	e := a.Endpoint
	r.undo = func(ctx context.Context, revision int64) {
		late := e
		late.CreateRevision, late.ModRevision = revision, revision
		s.undoAttach(ctx, late)
	}
	res, err := s.flights.fly(ctx, r)
	if err != nil {
		return overspan.Endpoint{}, err
	}
	if !res.OK {
		return overspan.Endpoint{}, s.whyNotAttached(ctx, a, found(res))
	}
	e.CreateRevision, e.ModRevision = res.Revision, res.Revision
	return e, nil
}

// attach makes the request. Its Else reads whatever can be in the way. The
// endpoint's keys are absent before, but for own ones that stand, by key, at these
// mod-revisions.
func (s *Session) attach(a AttachRequest, own map[string]int64) (*request, error) {
	e, n := a.Endpoint, a.Network
	if err := leaving(n); err != nil {
		return nil, err
	}
	if err := s.checkAttach(a); err != nil {
		return nil, fmt.Errorf("attach %s to network %s: %w", e.Name, n.Name, err)
	}
	value, err := Marshal(overspanv1.EndpointRecord(e))
	if err != nil {
		return nil, fmt.Errorf("attach %s to network %s: %w", e.Name, n.Name, err)
	}
	t := Txn{
		If:   []Cmp{Unchanged(s.keys.Network(n.ID), n.ModRevision)},
		Else: []Op{Get(Key(s.keys.Network(n.ID)))},
	}
	for _, b := range a.Blocks {
		key := s.keys.Block(n.ID, b.Range)
		t.If = append(t.If, Created(key, b.CreateRevision))
		t.Else = append(t.Else, Get(Key(key)))
	}
	ref := mustMarshal(&overspanv1.Reference{Network: string(n.ID), Slot: uint64(e.Slot), Endpoint: string(e.ID)})
	keys := s.endpointKeys(e)
	for i, key := range keys {
		t.If = append(t.If, Unchanged(key, own[key]))
		t.Else = append(t.Else, Get(Key(key)))
		switch {
		case i == 0: // the witness
		case i < len(e.Slots):
			t.Then = append(t.Then, Put(key, value))
		default:
			t.Then = append(t.Then, Put(key, ref))
		}
	}
	return &request{
		step:    steps.Attach,
		what:    fmt.Sprintf("attach %s to network %s", e.Name, n.Name),
		witness: Put(keys[0], value),
		txn:     t,
		shared:  true,
	}, nil
}

// endpointKeys returns the keys that an endpoint owns: its records, first slot
// first, then its name, then its MAC where that does not follow from the slot.
func (s *Session) endpointKeys(e overspan.Endpoint) []string {
	var keys []string
	for _, slot := range e.Slots {
		keys = append(keys, s.keys.Endpoint(e.Network, slot))
	}
	keys = append(keys, s.keys.EndpointName(e.Network, e.Name))
	if !e.MAC.IsDerived() {
		keys = append(keys, s.keys.MAC(e.Network, e.MAC))
	}
	return keys
}

func (s *Session) checkAttach(a AttachRequest) error {
	e, n := a.Endpoint, a.Network
	if _, err := overspanv1.EndpointRecord(e).Noun(); err != nil {
		return overspan.Errorf(overspan.ErrInvalid, "%s", err)
	}
	switch {
	case e.Node != s.cfg.Node.ID:
		return overspan.Errorf(overspan.ErrInvalid, "endpoint is of node %s, not of this one", overspan.ShortID(e.Node))
	case e.Network != n.ID:
		return overspan.Errorf(overspan.ErrInvalid, "endpoint is of network %s", overspan.ShortID(e.Network))
	case e.Slot != e.Slots[0]:
		return overspan.Errorf(overspan.ErrInvalid, "first of slots %d is not slot %d", e.Slots, e.Slot)
	case e.MAC.IsDerived() && e.MAC != n.MAC(e.Slot):
		return overspan.Errorf(overspan.ErrInvalid, "MAC address %s lies in 02:42:…, where addresses follow from slots; choose another", e.MAC)
	}
	for _, slot := range e.Slots {
		if !slices.ContainsFunc(a.Blocks, func(b overspan.Block) bool { return b.Contains(slot) }) {
			return overspan.Errorf(overspan.ErrInvalid, "no block of this node is around slot %d", slot)
		}
	}
	return nil
}

// whyNotAttached names what was in the way, from what stood there.
func (s *Session) whyNotAttached(ctx context.Context, a AttachRequest, kvs map[string]KeyValue) error {
	e, n := a.Endpoint, a.Network
	if err := s.frozen(kvs); err != nil {
		return err
	}
	if err := s.networkGone(n, kvs); err != nil {
		return err
	}
	for _, slot := range e.Slots {
		if kv, taken := kvs[s.keys.Endpoint(n.ID, slot)]; taken {
			return overspan.Errorf(overspan.ErrInUse, "address already in use: %s of network %s belongs to %s",
				slotAddr(n, slot), n.Name, s.describe(ctx, kv))
		}
	}
	if kv, taken := kvs[s.keys.EndpointName(n.ID, e.Name)]; taken {
		return overspan.Errorf(overspan.ErrExists, "endpoint with name %s already exists in network %s: %s",
			e.Name, n.Name, s.describeRef(ctx, n.ID, kv))
	}
	if kv, taken := kvs[s.keys.MAC(n.ID, e.MAC)]; taken {
		return overspan.Errorf(overspan.ErrInUse, "MAC address %s of network %s already in use by %s",
			e.MAC, n.Name, s.describeRef(ctx, n.ID, kv))
	}
	for _, b := range a.Blocks {
		if kvs[s.keys.Block(n.ID, b.Range)].CreateRevision != b.CreateRevision {
			return overspan.Errorf(overspan.ErrConflict, "block %s of network %s is no longer what this node held", b.Range, n.Name)
		}
	}
	return networkChanged(n)
}

// slotAddr names a slot as users know it.
func slotAddr(n *overspan.Network, slot overspan.Slot) string {
	for _, subnet := range []overspan.Subnet{n.IPv4, n.IPv6} {
		if a := subnet.Addr(slot); a.IsValid() {
			return a.String()
		}
	}
	return fmt.Sprintf("slot %d", slot)
}

// describe names an endpoint and its node from its record, and says what would
// free it where that node is away.
func (s *Session) describe(ctx context.Context, kv KeyValue) string {
	e, err := s.keys.endpoint(kv)
	if err != nil {
		return "an unreadable record: " + err.Error()
	}
	node := s.nodeName(ctx, e.Node)
	out := fmt.Sprintf("%s on %s", e.Name, node)
	if live, err := s.get(ctx, s.keys.Live(e.Node)); err == nil && live.Key == "" && e.Node != s.cfg.Node.ID {
		out += fmt.Sprintf(", a node that is away: wait until it is back, or remove it for good with ctl node rm %s", node)
	}
	return out
}

// describeRef names the endpoint that a name or MAC key refers to.
func (s *Session) describeRef(ctx context.Context, n overspan.NetworkID, kv KeyValue) string {
	var ref overspanv1.Reference
	if err := Unmarshal(kv.Value, &ref); err != nil {
		return "an unreadable record: " + atKey(kv, err).Error()
	}
	rec, err := s.get(ctx, s.keys.Endpoint(n, overspan.Slot(ref.GetSlot())))
	if err != nil || rec.Key == "" {
		return "endpoint " + overspan.ShortID(ref.GetEndpoint())
	}
	return s.describe(ctx, rec)
}
