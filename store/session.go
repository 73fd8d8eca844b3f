package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/internal/steps"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// DefaultTTL is how long a node's presence outlives its agent.
const DefaultTTL = 15 * time.Second

// A Config says who opens a session.
type Config struct {
	Cluster  string
	Node     overspan.Node     // its revisions and its presence are not read
	Presence overspan.Presence // of this run of the agent; Instance must be new at each start

	// Known is what the journal says of the last session; zero if it is empty.
	Known Identity

	// Meta is what a cluster without any is set up with; zero fields take the
	// defaults of DefaultMeta.
	Meta overspan.Meta

	// Claimed returns the highest mod-revision of Keys.Claimed that this node has
	// heard of, 0 if none, and when it heard of that: Mirror.Claimed. The session
	// writes only to an etcd that has it. Nil: nobody follows it.
	Claimed func() (rev int64, heard time.Time)

	TTL time.Duration // of the presence; zero: DefaultTTL

	// Alive reports whether the process that a presence names runs. It is only
	// asked about this boot and PID namespace. Nil takes each for running.
	Alive func(overspan.Presence) bool

	// Undone, if set, is told of an endpoint that was attached after the caller
	// of Attach had given up, and that is detached again.
	Undone func(overspan.Endpoint)

	Log *slog.Logger // nil: silent
}

// A Session is a registered node: whoever holds it may write as the node. Any
// number of goroutines may call its methods while Run runs; all writes but
// PutAck pass through the node's flight key, one transaction at a time. While
// etcd is away they wait for it, until their ctx ends.
//
// Errors that every writing method may return: ErrUnavailable, after which
// nothing has happened, or what has is undone by the session itself, or, of what
// cannot be undone, the error names the command that shows it; ErrFenced, after
// which the session is over.
type Session struct {
	kv   KV
	keys Keys
	cfg  Config
	meta overspan.Meta

	registration int64
	flights      *flights
	recheck      chan struct{} // size 1

	mu    sync.Mutex // guards lease and since
	lease LeaseID
	since int64 // create-revision of the presence key
}

// Open registers a node, or takes up its registration, and announces it as
// present. An error of class ErrInUse means that another agent uses the node's
// id or its VTEP address; ErrUnsupported that the cluster is newer than this
// version. A removal of the node that is under way is finished first.
//
// When Open returns, nothing that an earlier run of the agent has sent can
// still be committed.
func Open(ctx context.Context, kv KV, cfg Config) (*Session, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	keys, err := NewKeys(cfg.Cluster)
	if err != nil {
		return nil, err
	}
	cfg.TTL = cmp.Or(cfg.TTL, DefaultTTL)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.Log = cfg.Log.With("node", overspan.ShortID(cfg.Node.ID))
	s := &Session{kv: kv, keys: keys, cfg: cfg, recheck: make(chan struct{}, 1)}
	if s.meta, err = openMeta(ctx, kv, keys, cfg.Meta); err != nil {
		return nil, err
	}
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

func (c Config) check() error {
	rec := overspanv1.NodeRecord(c.Node)
	if _, err := rec.Noun(); err != nil {
		return overspan.Errorf(overspan.ErrInvalid, "register: %s", err)
	}
	if _, err := overspanv1.PresenceRecord(c.Presence).Noun(); err != nil {
		return overspan.Errorf(overspan.ErrInvalid, "register node %s: %s", c.Node.Name, err)
	}
	return nil
}

// Run keeps the node present and carries out what the other methods ask for. It
// returns nil when ctx ends: then the presence is taken back, so that peers see
// the node away at once, and nothing else changes. It returns an error of class
// ErrFenced when the registration is gone, when another agent has taken the
// node's place, or when etcd was rolled back: the session is over, and the
// caller may try to open a new one.
func (s *Session) Run(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.flights.run(gctx) })
	g.Go(func() error { return s.keepPresence(gctx) })
	err := g.Wait()
	s.giveBack(ctx, s.currentLease())
	return err
}

// Over returns why the session has ended; nil if it has not, or if Run was told
// to end.
func (s *Session) Over() error {
	select {
	case <-s.flights.ended:
		return s.flights.err
	default:
		return nil
	}
}

// giveBack revokes a lease, and with it the presence, if etcd can be asked to.
func (s *Session) giveBack(ctx context.Context, lease LeaseID) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := s.kv.Revoke(ctx, lease); err != nil && !errors.Is(err, overspan.ErrNotFound) {
		s.cfg.Log.Warn("presence is left to expire", "error", err)
	}
}

// Registration returns the fencing token: the create-revision of the node's
// registration.
func (s *Session) Registration() int64 { return s.registration }

// Meta returns what the cluster was set up with.
func (s *Session) Meta() overspan.Meta { return s.meta }

// Stuck returns why nothing that this session writes gets through at the moment;
// nil if all is well.
func (s *Session) Stuck() error { return s.flights.stuck() }

// Update rewrites the registration with what the host has become: its name,
// addresses, MTU and routes. Whether the node is draining is Drain's to say.
//
// Errors: ErrInUse if another node that is present uses a VTEP address that is new,
// ErrConflict if the registration was changed meanwhile.
func (s *Session) Update(ctx context.Context, n overspan.Node) error {
	n.ID = s.cfg.Node.ID
	if _, err := overspanv1.NodeRecord(n).Noun(); err != nil {
		return overspan.Errorf(overspan.ErrInvalid, "update registration: %s", err)
	}
	old, err := s.get(ctx, s.keys.Node(n.ID))
	if err != nil {
		return fmt.Errorf("update registration: %w", err)
	}
	if old.Key == "" {
		return overspan.Errorf(overspan.ErrFenced, "update registration: the node was removed from the cluster")
	}
	was, err := s.keys.node(old)
	if err != nil {
		return err
	}
	moved := n
	moved.VTEPs = slices.DeleteFunc(slices.Clone(n.VTEPs), func(a netip.Addr) bool { return slices.Contains(was.VTEPs, a) })
	if err := s.checkVTEPs(ctx, moved, 0); err != nil {
		return err
	}
	value, err := redescribe(old.Value, n)
	if err != nil {
		return atKey(old, err)
	}
	res, err := s.flights.fly(ctx, &request{step: steps.Update, what: "update registration", witness: Put(old.Key, value), txn: Txn{
		If: []Cmp{Unchanged(old.Key, old.ModRevision)},
	}})
	if err != nil {
		return err
	}
	if !res.OK {
		return overspan.Errorf(overspan.ErrConflict, "registration of node %s was changed meanwhile", n.Name)
	}
	return nil
}

// get reads a key; the zero KeyValue if there is none.
func (s *Session) get(ctx context.Context, key string) (KeyValue, error) {
	list, err := s.kv.List(ctx, Key(key), 0)
	if err != nil || len(list.KVs) == 0 {
		return KeyValue{}, err
	}
	return list.KVs[0], nil
}

// nodeName returns what a user calls a node, for errors: its id if its
// registration cannot be read.
func (s *Session) nodeName(ctx context.Context, id overspan.NodeID) string {
	kv, err := s.get(ctx, s.keys.Node(id))
	if err != nil {
		return overspan.ShortID(id)
	}
	n, err := s.keys.node(kv)
	if err != nil {
		return overspan.ShortID(id)
	}
	return n.Name
}

func (s *Session) currentLease() LeaseID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lease
}
