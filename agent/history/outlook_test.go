package history

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/local"
	"github.com/overspan/overspan/internal/twonodes"
)

// outlookSelf is the node of these tests.
const outlookSelf = overspan.NodeID("h1")

// outlookSnapshot has one network, by which it can be told from others.
func outlookSnapshot(network string, accepted uint64, frozen bool) *overspan.Snapshot {
	s := &overspan.Snapshot{
		Revision: 50,
		Accepted: accepted,
		Nodes:    map[overspan.NodeID]*overspan.Node{outlookSelf: {CreateRevision: 7}},
		Networks: map[overspan.NetworkID]*overspan.Network{overspan.NetworkID(network): {Name: network}},
	}
	if frozen {
		s.Frozen = &overspan.Freeze{NodeName: "h2", Reason: "etcd was emptied", Revision: freezeRevision}
	}
	return s
}

// outlooks returns one of each kind, which knows of one acceptance.
func outlooks() map[string]outlook {
	old := outlookSnapshot("old", 1, false)
	trusting := outlook{newest: old, shown: old, accepted: 1}
	doubting, _ := trusting.doubt(overspan.Freeze{})
	recalling, _ := doubting.take(outlookSnapshot("restored", 1, true), outlookSelf, local.Attachments{})
	return map[string]outlook{
		"waiting":   {saved: outlookSnapshot("saved", 1, false), accepted: 1},
		"trusting":  trusting,
		"doubting":  doubting,
		"recalling": recalling,
	}
}

// kind says which of the four an outlook is.
func (o outlook) kind() string {
	switch {
	case o.newest == nil && o.memory == nil:
		return "waiting"
	case o.memory == nil:
		return "trusting"
	case o.newest == nil:
		return "doubting"
	}
	return "recalling"
}

// tell says in a line what an outlook is, what it shows, and what is to be done.
func (o outlook) tell(do reaction) string {
	out := fmt.Sprintf("%s, %d accepted", o.kind(), o.accepted)
	if o.shown != nil {
		var names []string
		for _, n := range o.shown.Networks {
			names = append(names, n.Name)
		}
		slices.Sort(names)
		out += ", shows " + strings.Join(names, "+")
	}
	if o.held != nil {
		out += ", holds"
	}
	if do.Disown {
		out += "; disown"
	}
	if do.Ask {
		out += "; ask"
	}
	if do.Suspect != "" {
		out += "; suspect: " + do.Suspect
	}
	return out
}

func TestOutlookTakes(t *testing.T) {
	for _, tt := range []struct {
		from, name string
		accepted   uint64
		frozen     bool
		want       string
	}{
		{"waiting", "etcd as it was", 1, false, "trusting, 1 accepted, shows new"},
		{"waiting", "a freeze: the journal is the memory", 1, true, "recalling, 1 accepted, shows new+saved; disown"},
		{"waiting", "an acceptance", 2, false, "trusting, 2 accepted, shows new; disown"},
		{"waiting", "a freeze after an acceptance", 2, true, "recalling, 2 accepted, shows new+saved; disown"},

		{"trusting", "what follows", 1, false, "trusting, 1 accepted, shows new"},
		{"trusting", "a freeze", 1, true, "trusting, 1 accepted, shows old; suspect: node h2 has frozen the cluster: etcd was emptied"},
		{"trusting", "an acceptance", 2, false, "trusting, 1 accepted, shows old; suspect: an operator has accepted what etcd holds, and this node did not see it frozen"},
		{"trusting", "a freeze after an acceptance", 2, true, "trusting, 1 accepted, shows old; suspect: node h2 has frozen the cluster: etcd was emptied"},

		{"doubting", "no freeze any more", 1, false, "trusting, 1 accepted, shows new"},
		{"doubting", "the freeze", 1, true, "recalling, 1 accepted, shows new+old"},
		{"doubting", "an acceptance", 2, false, "trusting, 2 accepted, shows new"},
		{"doubting", "a freeze after an acceptance", 2, true, "recalling, 2 accepted, shows new+old"},

		{"recalling", "no freeze any more", 1, false, "trusting, 1 accepted, shows new"},
		{"recalling", "the same freeze", 1, true, "recalling, 1 accepted, shows new+old"},
		{"recalling", "its acceptance", 2, false, "trusting, 2 accepted, shows new"},
		{"recalling", "another freeze, after an acceptance", 2, true, "recalling, 1 accepted, shows old+restored; suspect: an operator has accepted what etcd held, and it was frozen again"},
	} {
		t.Run(tt.from+"/"+tt.name, func(t *testing.T) {
			next, do := outlooks()[tt.from].take(outlookSnapshot("new", tt.accepted, tt.frozen), outlookSelf, local.Attachments{})
			if diff := cmp.Diff(tt.want, next.tell(do)); diff != "" {
				t.Fatalf("(-want +got):\n%s", diff)
			}
			if do.Suspect != "" {
				return
			}
			// What says the same once more leads nowhere else.
			again, do := next.take(outlookSnapshot("new", tt.accepted, tt.frozen), outlookSelf, local.Attachments{})
			if diff := cmp.Diff(next.tell(reaction{}), again.tell(do)); diff != "" {
				t.Errorf("once more (-first +second):\n%s", diff)
			}
		})
	}
}

func TestOutlookDoubts(t *testing.T) {
	for from, want := range map[string]string{
		"waiting":   "doubting, 1 accepted, shows saved; disown",
		"trusting":  "doubting, 1 accepted, shows old; disown",
		"doubting":  "doubting, 1 accepted, shows old; disown",
		"recalling": "doubting, 1 accepted, shows old+restored; disown",
	} {
		next, do := outlooks()[from].doubt(overspan.Freeze{Reason: "a sign"})
		if diff := cmp.Diff(want, next.tell(do)); diff != "" {
			t.Errorf("from %s (-want +got):\n%s", from, diff)
		}
		if next.shown.Frozen == nil || next.shown.Frozen.Reason != "a sign" || next.shown.Revision != 0 {
			t.Errorf("from %s: what is shown is not frozen, or has a revision: %+v", from, next.shown)
		}
	}
}

// What lacks something of this node's is held until that is excused, and whatever
// comes meanwhile is judged by itself.
func TestOutlookHolds(t *testing.T) {
	here := local.AttachmentsOf(overspan.Attachment{
		Committed: true, Registration: 7,
		Endpoint: overspan.Endpoint{ID: "e", Name: "web", Network: twonodes.Demo, Slot: 2, Slots: []overspan.Slot{2}},
	})
	whole := func() *overspan.Snapshot {
		s := outlookSnapshot(string(twonodes.Demo), 0, false)
		seg := &overspan.Segment{Revision: 50}
		seg.Endpoints.Put(2, &overspan.Endpoint{ID: "e"})
		s.Segments.Put(twonodes.Demo, seg)
		return s
	}
	without := func() *overspan.Snapshot {
		s := whole()
		s.Segments.Put(twonodes.Demo, &overspan.Segment{Revision: 60})
		return s
	}
	removed := func() *overspan.Snapshot {
		s := whole()
		s.Nodes = maps.Clone(s.Nodes)
		delete(s.Nodes, outlookSelf)
		return s
	}
	frozen := func() *overspan.Snapshot {
		s := without()
		s.Frozen = &overspan.Freeze{NodeName: "h2", Reason: "r", Revision: freezeRevision}
		return s
	}
	const shown, freeze = ", shows " + string(twonodes.Demo), "; suspect: node h2 has frozen the cluster: r"
	for _, tt := range []struct {
		name string
		now  func() *overspan.Snapshot
		want []string // when it comes, when it comes again, and when it comes after it was excused
	}{
		{"all is there", whole, []string{"", "", ""}},
		{"a record is gone", without, []string{", holds; ask", ", holds; ask", ""}},
		{"the registration is gone", removed, []string{", holds; ask", ", holds; ask", ""}},
		{"a freeze explains it", frozen, []string{freeze, freeze, freeze}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o, do := outlook{}.take(whole(), outlookSelf, here)
			if diff := cmp.Diff("trusting, 0 accepted"+shown, o.tell(do)); diff != "" {
				t.Fatalf("at first (-want +got):\n%s", diff)
			}
			var got []string
			for i := range tt.want {
				if i == len(tt.want)-1 && o.held != nil {
					o = o.excuse(o, outlookSelf)
				}
				o, do = o.take(tt.now(), outlookSelf, here)
				got = append(got, strings.TrimPrefix(o.tell(do), "trusting, 0 accepted"+shown))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}

	lacking, _ := outlook{}.take(whole(), outlookSelf, here)
	lacking, _ = lacking.take(without(), outlookSelf, here)
	if next, do := lacking.excuse(lacking, outlookSelf).take(removed(), outlookSelf, here); next.held == nil || !do.Ask {
		t.Errorf("a registration is gone after an endpoint was rightly: %s", next.tell(do))
	}

	held, do := outlook{}.take(without(), outlookSelf, here)
	if diff := cmp.Diff("waiting, 0 accepted, holds; ask", held.tell(do)); diff != "" {
		t.Errorf("the very first one (-want +got):\n%s", diff)
	}
	if next, do := held.take(whole(), outlookSelf, here); next.held != nil || next.kind() != "trusting" || do != (reaction{}) {
		t.Errorf("the record was there after all: %s", next.tell(do))
	}
	if !held.has(nil) || !held.has(held.held) || held.has(whole()) {
		t.Error("nothing, or what is held, is news, or what is new is none")
	}
}
