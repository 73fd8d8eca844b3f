package store

import (
	"context"
	"errors"
	"testing"

	"github.com/overspan/overspan"
)

func TestFaultyTransactions(t *testing.T) {
	tests := []struct {
		name      string
		fault     TxnFault
		committed bool
		later     bool
	}{
		{"lost", TxnLost, false, false},
		{"unanswered", TxnUnanswered, true, true},
		{"hanging", TxnHangs, false, false},
		{"late", TxnLate, false, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			memory := NewMemory(1)
			f := NewFaulty(memory)
			f.InjectTxn(tt.fault)
			there := func() bool { return len(mustList(t, memory, Key("a"), 0).KVs) == 1 }
			ctx, cancel := context.WithCancel(testContext(t))
			if tt.fault == TxnHangs {
				cancel()
			}
			defer cancel()
			if _, err := f.Txn(ctx, Txn{Then: []Op{Put("a", nil)}}); !errors.Is(err, overspan.ErrUnavailable) {
				t.Errorf("error %v, want ErrUnavailable", err)
			}
			if there() != tt.committed {
				t.Errorf("committed at once: %v, want %v", there(), tt.committed)
			}
			if _, err := f.Deliver(testContext(t)); err != nil {
				t.Error(err)
			}
			if there() != tt.later {
				t.Errorf("committed in the end: %v, want %v", there(), tt.later)
			}
			mustTxn(t, f, Txn{Then: []Op{Put("b", nil)}}) // the next one passes
		})
	}
}

func TestFaultyDown(t *testing.T) {
	f := NewFaulty(NewMemory(1))
	ctx := testContext(t)
	watch := f.Watch(ctx, Key("a"), 0)
	f.SetDown(true)
	if b := <-watch; !errors.Is(b.Err, overspan.ErrUnavailable) {
		t.Errorf("watch: %+v, want its end", b)
	}
	if b := <-f.Watch(ctx, Key("a"), 0); !errors.Is(b.Err, overspan.ErrUnavailable) {
		t.Errorf("new watch: %+v, want its end", b)
	}
	_, grantErr := f.Grant(ctx, 0)
	_, keepErr := f.KeepAlive(ctx, 1)
	_, listErr := f.List(ctx, Key("a"), 0)
	for _, err := range []error{grantErr, keepErr, listErr, f.Revoke(ctx, 1), f.Progress(ctx)} {
		if !errors.Is(err, overspan.ErrUnavailable) {
			t.Errorf("error %v, want ErrUnavailable", err)
		}
	}
	f.SetDown(false)
	mustTxn(t, f, Txn{Then: []Op{Put("a", nil)}})
}

// A watch that begins as the line goes down ends, too.
func TestFaultyGoesDownUnderAWatch(t *testing.T) {
	for range 500 {
		f := NewFaulty(NewMemory(1))
		ctx, cancel := context.WithCancel(testContext(t))
		down := make(chan struct{})
		go func() {
			f.SetDown(true)
			close(down)
		}()
		watch := f.Watch(ctx, Key("a"), 0)
		<-down
		if b := <-watch; !errors.Is(b.Err, overspan.ErrUnavailable) {
			t.Fatalf("watch: %+v, want its end", b)
		}
		cancel()
	}
}
