package daemon

import (
	"cmp"
	"maps"
	"slices"
	"sync"

	"github.com/overspan/overspan"
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
	networks map[overspan.NetworkID]struct{}
	ends     map[overspan.EndpointID]kernel.EndpointKey
}

func newDirtySet() *dirtySet {
	d := &dirtySet{ready: make(chan struct{}, 1)}
	d.reset()
	return d
}

func (d *dirtySet) reset() {
	d.all, d.global, d.cause = false, false, causeHint
	d.networks = map[overspan.NetworkID]struct{}{}
	d.ends = map[overspan.EndpointID]kernel.EndpointKey{}
}

func (d *dirtySet) empty() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.all && !d.global && len(d.networks)+len(d.ends) == 0
}

// mark adds a scope. A change outweighs a hint as the cause.
func (d *dirtySet) mark(scope kernel.Scope, cause string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all = d.all || scope.All
	d.global = d.global || scope.Global
	for _, id := range scope.Networks {
		d.networks[id] = struct{}{}
	}
	for _, key := range scope.Endpoints {
		d.ends[key.Endpoint] = key
	}
	if cause != causeHint {
		d.cause = cause
	}
	select {
	case d.ready <- struct{}{}:
	default:
	}
}

// take returns the whole set as one scope, and empties it; some is false if
// nothing was in it.
func (d *dirtySet) take() (scope kernel.Scope, cause string, some bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	scope, cause = kernel.Scope{All: d.all, Global: d.global || d.all}, d.cause
	for id := range d.networks {
		scope.Networks = append(scope.Networks, id)
	}
	// Also those of whole networks: only so their containers' ends are read.
	scope.Endpoints = slices.AppendSeq(scope.Endpoints, maps.Values(d.ends))
	slices.Sort(scope.Networks)
	slices.SortFunc(scope.Endpoints, func(a, b kernel.EndpointKey) int {
		return cmp.Compare(a.Endpoint, b.Endpoint)
	})
	some = scope.Global || len(scope.Networks)+len(scope.Endpoints) > 0
	d.reset()
	return scope, cause, some
}
