package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/await"
	"github.com/overspan/overspan/store"
)

var (
	// errBetween says that the node is between two sessions.
	errBetween = errors.New("its registration is being looked at again; try again")
	// errDoubted says that nothing may be written to etcd for now.
	errDoubted = overspan.Errorf(overspan.ErrUnavailable, "etcd has lost its past: see ctl status")
)

// registrar keeps the node registered, and its registration true.
type registrar struct {
	d       *Daemon
	cfg     Config
	log     *slog.Logger
	journal *store.Journal
	self    overspan.NodeID
	process overspan.Presence // this run of the agent
	known   store.Identity    // of the last session; only keep uses it
	served  bool              // there was a session; only keep uses it

	slot    sessionSlot
	changed chan struct{} // size 1: the host's routes or devices changed
	turn    chan struct{} // size 1: full while somebody has a session or must have none
}

// newRegistrar returns the registrar of a daemon that has its configuration and what
// it works with. An error means that this agent must not run.
func newRegistrar(d *Daemon) (*registrar, error) {
	process, err := describeProcess()
	if err != nil {
		return nil, err
	}
	known := d.journal.Identity()
	if err := checkMachine(known, process, d.cfg.StateDir); err != nil {
		return nil, err
	}
	r := &registrar{
		d:       d,
		cfg:     d.cfg,
		log:     d.log,
		journal: d.journal,
		self:    known.Node,
		process: process,
		known:   known,
		changed: make(chan struct{}, 1),
		turn:    make(chan struct{}, 1),
	}
	r.slot.clear(fmt.Errorf("etcd at %s has not answered yet; try again", strings.Join(d.kv.Endpoints(), ",")))
	return r, nil
}

// checkMachine refuses a journal that was used on another machine. Its node may
// be away for a moment, where etcd could not tell it from this one: two would
// serve the same addresses, and each would release what it cannot find.
func checkMachine(known store.Identity, own overspan.Presence, dir string) error {
	if known.Machine == "" || own.MachineID == "" || known.Machine == own.MachineID {
		return nil
	}
	return overspan.Errorf(overspan.ErrInUse,
		"node id %s belongs to the machine with the id %s, and this one's is %s: the state directory %s is a copy; delete it to join as a node of its own, or, if only the id of this machine has changed, write the former one to /etc/machine-id",
		overspan.ShortID(known.Node), known.Machine, own.MachineID, dir)
}

// session returns the session, or why this node cannot write to etcd now.
func (r *registrar) session() (*store.Session, error) {
	session, why := r.slot.get()
	if session != nil {
		return session, nil
	}
	// The first try goes on for longer than it takes to know that etcd is away.
	if _, stale := r.d.mirror.Stale(); stale != nil && !r.slot.hasFailed() {
		why = stale
	}
	return nil, overspan.Errorf(overspan.ErrUnavailable, "this node is not registered: %w", why)
}

// heed has the session look at once whether the node is still registered and
// present, where a snapshot does not show it so. It would find out by itself,
// but only within the presence's TTL.
func (r *registrar) heed(s *overspan.Snapshot) {
	session, err := r.session()
	if err != nil || s.Revision < session.Registration() {
		return
	}
	n := s.Nodes[r.self]
	if n == nil || n.CreateRevision != session.Registration() || n.Presence == nil {
		session.Recheck()
	}
}

// keep registers the node, and again whenever it has lost its registration,
// until ctx ends. Nothing is sent to an etcd that is not trusted.
func (r *registrar) keep(ctx context.Context) error {
	if err := r.journal.AddInstance(r.process.Instance); err != nil {
		return err
	}
	if id := r.process.MachineID; id != "" {
		if err := r.journal.SetMachine(id); err != nil {
			return err
		}
	}
	for ctx.Err() == nil {
		doubted, err := r.d.awaitTrust(ctx)
		if err != nil {
			r.slot.fail(err)
			r.d.health.changed.Fire()
			r.log.Warn("cannot register; will try again", "error", err)
			continue
		}
		if err := r.alone(ctx, func(ctx context.Context) error { return r.serve(ctx, doubted) }); err != nil {
			return err
		}
	}
	return nil
}

// alone runs f while nobody else has or opens a session; it returns nil without
// that if ctx ends first.
func (r *registrar) alone(ctx context.Context, f func(context.Context) error) error {
	select {
	case r.turn <- struct{}{}:
	case <-ctx.Done():
		return nil
	}
	defer func() { <-r.turn }()
	return f(ctx)
}

// serve opens a session and runs it until the registration is lost or etcd is
// doubted.
func (r *registrar) serve(ctx context.Context, doubted <-chan struct{}) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() {
		select {
		case <-doubted:
			cancel()
		case <-ctx.Done():
		}
	})
	session, err := r.register(ctx)
	if session == nil {
		return err
	}
	r.slot.set(session)
	r.served = true
	r.log.Info("registered", "node", overspan.ShortID(r.self), "registration", session.Registration())
	r.d.joined()
	err = session.Run(ctx)
	if errors.Is(err, store.ErrForgotten) {
		r.d.history.Forgotten(err.Error())
	}
	select {
	case <-doubted:
		r.slot.clear(errDoubted)
	default:
		r.slot.clear(cmp.Or(err, errBetween))
	}
	switch {
	case errors.Is(err, store.ErrForgotten):
		r.log.Warn("the session is over", "error", err)
	case errors.Is(err, overspan.ErrFenced):
		r.log.Warn("registration lost; registering anew", "error", err)
		r.d.fenced()
	case err != nil:
		return fmt.Errorf("session: %w", err)
	}
	return nil
}

// register opens a session, for as long as that takes. It returns nil if ctx
// ended first, and an error if this agent must not run at all.
func (r *registrar) register(ctx context.Context) (*store.Session, error) {
	for {
		session, err := r.try(ctx)
		if err == nil {
			return session, nil
		}
		if ctx.Err() != nil {
			return nil, nil
		}
		if !r.passes(err) {
			return nil, fmt.Errorf("register: %w", err)
		}
		r.slot.fail(err)
		r.d.health.changed.Fire()
		r.log.Warn("cannot register; will try again", "error", err)
		if await.Sleep(ctx, r.d.mirror.RetryPause()) != nil {
			return nil, nil
		}
	}
}

// passes reports whether what keeps the node from registering may be over by
// itself. To be refused is a mistake in the settings where the agent has just been
// started; one that has worked goes on with what it serves, until its operator has
// given back the role or the password that etcd takes.
func (r *registrar) passes(err error) bool {
	return errors.Is(err, overspan.ErrUnavailable) || errors.Is(err, overspan.ErrConflict) ||
		errors.Is(err, overspan.ErrDenied) && r.served
}

func (r *registrar) try(ctx context.Context) (*store.Session, error) {
	node, err := r.describe()
	if err != nil {
		// The underlay's address may come later, by DHCP.
		return nil, overspan.Errorf(overspan.ErrUnavailable, "describe this node: %w", err)
	}
	known := r.known
	if r.d.knowledge().Anew {
		known.Registration = 0
	}
	session, err := store.Open(ctx, r.d.kv, store.Config{
		Cluster:  r.cfg.Cluster,
		Node:     node,
		Presence: r.process,
		Known:    known,
		Meta:     r.d.settings(),
		Claimed:  r.d.mirror.Claimed,
		TTL:      r.cfg.TTL,
		Alive:    processAlive,
		Log:      r.log.With("part", "session"),
	})
	if err != nil {
		return nil, err
	}
	r.known = store.Identity{Node: r.self, Registration: session.Registration(), Instances: r.process.Instance}
	if err := r.journal.SetRegistration(session.Registration(), r.process.Instance); err != nil {
		// The next run knows it by the instance.
		r.log.Error("cannot note in the journal which registration this node has", "error", err)
	}
	return session, nil
}

// describe reads what the registration says of this host.
func (r *registrar) describe() (overspan.Node, error) {
	node := overspan.Node{ID: r.self, Name: r.cfg.NodeName, Version: overspan.Version}
	for _, spec := range r.cfg.Underlay {
		u, err := r.d.host.Underlay(spec)
		if err != nil {
			return node, err
		}
		addrs := u.Addrs
		if a, err := netip.ParseAddr(spec); err == nil {
			addrs = []netip.Addr{a}
		}
		for _, a := range addrs {
			if !node.VTEP(overspan.FamilyOf(a)).IsValid() {
				node.VTEPs = append(node.VTEPs, a)
			}
		}
		if node.MTU == 0 || u.MTU < node.MTU {
			node.MTU = u.MTU
		}
	}
	if len(node.VTEPs) == 0 {
		return node, overspan.Errorf(overspan.ErrUnavailable, "no address found on %s: give --advertise-address an address of this host", strings.Join(r.cfg.Underlay, ", "))
	}
	var err error
	node.Routes, err = r.d.host.HostRoutes()
	return node, err
}

// update keeps the registration true: routes, addresses and MTU change
// while the agent runs.
func (r *registrar) update(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.changed:
		}
		session, err := r.session()
		if err != nil {
			continue // a new session registers what is true then
		}
		node, err := r.describe()
		if err != nil {
			r.log.Warn("cannot read the underlay; the registration stays as it is", "error", err)
			continue
		}
		if now := r.d.registeredAs(); now == nil || sameNode(*now, node) {
			continue
		}
		if err := session.Update(ctx, node); err != nil {
			r.log.Warn("cannot update the registration", "error", err)
		}
	}
}

func sameNode(a, b overspan.Node) bool {
	return a.Name == b.Name && a.MTU == b.MTU && a.Version == b.Version &&
		slices.Equal(a.VTEPs, b.VTEPs) && slices.Equal(a.Routes, b.Routes)
}
