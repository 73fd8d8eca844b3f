package daemon

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/overspan/overspan/agent/reconcile"
	"github.com/overspan/overspan/kernel"
)

// The metrics that the daemon tells. Names and units follow the conventions of
// Prometheus: base units, _total for counters.
var (
	descPasses = prometheus.NewDesc("overspan_reconcile_passes_total",
		"Passes of the reconciler, by what led to them and whether they succeeded.", []string{"cause", "result"}, nil)
	descSeconds = prometheus.NewDesc("overspan_reconcile_seconds_total",
		"Time spent in passes, by what led to them.", []string{"cause"}, nil)
	descOps = prometheus.NewDesc("overspan_kernel_ops_total",
		"Changes made to the kernel, by what led to the pass that made them.", []string{"cause"}, nil)
	descRepairs = prometheus.NewDesc("overspan_kernel_repairs_total",
		"Changes that undid what others had done, by the kind of object, what was done to it, and what led to the pass that found it.", []string{"kind", "change", "cause"}, nil)
	descConflicts = prometheus.NewDesc("overspan_kernel_conflicts",
		"Changes that the kernel refuses again and again: something else stands in the way.", nil, nil)
	descRevision = prometheus.NewDesc("overspan_snapshot_revision",
		"etcd revision of the newest snapshot.", nil, nil)
	descEndpoints = prometheus.NewDesc("overspan_endpoints",
		"Endpoints of this node.", nil, nil)
	descNodes = prometheus.NewDesc("overspan_nodes",
		"Registered nodes, by whether they are up.", []string{"state"}, nil)
	descStale = prometheus.NewDesc("overspan_etcd_stale_seconds",
		"Time since etcd was last heard from; 0 while it answers.", nil, nil)
	descDrops = prometheus.NewDesc("overspan_port_drops_total",
		"Frames that programs at ports have dropped: not the endpoint's own MAC, IPv4, IPv6, ARP or neighbour discovery, another type, or a port that is not open.", []string{"reason"}, nil)
	descFrozen = prometheus.NewDesc("overspan_frozen",
		"1 while the cluster is frozen because etcd has lost its past, else 0.", nil, nil)
)

// meter counts what the reconciler does.
type meter struct {
	mu        sync.Mutex // guards all below
	passes    map[[2]string]float64
	took      map[string]float64
	ops       map[string]float64
	repairs   map[[3]string]float64
	conflicts int
}

func newMeter() *meter {
	return &meter{passes: map[[2]string]float64{}, took: map[string]float64{}, ops: map[string]float64{}, repairs: map[[3]string]float64{}}
}

func (m *meter) count(cause string, res reconcile.Result, repairs []kernel.Repair, err error) {
	result := "ok"
	if err != nil {
		result = "error"
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.passes[[2]string{cause, result}]++
	m.took[cause] += res.Took.Seconds()
	m.ops[cause] += float64(len(res.Done))
	for _, r := range repairs {
		m.repairs[[3]string{r.Kind, r.Verb(), cause}] += float64(r.Count)
	}
	m.conflicts = len(res.Conflicts)
}

// Describe implements prometheus.Collector.
func (d *Daemon) Describe(c chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{descPasses, descSeconds, descOps, descRepairs, descConflicts, descRevision, descEndpoints, descNodes, descStale, descDrops, descFrozen} {
		c <- desc
	}
}

// Collect implements prometheus.Collector.
func (d *Daemon) Collect(c chan<- prometheus.Metric) {
	gauge := func(desc *prometheus.Desc, v float64, labels ...string) {
		c <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v, labels...)
	}
	gauge(descEndpoints, float64(d.local.Attachments().ByID.Len()))
	s := d.knowledge().Shown
	if s != nil {
		gauge(descRevision, float64(s.Revision))
		up := 0
		for _, n := range s.Nodes {
			if n.Presence != nil {
				up++
			}
		}
		gauge(descNodes, float64(up), "up")
		gauge(descNodes, float64(len(s.Nodes)-up), "down")
	}
	stale := 0.0
	if since, reason := d.Stale(); reason != "" {
		stale = time.Since(since).Seconds()
	}
	gauge(descStale, stale)
	frozen := 0.0
	if s != nil && s.Frozen != nil {
		frozen = 1
	}
	gauge(descFrozen, frozen)
	d.collectDrops(c)
	d.meter.collect(c)
}

func (d *Daemon) collectDrops(c chan<- prometheus.Metric) {
	drops, err := d.host.PortDrops()
	if err != nil {
		c <- prometheus.NewInvalidMetric(descDrops, err)
	}
	for reason, n := range drops {
		c <- prometheus.MustNewConstMetric(descDrops, prometheus.CounterValue, float64(n), reason)
	}
}

func (m *meter) collect(c chan<- prometheus.Metric) {
	counter := func(desc *prometheus.Desc, v float64, labels ...string) {
		c <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, v, labels...)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for key, n := range m.passes {
		counter(descPasses, n, key[0], key[1])
	}
	for cause, s := range m.took {
		counter(descSeconds, s, cause)
	}
	for cause, n := range m.ops {
		counter(descOps, n, cause)
	}
	for key, n := range m.repairs {
		counter(descRepairs, n, key[0], key[1], key[2])
	}
	c <- prometheus.MustNewConstMetric(descConflicts, prometheus.GaugeValue, float64(m.conflicts))
}
