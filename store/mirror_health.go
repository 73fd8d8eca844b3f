package store

import (
	"fmt"
	"time"

	"github.com/overspan/overspan"
)

// A health is what a mirror knows of its etcd: whether it answers, and whether
// it is still the same one.
type health struct {
	cluster  uint64 // 0: none seen
	revision int64  // highest seen

	doubt string // why etcd is not the one that it was

	good   map[string]time.Time // by source: when all was well last
	faults map[string]error     // by source
}

func newHealth(cluster uint64, revision int64) health {
	return health{cluster: cluster, revision: revision, good: map[string]time.Time{}, faults: map[string]error{}}
}

// report takes what a source has found out; err is nil if all is well.
func (h *health) report(source string, err error) {
	now := time.Now()
	if err == nil {
		h.good[source] = now
		delete(h.faults, source)
		return
	}
	if _, known := h.good[source]; !known {
		h.good[source] = now
	}
	h.faults[source] = err
}

// forget drops a source.
func (h *health) forget(source string) {
	delete(h.good, source)
	delete(h.faults, source)
}

// stale returns the fault that lasts longest.
func (h *health) stale() (since time.Time, err error) {
	for source, fault := range h.faults {
		if at := h.good[source]; err == nil || at.Before(since) {
			since, err = at, fault
		}
	}
	return since, err
}

// trust holds a linearizable answer against the revision that had been seen
// before the question. False, and a doubt, if it cannot be of the same history.
func (h *health) trust(cluster uint64, revision, before int64) bool {
	switch {
	case h.doubt != "":
		return false
	case h.cluster != 0 && cluster != h.cluster:
		h.suspect(fmt.Sprintf("etcd was replaced: it is cluster %x, not %x", cluster, h.cluster))
		return false
	case revision < before:
		h.suspect(fmt.Sprintf("etcd was rolled back: it is at revision %d, after %d", revision, before))
		return false
	}
	h.cluster = cluster
	h.revision = max(h.revision, revision)
	return true
}

// suspect keeps the first doubt.
func (h *health) suspect(why string) {
	if h.doubt == "" {
		h.doubt = why
		h.report("doubt", overspan.Errorf(overspan.ErrUnavailable, "%s; nothing of it is applied", why))
	}
}
