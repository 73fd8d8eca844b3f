package daemon

import (
	"testing"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/internal/twonodes"
)

func TestAcknowledgeAsksForWhatOthersAskedFor(t *testing.T) {
	seg := twonodes.Snapshot().Segments.Get(twonodes.Demo)
	first := ackDemand{}.after(seg, twonodes.Self)
	if first.newest != 4 {
		t.Errorf("this node owes an acknowledgement of %d, want 4", first.newest)
	}
	if got := (ackDemand{}).after(seg, twonodes.Other).newest; got != 0 {
		t.Errorf("the asker owes itself an acknowledgement of %d, want none", got)
	}
	later := *seg
	later.Revision = 9
	later.Endpoints.Put(17, &overspan.Endpoint{Node: twonodes.Other, Ack: true, ModRevision: 9})
	later.Endpoints.Put(3, &overspan.Endpoint{Node: twonodes.Self, Ack: true, ModRevision: 8})
	if got := first.after(&later, twonodes.Self).newest; got != 9 {
		t.Errorf("after an exception this node owes an acknowledgement of %d, want 9", got)
	}
	back := *seg
	back.Revision = 2
	back.Blocks = overspan.SlotMap[overspan.Block]{}
	if got := first.after(&back, twonodes.Self).newest; got != 0 {
		t.Errorf("after a return to the past this node owes an acknowledgement of %d, want none", got)
	}
}
