// Package lab builds a small data centre out of namespaces on one machine:
// hosts with a network, mount, PID and UTS namespace each, joined by an
// underlay segment that can be cut host by host, an etcd of one server or of
// several that can be stopped, paused, cut off and filled up, and on every node
// a real agent as a process of its own. Tests and the demo drive it through ctl
// and watch it through packets and what the kernels hold.
//
// Nothing of a lab lies in the namespaces of the machine that it runs on. Its
// namespaces live as long as one process per host, those processes live as
// long as the program that made the lab, and so a lab leaves nothing behind
// even if that program is killed.
//
// The lab knows nothing of how Overspan works inside: it imports none of its
// packages. It needs root, or an own user namespace (unshare -Urnm).
package lab
