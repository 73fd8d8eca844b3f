package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/overspan/overspan"
)

// causeTimeout bounds the question why there is no connection.
const causeTimeout = 200 * time.Millisecond

// fault puts an error of the client into our words and classes. What it does
// not know is overspan.ErrUnavailable: after a transaction, an unknown outcome.
func (e *Etcd) fault(what string, err error) error {
	is := func(targets ...error) bool {
		for _, t := range targets {
			// A watch that is refused gets the text of the error alone.
			if errors.Is(err, t) || strings.HasSuffix(err.Error(), t.Error()) {
				return true
			}
		}
		return false
	}
	at := strings.Join(e.endpoints, ",")
	switch {
	case is(rpctypes.ErrCompacted):
		return fmt.Errorf("%s: %w", what, ErrCompacted)
	case is(rpctypes.ErrFutureRev):
		return fmt.Errorf("%s: %w", what, ErrFuture)
	case is(rpctypes.ErrDuplicateKey, rpctypes.ErrTooManyOps, rpctypes.ErrEmptyKey, rpctypes.ErrRequestTooLarge):
		return overspan.Errorf(overspan.ErrInvalid, "%s: %w", what, err)
	case is(rpctypes.ErrLeaseNotFound):
		return overspan.Errorf(overspan.ErrNotFound, "%s: %w", what, err)
	case is(rpctypes.ErrPermissionDenied, rpctypes.ErrAuthFailed, rpctypes.ErrUserEmpty, rpctypes.ErrInvalidAuthToken):
		return overspan.Errorf(overspan.ErrDenied, "%s: etcd at %s refuses: %w", what, at, err)
	case is(rpctypes.ErrNoSpace):
		return overspan.Errorf(overspan.ErrUnavailable,
			"%s: etcd at %s takes no more writes, its database is full: compact and defragment it, then disarm its alarm: %w", what, at, err)
	case is(context.Canceled):
		return overspan.Errorf(overspan.ErrUnavailable, "%s: %w", what, err)
	case is(context.DeadlineExceeded):
		if cause := e.cause(); cause != "" {
			return overspan.Errorf(overspan.ErrUnavailable, "%s: etcd unreachable at %s: %s: %w", what, at, cause, err)
		}
	}
	return overspan.Errorf(overspan.ErrUnavailable, "%s: etcd unreachable at %s: %w", what, at, err)
}

// cause returns why there is no connection, "" if that is not known. A call
// that waits for a connection ends without a reason; one that does not wait is
// told the last error of dialing, such as a refused port or a foreign
// certificate.
func (e *Etcd) cause() string {
	e.mu.Lock()
	client := e.client
	e.mu.Unlock()
	if client == nil || client.ActiveConnection() == nil {
		return ""
	}
	ctx, cancel := context.WithTimeout(e.ctx, causeTimeout)
	defer cancel()
	_, err := healthpb.NewHealthClient(client.ActiveConnection()).Check(ctx, &healthpb.HealthCheckRequest{})
	if status.Code(err) != codes.Unavailable {
		return ""
	}
	return status.Convert(err).Message()
}
