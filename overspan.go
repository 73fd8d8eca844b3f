// Package overspan holds the nouns of the system: nodes, networks, blocks,
// slots, endpoints and sandboxes, the arithmetic that turns a slot into its
// addresses, the names of kernel devices, and the classes of errors.
//
// It imports the standard library only, does no I/O and keeps no state, so that
// every other package can share its words. What is decided from these nouns
// lives elsewhere: who gets which slot in ipam, what the kernel should look
// like in bridge and overlay, what etcd holds in store.
package overspan

import (
	"fmt"
	"net/netip"
	"time"
)

// Version is the release of this build. The Makefile sets it with -ldflags -X.
var Version = "0.1.0-dev"

// A NodeID names a host for as long as its state directory lives: 64 hex
// digits, made at the agent's first start. Host names may repeat, ids may not.
type NodeID string

// A NetworkID is 64 hex digits, drawn when the network is created.
type NetworkID string

// An EndpointID is 64 hex digits, drawn when a sandbox is attached.
type EndpointID string

// A SandboxID is 64 hex digits, drawn when an agent first meets a sandbox.
type SandboxID string

// A Driver says what carries a network's frames.
type Driver string

// The drivers. Host and None are predefined networks that hold nothing.
const (
	DriverOverlay Driver = "overlay"
	DriverBridge  Driver = "bridge"
	DriverHost    Driver = "host"
	DriverNone    Driver = "none"
	DriverNull    Driver = "null" // what docker calls the driver of what carries no frames
)

// Scope returns how far networks of the driver reach: "global" for the whole
// cluster, "local" for one node. These are the words of docker network ls.
func (d Driver) Scope() string {
	if d == DriverOverlay {
		return "global"
	}
	return "local"
}

// A Family is an address family. It is spelled as users write it.
type Family string

// The address families.
const (
	IPv4 Family = "ipv4"
	IPv6 Family = "ipv6"
)

// FamilyOf returns the family of a valid address; IPv4-mapped IPv6 is IPv6.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// A Node is a host that runs an agent, as its registration describes it.
type Node struct {
	ID      NodeID
	Name    string         // host name or --node-name; need not be unique
	VTEPs   []netip.Addr   // underlay addresses, at most one of each family
	MTU     int            // of the underlay device, in bytes
	Routes  []netip.Prefix // destinations that the host routes itself; no subnet may overlap one
	Version string         // of its agent

	Draining bool // attaches nothing new, gives back its blocks as they empty

	// CreateRevision is the etcd create-revision of the registration: the
	// fencing token that every transaction of the node compares.
	CreateRevision int64
	ModRevision    int64

	// Presence is who holds the node's presence key, nil while the node is
	// away. Nothing in the data plane hangs on it.
	Presence *Presence
}

// VTEP returns the node's underlay address of a family; the zero Addr if it
// has none.
func (n Node) VTEP(f Family) netip.Addr {
	for _, a := range n.VTEPs {
		if FamilyOf(a) == f {
			return a
		}
	}
	return netip.Addr{}
}

// A Presence is one run of an agent, as it announces itself under its lease.
type Presence struct {
	MachineID string // /etc/machine-id
	BootID    string // /proc/sys/kernel/random/boot_id
	PIDSpace  string // inode of the agent's PID namespace
	PID       int
	StartTime uint64 // of the process, in clock ticks after boot: proc(5), stat field 22
	Instance  string // random, drawn at each start
	Revision  int64  // create-revision of the presence key
}

// A Network is an L2 segment with one IPv4 subnet, one IPv6 subnet, or both.
type Network struct {
	ID       NetworkID
	Name     string
	Driver   Driver
	Node     NodeID // owner of a local network; empty for a global one
	IPv4     Subnet // zero if the network has no IPv4
	IPv6     Subnet // zero if the network has no IPv6
	VNI      uint32 // VXLAN network identifier, 24 bits; 0 for local networks
	Underlay Family // family of the VTEP addresses that carry it
	MTU      int    // of every interface in it, in bytes
	Internal bool   // no default route, nothing in or out
	Deleting bool   // marked for removal: nothing can be attached or claimed any more
	Options  map[string]string
	Labels   map[string]string
	Created  time.Time

	// ConfigOnly says that it is no network at all but what others are made from:
	// subnets that are not leased, options and labels. Its driver is DriverNull.
	ConfigOnly bool
	ConfigFrom string // name of the one that it was made from, "" if none

	// ModRevision guards every attach and claim: it changes when the network
	// is marked for removal.
	CreateRevision int64
	ModRevision    int64
}

// On reports whether a node may know a network: a global one, or one of its own.
func (n *Network) On(node NodeID) bool { return n.Node == "" || n.Node == node }

// IsDefault reports whether a network is its node's default network.
func (n *Network) IsDefault() bool { return n.Node != "" && n.Name == DefaultNetwork }

// A Subnet is the addresses of one family in a network.
type Subnet struct {
	Prefix  netip.Prefix
	Gateway netip.Addr            // on every node's bridge
	Range   netip.Prefix          // dynamic addresses come from it alone; zero: all of Prefix
	Aux     map[string]netip.Addr // addresses that others use; never lent
}

// IsValid reports whether the subnet is there at all.
func (s Subnet) IsValid() bool { return s.Prefix.IsValid() }

// A Block is an aligned power-of-two range of slots that one node holds.
type Block struct {
	Range
	Node NodeID

	// Ack asks every member to acknowledge that it has programmed the block.
	Ack bool

	// CreateRevision is the block's epoch: an attach into the block compares it.
	CreateRevision int64
	ModRevision    int64
}

// A Want asks a block's holder to give up slots of it.
type Want struct {
	Network NetworkID
	Holder  NodeID
	Asker   NodeID

	// Slot is the one slot that is asked for; nil: any free ones.
	Slot *Slot

	CreateRevision int64
}

// An Endpoint is a sandbox's interface in a network, as every node may know it.
type Endpoint struct {
	ID        EndpointID
	Network   NetworkID
	Node      NodeID
	Name      string   // unique in the network
	Aliases   []string // further names, which others may bear too
	Slot      Slot     // the slot that MAC follows from, unless the MAC was chosen
	Slots     []Slot   // every slot that it owns, Slot first: one record stands at each
	IPv4      netip.Addr
	IPv6      netip.Addr
	MAC       MAC
	Sandbox   string // what it was attached to, as the user named it
	Interface string // in the sandbox: "eth0"
	Ports     []Port // of its sandbox, that are published at its node and lead to it
	Created   time.Time

	// Ack asks every member to acknowledge that it has programmed the
	// endpoint; set only where it is an exception.
	Ack bool

	CreateRevision int64
	ModRevision    int64
}

// Addrs returns the endpoint's addresses, IPv4 first.
func (e Endpoint) Addrs() []netip.Addr {
	var out []netip.Addr
	for _, a := range []netip.Addr{e.IPv4, e.IPv6} {
		if a.IsValid() {
			out = append(out, a)
		}
	}
	return out
}

// A SandboxKind says who made a sandbox and how it is found again.
type SandboxKind string

// The kinds of sandbox.
const (
	SandboxMade   SandboxKind = "sandbox" // by the agent; the agent pins and removes it
	SandboxPID    SandboxKind = "pid"     // a process's network namespace
	SandboxNetns  SandboxKind = "netns"   // a path, as ip-netns(8) makes them
	SandboxDocker SandboxKind = "docker"  // a Docker container
)

// A Sandbox is a container's network namespace on this node.
type Sandbox struct {
	ID      SandboxID
	Name    string
	Kind    SandboxKind
	Netns   string  // path under which the namespace can be entered
	Inode   NetnsID // which namespace that path named when it was first seen
	PID     int     // of SandboxPID and SandboxDocker
	Created time.Time

	// Ports are published at this node, for as long as the sandbox has an
	// endpoint. They lead to the one that has its default route.
	Ports []Port

	SandboxSettings
}

// SandboxSettings are what a user says about a sandbox; all may be empty.
type SandboxSettings struct {
	Hostname string   // that its commands see; "": its name
	Resolver Resolver // how names of the world are looked up; else as on the host
	Hosts    []HostName
}

// A NetnsID identifies a network namespace: device and inode of its nsfs file, see
// namespaces(7), which another one has as soon as it is gone; and what no other
// one ever has, the boot of the host and the kernel's own count in it.
type NetnsID struct {
	Dev    uint64
	Ino    uint64
	Boot   string // "" of a record from before it was noted
	Cookie uint64 // SO_NETNS_COOKIE; 0 of such a record, and before Linux 5.14
}

// Is reports whether both identify the same namespace, as far as both tell.
func (n NetnsID) Is(other NetnsID) bool {
	return n.Dev == other.Dev && n.Ino == other.Ino &&
		(n.Boot == other.Boot || n.Boot == "" || other.Boot == "") &&
		(n.Cookie == other.Cookie || n.Cookie == 0 || other.Cookie == 0)
}

// An Attachment is an endpoint of this node together with where it is plugged
// in. The journal keeps it; etcd keeps only the Endpoint.
type Attachment struct {
	Endpoint Endpoint
	Sandbox  SandboxID
	Netns    string

	// NetworkName is what users call the network, also when that is gone; "" of
	// a journal older than the field.
	NetworkName string

	// Links are names by which this sandbox alone knows others in the network.
	Links []Link

	// Local is the network, if that is this node's alone: it goes with the node's
	// registration, and is what a node that returns can write again.
	Local *Network

	// Committed says that the endpoint's record stands in etcd. Until then the
	// veth is prepared but not enslaved.
	Committed bool

	// Registration is the create-revision of the node's registration under which
	// the endpoint's record was written; 0: not known.
	Registration int64

	// GatewayPriority decides which of a sandbox's endpoints has its default
	// routes: the highest one's, the oldest of several.
	GatewayPriority int32

	// DriverOptions are what the user said of the interface, by docker's names or
	// short ones: see bridge.ParseEndpointOptions.
	DriverOptions map[string]string

	// Lost says why the endpoint is off its network, and what to do: a slot of it
	// is another's by now, its name is, or the network is gone. It follows from
	// the snapshot and is never stored.
	Lost string

	// Gateway says that a default route of the sandbox, of one family or both,
	// leads through the endpoint. It follows from the sandbox's attachments and is
	// never stored.
	Gateway bool
}

// NetworkLabel returns what people call the network: its short id where only that is
// known.
func (a Attachment) NetworkLabel() string {
	if a.NetworkName != "" {
		return a.NetworkName
	}
	return ShortID(a.Endpoint.Network)
}

// A Link is one more name for the endpoint, or the endpoints, of a name.
type Link struct {
	Name  string
	Alias string
}

// A Pool is a prefix that automatic subnets of Bits length are cut from.
type Pool struct {
	Prefix netip.Prefix
	Bits   int
}

// String shows a pool as it is set, and as Docker's default-address-pools is:
// base=10.0.0.0/8,size=24.
func (p Pool) String() string { return fmt.Sprintf("base=%s,size=%d", p.Prefix, p.Bits) }
