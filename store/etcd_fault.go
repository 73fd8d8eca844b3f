package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/overspan/overspan"
)

// causeTimeout bounds the question why there was no answer.
const causeTimeout = 200 * time.Millisecond

// Why etcd does not do what it is asked to.
const (
	reasonSilent   = "it does not answer"
	reasonNoLeader = "it has no leader: more than half of its members must run and reach each other"
	reasonNoSpace  = "it is out of space: compact and defragment it, then disarm its alarm"
)

// An outage is an error of class overspan.ErrUnavailable: etcd could not be
// asked. Its text is a sentence for users, which says nothing of what was to be
// done: whoever wanted that puts it in front.
type outage struct {
	text  string
	cause error // what the client said; not repeated in the text
}

func (o *outage) Error() string   { return o.text }
func (o *outage) Unwrap() []error { return []error{overspan.ErrUnavailable, o.cause} }

// unreachable makes an outage of servers that cannot be asked, for a reason.
func unreachable(endpoints []string, reason string, cause error) *outage {
	at := strings.Join(endpoints, ",")
	switch reason {
	case reasonNoSpace:
		return &outage{fmt.Sprintf("etcd at %s takes no writes: %s", at, reason), cause}
	case reasonNoLeader:
		return &outage{fmt.Sprintf("etcd unreachable at %s: %s", at, reason), cause}
	}
	return &outage{fmt.Sprintf("etcd unreachable at %s: %s: check that it runs and that this host reaches it", at, reason), cause}
}

// fault puts an error of the client into our words and classes. What it does
// not know is an outage: after a transaction, an unknown outcome.
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
		return overspan.Errorf(overspan.ErrDenied, "%s: etcd at %s refuses: %w", what, strings.Join(e.endpoints, ","), err)
	case is(rpctypes.ErrNoSpace):
		return unreachable(e.endpoints, reasonNoSpace, err)
	case is(rpctypes.ErrNoLeader):
		return unreachable(e.endpoints, reasonNoLeader, err)
	case is(context.Canceled):
		return overspan.Errorf(overspan.ErrUnavailable, "%s: %w", what, err)
	case is(context.DeadlineExceeded):
		e.doubt()
		return unreachable(e.endpoints, e.cause(), err)
	}
	e.doubtRefusal(err)
	return unreachable(e.endpoints, plain(err), err)
}

// passing reports whether an error is of a connection or a leader that went: the
// next try may meet others.
func passing(err error) bool {
	var told rpctypes.EtcdError
	if errors.As(err, &told) {
		return told.Code() == codes.Unavailable
	}
	return status.Code(err) == codes.Unavailable
}

// cause returns why a call was not answered in time. A call that waits for a
// connection ends without a reason; this one does not wait, and is told the last
// error of dialing, such as a refused port or a foreign certificate. A member
// that answers it says whether it has a leader.
func (e *Etcd) cause() string {
	e.mu.Lock()
	client := e.client
	e.mu.Unlock()
	if client == nil || client.ActiveConnection() == nil {
		return reasonSilent
	}
	ctx, cancel := context.WithTimeout(e.ctx, causeTimeout)
	defer cancel()
	resp, err := etcdserverpb.NewMaintenanceClient(client.ActiveConnection()).Status(ctx, &etcdserverpb.StatusRequest{})
	switch {
	case err == nil && resp.GetLeader() == 0:
		return reasonNoLeader
	case status.Code(err) == codes.Unavailable:
		return plain(err)
	}
	return reasonSilent
}

// plain takes the wrapping of gRPC off an error of the client.
func plain(err error) string {
	msg := err.Error()
	if s, ok := status.FromError(err); ok {
		msg = s.Message()
	}
	if inner, found := strings.CutPrefix(msg, `connection error: desc = "`); found {
		msg = strings.TrimSuffix(inner, `"`)
	}
	if strings.Contains(msg, "server preface") {
		return reasonSilent // it is hung: its kernel accepts connections, it does not
	}
	return strings.TrimPrefix(strings.TrimPrefix(msg, "transport: "), "Error while dialing: ")
}
