package store

import "errors"

// ErrCompacted says that a revision is no longer kept: list again, then watch.
var ErrCompacted = errors.New("revision is compacted")
