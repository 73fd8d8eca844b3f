package e2e

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/overspan/overspan/e2e/lab"
)

// An agent takes about a second to follow etcd again once that takes what is
// written: 1.1 s half of the time, 1.9 s at most, on two processors that do something
// else as well. With the race detector it is slower: half of them may take followHalf at
// most. All must be as it was, on all of them, within wellWithin.
const (
	followHalf = 4 * time.Second
	wellWithin = 15 * time.Second
)

// stampede is how many requests an agent may send when etcd is back, until all
// is as it was: it lists what it watches once, registers, and tells what it had
// put off. To a server that was hung come those that were sent meanwhile, about
// one a second and connection. rush is how many of them may come in one second.
const (
	stampede = 200
	rush     = 100
)

// checkFollowed compares how long agents took to follow etcd again with what is
// promised.
func checkFollowed(t *testing.T, took []time.Duration) {
	t.Helper()
	if len(took) == 0 {
		return // each has failed by itself
	}
	slices.Sort(took)
	half := took[len(took)/2]
	t.Logf("of %d times agents followed etcd again within %s half of the time, within %s always", len(took), half, took[len(took)-1])
	if half > followHalf*lab.Patience {
		t.Errorf("half of the times agents took longer than %s to follow etcd again; want at most %s", half, followHalf*lab.Patience)
	}
}

// returns has etcd come back, of whose requests some are known from before it
// left, and watches what the agents make of it from the first moment on. It
// returns how long each took to follow.
func (a *absence) returns(before map[string]int) []time.Duration {
	a.t.Helper()
	ctx, cancel := context.WithCancel(a.t.Context())
	defer cancel()
	client, err := a.Etcd.Client() // not made while etcd starts
	a.must(err)
	c := newCounts(ctx, a.Etcd, before)
	var all errgroup.Group
	all.Go(func() error { return c.watch(ctx) })
	all.Go(func() error { return a.back(a.t.Context(), a.Etcd) })
	a.eventually(startWithin, func(ctx context.Context) error {
		ctx, cancel := lab.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := client.Put(ctx, "/probe", "")
		return err
	})
	took := a.follow()
	a.unchanged(a.t, a.before)
	cancel()
	a.must(all.Wait())
	sum, most := c.count(len(a.Nodes))
	a.t.Logf("etcd had %d requests for each agent until all was well, and in no second more than %d, by %d samples", sum, most, len(c.samples))
	if sum == 0 { // each lists, watches and registers
		a.t.Error("none of etcd's members could be asked in time for the requests that it had")
	}
	if sum > stampede || most > rush {
		a.t.Errorf("each agent sent %d requests when etcd was back, and %d in one second; want at most %d and %d", sum, most, stampede, rush)
	}
	return took
}

// unheard and unwell are what a status says of an agent that does not follow etcd,
// and of one that sees that others do not, or has not told all that it put off.
var (
	unheard = []string{"stale", "unreachable"}
	unwell  = append([]string{"Warning", "Releases", "unhealthy", "down h"}, unheard...)
)

// follow waits until all agents follow etcd again and have told it everything. It
// returns how long each took to follow.
func (a *absence) follow() []time.Duration {
	a.t.Helper()
	back := time.Now()
	heard, well := make([]time.Duration, len(a.Nodes)), make([]time.Duration, len(a.Nodes))
	var all errgroup.Group
	for i, n := range a.Nodes {
		all.Go(func() error {
			return lab.Eventually(a.t.Context(), wellWithin, func(ctx context.Context) error {
				status, err := n.MustCtl(ctx, "status")
				if err != nil {
					return err
				}
				well[i] = time.Since(back).Round(10 * time.Millisecond)
				if heard[i] == 0 && !says(status, unheard) {
					heard[i] = well[i]
				}
				if says(status, unwell) {
					return fmt.Errorf("%s is not well yet:\n%s", n.Name, status)
				}
				return nil
			})
		})
	}
	a.must(all.Wait())
	a.t.Logf("agents followed etcd again after %v, and were well after %v", heard, well)
	return heard
}

// says reports whether a text has any of the words.
func says(text string, words []string) bool {
	return slices.ContainsFunc(words, func(word string) bool { return strings.Contains(text, word) })
}

// countEvery is how often counts looks: reading the metrics of three members costs some
// processor time, too.
const countEvery = time.Second

// counts are what etcd was asked over a time in which its members come and go.
type counts struct {
	etcd    *lab.Etcd
	last    map[string]int // by member: what it counted when it answered last
	samples []sample
}

// A sample says how many requests had come by a time.
type sample struct {
	at  time.Time
	sum int
}

// newCounts begins to count. A member that does not answer now had counted what is
// known of it from before.
func newCounts(ctx context.Context, e *lab.Etcd, before map[string]int) *counts {
	c := &counts{etcd: e, last: maps.Clone(before)}
	maps.Copy(c.last, e.Answered(ctx))
	c.samples = []sample{{at: time.Now()}}
	return c
}

// watch counts until ctx ends.
func (c *counts) watch(ctx context.Context) error {
	again := time.NewTicker(countEvery)
	defer again.Stop()
	for {
		select {
		case <-again.C:
		case <-ctx.Done():
			return nil
		}
		next := sample{time.Now(), c.samples[len(c.samples)-1].sum}
		for member, n := range c.etcd.Answered(ctx) {
			if n >= c.last[member] {
				next.sum += n - c.last[member]
			} else { // it has started anew, and counts from 0
				next.sum += n
			}
			c.last[member] = n
		}
		c.samples = append(c.samples, next)
	}
}

// count returns how many requests came for each agent, and how many at most in one
// second.
func (c *counts) count(agents int) (sum, most int) {
	for i, first := range c.samples {
		for _, later := range c.samples[i:] {
			if later.at.Sub(first.at) <= time.Second+countEvery/2 {
				most = max(most, later.sum-first.sum)
			}
		}
	}
	return c.samples[len(c.samples)-1].sum / agents, most / agents
}
