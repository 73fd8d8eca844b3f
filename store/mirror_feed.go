package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/overspan/overspan"
)

// A feed lists a range and watches it from there, again and again, and tells
// the mirror's loop in order. Its first fields are its goroutine's, the others
// the loop's.
type feed struct {
	m       *Mirror
	keys    KeyRange
	network overspan.NetworkID // whose interior it is; "": none's
	history int
	kick    chan struct{} // size 1: list again
	updates chan<- update
	cancel  context.CancelFunc
	ended   chan struct{} // closed

	part     *part // nil until the first listing
	frontier int64
	behind   int64 // what the frontier had not reached at the last probe; 0 if it had
	dirty    bool  // changed since the last snapshot, the frontier apart
	breached bool  // its watch went on in another history: nothing of it is heard until a listing
}

// An update is what a feed or the probe tells the loop.
type update struct {
	feed *feed

	listing *Listing // the whole range, new
	check   *Listing // the whole range at the feed's frontier
	batch   *Batch

	probe int64 // without a feed: what every frontier should reach
}

var errKicked = errors.New("watch lags behind, or goes on in another history")

// run feeds the loop until ctx ends.
func (f *feed) run(ctx context.Context) {
	const lastPause = 2 * time.Second
	defer f.m.forget(f.history, f.keys.Key)
	pause := f.m.relistPause() // the first time soon: a compaction, a new leader
	for again := false; ; again = true {
		start := time.Now()
		err := f.follow(ctx, again)
		if ctx.Err() != nil {
			return
		}
		if time.Since(start) > 2*lastPause {
			pause = f.m.relistPause()
		}
		f.m.log.Debug("list again", "range", f.keys.Key, "cause", err, "pause", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		pause = min(lastPause, jitter(2*pause+50*time.Millisecond))
	}
}

// follow lists the range and passes on its watch until something is wrong. Where
// it is listed again etcd may be another by now: that is asked first.
func (f *feed) follow(ctx context.Context, again bool) error {
	var listing Listing
	var err error
	if again {
		_, _, err = f.m.check(ctx)
	}
	if err == nil {
		listing, err = f.m.list(ctx, f.keys)
	}
	if err == nil {
		err = f.vouch(ctx, listing)
	}
	if ctx.Err() == nil {
		f.m.report(f.history, f.keys.Key, err)
	}
	if err != nil {
		return err
	}
	f.send(ctx, update{feed: f, listing: &listing})

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	frontier := listing.Revision
	batches := f.m.kv.Watch(ctx, f.keys, frontier)
	resync := time.NewTimer(f.m.comparePause(len(listing.KVs)))
	defer resync.Stop()
	for {
		select {
		case b, ok := <-batches:
			if !ok {
				return overspan.Errorf(overspan.ErrUnavailable, "watch %s: ended", f.keys.Key)
			}
			if b.Err != nil {
				return b.Err
			}
			frontier = b.Revision
			f.send(ctx, update{feed: f, batch: &b})
		case <-resync.C:
			records, err := f.compare(ctx, frontier)
			if err != nil {
				return err
			}
			resync.Reset(f.m.comparePause(records))
		case <-f.kick:
			return errKicked
		}
	}
}

// compare lists the range as it was at the frontier, and returns how many records
// it has. While it does, the watch is not read, so that the loop has exactly what it
// told up to there.
func (f *feed) compare(ctx context.Context, frontier int64) (records int, err error) {
	listing, err := f.m.kv.List(ctx, f.keys, frontier)
	if errors.Is(err, ErrFuture) {
		f.m.suspect(f.history, fmt.Sprintf("etcd was rolled back: it has not reached revision %d", frontier))
	}
	if err == nil {
		err = f.vouch(ctx, listing)
	}
	if err != nil {
		return 0, err
	}
	f.send(ctx, update{feed: f, check: &listing})
	return len(listing.KVs), nil
}

func (f *feed) send(ctx context.Context, u update) {
	select {
	case f.updates <- u:
	case <-ctx.Done():
	}
}
