// Package scale runs hundreds of agents in one process against one real etcd:
// the same daemon, store and planners as everywhere, each with a journal and an
// etcd client of its own, over a kernel in memory. It shows what only many nodes
// show: how long a change takes to reach all of them, what etcd has to carry
// for it, what a start of all at once costs.
//
// etcd is a process of its own, so that its processor time and its counters are
// not those of the agents. Journals lie where the caller says, best on a file
// system in memory: a thousand agents that share one disk would measure the disk.
//
// No packet passes here: packages e2e and kernel have those.
package scale
