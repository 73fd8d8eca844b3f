package lab

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// pollEvery is how often Eventually looks again.
const pollEvery = 10 * time.Millisecond

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
	again := time.NewTicker(pollEvery)
	defer again.Stop()
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
		case <-again.C:
		case <-ctx.Done():
			return fmt.Errorf("not within %s: %w", within*Patience, errors.Join(last))
		}
	}
}
