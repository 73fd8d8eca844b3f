package dns

import (
	"slices"
	"strings"
	"sync"

	"github.com/overspan/overspan"
)

// An index finds a network's endpoints by what they are called. It follows the
// network's interior by what differs between two snapshots, so that a change
// costs the same however many endpoints there are.
type index struct {
	mu    sync.RWMutex // guards all below
	at    overspan.SlotMap[*overspan.Endpoint]
	names map[string][]*overspan.Endpoint // by name in lower case
}

func newIndex() *index { return &index{names: map[string][]*overspan.Endpoint{}} }

// bearers returns who bears a name, given in lower case, in a network's
// interior. Nobody changes the list.
func (x *index) bearers(endpoints overspan.SlotMap[*overspan.Endpoint], name string) []*overspan.Endpoint {
	x.mu.RLock()
	if x.at == endpoints {
		defer x.mu.RUnlock()
		return x.names[name]
	}
	x.mu.RUnlock()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.follow(endpoints)
	return x.names[name]
}

// follow brings the index to a network's interior. The caller holds mu.
func (x *index) follow(endpoints overspan.SlotMap[*overspan.Endpoint]) {
	for slot := range endpoints.Changes(x.at) {
		// An endpoint with two slots has a record at each; it counts once.
		if old := x.at.Get(slot); old != nil && old.Slot == slot {
			x.drop(old)
		}
		if e := endpoints.Get(slot); e != nil && e.Slot == slot {
			x.add(e)
		}
	}
	x.at = endpoints
}

func (x *index) add(e *overspan.Endpoint) {
	for _, name := range namesOf(e) {
		x.names[name] = append(slices.Clip(x.names[name]), e)
	}
}

func (x *index) drop(e *overspan.Endpoint) {
	for _, name := range namesOf(e) {
		rest := slices.DeleteFunc(slices.Clone(x.names[name]), func(o *overspan.Endpoint) bool { return o == e })
		if len(rest) == 0 {
			delete(x.names, name)
		} else {
			x.names[name] = rest
		}
	}
}

// namesOf returns what an endpoint is called, in lower case and each once: its
// name, its aliases and the first digits of its id.
func namesOf(e *overspan.Endpoint) []string {
	out := []string{strings.ToLower(e.Name), overspan.ShortID(e.ID)}
	for _, alias := range e.Aliases {
		if alias = strings.ToLower(alias); !slices.Contains(out, alias) {
			out = append(out, alias)
		}
	}
	return out
}
