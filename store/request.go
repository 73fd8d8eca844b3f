package store

import (
	"context"
	"slices"
	"sync"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/internal/steps"
)

// A request is a transaction that waits for its flight. It succeeds or fails
// alone, whoever flies with it.
type request struct {
	step steps.Flight // names the moments around it
	what string       // for errors: "attach web1 to network demo"

	// txn is what is to be done under which guards, beside those of the flight,
	// and besides the witness.
	txn Txn

	// witness is done together with txn. After the loss of an answer, what stands
	// at its key tells whether the request was carried out: so it is of a key that
	// nobody else writes under the same guards. What others do there later, such as
	// answering a want, makes it look as if it was not: who is told that looks again.
	witness Op

	// shared says that the request may fly with others that write other keys:
	// attaches and detaches, of which no two can break each other's guards.
	shared bool

	// undo takes back what was done at a revision when the caller had given up;
	// nil where nothing needs to be.
	undo func(ctx context.Context, revision int64)

	// look names the command that shows a user what has become of it, where that
	// is for good and the answer was not awaited: "ctl node ls".
	look string

	flown    int   // how often it took off; the flights' owner counts
	revision int64 // at which it was carried out, known before undo is called
	done     chan answer

	mu       sync.Mutex // guards all below
	gone     bool
	answered bool
	aloft    bool // sent, and not settled
}

// An answer is the outcome of a request.
type answer struct {
	res Result
	err error
}

// setAloft notes whether the request is in the air.
func (r *request) setAloft(is bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.aloft = is
}

// unanswered is the error of a request whose outcome nobody waits for any more.
func (r *request) unanswered(cause error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.aloft && r.look != "" {
		return overspan.Errorf(overspan.ErrUnavailable, "%s: %w; it may be carried out all the same: see %s", r.what, cause, r.look)
	}
	return overspan.Errorf(overspan.ErrUnavailable, "%s: %w", r.what, cause)
}

// giveUp makes the caller forget the request, unless the answer is there.
func (r *request) giveUp() (a answer, answered bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.answered {
		return <-r.done, true
	}
	r.gone = true
	return answer{}, false
}

// land answers the request; false if its caller has given up.
func (r *request) land(a answer) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.gone {
		return false
	}
	r.answered = true
	r.done <- a // holds one
	return true
}

func (r *request) isGone() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.gone
}

// whole returns the transaction with its witness.
func (r *request) whole() Txn {
	t := r.txn
	t.Then = append([]Op{r.witness}, t.Then...)
	return t
}

// question returns a transaction that asks whether the request was carried out, and
// for what its caller wants to know if it was not.
func (r *request) question() Txn {
	return Txn{Then: append([]Op{Get(r.witness.Range)}, r.txn.Else...)}
}

// testimony is the answer to question of a flight that committed at a revision.
func (r *request) testimony(res *Result, at int64) *Result {
	now := res.Responses[0].KVs
	done := !slices.ContainsFunc(now, func(kv KeyValue) bool { return kv.CreateRevision <= at })
	if r.witness.Kind == OpPut {
		done = len(now) == 1 && (now[0].ModRevision == at || now[0].CreateRevision == at)
	}
	return &Result{OK: done, Responses: res.Responses[1:]}
}

// writes returns the keys that the request puts or deletes.
func (r *request) writes() []string {
	var keys []string
	for _, op := range r.whole().Then {
		keys = append(keys, op.Range.Key)
	}
	return keys
}

// board chooses who flies next: the first who waits, and if it may share, all
// who may too and write other keys. Of two that write one key the earlier goes
// first. Those whose caller has given up are left out of both.
func board(waiting []*request) (group, rest []*request) {
	taken := make(map[string]struct{})
	for _, r := range waiting {
		switch {
		case r.isGone():
		case len(group) == 0:
			group = append(group, r)
			reserve(taken, r)
		case group[0].shared && r.shared && len(group) < maxGroup && reserve(taken, r):
			group = append(group, r)
		default:
			rest = append(rest, r)
			reserve(taken, r)
		}
	}
	return group, rest
}

// reserve takes the keys of a request; false if one was taken before.
func reserve(taken map[string]struct{}, r *request) bool {
	free := true
	for _, key := range r.writes() {
		if _, was := taken[key]; was {
			free = false
		}
		taken[key] = struct{}{}
	}
	return free
}

// land gives each of a group its result. It returns those that were carried out
// though their caller had given up.
func land(group []*request, revision int64, responses []Response) []*request {
	var orphans []*request
	for i, r := range group {
		res := *responses[i].Result
		res.Revision = revision
		if !r.land(answer{res: res}) && res.OK {
			r.revision = revision
			orphans = append(orphans, r)
		}
	}
	return orphans
}

// refuse gives the whole group one error.
func refuse(group []*request, err error) []*request {
	for _, r := range group {
		r.land(answer{err: err})
	}
	return nil
}
