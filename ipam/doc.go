// Package ipam decides who gets which address: which subnet a new network
// takes, which block a node claims, which slot an endpoint is lent, and what a
// holder gives up to a node that asks.
//
// Decide, Answer, Idle, Restore and the planning of subnets are pure: they look
// at what they are given and change nothing. The Allocator alone keeps state,
// namely which slots of this node are spoken for or cooling down.
//
// The package does not talk to etcd. It may be wrong about the world, because
// its view may be old: that nothing overlaps is proven by the transaction that
// carries a decision out, and a decision that lost a race is made anew.
package ipam
