package overspanv1

// The classes of errors and the codes of gRPC, both ways. Each class has a code
// of its own, so that a client tests with errors.Is what the agent meant, and
// the message travels as it is: it was written for a user already.

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/overspan/overspan"
)

// errorCodes pairs every class with its code. The order decides for an error
// of several classes: it is that of overspan.Classes. The two of package
// context come last: an operation that knows better says so with a class.
//
// A fenced node has no registration, the credential that etcd transactions
// compare; Unauthenticated is used by nothing else here, for TLS refuses
// strangers before gRPC begins.
var errorCodes = []struct {
	class error
	code  codes.Code
}{
	{overspan.ErrInvalid, codes.InvalidArgument},
	{overspan.ErrNotFound, codes.NotFound},
	{overspan.ErrExists, codes.AlreadyExists},
	{overspan.ErrInUse, codes.FailedPrecondition},
	{overspan.ErrExhausted, codes.ResourceExhausted},
	{overspan.ErrUnavailable, codes.Unavailable},
	{overspan.ErrConflict, codes.Aborted},
	{overspan.ErrFenced, codes.Unauthenticated},
	{overspan.ErrUnsupported, codes.Unimplemented},
	{overspan.ErrDenied, codes.PermissionDenied},
	{overspan.ErrCorrupt, codes.DataLoss},
	{context.Canceled, codes.Canceled},
	{context.DeadlineExceeded, codes.DeadlineExceeded},
}

// ToStatus turns an error into one that gRPC carries: the code says the class,
// the message is the error's text. An error of no class is Unknown; one that
// carries a gRPC code already stays as it is.
func ToStatus(err error) error {
	if err == nil {
		return nil
	}
	for _, e := range errorCodes {
		if errors.Is(err, e.class) {
			return status.Error(e.code, err.Error())
		}
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(codes.Unknown, err.Error())
}

// FromStatus turns what a gRPC call returned back into an error of its class,
// with the message for its text. An error of any other code keeps the message
// and belongs to no class.
func FromStatus(err error) error {
	if err == nil {
		return nil
	}
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	for _, e := range errorCodes {
		if s.Code() == e.code {
			return overspan.Errorf(e.class, "%s", s.Message())
		}
	}
	return errors.New(s.Message())
}
