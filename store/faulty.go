package store

import (
	"context"
	"errors"
	"sync"
	"time"
)

// errInjected is the cause that a fault made by Faulty gives.
var errInjected = errors.New("injected fault")

// A TxnFault is what happens to a transaction on its way.
type TxnFault int

// The faults of a transaction. All but the first have an unknown outcome for
// the caller.
const (
	TxnPasses     TxnFault = iota
	TxnLost                // never reaches the server
	TxnUnanswered          // commits; the answer is lost
	TxnHangs               // never reaches the server; no answer before ctx ends
	TxnLate                // fails at once; commits when Deliver is called
)

// Faulty is a KV over another one whose faults a test chooses: what stands
// between one agent and its etcd.
type Faulty struct {
	KV

	mu     sync.Mutex // guards all fields below
	down   bool
	faults []TxnFault
	late   []Txn
	drops  map[chan error]struct{} // one of each running watch
}

// NewFaulty returns a Faulty without any fault.
func NewFaulty(kv KV) *Faulty {
	return &Faulty{KV: kv, drops: map[chan error]struct{}{}}
}

// SetDown makes every call fail with overspan.ErrUnavailable, and every running
// watch end so, until it is set back. Leases are not kept alive meanwhile, but
// lost only when somebody expires them.
func (f *Faulty) SetDown(down bool) {
	f.mu.Lock()
	f.down = down
	f.mu.Unlock()
	if down {
		f.DropWatches(f.reachable())
	}
}

// InjectTxn lets the transactions that come next suffer these faults, one each.
func (f *Faulty) InjectTxn(faults ...TxnFault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = append(f.faults, faults...)
}

// Outstanding returns how many injected faults no transaction has suffered yet.
func (f *Faulty) Outstanding() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.faults)
}

// Deliver carries out the transactions that are late, in their order, and
// returns what came of them.
func (f *Faulty) Deliver(ctx context.Context) ([]Result, error) {
	f.mu.Lock()
	late := f.late
	f.late = nil
	f.mu.Unlock()
	var out []Result
	for _, t := range late {
		res, err := f.KV.Txn(ctx, t)
		if err != nil {
			return out, err
		}
		out = append(out, res)
	}
	return out, nil
}

// DropWatches ends every running watch with an error.
func (f *Faulty) DropWatches(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for drop := range f.drops {
		drop <- err // holds one; the watch is forgotten with it
		delete(f.drops, drop)
	}
}

func (f *Faulty) reachable() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.outage()
}

// outage is reachable; mu is held.
func (f *Faulty) outage() error {
	if f.down {
		return unreachable(f.Endpoints(), errInjected.Error(), errInjected)
	}
	return nil
}

// Txn implements KV.
func (f *Faulty) Txn(ctx context.Context, t Txn) (Result, error) {
	if err := f.reachable(); err != nil {
		return Result{}, err
	}
	f.mu.Lock()
	fault := TxnPasses
	if len(f.faults) > 0 {
		fault, f.faults = f.faults[0], f.faults[1:]
	}
	if fault == TxnLate {
		f.late = append(f.late, t)
	}
	f.mu.Unlock()

	cause := errInjected
	switch fault {
	case TxnPasses:
		return f.KV.Txn(ctx, t)
	case TxnUnanswered:
		if _, err := f.KV.Txn(ctx, t); err != nil {
			return Result{}, err
		}
	case TxnHangs:
		<-ctx.Done()
		cause = ctx.Err()
	}
	return Result{}, unreachable(f.Endpoints(), cause.Error(), cause)
}

// List implements KV.
func (f *Faulty) List(ctx context.Context, r KeyRange, rev int64) (Listing, error) {
	if err := f.reachable(); err != nil {
		return Listing{}, err
	}
	return f.KV.List(ctx, r, rev)
}

// Watch implements KV.
func (f *Faulty) Watch(ctx context.Context, r KeyRange, after int64) <-chan Batch {
	out := make(chan Batch)
	drop := make(chan error, 1)
	f.mu.Lock()
	if err := f.outage(); err != nil {
		drop <- err
	} else {
		f.drops[drop] = struct{}{}
	}
	f.mu.Unlock()
	go func() { // ends with ctx, as the contract of Watch has it
		defer close(out)
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		in := f.KV.Watch(ctx, r, after)
		send := func(b Batch) bool {
			select {
			case out <- b:
				return b.Err == nil
			case <-ctx.Done():
				return false
			}
		}
		for {
			select {
			case err := <-drop:
				send(Batch{Err: err})
				return
			case b, ok := <-in:
				if !ok || !send(b) {
					f.mu.Lock()
					delete(f.drops, drop)
					f.mu.Unlock()
					return
				}
			}
		}
	}()
	return out
}

// Progress implements KV.
func (f *Faulty) Progress(ctx context.Context) error {
	if err := f.reachable(); err != nil {
		return err
	}
	return f.KV.Progress(ctx)
}

// Grant implements KV.
func (f *Faulty) Grant(ctx context.Context, ttl time.Duration) (LeaseID, error) {
	if err := f.reachable(); err != nil {
		return 0, err
	}
	return f.KV.Grant(ctx, ttl)
}

// KeepAlive implements KV.
func (f *Faulty) KeepAlive(ctx context.Context, id LeaseID) (<-chan struct{}, error) {
	if err := f.reachable(); err != nil {
		return nil, err
	}
	return f.KV.KeepAlive(ctx, id)
}

// Revoke implements KV.
func (f *Faulty) Revoke(ctx context.Context, id LeaseID) error {
	if err := f.reachable(); err != nil {
		return err
	}
	return f.KV.Revoke(ctx, id)
}
