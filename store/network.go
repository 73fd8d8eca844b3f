package store

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/internal/steps"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// maxRaces bounds how often a lost race is run again.
const maxRaces = 20

// Taken is what networks hold at one revision: whoever chooses for a new one
// must stay clear of it.
type Taken struct {
	Subnets []Lease
	VNIs    map[uint32]overspan.NetworkID

	names map[string][]overspan.NodeID // "" stands for a global network
}

// A Lease is a subnet and the network that holds it.
type Lease struct {
	Prefix  netip.Prefix
	Network overspan.NetworkID
}

// CheckName returns the error with which a network of this name, global or of
// one node, would be refused. A global name excludes all others of that name.
func (t Taken) CheckName(name string, node overspan.NodeID) error {
	for _, holder := range t.names[name] {
		if node == "" || holder == "" || holder == node {
			return nameTaken(name)
		}
	}
	return nil
}

// Has reports whether there is a global network of this name.
func (t Taken) Has(name string) bool { return slices.Contains(t.names[name], overspan.NodeID("")) }

func nameTaken(name string) error {
	return overspan.Errorf(overspan.ErrExists, "network with name %s already exists", name)
}

// CreateNetwork lets choose make a network beside what is taken and writes it
// with its name, VNI and subnets, all or nothing. If others were faster, choose
// is asked again with what is taken then; it must not have effects of its own.
//
// Errors, beside those of choose: ErrExists if the name or VNI is taken, ErrInUse
// if a subnet overlaps another, ErrConflict if too many races were lost,
// ErrUnavailable while the cluster is frozen.
func (s *Session) CreateNetwork(ctx context.Context, choose func(Taken) (overspan.Network, error)) (overspan.Network, error) {
	for race := range maxRaces {
		taken, version, err := s.taken(ctx)
		if err != nil {
			return overspan.Network{}, fmt.Errorf("create network: %w", err)
		}
		n, err := choose(taken)
		if err != nil {
			return overspan.Network{}, err
		}
		if err := s.checkChoice(ctx, n, taken); err != nil {
			return overspan.Network{}, err
		}
		res, err := s.create(ctx, n, version)
		switch {
		case err != nil:
			return overspan.Network{}, err
		case res.OK:
			n.CreateRevision, n.ModRevision = res.Revision, res.Revision
			return n, nil
		}
		if err := s.frozen(found(res)); err != nil {
			return overspan.Network{}, err
		}
		// Whatever else is in the way now is taken the next time.
		if err := pause(ctx, firstPause, min(race, 3)); err != nil {
			return overspan.Network{}, overspan.Errorf(overspan.ErrUnavailable, "create network %s: %w", n.Name, err)
		}
	}
	return overspan.Network{}, overspan.Errorf(overspan.ErrConflict, "create network: others created networks at the same time; try again")
}

// taken reads what networks hold, and the mod-revision of the subnets' version.
func (s *Session) taken(ctx context.Context) (Taken, int64, error) {
	res, err := s.kv.Txn(ctx, Txn{Then: []Op{Get(s.keys.Subnets()), Get(s.keys.VNIs()), Get(Prefix(s.keys.prefix + "names/"))}})
	if err != nil {
		return Taken{}, 0, err
	}
	out := Taken{VNIs: make(map[uint32]overspan.NetworkID), names: make(map[string][]overspan.NodeID)}
	var version int64
	for key, kv := range found(res) {
		name, err := s.keys.Parse(key)
		if err != nil {
			return Taken{}, 0, err
		}
		var ref overspanv1.Reference
		if err := Unmarshal(kv.Value, &ref); err != nil {
			return Taken{}, 0, atKey(kv, err)
		}
		id := overspan.NetworkID(ref.GetNetwork())
		switch name.Kind {
		case KeySubnetsVersion:
			version = kv.ModRevision
		case KeySubnet:
			out.Subnets = append(out.Subnets, Lease{Prefix: name.Subnet, Network: id})
		case KeyVNI:
			out.VNIs[name.VNI] = id
		case KeyNetworkName:
			out.names[name.Name] = append(out.names[name.Name], name.Node)
		}
	}
	slices.SortFunc(out.Subnets, func(a, b Lease) int { return a.Prefix.Compare(b.Prefix) })
	return out, version, nil
}

// checkChoice refuses a network that cannot stand beside what is taken.
func (s *Session) checkChoice(ctx context.Context, n overspan.Network, taken Taken) error {
	if _, err := overspanv1.NetworkRecord(n).Noun(); err != nil {
		return overspan.Errorf(overspan.ErrInvalid, "create network %s: %s", n.Name, err)
	}
	if err := taken.CheckName(n.Name, n.Node); err != nil {
		return err
	}
	if holder, is := taken.VNIs[n.VNI]; is {
		return overspan.Errorf(overspan.ErrExists, "VNI %d is taken by network %s", n.VNI, s.networkName(ctx, holder))
	}
	for _, p := range subnets(n) {
		for _, lease := range taken.Subnets {
			if p.Overlaps(lease.Prefix) {
				return overspan.Errorf(overspan.ErrInUse, "subnet %s overlaps %s of network %s", p, lease.Prefix, s.networkName(ctx, lease.Network))
			}
		}
	}
	return nil
}

// subnets returns the prefixes that a network leases.
func subnets(n overspan.Network) []netip.Prefix {
	if n.ConfigOnly {
		return nil
	}
	var out []netip.Prefix
	for _, subnet := range []overspan.Subnet{n.IPv4, n.IPv6} {
		if subnet.IsValid() {
			out = append(out, subnet.Prefix)
		}
	}
	return out
}

// create is one attempt to write a network: it fails if any key of it stands,
// or if any subnet was leased or given back since version.
func (s *Session) create(ctx context.Context, n overspan.Network, version int64) (Result, error) {
	r, err := s.writeNetwork(n, version)
	if err != nil {
		return Result{}, err
	}
	r.txn.If = append(r.txn.If, Absent(Key(s.keys.Frozen())))
	r.txn.Else = []Op{Get(Key(s.keys.Frozen()))}
	r.undo = func(ctx context.Context, _ int64) { s.undoCreate(ctx, n) }
	return s.flights.fly(ctx, r)
}

// writeNetwork makes the request of create, without the guard that forbids it
// while the cluster is frozen.
func (s *Session) writeNetwork(n overspan.Network, version int64) (*request, error) {
	what := "create network " + n.Name
	value, err := Marshal(overspanv1.NetworkRecord(n))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	ref := mustMarshal(&overspanv1.Reference{Network: string(n.ID)})
	t := Txn{
		If: []Cmp{
			Unchanged(s.keys.SubnetsVersion(), version),
			Absent(Key(s.keys.NetworkName(n.Name, ""))),
			Absent(Key(s.keys.Network(n.ID))),
		},
		Then: []Op{
			Put(s.keys.NetworkName(n.Name, n.Node), ref),
			Put(s.keys.SubnetsVersion(), ref),
		},
	}
	if n.Node == "" {
		t.If = append(t.If, Absent(s.keys.NetworkNames(n.Name)))
	} else {
		t.If = append(t.If, Absent(Key(s.keys.NetworkName(n.Name, n.Node))))
	}
	var leased []string
	if n.VNI != 0 {
		leased = append(leased, s.keys.VNI(n.VNI))
	}
	for _, p := range subnets(n) {
		leased = append(leased, s.keys.Subnet(p))
	}
	for _, key := range leased {
		t.If = append(t.If, Absent(Key(key)))
		t.Then = append(t.Then, Put(key, ref))
	}
	return &request{step: steps.Create, what: what, witness: Put(s.keys.Network(n.ID), value), txn: t}, nil
}

// undoCreate removes a network again whose creator has given up.
func (s *Session) undoCreate(ctx context.Context, n overspan.Network) {
	if err := insist(ctx, func() error { return s.RemoveNetwork(ctx, &n) }); err != nil {
		s.cfg.Log.Warn("late network is left behind", "network", n.Name, "error", err)
		return
	}
	s.cfg.Log.Info("late network removed", "network", n.Name)
}

// frozen returns an error if the cluster was found frozen.
func (s *Session) frozen(kvs map[string]KeyValue) error {
	if kv, is := kvs[s.keys.Frozen()]; is {
		return s.keys.freeze(kv).Refusal()
	}
	return nil
}

// networkName returns what a user calls a network, for errors.
func (s *Session) networkName(ctx context.Context, id overspan.NetworkID) string {
	kv, err := s.get(ctx, s.keys.Network(id))
	if err != nil {
		return overspan.ShortID(id)
	}
	n, err := s.keys.network(kv)
	if err != nil {
		return overspan.ShortID(id)
	}
	return n.Name
}

// networkGone returns an error if a network that was read is gone or on its way
// out.
func (s *Session) networkGone(n *overspan.Network, kvs map[string]KeyValue) error {
	kv, ok := kvs[s.keys.Network(n.ID)]
	if !ok {
		return overspan.Errorf(overspan.ErrNotFound, "network %s not found", n.Name)
	}
	now, err := s.keys.network(kv)
	if err != nil {
		return err
	}
	return leaving(&now)
}

// leaving returns an error if a network is on its way out: its record still
// stands, but nothing may be put into it.
func leaving(n *overspan.Network) error {
	if n.Deleting {
		return overspan.Errorf(overspan.ErrNotFound, "network %s is being removed", n.Name)
	}
	return nil
}

func networkChanged(n *overspan.Network) error {
	return overspan.Errorf(overspan.ErrConflict, "network %s was changed meanwhile; try again", n.Name)
}
