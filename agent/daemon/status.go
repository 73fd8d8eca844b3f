package daemon

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/await"
	"github.com/overspan/overspan/agent/reconcile"
	"github.com/overspan/overspan/kernel"
	"github.com/overspan/overspan/store"
)

// A Status is how the agent is.
type Status struct {
	Started          time.Time
	Etcd             []EtcdMember
	SnapshotRevision int64         // of the newest snapshot
	AppliedRevision  int64         // the newest that the kernel was brought in line with
	Drift            int           // ops that would repair the kernel
	LastError        string        // of the last pass; "" if it went well
	LastFullPass     time.Time     // zero before the first
	Warnings         []string      // what an operator should look at
	PendingReleases  int           // disconnects that etcd has not heard of
	Freeze           *FreezeStatus // nil while the cluster is not frozen
}

// An EtcdMember is an etcd server, as its answer to a status request shows it.
type EtcdMember struct {
	Endpoint string // several that are one member's have commas between them
	Version  string
	Leader   bool
	Latency  time.Duration
	Err      error // nil if it answered
}

// etcdMembers tells of a member once, however many addresses of it are known.
func etcdMembers(answers []store.Member) []EtcdMember {
	var out []EtcdMember
	at := map[uint64]int{}
	for _, m := range answers {
		if i, known := at[m.ID]; known && m.ID != 0 {
			out[i].Endpoint += "," + m.Endpoint
			continue
		}
		at[m.ID] = len(out)
		out = append(out, EtcdMember{Endpoint: m.Endpoint, Version: m.Version, Leader: m.Leader, Latency: m.Latency, Err: m.Err})
	}
	return out
}

// health is what the passes found out, for the status and for acknowledgements.
type health struct {
	changed *await.Beacon // fires after each pass, and when the node has registered

	mu       sync.Mutex                   // guards all below
	networks map[overspan.NetworkID]int64 // revision up to which each is in line
	revision int64                        // of the last full pass's snapshot, if it succeeded
	lastFull time.Time
	lastErr  string

	conflicts []reconcile.Conflict // that stand
}

func newHealth() *health {
	return &health{changed: await.NewBeacon(), networks: map[overspan.NetworkID]int64{}}
}

// note remembers what a pass found. Inline says that nothing waits to be tried
// again.
func (h *health) note(scope kernel.Scope, res reconcile.Result, err error, inline bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.conflicts = res.Conflicts
	if err != nil {
		h.lastErr = err.Error()
	} else if inline {
		h.lastErr = ""
	}
	if scope.All {
		h.lastFull = time.Now()
		if err == nil {
			h.revision = res.Revision
		}
	}
}

// applied remembers up to which revision a pass brought networks in line, and forgets
// those of its scope that were not followed any more as it was planned.
func (h *health) applied(scope kernel.Scope, res reconcile.Result) {
	h.mu.Lock()
	for id, rev := range res.Segments {
		h.networks[id] = max(h.networks[id], rev)
	}
	if s := res.Input.Snapshot; s != nil {
		networks := scope.Networks
		if scope.All {
			networks = slices.Collect(maps.Keys(h.networks))
		}
		for _, id := range networks {
			if s.Segments.Get(id) == nil {
				delete(h.networks, id)
			}
		}
	}
	h.mu.Unlock()
	h.changed.Fire()
}

// forget drops the revisions, which were of a history that is over.
func (h *health) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.networks)
	h.revision = 0
}

// appliedTo returns up to which revision a network's kernel state is in line.
func (h *health) appliedTo(id overspan.NetworkID) int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.networks[id]
}

// looked reports whether everything was once compared and, as far as the
// kernel let it, brought in line.
func (h *health) looked() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return !h.lastFull.IsZero()
}

// Status tells how the node is, on one screen.
func (d *Daemon) Status(ctx context.Context) Status {
	st := Status{Started: d.started}
	now, err := d.rec.Verify(ctx)
	if err != nil {
		st.Warnings = append(st.Warnings, "cannot compare the kernel with the plan: "+err.Error())
	}
	st.Drift = len(now.Ops)
	st.Etcd = etcdMembers(d.kv.Members(ctx))
	releases, err := d.journal.Releases()
	if err != nil {
		st.Warnings = append(st.Warnings, "cannot read pending releases: "+err.Error())
	}
	st.PendingReleases = len(releases)
	if session, err := d.registrar.session(); err != nil {
		st.Warnings = append(st.Warnings, err.Error())
	} else if err := session.Stuck(); err != nil {
		st.Warnings = append(st.Warnings, "nothing is written: "+err.Error())
	}
	if st.Freeze, err = d.freezeStatus(ctx); err != nil {
		st.Warnings = append(st.Warnings, err.Error())
	}
	st.Warnings = append(st.Warnings, d.publisher.now().failures(d.local.AllAttachments())...)
	if s := d.knowledge().Shown; s != nil {
		st.SnapshotRevision = s.Revision
		st.AppliedRevision = d.appliedRevision(s)
		st.Warnings = append(st.Warnings, d.snapshotWarnings(s)...)
	}
	st.Warnings = append(st.Warnings, d.evicted.all()...)
	st.Warnings = append(st.Warnings, d.names.Warnings()...)
	st.Warnings = append(st.Warnings, d.ports.Retry()...)
	st.Warnings = append(st.Warnings, d.routerWarnings(ctx)...)
	st.Warnings = append(st.Warnings, now.Warnings...)
	st.Warnings = append(st.Warnings, d.health.report(&st)...)
	st.Warnings = append(st.Warnings, d.host.CheckSupport(ctx)...)
	return st
}

// report fills in how the last passes went, and returns the conflicts that stand.
func (h *health) report(st *Status) (conflicts []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	st.LastError, st.LastFullPass = h.lastErr, h.lastFull
	for _, c := range h.conflicts {
		conflicts = append(conflicts, fmt.Sprintf("conflict since %s: %s", c.Since.Format(time.RFC3339), c.Text))
	}
	return conflicts
}

// appliedRevision returns the revision that the whole kernel is in line with:
// the snapshot's, unless a change of it is still waiting for its pass.
func (d *Daemon) appliedRevision(s *overspan.Snapshot) int64 {
	if d.rec.Settled() {
		return s.Revision
	}
	d.health.mu.Lock()
	defer d.health.mu.Unlock()
	return d.health.revision
}

// snapshotWarnings tells what in the cluster's state wants an operator's look.
func (d *Daemon) snapshotWarnings(s *overspan.Snapshot) []string {
	var out []string
	bad := 0
	for _, b := range s.Bad {
		out = append(out, fmt.Sprintf("record %s cannot be read and is left alone: %s", b.Key, b.Err))
	}
	for _, seg := range s.Segments.All() {
		bad += seg.Bad
	}
	if bad > 0 && len(s.Bad) == 0 {
		out = append(out, fmt.Sprintf("%d records inside networks cannot be read", bad))
	}
	out = append(out, setupWarnings(d.cfg.Setup, s.Meta)...)
	in, _ := d.planInput(kernel.Scope{})
	for _, a := range in.Local.Attachments.List {
		if why := in.WhyLost(a.Endpoint); why != "" {
			out = append(out, fmt.Sprintf("endpoint %s is off its network: %s", a.Endpoint.Name, why))
		}
	}
	return out
}
