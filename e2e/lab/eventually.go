package lab

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// pollEvery is how long Eventually waits between two looks at first, pollSeldom what
// it comes to when it waits for seconds: a look may start a program on each node, and
// others want the processors.
const (
	pollEvery  = 10 * time.Millisecond
	pollSeldom = 100 * time.Millisecond
)

// Patience is how many times as long as tests say they wait: more than once on a
// machine that is much slower than any that agents are for, such as one that is
// emulated.
var Patience time.Duration = 1

// WithTimeout is context's, with Patience.
func WithTimeout(ctx context.Context, within time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, within*Patience)
}

// Eventually waits until cond returns nil, at most for a while, and else
// returns what cond said last.
func Eventually(ctx context.Context, within time.Duration, cond func(context.Context) error) error {
	ctx, cancel := WithTimeout(ctx, within)
	defer cancel()
	begin := time.Now()
	var last error
	for {
		err := cond(ctx)
		if err == nil {
			return nil
		}
		// What fails because time is up says less than what failed before.
		if last == nil || ctx.Err() == nil {
			last = err
		}
		select {
		case <-time.After(pause(time.Since(begin), within*Patience)):
		case <-ctx.Done():
			return fmt.Errorf("not within %s: %w", within*Patience, errors.Join(last))
		}
	}
}

// pause returns how long to wait for the next look of one who has waited for some
// time of at most a while: a twentieth more, and less as the end comes near, so that
// what comes true before it is seen.
func pause(waited, within time.Duration) time.Duration {
	return max(pollEvery, min(waited/20, pollSeldom, (within-waited)/2))
}
