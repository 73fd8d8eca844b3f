package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/internal/steps"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

const (
	// maxGroup bounds how many requests share a flight. etcd allows 128 compares
	// or operations in a transaction, and to a nested one what its parent left.
	maxGroup = 60

	// flightTimeout is when an unanswered flight counts as one of unknown
	// outcome. The question that settles it, and the next flight, go to other
	// members of etcd, if there are any: so a request outlives even two flights
	// to one that hangs, which gRPC finds out only after 13 s.
	flightTimeout = time.Second

	// firstPause is how long it takes until a second attempt; later ones wait
	// longer, up to a second.
	firstPause = 20 * time.Millisecond

	// maxFlights bounds how often one request takes off: again after a flight of
	// which it is settled that it never commits. While a leader is elected
	// several in a row may be lost; most callers give up before this.
	maxFlights = 5
)

// errShutdown ends the requests that wait when the session is closed.
var errShutdown = errors.New("the agent is shutting down")

// flights carries out a node's transactions, one in the air at a time. Each
// compares the node's registration and its flight key and rewrites the latter,
// so that of a flight without an answer it can be found out whether it has
// committed, and made sure that it never will.
//
// One goroutine, run, owns everything but in, ended, floor and trouble.
type flights struct {
	kv           KV
	keys         Keys
	log          *slog.Logger
	timeout      time.Duration
	backoff      time.Duration
	node         overspan.NodeID
	instance     string
	registration int64
	claimed      func() (int64, time.Time) // Config.Claimed

	sequence uint64 // of the last flight
	mod      int64  // mod-revision of the flight key
	least    int64  // what the flight in the air demands of the key claimed
	waiting  []*request

	floor atomic.Int64 // what mod has reached, for all to read

	in    chan *request // unbuffered: whoever gives up before it is taken never flies
	ended chan struct{} // closed when run has ended; err holds from then on
	err   error

	mu      sync.Mutex // guards trouble
	trouble error      // why the flight in the air has no outcome yet
}

// fly carries out a request and returns the result of its own transaction. An
// error of class ErrUnavailable means that nothing happened, or that the caller
// gave up: then undo follows if it happens after all, or the error says where to look.
func (f *flights) fly(ctx context.Context, r *request) (Result, error) {
	r.done = make(chan answer, 1)
	select {
	case f.in <- r:
	case <-ctx.Done():
		return Result{}, f.noAnswer(ctx, r)
	case <-f.ended:
		return Result{}, f.closed(r)
	}
	select {
	case a := <-r.done:
		return a.res, a.err
	case <-ctx.Done():
	}
	if a, answered := r.giveUp(); answered {
		return a.res, a.err
	}
	return Result{}, f.noAnswer(ctx, r)
}

// run is the owner. It returns nil when ctx ends, and an error of class
// ErrFenced when the node may write no more. A flight in the air is brought
// down first.
func (f *flights) run(ctx context.Context) error {
	var undoing sync.WaitGroup
	defer undoing.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer func() { f.close(context.Cause(ctx)) }()
	for {
		if len(f.waiting) == 0 {
			select {
			case r := <-f.in:
				f.waiting = append(f.waiting, r)
			case <-ctx.Done():
				return nil
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		f.gather()
		group, rest := board(f.waiting)
		f.waiting = rest
		if len(group) == 0 {
			continue // all have given up
		}
		for _, r := range f.launch(ctx, group) {
			if r.undo != nil {
				undoing.Go(func() { r.undo(ctx, r.revision) })
			}
		}
		if f.err != nil {
			return f.err
		}
	}
}

// close answers those who still wait. Cause is why ctx ended: of the parts of
// a session any may be the first to find out that it is over.
func (f *flights) close(cause error) {
	if f.err == nil && errors.Is(cause, overspan.ErrFenced) {
		f.err = cause
	}
	close(f.ended)
	for _, r := range f.waiting {
		r.land(answer{err: f.closed(r)})
	}
}

// gather takes in all who wait at this moment.
func (f *flights) gather() {
	for {
		select {
		case r := <-f.in:
			f.waiting = append(f.waiting, r)
		default:
			return
		}
	}
}

// launch flies a group and answers it. It returns those whose caller had given
// up although they were carried out.
func (f *flights) launch(ctx context.Context, group []*request) []*request {
	t := f.guarded(f.sequence + 1)
	for _, r := range group {
		r.flown++
		r.setAloft(true)
		t.Then = append(t.Then, Nest(r.whole()))
		steps.At(r.step.Sending())
	}
	res, err := f.txn(ctx, t)
	for _, r := range group {
		steps.At(r.step.Answered())
	}
	switch {
	case err == nil && res.OK:
		f.note(f.sequence+1, res.Revision)
		return land(group, res.Revision, res.Responses[1:])
	case err == nil:
		f.err = f.standing(res)
		return refuse(group, f.err)
	case !refused(err):
		return f.settle(ctx, group, err)
	case len(group) == 1:
		return refuse(group, err)
	}
	// etcd refuses a transaction as a whole: each alone finds out whose fault it is.
	var orphans []*request
	for i := range group {
		if f.err != nil {
			refuse(group[i:], f.err)
			break
		}
		orphans = append(orphans, f.launch(ctx, group[i:i+1])...)
	}
	return orphans
}

// note remembers what the flight key holds.
func (f *flights) note(sequence uint64, mod int64) {
	f.sequence, f.mod = sequence, mod
	f.floor.Store(mod)
}

// guarded returns a transaction that commits only while the node is registered,
// no other flight came between, and etcd has not gone back to before a claim of
// which this node has heard; and that numbers itself.
func (f *flights) guarded(sequence uint64) Txn {
	t := Txn{
		If: []Cmp{
			Created(f.keys.Node(f.node), f.registration),
			Unchanged(f.keys.Flight(f.node), f.mod),
		},
		Then: []Op{Put(f.keys.Flight(f.node), mustMarshal(&overspanv1.Flight{Sequence: sequence, Instance: f.instance}))},
		Else: []Op{Get(Key(f.keys.Node(f.node))), Get(Key(f.keys.Flight(f.node))), Get(Key(f.keys.Claimed()))},
	}
	if f.claimed != nil {
		f.least, _ = f.claimed()
		t.If = append(t.If, NotBefore(f.keys.Claimed(), f.least))
	}
	return t
}

// txn bounds a transaction by itself alone: a shutdown lets it land.
func (f *flights) txn(ctx context.Context, t Txn) (Result, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.timeout)
	defer cancel()
	return f.kv.Txn(ctx, t)
}

// settle finds out what became of a flight without an answer. It rewrites the
// flight key under the same guards: if that succeeds the flight can never
// commit, if it fails the flight key tells who was faster. Until etcd has
// answered nothing else flies.
func (f *flights) settle(ctx context.Context, group []*request, cause error) []*request {
	defer f.setTrouble(nil)
	f.log.Warn("transaction has no outcome yet", "requests", len(group), "error", cause)
	for attempt := 0; ; attempt++ {
		f.setTrouble(cause)
		if attempt > 0 && pause(ctx, f.backoff, attempt-1) != nil {
			for _, r := range group {
				r.land(answer{err: f.closed(r)})
			}
			return nil
		}
		t := f.guarded(f.sequence + 2)
		for _, r := range group {
			t.Else = append(t.Else, Nest(r.question()))
		}
		steps.At(steps.Settling)
		res, err := f.txn(ctx, t)
		steps.At(steps.Settled)
		switch {
		case err != nil:
			cause = err
		case res.OK:
			f.note(f.sequence+2, res.Revision)
			return f.again(group, cause)
		default:
			return f.settled(group, res, cause)
		}
	}
}

// settled reads the answer of a failed rewrite of the flight key.
func (f *flights) settled(group []*request, res Result, cause error) []*request {
	if err := f.registered(res); err != nil {
		f.err = err
		return refuse(group, err)
	}
	last, at := f.lastFlight(res)
	if at == 0 || last.GetInstance() != f.instance || (last.GetSequence() != f.sequence+1 && last.GetSequence() != f.sequence+2) {
		f.err = f.standing(res)
		return refuse(group, f.err)
	}
	committed := last.GetSequence() == f.sequence+1
	f.note(last.GetSequence(), at)
	if !committed { // an earlier attempt to settle was carried out
		return f.again(group, cause)
	}
	responses := make([]Response, len(group))
	for i, r := range group {
		responses[i].Result = r.testimony(res.Responses[3+i].Result, at) // behind those of guarded
	}
	return land(group, at, responses)
}

// again lets those fly once more whose flight never commits and whose caller
// still waits.
func (f *flights) again(group []*request, cause error) []*request {
	var next []*request
	for _, r := range group {
		r.setAloft(false)
		if r.flown < maxFlights {
			next = append(next, r)
			continue
		}
		r.land(answer{err: fmt.Errorf("%s: %w", r.what, cause)})
	}
	f.waiting = append(next, f.waiting...)
	return nil
}

// registered tells from the answer of failed guards whether the node still is.
func (f *flights) registered(res Result) error {
	if kvs := res.Responses[0].KVs; len(kvs) == 1 && kvs[0].CreateRevision == f.registration {
		return nil
	}
	return unregistered(f.node)
}

// standing says why the guards of a flight with a known outcome failed. The
// revisions of a key only grow, and only its node's removal deletes the flight
// key: one that is older than this session has left it was restored. So was a key
// claimed that is older than this node has seen it.
func (f *flights) standing(res Result) error {
	if err := f.registered(res); err != nil {
		return err
	}
	if kvs := res.Responses[1].KVs; len(kvs) == 0 || kvs[0].ModRevision < f.mod {
		return forgotten(f.node)
	}
	if kvs := res.Responses[2].KVs; f.least > 0 && (len(kvs) == 0 || kvs[0].ModRevision < f.least) {
		return overspan.Errorf(overspan.ErrFenced, "node %s: a claim that it has heard of is gone from etcd: %w", overspan.ShortID(f.node), ErrForgotten)
	}
	last, _ := f.lastFlight(res)
	return overspan.Errorf(overspan.ErrFenced,
		"node %s: instance %q has written as this node: another agent uses its id", overspan.ShortID(f.node), last.GetInstance())
}

// unregistered is how a session of a node ends that was removed.
func unregistered(node overspan.NodeID) error {
	return overspan.Errorf(overspan.ErrFenced, "registration of node %s is gone: the node was removed from the cluster", overspan.ShortID(node))
}

// forgotten is how a session of a node ends whose last flight etcd does not know.
func forgotten(node overspan.NodeID) error {
	return overspan.Errorf(overspan.ErrFenced, "node %s: its last transaction is gone from etcd: %w", overspan.ShortID(node), ErrForgotten)
}

// lastFlight reads the flight key from the answer of failed guards, and its
// mod-revision; 0 if there is none that can be read.
func (f *flights) lastFlight(res Result) (*overspanv1.Flight, int64) {
	kvs := res.Responses[1].KVs
	if len(kvs) != 1 {
		return nil, 0
	}
	var last overspanv1.Flight
	if err := Unmarshal(kvs[0].Value, &last); err != nil {
		return nil, 0
	}
	return &last, kvs[0].ModRevision
}

func (f *flights) setTrouble(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.trouble = err
}

// noAnswer is what a caller is told who waited in vain.
func (f *flights) noAnswer(ctx context.Context, r *request) error {
	cause := f.stuck()
	if cause == nil {
		cause = unreachable(f.kv.Endpoints(), reasonSilent, ctx.Err())
	}
	return r.unanswered(cause)
}

// stuck returns why the flight in the air has no outcome yet; nil if all is
// well.
func (f *flights) stuck() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.trouble
}

func (f *flights) closed(r *request) error {
	if f.err != nil {
		return f.err
	}
	return r.unanswered(errShutdown)
}

// refused reports whether an error of a transaction is etcd's answer: it was
// not carried out. Of any other error that is not known.
func refused(err error) bool {
	for _, class := range []error{overspan.ErrInvalid, overspan.ErrDenied, overspan.ErrNotFound} {
		if errors.Is(err, class) {
			return true
		}
	}
	return false
}

// insist does what nobody waits for until etcd has answered, or ctx ends.
func insist(ctx context.Context, do func() error) error {
	for attempt := 0; ; attempt++ {
		err := do()
		if !errors.Is(err, overspan.ErrUnavailable) || pause(ctx, firstPause, attempt) != nil {
			return err
		}
	}
}

// pause waits before one more attempt: first, doubled n times, at most a second,
// give or take a half, so that many nodes do not come back at once.
func pause(ctx context.Context, first time.Duration, n int) error {
	wait := min(first<<min(n, 10), time.Second)
	timer := time.NewTimer(wait/2 + rand.N(wait))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
