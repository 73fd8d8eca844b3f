package overspan

import (
	"errors"
	"fmt"
)

// The classes of errors. Every error that reaches a user belongs to one of
// them, by errors.Is; the gRPC code and the exit status follow from it.
var (
	ErrInvalid     = errors.New("invalid argument")
	ErrNotFound    = errors.New("not found")
	ErrExists      = errors.New("already exists")
	ErrInUse       = errors.New("in use")
	ErrExhausted   = errors.New("exhausted")
	ErrUnavailable = errors.New("unavailable") // etcd, an agent or a runtime cannot be reached; try again
	ErrConflict    = errors.New("conflict")    // lost a race; the caller looks again and decides anew
	ErrFenced      = errors.New("fenced")      // this node's registration is gone: nothing it sends can commit
	ErrUnsupported = errors.New("unsupported") // by this kernel or this version
	ErrDenied      = errors.New("permission denied")
	ErrCorrupt     = errors.New("corrupt record") // a stored record that cannot be read
)

// Classes lists every class, in the order in which a mapping should try them.
func Classes() []error {
	return []error{
		ErrInvalid, ErrNotFound, ErrExists, ErrInUse, ErrExhausted, ErrUnavailable,
		ErrConflict, ErrFenced, ErrUnsupported, ErrDenied, ErrCorrupt,
	}
}

// Errorf makes an error of a class. Its text is the formatted message alone,
// ready for a user: object, cause, and what to try. Like fmt.Errorf it wraps
// the errors given with %w.
func Errorf(class error, format string, args ...any) error {
	return &classed{class: class, err: fmt.Errorf(format, args...)}
}

type classed struct {
	class error
	err   error
}

func (e *classed) Error() string   { return e.err.Error() }
func (e *classed) Unwrap() []error { return []error{e.class, e.err} }
