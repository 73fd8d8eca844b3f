// Package e2e holds the end-to-end tests: whole nodes as sets of namespaces,
// real agents, a real etcd, real packets. Each acceptance scenario is a test
// that bears its number; package lab builds what they run on, and demo shows
// the same to a reader in a minute.
//
// The tests drive the nodes through ctl and look at packets, at what iproute2
// and iptables print, and at the keys in etcd. They import nothing of the
// agent's inside.
package e2e
