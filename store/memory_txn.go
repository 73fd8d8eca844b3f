package store

import (
	"bytes"
	"context"

	"github.com/overspan/overspan"
)

// maxTxnOps is etcd's default --max-txn-ops: compares and ops of a transaction,
// the longest branch counted, together with those of the ones nested in it.
const maxTxnOps = 128

// Txn implements KV.
func (m *Memory) Txn(ctx context.Context, t Txn) (Result, error) {
	if err := alive(ctx, "transaction"); err != nil {
		return Result{}, err
	}
	if err := checkSize(t, maxTxnOps); err != nil {
		return Result{}, err
	}
	for _, branch := range [][]Op{t.Then, t.Else} {
		if _, _, err := checkOverlap(branch); err != nil {
			return Result{}, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	path := m.decide(t)
	if err := m.checkLeases(path); err != nil {
		return Result{}, err
	}
	w := m.begin()
	res := w.run(path)
	w.commit()
	m.stamp(&res)
	return res, nil
}

// checkSize refuses what etcd's server refuses by --max-txn-ops, and empty keys.
func checkSize(t Txn, limit int) error {
	n := max(len(t.If), len(t.Then), len(t.Else))
	if n > limit {
		return overspan.Errorf(overspan.ErrInvalid, "too many operations in txn request")
	}
	for _, c := range t.If {
		if c.Key == "" {
			return overspan.Errorf(overspan.ErrInvalid, "key is not provided")
		}
	}
	for _, branch := range [][]Op{t.Then, t.Else} {
		for _, op := range branch {
			if op.Kind == OpTxn {
				if err := checkSize(*op.Txn, limit-n); err != nil {
					return err
				}
				continue
			}
			if op.Range.Key == "" {
				return overspan.Errorf(overspan.ErrInvalid, "key is not provided")
			}
		}
	}
	return nil
}

// checkOverlap refuses a branch that puts a key twice or puts and deletes one,
// in itself and in what is nested in it. Two branches of one nested
// transaction exclude each other and may share keys. The order of the checks
// is etcd's: a nested put is not compared with a delete nested after it.
func checkOverlap(branch []Op) (puts map[string]struct{}, deletes []KeyRange, err error) {
	puts = map[string]struct{}{}
	for _, op := range branch {
		if op.Kind == OpDelete {
			deletes = append(deletes, op.Range)
		}
	}
	for _, op := range branch {
		if op.Kind != OpTxn {
			continue
		}
		thenPuts, thenDeletes, err := checkOverlap(op.Txn.Then)
		if err != nil {
			return nil, nil, err
		}
		elsePuts, elseDeletes, err := checkOverlap(op.Txn.Else)
		if err != nil {
			return nil, nil, err
		}
		for key := range elsePuts {
			thenPuts[key] = struct{}{}
		}
		for key := range thenPuts {
			if err := addPut(puts, deletes, key); err != nil {
				return nil, nil, err
			}
		}
		deletes = append(append(deletes, thenDeletes...), elseDeletes...)
	}
	for _, op := range branch {
		if op.Kind == OpPut {
			if err := addPut(puts, deletes, op.Range.Key); err != nil {
				return nil, nil, err
			}
		}
	}
	return puts, deletes, nil
}

func addPut(puts map[string]struct{}, deletes []KeyRange, key string) error {
	_, twice := puts[key]
	for _, d := range deletes {
		twice = twice || d.contains(key)
	}
	if twice {
		return overspan.Errorf(overspan.ErrInvalid, "duplicate key given in txn request: %s", key)
	}
	puts[key] = struct{}{}
	return nil
}

// A path is a transaction whose compares were decided, with those nested in
// the branch taken, in their order.
type path struct {
	ok     bool
	branch []Op
	nested []path
}

// decide evaluates all compares on the state as it is; mu is held.
func (m *Memory) decide(t Txn) path {
	p := path{ok: true, branch: t.Then}
	for _, c := range t.If {
		p.ok = p.ok && m.holds(c)
	}
	if !p.ok {
		p.branch = t.Else
	}
	for _, op := range p.branch {
		if op.Kind == OpTxn {
			p.nested = append(p.nested, m.decide(*op.Txn))
		}
	}
	return p
}

// holds evaluates a compare, key by key; a range without keys counts as one
// of revision 0.
func (m *Memory) holds(c Cmp) bool {
	kvs := within(m.state, c.KeyRange)
	if len(kvs) == 0 {
		kvs = []KeyValue{{}}
	}
	for _, kv := range kvs {
		rev := kv.CreateRevision
		if c.Field == FieldMod {
			rev = kv.ModRevision
		}
		if rev != c.Rev && !(c.AtLeast && rev > c.Rev) {
			return false
		}
	}
	return true
}

// checkLeases refuses puts under leases that are gone.
func (m *Memory) checkLeases(p path) error {
	for _, op := range p.branch {
		if op.Kind == OpPut && op.Lease != 0 && m.leases[op.Lease] == nil {
			return errNoLease(op.Lease)
		}
	}
	for _, n := range p.nested {
		if err := m.checkLeases(n); err != nil {
			return err
		}
	}
	return nil
}

// A writing collects the events of the revision that comes next; mu is held
// from begin to commit.
type writing struct {
	m        *Memory
	revision int64
	logged   int
}

func (m *Memory) begin() writing {
	return writing{m: m, revision: m.revision + 1, logged: len(m.log)}
}

// commit ends the revision if anything was written, and tells the watches.
func (w writing) commit() {
	if len(w.m.log) > w.logged {
		w.m.revision = w.revision
		w.m.notify()
	}
}

func (w writing) event(e Event) {
	e.ModRevision = w.revision
	w.m.log = append(w.m.log, e)
	e.apply(w.m.state)
}

func (w writing) run(p path) Result {
	res := Result{OK: p.ok}
	nested := p.nested
	for _, op := range p.branch {
		var r Response
		switch op.Kind {
		case OpGet:
			r.KVs = within(w.m.state, op.Range)
		case OpPut:
			w.put(op)
		case OpDelete:
			r.Deleted = w.delete(op.Range)
		case OpTxn:
			inner := w.run(nested[0])
			r.Result, nested = &inner, nested[1:]
		}
		res.Responses = append(res.Responses, r)
	}
	return res
}

func (w writing) put(op Op) {
	kv := KeyValue{Key: op.Range.Key, Value: bytes.Clone(op.Value), CreateRevision: w.revision, Lease: op.Lease}
	if old, ok := w.m.state[kv.Key]; ok {
		kv.CreateRevision = old.CreateRevision
	}
	w.event(Event{KeyValue: kv})
}

func (w writing) delete(r KeyRange) int64 {
	gone := within(w.m.state, r)
	for _, kv := range gone {
		w.event(Event{Deleted: true, KeyValue: KeyValue{Key: kv.Key}})
	}
	return int64(len(gone))
}

// stamp fills in what the results of all levels share.
func (m *Memory) stamp(res *Result) {
	res.Revision, res.ClusterID = m.revision, m.cluster
	for _, r := range res.Responses {
		if r.Result != nil {
			m.stamp(r.Result)
		}
	}
}
