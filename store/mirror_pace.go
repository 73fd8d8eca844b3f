package store

import (
	"math/rand/v2"
	"time"
)

// What all agents of a cluster together ask of etcd to be sure of what they
// know, each second. Measured: a probe costs etcd 0.3 ms of a processor, a
// record that is listed 5 µs.
const (
	probesTogether   = 100
	comparedTogether = 5000 // records, in listings that are only compared
	relistedTogether = 500  // ranges, after a mishap of all watches at once
	triedTogether    = 100  // registrations that have failed; each is some ten requests
)

// gatherEach is the time, for each node that is known, between two snapshots that
// tell of nodes only. Measured: such a snapshot costs an agent 0.5 µs for each
// node, so that this is a twentieth of a percent of a processor.
const gatherEach = time.Millisecond

// together returns how often one of the nodes that are known may do something
// that takes some units, if all of them may take so many a second.
func (m *Mirror) together(units, rate int) time.Duration {
	m.mu.Lock()
	s := m.snapshot // also one that is doubted
	m.mu.Unlock()
	nodes := 1
	if s != nil {
		nodes = max(nodes, len(s.Nodes))
	}
	return time.Duration(float64(nodes*units) / float64(rate) * float64(time.Second))
}

// probePause is the time between two probes. Where there are many nodes each
// asks more rarely: one of them finds out as soon that etcd was rolled back, and
// tells the others.
func (m *Mirror) probePause() time.Duration {
	return jitter(max(m.cfg.Probe, m.together(1, probesTogether)))
}

// RetryPause is the time between two tries of a node to register. What made one
// fail may have made those of all nodes fail.
func (m *Mirror) RetryPause() time.Duration {
	return jitter(max(time.Second, m.together(1, triedTogether)))
}

// comparePause is the time between two listings of a range with so many records.
func (m *Mirror) comparePause(records int) time.Duration {
	return jitter(max(m.cfg.Resync, m.together(records, comparedTogether)))
}

// relistPause is how long to wait before a range is listed again whose watch was
// well until then: what ended it may have ended those of all nodes.
func (m *Mirror) relistPause() time.Duration {
	return time.Duration(rand.Float64() * float64(m.together(1, relistedTogether)))
}

// jitter spreads a time by a quarter, so that the agents of a cluster do not
// all ask at once.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.75 + 0.5*rand.Float64()))
}
