package daemon

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overspan/overspan"
)

// sighting is a snapshot with these nodes: "h1 up", "h2 away since 5", where 5
// is the mod-revision of its registration.
func sighting(nodes map[overspan.NodeID]int64, up ...overspan.NodeID) *overspan.Snapshot {
	s := &overspan.Snapshot{Nodes: map[overspan.NodeID]*overspan.Node{}}
	for id, rev := range nodes {
		s.Nodes[id] = &overspan.Node{ID: id, ModRevision: rev}
	}
	for _, id := range up {
		s.Nodes[id].Presence = &overspan.Presence{}
	}
	return s
}

func TestAbsences(t *testing.T) {
	const every, after = time.Second, 3 * time.Second
	both := map[overspan.NodeID]int64{"h1": 1, "h2": 2}
	away := sighting(both, "h1")
	up := sighting(both, "h1", "h2")
	for _, tt := range []struct {
		name string
		look func(a *absences, at func(seconds float64) time.Time)
		due  bool
	}{
		{"away for long enough", func(a *absences, at func(float64) time.Time) {
			for i := range 4 {
				a.look(at(float64(i)), away, false)
			}
		}, true},
		{"away for too short", func(a *absences, at func(float64) time.Time) {
			for i := range 3 {
				a.look(at(float64(i)), away, false)
			}
		}, false},
		{"seen up once", func(a *absences, at func(float64) time.Time) {
			for i := range 6 {
				s := away
				if i == 3 {
					s = up
				}
				a.look(at(float64(i)), s, false)
			}
		}, false},
		{"registered between two looks", func(a *absences, at func(float64) time.Time) {
			for i := range 3 {
				a.look(at(float64(i)), away, false)
			}
			a.look(at(3), sighting(map[overspan.NodeID]int64{"h1": 1, "h2": 7}, "h1"), false)
		}, false},
		{"this node was blind for a while", func(a *absences, at func(float64) time.Time) {
			a.look(at(0), away, false)
			a.look(at(1), away, false)
			a.look(at(2), away, true)
			a.look(at(60), away, false)
			a.look(at(61), away, false)
		}, false},
		{"what was seen before this node was blind counts", func(a *absences, at func(float64) time.Time) {
			a.look(at(0), away, false)
			a.look(at(2), away, false)
			a.look(at(3), away, true)
			a.look(at(60), away, false)
			a.look(at(61), away, false)
		}, true},
		{"this process was stopped for an hour", func(a *absences, at func(float64) time.Time) {
			a.look(at(0), away, false)
			a.look(at(3600), away, false)
		}, false},
	} {
		a := &absences{every: every}
		tt.look(a, func(seconds float64) time.Time {
			return time.Unix(0, 0).Add(time.Duration(seconds * float64(time.Second)))
		})
		if got := a.due(away, "h1", after); (len(got) == 1) != tt.due {
			t.Errorf("%s: due are %v, want h2: %t", tt.name, got, tt.due)
		}
	}
}

// Of a hundred nodes one is the first to remove another, and the others follow.
func TestAbsencesAreDueOneNodeAfterTheOther(t *testing.T) {
	nodes := map[overspan.NodeID]int64{"dead": 1}
	var up []overspan.NodeID
	for i := range 100 {
		id := overspan.NodeID(fmt.Sprintf("h%d", i))
		nodes[id] = 1
		up = append(up, id)
	}
	s := sighting(nodes, up...)
	due := map[int]int{} // how many nodes find it due after so many looks
	for _, self := range up {
		a := &absences{every: time.Second}
		for i := range 200 {
			a.look(time.Unix(int64(i), 0), s, false)
			if len(a.due(s, self, 10*time.Second)) > 0 {
				due[i]++
				break
			}
		}
	}
	want := map[int]int{}
	for i := range 100 {
		want[10+i] = 1
	}
	if diff := cmp.Diff(want, due); diff != "" {
		t.Errorf("nodes that are due after so many seconds (-want +got):\n%s", diff)
	}
}
