package reconcile

import (
	"cmp"
	"maps"
	"slices"
	"sync"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/await"
	"github.com/overspan/overspan/kernel"
)

// dirtySet collects what somebody should look at again, until the reconciler
// takes all of it at once.
type dirtySet struct {
	ready chan struct{} // size 1: something is in the set

	mu       sync.Mutex // guards all below
	all      bool
	global   bool
	cause    string
	networks map[overspan.NetworkID]bool // true: look at all of it, for more than its plan may have changed
	ends     map[overspan.EndpointID]kernel.EndpointKey
	chains   map[kernel.ChainKey]struct{}
	sets     map[string]struct{}
}

func newDirtySet() *dirtySet {
	d := &dirtySet{ready: make(chan struct{}, 1)}
	d.reset()
	return d
}

func (d *dirtySet) reset() {
	d.all, d.global, d.cause = false, false, CauseHint
	d.networks = map[overspan.NetworkID]bool{}
	d.ends = map[overspan.EndpointID]kernel.EndpointKey{}
	d.chains = map[kernel.ChainKey]struct{}{}
	d.sets = map[string]struct{}{}
}

func (d *dirtySet) empty() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.all && !d.global && len(d.networks)+len(d.ends)+len(d.chains)+len(d.sets) == 0
}

// mark adds a scope. A change outweighs a hint as the cause.
func (d *dirtySet) mark(scope kernel.Scope, cause string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all = d.all || scope.All
	d.global = d.global || scope.Global
	for _, id := range scope.Networks {
		d.networks[id] = d.networks[id] || cause != CauseChange
	}
	for _, key := range scope.Endpoints {
		// Who wants to see the container's end, too, is heard.
		if d.ends[key.Endpoint].Netns == "" {
			d.ends[key.Endpoint] = key
		}
	}
	for _, key := range scope.Chains {
		d.chains[key] = struct{}{}
	}
	for _, name := range scope.Sets {
		d.sets[name] = struct{}{}
	}
	if cause != CauseHint {
		d.cause = cause
	}
	await.Wake(d.ready)
}

// take returns the whole set as one scope, and empties it; some is false if
// nothing was in it. Of the networks in changed only the plan may have changed.
func (d *dirtySet) take() (scope kernel.Scope, changed []overspan.NetworkID, cause string, some bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	scope, cause = kernel.Scope{All: d.all, Global: d.global || d.all}, d.cause
	for id, whole := range d.networks {
		scope.Networks = append(scope.Networks, id)
		if !whole {
			changed = append(changed, id)
		}
	}
	// Also those of whole networks: only so their containers' ends are read.
	scope.Endpoints = slices.AppendSeq(scope.Endpoints, maps.Values(d.ends))
	scope.Chains = slices.AppendSeq(scope.Chains, maps.Keys(d.chains))
	scope.Sets = slices.Sorted(maps.Keys(d.sets))
	slices.Sort(scope.Networks)
	slices.SortFunc(scope.Endpoints, func(a, b kernel.EndpointKey) int {
		return cmp.Compare(a.Endpoint, b.Endpoint)
	})
	some = scope.Global || len(scope.Networks)+len(scope.Endpoints)+len(scope.Chains)+len(scope.Sets) > 0
	d.reset()
	return scope, changed, cause, some
}
