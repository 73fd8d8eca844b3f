// Package store is the only code with an etcd client. It lays out the keys,
// turns records into nouns and back, writes by guarded transactions only,
// follows etcd into complete snapshots, and keeps the node's journal.
//
// It does not decide who gets what: which slot or block to take is ipam's
// decision, and store says whether it could be had.
package store
