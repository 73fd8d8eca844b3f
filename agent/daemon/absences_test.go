package daemon

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overspan/overspan"
)

// sighting is a snapshot of the nodes that are up and of one that is away.
func sighting(away overspan.NodeID, up ...overspan.NodeID) *overspan.Snapshot {
	s := &overspan.Snapshot{Nodes: map[overspan.NodeID]*overspan.Node{away: {ID: away}}}
	for _, id := range up {
		s.Nodes[id] = &overspan.Node{ID: id, Presence: &overspan.Presence{}}
	}
	return s
}

func TestAbsences(t *testing.T) {
	const every, after = time.Second, 3 * time.Second
	away, drained := sighting("h2", "h1"), sighting("h2", "h1")
	drained.Nodes["h2"].Draining = true
	drained.Nodes["h2"].ModRevision++
	up := sighting("h3", "h1", "h2")
	for _, tt := range []struct {
		name string
		look func(a *absences, at func(seconds float64) time.Time)
		due  bool
	}{
		{"away for long enough", func(a *absences, at func(float64) time.Time) {
			for i := range 4 {
				a.look(at(float64(i)), away)
			}
		}, true},
		{"away for too short", func(a *absences, at func(float64) time.Time) {
			for i := range 3 {
				a.look(at(float64(i)), away)
			}
		}, false},
		{"seen up once", func(a *absences, at func(float64) time.Time) {
			for i := range 6 {
				s := away
				if i == 3 {
					s = up
				}
				a.look(at(float64(i)), s)
			}
		}, false},
		{"up between two looks", func(a *absences, at func(float64) time.Time) {
			for i := range 3 {
				a.look(at(float64(i)), away)
			}
			a.see(up)
			a.see(away)
			a.look(at(3), away)
		}, false},
		{"drained between two looks", func(a *absences, at func(float64) time.Time) {
			for i := range 4 {
				a.look(at(float64(i)), away)
				a.see(drained)
			}
		}, true},
		{"one look was missed", func(a *absences, at func(float64) time.Time) {
			for _, seconds := range []float64{0, 1, 3.1} {
				a.look(at(seconds), away)
			}
		}, true},
		{"maybe up while this node was blind", func(a *absences, at func(float64) time.Time) {
			for _, seconds := range []float64{0, 1, 2, 60, 61} {
				a.look(at(seconds), away)
			}
		}, false},
		{"this process was stopped for an hour", func(a *absences, at func(float64) time.Time) {
			a.look(at(0), away)
			a.look(at(3600), away)
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
	var up []overspan.NodeID
	for i := range 100 {
		up = append(up, overspan.NodeID(fmt.Sprintf("h%d", i)))
	}
	s := sighting("dead", up...)
	due := map[int]int{} // how many nodes find it due after so many looks
	for _, self := range up {
		a := &absences{every: time.Second}
		for i := range 200 {
			a.look(time.Unix(int64(i), 0), s)
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
