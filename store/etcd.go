package store

import (
	"context"
	"errors"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// pageSize is how many keys a List reads at once.
const pageSize = 5000

// redialPause is how long the error of a dial answers for the next ones, so
// that many callers do not wait for one after the other.
const redialPause = time.Second

// Etcd is the real KV: etcd through its client. It is safe for concurrent use.
type Etcd struct {
	endpoints []string
	dial      func(context.Context) (*clientv3.Client, error)
	timeout   time.Duration // of each call

	ctx    context.Context // ends at Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // watches, keepalives and the look at the members

	doubts chan struct{} // size 1: there was reason for another look at the members

	mu         sync.Mutex // guards all fields below
	client     *clientv3.Client
	watched    map[string]int // how many watches there are of the range from this key on
	dialErr    error          // of the last dial
	redialAt   time.Time      // until then dialErr answers for the next dial
	doubting   bool           // the members are looked at
	memberLeft chan struct{}  // closed, and made anew, when the client leaves a member
}

func newEtcd(endpoints []string, dial func(context.Context) (*clientv3.Client, error)) *Etcd {
	e := &Etcd{endpoints: endpoints, dial: dial, timeout: callTimeout, watched: map[string]int{}, memberLeft: make(chan struct{}), doubts: make(chan struct{}, 1)}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	return e
}

// NewEtcd returns a KV over a client that is there already, such as the one
// inside an embedded server. It closes the client at Close. The endpoints are
// named in errors and by Members.
func NewEtcd(client *clientv3.Client, endpoints []string) *Etcd {
	e := newEtcd(endpoints, nil)
	e.client = client
	return e
}

// Close implements KV.
func (e *Etcd) Close() error {
	e.cancel()
	e.mu.Lock()
	client := e.client
	e.client = nil
	e.mu.Unlock()
	var err error
	if client != nil {
		if err = client.Close(); errors.Is(err, context.Canceled) {
			err = nil // what an in-process client says of its own end
		}
	}
	e.wg.Wait()
	return err
}

// Txn implements KV. One that only reads is tried again where a member or its
// leader goes, or hangs: nothing can have happened that must not happen twice.
func (e *Etcd) Txn(ctx context.Context, t Txn) (Result, error) {
	client, err := e.connect(ctx)
	if err != nil {
		return Result{}, e.fault("transaction", err)
	}
	ctx, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	send := func(ctx context.Context) (*clientv3.TxnResponse, error) {
		return client.Txn(ctx).If(cmps(t.If)...).Then(ops(t.Then)...).Else(ops(t.Else)...).Commit()
	}
	var resp *clientv3.TxnResponse
	if t.writes() {
		resp, err = send(ctx)
	} else {
		resp, err = insistOn(ctx, e, send)
	}
	if err != nil {
		return Result{}, e.fault("transaction", err)
	}
	return result(resp, resp.Header.Revision, resp.Header.ClusterId), nil
}

// insistOn asks what only reads until a member of etcd has answered, or ctx
// ends. Each time it waits longer: the cluster as a whole may be slow.
func insistOn[T any](ctx context.Context, e *Etcd, ask func(context.Context) (T, error)) (T, error) {
	for attempt := 0; ; attempt++ {
		resp, err := askOne(ctx, e.patience()<<min(attempt, 2), ask)
		hung := unanswered(err)
		if hung {
			e.doubt()
		} else {
			e.doubtRefusal(err)
		}
		if err == nil || !passing(err) && !hung || pause(ctx, firstPause, attempt) != nil {
			return resp, err
		}
	}
}

// unanswered reports whether an error is that nothing was heard in time.
func unanswered(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || status.Code(err) == codes.DeadlineExceeded
}

func askOne[T any](ctx context.Context, within time.Duration, ask func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	return ask(ctx)
}

// patience is how long one member is waited for: the client asks them in turn.
func (e *Etcd) patience() time.Duration {
	if len(e.endpoints) > 1 {
		return patience
	}
	return e.timeout
}

// List implements KV.
func (e *Etcd) List(ctx context.Context, r KeyRange, rev int64) (Listing, error) {
	out := Listing{Revision: rev}
	opts := []clientv3.OpOption{clientv3.WithLimit(pageSize)}
	if r.End != "" {
		opts = append(opts, clientv3.WithRange(r.End))
	}
	for key := r.Key; ; {
		resp, err := e.page(ctx, key, append(opts, clientv3.WithRev(out.Revision))...)
		if err != nil {
			return Listing{}, e.fault("list "+r.Key, err)
		}
		out.ClusterID = resp.Header.ClusterId
		if out.Revision == 0 {
			out.Revision = resp.Header.Revision
		}
		for _, kv := range resp.Kvs {
			out.KVs = append(out.KVs, keyValue(kv))
		}
		if !resp.More || len(resp.Kvs) == 0 {
			return out, nil
		}
		key = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

func (e *Etcd) page(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	client, err := e.connect(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	return insistOn(ctx, e, func(ctx context.Context) (*clientv3.GetResponse, error) { return client.Get(ctx, key, opts...) })
}
