package store

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// The pause between two looks at the members while one of them is shunned:
// surveyEvery at first, doubled each time up to surveyMost, or up to surveyAway
// while no member answers.
const (
	surveyEvery = time.Second
	surveyMost  = 16 * time.Second
	surveyAway  = 4 * time.Second
)

// A member that hangs answers nothing and closes nothing. gRPC finds that out
// after 13 s: until then every third request to three members would be lost, and
// the watches that it serves be silent. So the first call without an answer
// leads to a look at all of them, and only those are used that answer and have a
// leader, until all do again.

// doubt has the members looked at, now if it was some time ago.
func (e *Etcd) doubt() {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case len(e.endpoints) < 2 || e.client == nil || e.ctx.Err() != nil:
	case e.doubting:
		poke(e.doubts)
	default:
		e.doubting = true
		e.wg.Go(e.survey)
	}
}

// doubtRefusal has the members looked at if one refuses while others are left out:
// these may serve by now.
func (e *Etcd) doubtRefusal(err error) {
	if !passing(err) {
		return
	}
	e.mu.Lock()
	leavesOut := e.client != nil && e.shuns(e.client)
	e.mu.Unlock()
	if leavesOut {
		e.doubt()
	}
}

// survey looks at the members until none is to be shunned, or ctx ends. A
// thousand agents do so while a member is away, so they do it less and less often
// while nothing happens.
func (e *Etcd) survey() {
	for wait := surveyEvery; ; wait = min(2*wait, surveyMost) {
		healthy := e.healthy()
		over := len(healthy) == len(e.endpoints)
		away := len(healthy) == 0
		if away { // whoever comes back first is welcome
			healthy, wait = e.endpoints, min(wait, surveyAway)
		}
		e.use(healthy, over)
		if over {
			return
		}
		again, err := e.rest(wait, !away)
		switch {
		case err != nil:
			return
		case again:
			wait = surveyEvery / 2 // which is doubled
		}
	}
}

// rest waits for the next look at the members. Where some of them serve, a call
// that one of these does not answer is reason for one sooner: then again is true.
func (e *Etcd) rest(wait time.Duration, some bool) (again bool, err error) {
	timer := time.NewTimer(surveyEvery)
	defer timer.Stop()
	var doubts <-chan struct{}
	for {
		select {
		case <-e.ctx.Done():
			return false, e.ctx.Err()
		case <-doubts:
			return true, nil
		case <-timer.C:
			if wait == 0 {
				return false, nil
			}
			// Agents that began to look together do not go on together.
			timer.Reset(rand.N(wait))
			wait = 0
			if some {
				doubts = e.doubts
			}
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
		close(e.memberLeft)
		e.memberLeft = make(chan struct{})
	}
}

// untilMemberLeft returns a context that also ends when the client leaves a member.
func (e *Etcd) untilMemberLeft(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	e.mu.Lock()
	memberLeft := e.memberLeft
	e.mu.Unlock()
	e.wg.Go(func() {
		select {
		case <-memberLeft:
			cancel()
		case <-ctx.Done():
		}
	})
	return ctx, cancel
}

// shuns reports whether the client leaves out a member.
func (e *Etcd) shuns(client *clientv3.Client) bool { return len(client.Endpoints()) < len(e.endpoints) }
