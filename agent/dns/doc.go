// Package dns answers what the containers of this node ask by name, on the
// gateway addresses of their networks.
//
// It has no records of its own: what it answers follows from the snapshot and
// this node's attachments at the moment of the question. A question is answered
// by who asks, which the network that it came by and its source address tell;
// what no network of the asker knows is passed on to the host's resolvers.
//
// It neither writes to the kernel nor to etcd. It owns its sockets, and the files
// below /etc/netns that it has written.
package dns
