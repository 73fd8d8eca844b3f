package daemon

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/await"
	"github.com/overspan/overspan/agent/reconcile"
	"github.com/overspan/overspan/bridge"
	"github.com/overspan/overspan/ipam"
	"github.com/overspan/overspan/kernel"
	"github.com/overspan/overspan/overlay"
	"github.com/overspan/overspan/store"
)

// minMTU is the least that IPv6 lets a link have (RFC 8200 section 5), and
// minMTU4 the least for IPv4 (RFC 791); maxMTU is the kernel's for a veth.
const (
	minMTU  = 1280
	minMTU4 = 68
	maxMTU  = 65535
)

// A CreateRequest is what a user says about a new network.
type CreateRequest struct {
	ipam.Spec
	Internal bool
	Options  map[string]string
	Labels   map[string]string

	ConfigOnly bool   // make nothing but a configuration that networks are made from
	ConfigFrom string // the one to be made from, "" for none
}

// CreateNetwork makes a network: an overlay on every node at once, a bridge on
// this one.
func (d *Daemon) CreateNetwork(ctx context.Context, req CreateRequest) (*overspan.Network, error) {
	ctx, cancel := context.WithTimeout(ctx, requestBound)
	defer cancel()
	if overspan.IsPredefined(req.Name) {
		return nil, overspan.Errorf(overspan.ErrExists, "network with name %s already exists: it is predefined", req.Name)
	}
	req, err := d.withConfig(ctx, req)
	if err != nil {
		return nil, err
	}
	draft, addresses, err := draft(req, d.Self())
	if err != nil {
		return nil, err
	}
	if err := d.checkBridgeName(draft); err != nil {
		return nil, err
	}
	if err := d.refuseFrozen(); err != nil {
		return nil, err
	}
	session, err := d.registrar.session()
	if err != nil {
		return nil, err
	}
	return d.create(ctx, session, draft, addresses)
}

// create completes a drafted network and writes it.
func (d *Daemon) create(ctx context.Context, session *store.Session, draft overspan.Network, addresses ipam.Plan) (*overspan.Network, error) {
	snapshot, err := d.clusterSnapshot(ctx, session.Registration())
	if err != nil {
		return nil, err
	}
	n, err := session.CreateNetwork(ctx, func(taken store.Taken) (overspan.Network, error) {
		if err := taken.CheckName(draft.Name, draft.Node); err != nil {
			return overspan.Network{}, err
		}
		return complete(draft, addresses, snapshot, taken)
	})
	if err != nil {
		return nil, err
	}
	d.log.Info("created a network", "network", n.Name, "id", overspan.ShortID(n.ID), "ipv4", n.IPv4.Prefix, "ipv6", n.IPv6.Prefix, "vni", n.VNI)
	d.awaitNetwork(ctx, n)
	return &n, nil
}

// checkBridgeName refuses a name for a bridge that another link of this host has.
func (d *Daemon) checkBridgeName(n overspan.Network) error {
	name := bridge.OptionsOf(&n).Name
	if name == "" || n.ConfigOnly {
		return nil
	}
	taken, err := d.host.Interfaces(kernel.OwnNetns)
	if err == nil && slices.Contains(taken, name) {
		err = overspan.Errorf(overspan.ErrInUse, "there is a link %s on this host already: choose another name for the bridge", name)
	}
	return err
}

// clusterSnapshot returns a snapshot that shows at least this node and what was
// there before it: the cluster's settings, which the first node makes, and the
// routes, MTUs and VTEPs that a new network must fit.
func (d *Daemon) clusterSnapshot(ctx context.Context, registration int64) (*overspan.Snapshot, error) {
	if s := d.knowledge().Etcd; s != nil && s.Revision >= registration {
		return s, nil
	}
	return d.latest(ctx)
}

// awaitNetwork returns once this node's snapshot shows a new network, if that does
// not take too long: it stands all the same. The node's own watch tells, so that
// etcd is asked nothing.
func (d *Daemon) awaitNetwork(ctx context.Context, n overspan.Network) {
	for {
		changed := d.snapshots.Wait()
		s := d.knowledge().Etcd
		if s != nil && s.Networks[n.ID] != nil && s.Networks[n.ID].ModRevision >= n.ModRevision {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			d.log.Warn("a network was created, but this node has not heard of it yet", "network", n.Name, "error", context.Cause(ctx))
			return
		}
	}
}

// draft checks the user's words and makes a network that still lacks what only
// the cluster can give: a VNI, an MTU, and subnets where none were named. A
// local one is self's.
func draft(req CreateRequest, self overspan.NodeID) (overspan.Network, ipam.Plan, error) {
	addresses, err := ipam.ParseSpec(req.Spec)
	if err != nil {
		return overspan.Network{}, ipam.Plan{}, err
	}
	n := overspan.Network{
		ID:         overspan.NetworkID(overspan.NewID()),
		Name:       req.Name,
		Driver:     addresses.Driver,
		Internal:   req.Internal,
		Options:    req.Options,
		Labels:     req.Labels,
		Created:    time.Now().UTC(),
		ConfigOnly: req.ConfigOnly,
		ConfigFrom: req.ConfigFrom,
	}
	switch {
	case n.ConfigOnly && (req.NoIPv4 || addresses.AutoIPv6):
		return n, addresses, overspan.Errorf(overspan.ErrInvalid, "a configuration network chooses no subnets: give those that it is to have, and --ipv6 or --ipv4=false to the networks that are made from it")
	case n.ConfigOnly:
		n.Driver, n.IPv4, n.IPv6 = overspan.DriverNull, addresses.IPv4, addresses.IPv6
	case n.Driver == overspan.DriverBridge:
		n.Node = self
	}
	_, err = bridge.ParseOptions(n.Driver, req.Options)
	return n, addresses, err
}

// complete gives a drafted network what it still lacks. It is pure; store
// calls it again if another network came in between.
func complete(n overspan.Network, addresses ipam.Plan, s *overspan.Snapshot, taken store.Taken) (overspan.Network, error) {
	switch {
	case n.ConfigOnly:
		return n, nil
	case n.ConfigFrom != "" && !taken.Has(n.ConfigFrom):
		return n, overspan.Errorf(overspan.ErrNotFound, "configuration network %s not found: it was removed", n.ConfigFrom)
	}
	var busy []ipam.Taken
	for _, t := range taken.Subnets {
		busy = append(busy, ipam.Taken{Prefix: t.Prefix, By: networkLabel(s, t.Network)})
	}
	for _, node := range s.Nodes {
		for _, r := range node.Routes {
			busy = append(busy, ipam.Taken{Prefix: r, By: "a route of node " + node.Name})
		}
	}
	var err error
	if n.IPv4, n.IPv6, err = addresses.Settle(s.Meta.Pools, busy); err != nil {
		return n, err
	}
	options := bridge.OptionsOf(&n)
	if n.Driver == overspan.DriverOverlay {
		if n.Underlay, err = underlayFamily(s.Nodes); err != nil {
			return n, err
		}
		if n.VNI, err = chooseVNI(n, options.VNI, s, taken); err != nil {
			return n, err
		}
	}
	for _, other := range s.Networks {
		if options.Name != "" && n.Node == other.Node && bridge.OptionsOf(other).Name == options.Name {
			return n, overspan.Errorf(overspan.ErrInUse, "the bridge of network %s has the name %s already: choose another", other.Name, options.Name)
		}
	}
	n.MTU, err = chooseMTU(n, options.MTU, s.Nodes)
	return n, err
}

// networkLabel names a network for people: its name, and the node that alone
// has it; its id where that is not known yet.
func networkLabel(s *overspan.Snapshot, id overspan.NetworkID) string {
	n := s.Networks[id]
	switch {
	case n == nil:
		return "network " + overspan.ShortID(id)
	case n.Node != "":
		return "network " + n.Name + " of node " + s.NodeName(n.Node)
	}
	return "network " + n.Name
}

// chooseVNI takes the one that an option names, or, if that is 0, the first free
// one from a start that the network's random id gives, so that nodes that create
// networks at the same moment rarely want the same.
func chooseVNI(n overspan.Network, named uint32, s *overspan.Snapshot, taken store.Taken) (uint32, error) {
	pool := s.Meta.VNIs
	if named != 0 {
		if !pool.Contains(named) {
			return 0, overspan.Errorf(overspan.ErrInvalid, "invalid option vni=%d: want a number from %d to %d", named, pool.First, pool.Last)
		}
		if owner, used := taken.VNIs[named]; used {
			return 0, overspan.Errorf(overspan.ErrExists, "VNI %d is in use by %s; choose another, or leave the choice to the cluster", named, networkLabel(s, owner))
		}
		return named, nil
	}
	raw, err := hex.DecodeString(string(n.ID[:8]))
	if err != nil {
		return 0, overspan.Errorf(overspan.ErrInvalid, "network id %q is not hexadecimal", n.ID)
	}
	size := uint64(pool.Last-pool.First) + 1
	start := uint64(binary.BigEndian.Uint32(raw))
	for i := range size {
		v := pool.First + uint32((start+i)%size)
		if _, used := taken.VNIs[v]; !used {
			return v, nil
		}
	}
	return 0, overspan.Errorf(overspan.ErrExhausted, "no VNI is free from %d to %d: remove a network first", pool.First, pool.Last)
}

// underlayFamily returns the family that every registered node has a VTEP in,
// IPv4 where both would do; ErrInvalid if there is none.
func underlayFamily(nodes map[overspan.NodeID]*overspan.Node) (overspan.Family, error) {
	lacks := map[overspan.Family]*overspan.Node{}
	for _, f := range []overspan.Family{overspan.IPv4, overspan.IPv6} {
		for _, n := range nodes {
			if !n.VTEP(f).IsValid() {
				lacks[f] = n
			}
		}
		if lacks[f] == nil {
			return f, nil
		}
	}
	return "", overspan.Errorf(overspan.ErrInvalid,
		"nodes %s and %s could not reach each other: the first has no underlay address of IPv4, the second none of IPv6; give every node one of the same family with --advertise-address, or remove those that are gone: ctl node rm",
		lacks[overspan.IPv4].Name, lacks[overspan.IPv6].Name)
}

// chooseMTU takes the one that an option names, or, if that is 0, what the
// underlays of the nodes that have the network leave: the smallest of all
// registered ones, or the one node's own, which no header shortens.
func chooseMTU(n overspan.Network, named int, nodes map[overspan.NodeID]*overspan.Node) (int, error) {
	least := minMTU4
	if n.IPv6.IsValid() {
		least = minMTU
	}
	if named != 0 {
		if named < least {
			return 0, overspan.Errorf(overspan.ErrInvalid, "invalid option mtu=%d: want a number of bytes from %d to %d", named, least, maxMTU)
		}
		return named, nil
	}
	smallest, owner := maxMTU, ""
	for id, node := range nodes {
		mtu := node.MTU
		switch {
		case n.Driver == overspan.DriverOverlay:
			mtu = overlay.MTU(node.MTU, n.Underlay)
		case id != n.Node:
			continue
		}
		if mtu < smallest {
			smallest, owner = mtu, node.Name
		}
	}
	if smallest < least {
		return 0, overspan.Errorf(overspan.ErrInvalid, "the underlay of node %s leaves an MTU of %d bytes, less than the %d that network %s needs", owner, smallest, least, n.Name)
	}
	return smallest, nil
}

// RemoveNetwork removes a network without endpoints, from the whole cluster or,
// if it is a local one, from this node.
func (d *Daemon) RemoveNetwork(ctx context.Context, ref string) (overspan.NetworkID, error) {
	ctx, cancel := context.WithTimeout(ctx, requestBound)
	defer cancel()
	if overspan.IsPredefined(ref) {
		return "", errPredefined(ref)
	}
	n, err := d.network(ctx, ref)
	if err != nil {
		return "", err
	}
	if n.IsDefault() {
		return "", errPredefined(n.Name)
	}
	session, err := d.registrar.session()
	if err != nil {
		return "", err
	}
	if err := session.RemoveNetwork(ctx, n); err != nil {
		if errors.Is(err, overspan.ErrUnavailable) {
			await.Wake(d.halfRemoved)
		}
		return "", err
	}
	d.log.Info("removed a network", "network", n.Name, "id", overspan.ShortID(n.ID))
	if !d.awaitSeen(ctx, "the removal of network "+n.Name) {
		return n.ID, nil
	}
	if err := d.leaveRemoved(ctx, n.ID); err != nil {
		// It is gone: what this node still holds of it goes with the next passes.
		d.log.Debug("the removal of a network is not waited for", "network", n.Name, "error", err)
	}
	return n.ID, nil
}

// finishRemovals tries removals of networks that etcd interrupted again, until they
// are done. housekeep wakes it too, for those that a dead node left half done.
func (d *Daemon) finishRemovals(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.halfRemoved:
		}
		if err := d.finishRemoval(ctx); err != nil {
			d.log.Debug("cannot finish the removal of a network; will try again", "error", err)
			await.Wake(d.halfRemoved)
		}
		if await.Sleep(ctx, releaseEvery) != nil {
			return nil
		}
	}
}

func (d *Daemon) finishRemoval(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestBound)
	defer cancel()
	session, err := d.registrar.session()
	if _, stale := d.mirror.Stale(); err == nil {
		err = stale
	}
	if err != nil {
		return err
	}
	s, err := d.latest(ctx)
	if err != nil || s.Frozen != nil {
		return err
	}
	return session.FinishRemovals(ctx, s)
}

// network finds a network by name, id, or a unique prefix of its id. One that
// the snapshot does not show yet is looked for in etcd before it is refused.
func (d *Daemon) network(ctx context.Context, ref string) (*overspan.Network, error) {
	n, err := findNetwork(d.knowledge().Shown, d.Self(), ref)
	if !errors.Is(err, overspan.ErrNotFound) {
		return n, err
	}
	if err := d.Sync(ctx); err != nil {
		return nil, fmt.Errorf("look for network %s: %w", ref, err)
	}
	return findNetwork(d.knowledge().Shown, d.Self(), ref)
}

// findNetwork finds a network among those that a node may name: the global
// ones and its own local ones.
func findNetwork(s *overspan.Snapshot, self overspan.NodeID, ref string) (*overspan.Network, error) {
	if s == nil {
		return nil, reconcile.ErrNoSnapshot
	}
	if ref == string(overspan.DriverHost) || ref == string(overspan.DriverNone) {
		return nil, overspan.Errorf(overspan.ErrInvalid, "network %s is predefined and holds nothing: it cannot be connected or disconnected", ref)
	}
	id, err := overspan.Match("network", ref, func(yield func(overspan.NetworkID, string) bool) {
		for id, n := range s.Networks {
			if !n.Deleting && n.On(self) && !yield(id, n.Name) {
				return
			}
		}
	})
	if err != nil {
		return nil, err
	}
	return s.Networks[id], nil
}

func (d *Daemon) networkByID(id overspan.NetworkID) *overspan.Network {
	if s := d.knowledge().Shown; s != nil {
		return s.Networks[id]
	}
	return nil
}
