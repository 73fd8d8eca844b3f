// Package kernel reads and changes the network state of the host.
//
// State describes what a kernel holds, or should hold, of ours. Diff compares
// two of them and returns the ops that lead from one to the other; both are
// pure. Host is the only code of the project with netlink, network namespaces,
// sysctls and iptables: Read fills a State, Apply carries out ops. Only the
// reconciler calls Apply.
//
// The package does not know what a network or an endpoint needs: bridge and
// overlay decide that.
package kernel

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/overspan/overspan"
)

// A State is a part of the kernel's network state: all of it that is ours, or
// as much as a Scope says. Every map is keyed by what the kernel treats as
// unique; a nil map is an empty one.
type State struct {
	// Partial says that some of it could not be read, or not be planned:
	// what is missing here is unknown, not absent. Diff then deletes nothing.
	Partial bool

	// NoIPv6 says that the kernel has none: of what is wanted Diff then leaves out
	// what needs it. Read only.
	NoIPv6 bool

	Netns    map[string]struct{}   // pinned namespaces that we made, by path
	Links    map[string]Link       // in the host's namespace, by name
	Insides  map[string]Inside     // the containers' ends of veths, by the name of the host end; where absent: not read
	Addrs    map[Addr]struct{}     // on our bridges
	FDB      map[FDBKey]Dest       // of our VXLAN devices
	Statics  map[FDBKey]struct{}   // static bridge entries on our veths ("master static")
	Neighs   map[NeighKey]LLAddr   // permanent, on our VXLAN devices
	Sysctls  map[string]string     // by path below /proc/sys: "net/ipv4/conf/osb-…/arp_ignore"; never deleted
	Sets     map[string]AddrSet    // ipsets, by name, and UnderlayVTEPs
	Chains   map[ChainKey]Chain    // our own iptables chains
	Programs map[string]Program    // by the link that they are attached to
	Tables   map[TableKey]struct{} // packet filter tables that hold nothing, as the nft flavour of iptables leaves them behind
	// Owed are the flows that an earlier FlushFlows has failed for, without To: no
	// rule tells of them any more. Never wanted.
	Owed map[Flow]struct{}
	// Doomed is what waits to be retired, by name: links of ours in the doomed
	// group, and what programs are told of links that are gone. Never wanted.
	Doomed map[string]struct{}
}

// The switches for forwarding of the whole host, among its Sysctls. Writing
// either also sets forwarding for each device, and whether the host accepts
// redirects.
const (
	ForwardIPv4 = "net/ipv4/ip_forward"
	ForwardIPv6 = "net/ipv6/conf/all/forwarding"
)

// A LinkKind is the kind of a link, as ip-link(8) writes it.
type LinkKind string

// The kinds of link that we make.
const (
	KindBridge LinkKind = "bridge"
	KindVXLAN  LinkKind = "vxlan"
	KindVeth   LinkKind = "veth"
)

// A Link is a network device in the host's namespace. It is comparable: two
// equal values need no op.
type Link struct {
	Kind   LinkKind
	Alias  string
	MAC    overspan.MAC // zero for a veth's host end: the kernel's choice is kept
	MTU    int
	Up     bool
	Master string // the bridge that it is a port of; "" for none
	VXLAN  VXLAN  // of a VXLAN device
	// AltName is a name that the link bears besides its own. Read, it is all of
	// them, with spaces between: others may give one, which is theirs.
	AltName string
	Bridge  Bridge // of a bridge
	Port    Port   // where Master is set

	// What nobody plans, since it keeps packets from a link that is up.
	NoARP     bool // no ARP, neither asked nor answered, also by a VXLAN device
	ProtoDown bool // the carrier is off ("protodown")
}

// Bridge is the attributes of a bridge that we care for.
type Bridge struct {
	// MulticastSnooping off: a container's MLD query otherwise stops IPv6
	// neighbour discovery in the whole network.
	MulticastSnooping bool

	// What nobody plans, since it keeps packets from ports.
	STP           bool // has ports wait for half a minute before they carry packets
	VLANFiltering bool // lets only frames of a port's VLANs pass: they have none
}

// VXLAN is the attributes of a VXLAN device. All but the addrgenmode are fixed
// when the device is made: a difference means making it anew.
type VXLAN struct {
	VNI      uint32
	Port     uint16 // UDP destination port
	TTL      uint8  // of the tunnel's packets; 0: the kernel's own
	Local    netip.Addr
	Learning bool
	Proxy    bool // answers ARP and ND from its neighbour table
	// AddrGenNone: no link-local address of its own (IFLA_INET6_ADDR_GEN_MODE
	// none). Never disable_ipv6: that wipes the device's IPv6 neighbours.
	AddrGenNone bool
}

// Port is the flags of a bridge port, see bridge(8).
type Port struct {
	Learning bool
	Flood    bool // of unknown unicast
	Hairpin  bool
	Isolated bool
	Locked   bool // takes frames only from MACs with a static entry behind it

	// What nobody plans, since it keeps packets from the port.
	Closed        bool // its state is not "forwarding", though the link carries packets
	NoBroadcast   bool // no flooding of broadcast: ARP
	NoMulticast   bool // no flooding of multicast: neighbour discovery
	NeighSuppress bool // the bridge answers ARP in the place of who is behind it,
	ProxyARP      bool // by what it knows itself
}

// An Inside is the container's end of a veth.
type Inside struct {
	Netns   string // path of the namespace that it belongs in
	Missing bool   // read only: the namespace has no such interface any more
	Name    string // "eth0"
	MAC     overspan.MAC
	MTU     int
	Up      bool
	Addrs   []netip.Prefix // sorted by netip.Prefix.Compare; link-local ones are not ours
	Routes  []Route        // sorted; the subnets' own connected routes are not listed
	Sysctls []Sysctl       // sorted by path; of the interface, and only those that are wanted
}

// A Route is a route in a container: to Dst by way of Via. Of several to the same
// destination that with the least metric is taken.
type Route struct {
	Dst    netip.Prefix
	Via    netip.Addr
	Metric uint32 // see RouteMetric
}

// RouteMetric returns the metric of our routes of a family at a container's
// interface. It follows from the number in the interface's name: a default route
// that moves from one interface to another stands by way of both for a moment, and
// never by neither. None is what ip-route(8) or the kernel gives a route that is
// given none, 0 or, in IPv6, 1024: two routes with one destination and one metric
// are the same route to the kernel, and one that the container has of its own,
// which comes first, would be replaced.
func RouteMetric(name string, f overspan.Family) uint32 {
	metric := uint32(64 + nameNumber(name))
	if f == overspan.IPv6 {
		metric += 1024
	}
	return metric
}

// nameNumber returns the number at the end of an interface's name: 2 of "eth2".
func nameNumber(name string) int {
	digits := name[len(strings.TrimRight(name, "0123456789")):]
	n, _ := strconv.ParseUint(digits, 10, 16)
	return int(n)
}

// An Addr is an address on one of our bridges, with its prefix length.
type Addr struct {
	Dev    string
	Prefix netip.Prefix
}

// An FDBKey is what the kernel holds one forwarding entry for.
type FDBKey struct {
	Dev string
	MAC overspan.MAC
}

// A Dest is where a VXLAN device sends frames for a MAC.
type Dest struct {
	VTEP netip.Addr // invalid where a nexthop says it

	// Other is what leads the frames elsewhere in spite of the VTEP, as
	// bridge-fdb(8) writes it: "port 9999". Read only.
	Other string

	// Ports is where programs at ports send them instead, an address or "none"; ""
	// where that is the VTEP. Read only.
	Ports string
}

// A NeighKey is what the kernel holds one neighbour entry for.
type NeighKey struct {
	Dev string
	IP  netip.Addr
}

// An LLAddr is what a neighbour entry says.
type LLAddr struct {
	MAC overspan.MAC

	// Other is what it has besides that none of ours has, as ip-neighbour(8)
	// writes it: "router". Read only.
	Other string
}

// An AddrSet is an ipset of single addresses, type hash:ip, or of subnets, type
// hash:net, which takes longer to ask; or a map of single addresses that a program
// asks.
type AddrSet struct {
	Family  overspan.Family
	Subnets bool
	Members map[netip.Prefix]struct{} // single addresses have the full length
}

// Single returns an address as a member of a set.
func Single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// A ChainKey names an iptables chain.
type ChainKey struct {
	Family overspan.Family
	Table  string // "filter", "nat", "raw"
	Name   string // "OVERSPAN-FORWARD"
}

// A TableKey names an iptables table.
type TableKey struct {
	Family overspan.Family
	Name   string
}

// A Chain is one of our chains: its rules in order and the one jump to it.
type Chain struct {
	// Open: the rules are the user's. The chain is made where it is absent;
	// what it holds is neither compared nor touched.
	Open bool

	// Hook is the built-in chain that jumps here before any foreign rule; "" if other
	// chains of ours do.
	Hook  string
	Rules []Rule
}

// A Rule is the text of one rule, as iptables-restore reads it behind "-A
// CHAIN", without its comment. Its identity in the kernel is a hash in that
// comment: a rule read back carries Hash alone, a planned one Text alone (see
// Rule.ID).
type Rule struct {
	Text string
	Hash string

	Flow Flow // of a rule that publishes a port
}

// A Flow is what conntrack knows the packets to a published port by, and where
// they go from there.
type Flow struct {
	Protocol overspan.Protocol // "": none
	Dst      netip.AddrPort    // as the sender has it; an unspecified address is any of the host's
	To       netip.AddrPort    // the container
}

// key returns the flow without where it leads.
func (f Flow) key() Flow { return Flow{Protocol: f.Protocol, Dst: f.Dst} }

// A Scope says which part of the kernel is looked at, and so which part may be
// changed: a State that was read or planned for a scope holds everything of
// ours in it and nothing else.
type Scope struct {
	// All takes everything of ours in the host's namespace. The other fields
	// then only matter where they say so.
	All bool

	// Global takes what belongs to no network: pinned namespaces, rules, sets.
	Global bool

	// Networks takes their bridge, VXLAN device, ports, addresses, sysctls,
	// FDB and neighbours.
	Networks []overspan.NetworkID

	// Endpoints takes one veth each: both ends and its static bridge entry.
	// All and Networks take the host ends only: to enter a container's
	// namespace its path has to be known.
	Endpoints []EndpointKey

	// FDB and Neighs take single entries of VXLAN devices, whose links are not
	// looked at.
	FDB    []FDBKey
	Neighs []NeighKey

	// Chains takes single chains, for whoever must not wait until thousands of
	// rules are listed. Their jumps from built-in chains are not looked at.
	Chains []ChainKey

	// Sets takes single ipsets, by name.
	Sets []string

	// Tables takes the packet filter tables that hold nothing. Whose they are
	// cannot be seen: only who knows which were there before takes them.
	Tables bool

	// Sysctls are the paths that are wanted, all others are left unread: which
	// of the host's thousands matter only a plan knows. An absent one (its
	// device is not there yet) is no error.
	Sysctls []string

	// InsideSysctls are those that are wanted of the containers' ends, sorted, by
	// the name of the host end.
	InsideSysctls map[string][]string
}

// An EndpointKey finds an endpoint's veth without looking at any other.
type EndpointKey struct {
	Network  overspan.NetworkID
	Endpoint overspan.EndpointID
	Netns    string // path of the container's namespace; "" leaves its end unread
}

// A Hint is a change in the kernel that somebody may have to look at.
type Hint struct {
	// All: events were lost, anything may have changed.
	All bool

	// Dev names one of our devices; by it the reconciler chooses a Scope.
	Dev string

	// Links: a device of others came, changed or went, and may have left what
	// one of ours needs.
	Links bool

	// Rules: packet filter rules changed, ours or others'.
	Rules bool

	// Forwarding: it was switched on or off for the host as a whole.
	Forwarding bool

	// Routes: addresses or routes of the host itself changed.
	Routes bool

	// Underlay: what is at the ingress of a device of others may not be our
	// program any more, or IPsec policies changed.
	Underlay bool
}
