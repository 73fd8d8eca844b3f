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
	settings string // cluster id in the settings; "": none seen
	accepted uint64 // acceptances, as many as were seen
	frozen   int64  // revision of the last freeze that was seen
	claimed  int64  // mod-revision of the key claimed, the highest seen
	metaAt   int64  // revision at which all this was seen last

	heard time.Time // when claimed grew

	doubt   string        // why etcd is not the one that it was
	doubted chan struct{} // closed when there is a doubt

	good   map[string]time.Time // by source: when all was well last
	faults map[string]error     // by source
}

func newHealth(cfg MirrorConfig) health {
	return health{
		cluster: cfg.ClusterID, revision: cfg.Revision, settings: cfg.Settings, accepted: cfg.Accepted, claimed: cfg.Claimed,
		doubted: make(chan struct{}), good: map[string]time.Time{}, faults: map[string]error{},
	}
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

// report notes what became of the last try to read a source, unless that was of a
// history that is followed no more: nobody would report that it is well again.
func (m *Mirror) report(history int, source string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.history != history {
		return
	}
	before := m.health.faults[source]
	m.health.report(source, err)
	switch {
	case err != nil && before == nil:
		m.log.Warn("etcd is not followed", "source", source, "error", err)
	case err == nil && before != nil:
		m.log.Info("etcd is followed again", "source", source)
	}
}

// forget drops a source of a history that is not read any more.
func (m *Mirror) forget(history int, source string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.history == history {
		m.health.forget(source)
	}
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

// confirm compares the keys below meta, as they stand at a revision, with what was
// seen of them before. Settings never change, acceptances and the last claim
// only grow, and neither they nor a freeze can be of a revision at which they were
// not seen: then others have written since etcd went back, beyond the highest
// revision that was seen. Records that cannot be read say nothing.
func (h *health) confirm(keys Keys, p *part, rev int64) {
	if rev < h.metaAt {
		return // a feed that lags behind the probe
	}
	if _, bad := p.bad.rows[keys.Meta()]; !bad {
		switch id := p.meta.ClusterID; {
		case h.settings != "" && id == "":
			h.suspect("etcd was emptied: the cluster's settings are gone")
		case h.settings != "" && id != h.settings:
			h.suspect(fmt.Sprintf("etcd was replaced: it was set up as cluster %s, not %s", overspan.ShortID(id), overspan.ShortID(h.settings)))
		case h.settings == "":
			h.settings = id
		}
	}
	if _, bad := p.bad.rows[keys.Accepted()]; !bad {
		switch {
		case p.accepted < h.accepted:
			h.suspect(fmt.Sprintf("etcd was rolled back: it counts %d acceptances, after %d", p.accepted, h.accepted))
		case p.accepted > h.accepted && p.acceptedAt <= h.metaAt:
			h.suspect(fmt.Sprintf("etcd was rolled back: it was accepted at revision %d, unseen at %d", p.acceptedAt, h.metaAt))
		}
		h.accepted = max(h.accepted, p.accepted)
	}
	if p.frozen != nil && p.frozen.Revision != h.frozen {
		if p.frozen.Revision <= h.metaAt {
			h.suspect(fmt.Sprintf("etcd was rolled back: it was frozen at revision %d, unseen at %d", p.frozen.Revision, h.metaAt))
		}
		h.frozen = p.frozen.Revision
	}
	h.confirmClaimed(p.claimedAt)
	h.metaAt = rev
}

// confirmClaimed holds the key claimed against what was seen of it. It is the one
// sign that tells a node of claims in networks that it does not follow.
func (h *health) confirmClaimed(at int64) {
	switch {
	case at < h.claimed:
		h.suspect(fmt.Sprintf("etcd was rolled back: its last claim is of revision %d, after one of %d", at, h.claimed))
	case at > h.claimed && at <= h.metaAt:
		h.suspect(fmt.Sprintf("etcd was rolled back: a claim is of revision %d, unseen at %d", at, h.metaAt))
	case at > h.claimed && h.claimed > 0:
		h.heard = time.Now()
	}
	h.claimed = max(h.claimed, at)
}

// suspect keeps the first doubt.
func (h *health) suspect(why string) {
	if h.doubt == "" {
		h.doubt = why
		close(h.doubted)
		h.report("doubt", overspan.Errorf(overspan.ErrUnavailable, "%s; nothing of it is applied", why))
	}
}
