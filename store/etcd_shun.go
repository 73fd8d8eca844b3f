package store

import (
	"context"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// surveyEvery is how long it takes to the next look at the members while one of
// them is shunned.
const surveyEvery = time.Second

// A member that hangs answers nothing and closes nothing. gRPC finds that out
// after 13 s: until then every third request to three members would be lost, and
// the watches that it serves be silent. So the first call without an answer
// leads to a look at all of them, and only those are used that answer and have a
// leader, until all do again.

// doubt has the members looked at.
func (e *Etcd) doubt() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.endpoints) < 2 || e.client == nil || e.doubting || e.ctx.Err() != nil {
		return
	}
	e.doubting = true
	e.wg.Go(e.survey)
}

// survey looks at the members until none is to be shunned, or ctx ends.
func (e *Etcd) survey() {
	timer := time.NewTimer(surveyEvery)
	defer timer.Stop()
	for {
		healthy := e.healthy()
		over := len(healthy) == len(e.endpoints)
		if len(healthy) == 0 { // all are away: whoever comes back first is welcome
			healthy = e.endpoints
		}
		e.use(healthy, over)
		if over {
			return
		}
		timer.Reset(surveyEvery)
		select {
		case <-timer.C:
		case <-e.ctx.Done():
			return
		}
	}
}

// healthy returns the endpoints of the members that serve.
func (e *Etcd) healthy() []string {
	// One that takes longer is left for those that do not: requests queue behind it.
	ctx, cancel := context.WithTimeout(e.ctx, patience)
	defer cancel()
	var out []string
	for _, m := range e.Members(ctx) {
		if m.Err == nil {
			out = append(out, m.Endpoint)
		}
	}
	return out
}

// use lets the client ask some endpoints only. Where it leaves one that it had,
// the streams that may be there are begun anew elsewhere. Over says that there is
// no more doubt.
func (e *Etcd) use(endpoints []string, over bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.doubting = !over
	if e.client == nil || slices.Equal(endpoints, e.client.Endpoints()) {
		return
	}
	left := slices.ContainsFunc(e.client.Endpoints(), func(had string) bool { return !slices.Contains(endpoints, had) })
	e.client.SetEndpoints(endpoints...)
	if left {
		close(e.turned)
		e.turned = make(chan struct{})
	}
}

// turn returns the channel that is closed when the client leaves a member.
func (e *Etcd) turn() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.turned
}

// untilTurn returns a context that also ends when the client leaves a member.
func (e *Etcd) untilTurn(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	turned := e.turn()
	e.wg.Go(func() {
		select {
		case <-turned:
			cancel()
		case <-ctx.Done():
		}
	})
	return ctx, cancel
}

// shuns reports whether the client leaves out a member.
func (e *Etcd) shuns(client *clientv3.Client) bool { return len(client.Endpoints()) < len(e.endpoints) }
