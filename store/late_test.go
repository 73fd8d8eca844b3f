package store

import (
	"context"
	"testing"

	"github.com/overspan/overspan"
)

// A transaction without an answer may still be carried out, after the next that was
// sent for the same end. What does not pass through the flight key guards itself
// against that.

func TestLateAnnouncementLeavesThePresenceItsLease(t *testing.T) {
	line := NewFaulty(NewMemory(1))
	s, err := Open(testContext(t), line, testConfig(1))
	mustDo(t, err)
	line.InjectTxn(TxnPasses, TxnLate) // the look, the presence
	wantClass(t, s.announce(testContext(t)), overspan.ErrUnavailable)
	mustDo(t, s.announce(testContext(t)))
	if _, err := line.Deliver(testContext(t)); err != nil {
		t.Fatal(err)
	}
	live := mustList(t, line, Key(s.keys.Live(nodeID(1))), 0).KVs
	if len(live) != 1 || live[0].Lease != s.currentLease() {
		t.Errorf("presence is %v, want it under lease %d, which is kept alive", live, s.currentLease())
	}
}

// A node that was refused because of its address tries again once the other is gone.
func TestLateWithdrawalLeavesTheNextRegistration(t *testing.T) {
	memory := NewMemory(1)
	first := open(t, memory, testConfig(1))
	cfg := testConfig(2)
	cfg.Node.VTEPs = testNode(1).VTEPs
	line := NewFaulty(&blindOnce{KV: memory, to: first.keys.Nodes()})
	line.InjectTxn(TxnPasses, TxnPasses, TxnPasses, TxnLate) // settings, look, registration, withdrawal
	_, err := Open(testContext(t), line, cfg)
	wantClass(t, err, overspan.ErrInUse, "VTEP address 192.0.2.1 is in use by node h1")
	mustDo(t, first.stop())

	second := open(t, line, cfg)
	if _, err := line.Deliver(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if err := second.Check(testContext(t)); err != nil {
		t.Errorf("after the late withdrawal: %v", err)
	}
}

// blindOnce finds nothing the first time that it lists a range: somebody writes
// there a moment later.
type blindOnce struct {
	KV
	to   KeyRange
	done bool
}

func (b *blindOnce) List(ctx context.Context, r KeyRange, rev int64) (Listing, error) {
	l, err := b.KV.List(ctx, r, rev)
	if r == b.to && !b.done {
		b.done, l.KVs = true, nil
	}
	return l, err
}
