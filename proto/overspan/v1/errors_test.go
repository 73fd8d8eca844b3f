package overspanv1_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"pgregory.net/rapid"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// TestErrorsKeepTheirClass: whatever the class and however often it was
// wrapped, the other end sees that class, no other, and the same text.
func TestErrorsKeepTheirClass(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		class := rapid.SampledFrom(overspan.Classes()).Draw(t, "class")
		err := overspan.Errorf(class, "%s", rapid.String().Draw(t, "text"))
		for range rapid.IntRange(0, 3).Draw(t, "wraps") {
			err = fmt.Errorf("%s: %w", rapid.String().Draw(t, "operation"), err)
		}
		got := overspanv1.FromStatus(overspanv1.ToStatus(err))
		if got.Error() != err.Error() {
			t.Fatalf("text %q became %q", err, got)
		}
		for _, c := range overspan.Classes() {
			if errors.Is(got, c) != (c == class) {
				t.Fatalf("%v arrived as %v", class, c)
			}
		}
	})
}

func TestEveryClassHasACodeOfItsOwn(t *testing.T) {
	seen := map[codes.Code]error{}
	for _, class := range overspan.Classes() {
		code := status.Code(overspanv1.ToStatus(class))
		if code == codes.Unknown || seen[code] != nil {
			t.Errorf("%v has the code %v, as has %v", class, code, seen[code])
		}
		seen[code] = class
	}
}

func TestErrorsWithoutAClass(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		code codes.Code
		is   error
	}{
		{"none", nil, codes.OK, nil},
		{"any", errors.New("netlink: no such device"), codes.Unknown, nil},
		{"a gRPC error", status.Error(codes.Internal, "internal error"), codes.Internal, nil},
		{"the caller went away", fmt.Errorf("attach: %w", context.Canceled), codes.Canceled, context.Canceled},
		{"too late", fmt.Errorf("attach: %w", context.DeadlineExceeded), codes.DeadlineExceeded, context.DeadlineExceeded},
		{"too late, and a class", overspan.Errorf(overspan.ErrUnavailable, "etcd: %w", context.DeadlineExceeded), codes.Unavailable, overspan.ErrUnavailable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sent := overspanv1.ToStatus(tt.err)
			if got := status.Code(sent); got != tt.code {
				t.Fatalf("code %v, want %v", got, tt.code)
			}
			got := overspanv1.FromStatus(sent)
			if (got == nil) != (tt.err == nil) || tt.is != nil && !errors.Is(got, tt.is) {
				t.Fatalf("%v came back as %v", tt.err, got)
			}
		})
	}
}
