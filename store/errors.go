package store

import "errors"

// ErrCompacted says that a revision is no longer kept: list again, then watch.
var ErrCompacted = errors.New("revision is compacted")

// ErrForgotten says that etcd holds less than this node has written, or has heard
// of: it was rolled back. An error that is one is of class overspan.ErrFenced, too:
// the session is over.
var ErrForgotten = errors.New("etcd has forgotten some of its past")

// ErrFuture says that a revision was asked for which the server has not
// reached. To one who has seen that revision it says that the server was
// rolled back or replaced.
var ErrFuture = errors.New("revision is in the future")
