package store

import "errors"

// ErrCompacted says that a revision is no longer kept: list again, then watch.
var ErrCompacted = errors.New("revision is compacted")

// ErrFuture says that a revision was asked for which the server has not
// reached. To one who has seen that revision it says that the server was
// rolled back or replaced.
var ErrFuture = errors.New("revision is in the future")
