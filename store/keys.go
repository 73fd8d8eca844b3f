package store

import (
	"fmt"
	"net/netip"

	"github.com/overspan/overspan"
)

// Keys lays out one cluster's keys: /overspan/<cluster>/v1/… . Numbers in keys
// have a fixed width, so that the order of the keys is the order of the numbers
// and a range of numbers is a range of keys.
type Keys struct{ prefix string }

// NewKeys returns the layout of a cluster; ErrInvalid if its name cannot stand
// in a key.
func NewKeys(cluster string) (Keys, error) {
	if err := overspan.CheckName("cluster", cluster); err != nil {
		return Keys{}, err
	}
	return Keys{prefix: "/overspan/" + cluster + "/v1/"}, nil
}

// All returns the range of all keys of the cluster.
func (k Keys) All() KeyRange { return Prefix(k.prefix) }

// Meta returns the key of what the cluster was set up with.
func (k Keys) Meta() string { return k.prefix + "meta" }

// Frozen returns the key whose presence forbids every claim.
func (k Keys) Frozen() string { return k.prefix + "meta/frozen" }

// Accepted returns the key that counts what operators have accepted.
func (k Keys) Accepted() string { return k.prefix + "meta/accepted" }

// Claimed returns the key that claims of blocks put. Every node follows it: an etcd
// in which it is older than that was restored.
func (k Keys) Claimed() string { return k.prefix + "meta/claimed" }

// Report returns the key of what a node has published again during a freeze.
func (k Keys) Report(n overspan.NodeID) string { return k.prefix + "reports/" + string(n) }

// Reports returns the range of all reports.
func (k Keys) Reports() KeyRange { return Prefix(k.prefix + "reports/") }

// Node returns the key of a node's registration.
func (k Keys) Node(n overspan.NodeID) string { return k.prefix + "nodes/" + string(n) }

// Nodes returns the range of all registrations.
func (k Keys) Nodes() KeyRange { return Prefix(k.prefix + "nodes/") }

// Live returns the key of a node's presence.
func (k Keys) Live(n overspan.NodeID) string { return k.prefix + "live/" + string(n) }

// Lives returns the range of all presences.
func (k Keys) Lives() KeyRange { return Prefix(k.prefix + "live/") }

// Removing returns the key that stands while a node is being removed.
func (k Keys) Removing(n overspan.NodeID) string { return k.prefix + "removing/" + string(n) }

// Removals returns the range of all removals in progress.
func (k Keys) Removals() KeyRange { return Prefix(k.prefix + "removing/") }

// Eviction returns the key of the note that an endpoint was taken from a node.
func (k Keys) Eviction(n overspan.NodeID, e overspan.EndpointID) string {
	return k.prefix + "evicted/" + string(n) + "/" + string(e)
}

// Evictions returns the range of what was taken from a node.
func (k Keys) Evictions(n overspan.NodeID) KeyRange {
	return Prefix(k.prefix + "evicted/" + string(n) + "/")
}

// Flight returns the key of the sequence of a node's transactions.
func (k Keys) Flight(n overspan.NodeID) string { return k.prefix + "flights/" + string(n) }

// Network returns the key of a network's record.
func (k Keys) Network(n overspan.NetworkID) string { return k.prefix + "networks/" + string(n) }

// Networks returns the range of all networks' records.
func (k Keys) Networks() KeyRange { return Prefix(k.prefix + "networks/") }

// NetworkName returns the key that holds a network's name: a global one if
// node is empty, else one of that node.
func (k Keys) NetworkName(name string, node overspan.NodeID) string {
	if node == "" {
		return k.prefix + "names/" + name + "/" + globalName
	}
	return k.prefix + "names/" + name + "/" + string(node)
}

// NetworkNames returns the range of all holders of one network name.
func (k Keys) NetworkNames(name string) KeyRange { return Prefix(k.prefix + "names/" + name + "/") }

// VNI returns the key that leases a VNI to a network.
func (k Keys) VNI(vni uint32) string { return fmt.Sprintf("%svnis/%08d", k.prefix, vni) }

// VNIs returns the range of all leased VNIs.
func (k Keys) VNIs() KeyRange { return Prefix(k.prefix + "vnis/") }

// Subnet returns the key that leases a subnet to a network.
func (k Keys) Subnet(p netip.Prefix) string {
	return fmt.Sprintf("%ssubnets/%s/%x/%03d", k.prefix, overspan.FamilyOf(p.Addr()), p.Masked().Addr().AsSlice(), p.Bits())
}

// Subnets returns the range of all leased subnets, of SubnetsVersion too.
func (k Keys) Subnets() KeyRange { return Prefix(k.prefix + "subnets/") }

// SubnetsVersion returns the key that every change of the leased subnets
// compares and rewrites, so that no two of them pass each other.
func (k Keys) SubnetsVersion() string { return k.prefix + "subnets/version" }

// Segment returns the range of everything that a member of the network must
// watch.
func (k Keys) Segment(n overspan.NetworkID) KeyRange { return Prefix(k.segment(n, "")) }

// Interiors returns the range of the interiors of all networks.
func (k Keys) Interiors() KeyRange { return Prefix(k.prefix + "net/") }

func (k Keys) segment(n overspan.NetworkID, rest string) string {
	return k.prefix + "net/" + string(n) + "/" + rest
}

// Block returns the key of a block.
func (k Keys) Block(n overspan.NetworkID, r overspan.Range) string {
	return k.segment(n, fmt.Sprintf("blocks/%02d/%016x", r.Size, uint64(r.First)))
}

// Blocks returns the range of a network's blocks.
func (k Keys) Blocks(n overspan.NetworkID) KeyRange { return Prefix(k.segment(n, "blocks/")) }

// BlocksWithin returns the range of those blocks of one size whose first slot
// lies in r.
func (k Keys) BlocksWithin(n overspan.NetworkID, r overspan.Range, size uint64) KeyRange {
	return KeyRange{
		Key: k.Block(n, overspan.Range{First: r.First, Size: size}),
		End: after(k.Block(n, overspan.Range{First: r.Last(), Size: size})),
	}
}

// Endpoint returns the key of the endpoint's record at one of its slots.
func (k Keys) Endpoint(n overspan.NetworkID, s overspan.Slot) string {
	return k.segment(n, fmt.Sprintf("endpoints/%016x", uint64(s)))
}

// Endpoints returns the range of a network's endpoints.
func (k Keys) Endpoints(n overspan.NetworkID) KeyRange { return Prefix(k.segment(n, "endpoints/")) }

// EndpointsWithin returns the range of the endpoints' records at r's slots.
func (k Keys) EndpointsWithin(n overspan.NetworkID, r overspan.Range) KeyRange {
	return KeyRange{Key: k.Endpoint(n, r.First), End: after(k.Endpoint(n, r.Last()))}
}

// EndpointName returns the key that holds an endpoint's name in its network.
func (k Keys) EndpointName(n overspan.NetworkID, name string) string {
	return k.segment(n, "names/"+name)
}

// MAC returns the key that holds a MAC that does not follow from a slot.
func (k Keys) MAC(n overspan.NetworkID, m overspan.MAC) string {
	return k.segment(n, "macs/"+m.String())
}

// Want returns the key of what asker wants of holder.
func (k Keys) Want(n overspan.NetworkID, holder, asker overspan.NodeID) string {
	return k.segment(n, "wants/"+string(holder)+"/"+string(asker))
}

// Wants returns the range of a network's wants.
func (k Keys) Wants(n overspan.NetworkID) KeyRange { return Prefix(k.segment(n, "wants/")) }

// Ack returns the key of how far a node has programmed a network.
func (k Keys) Ack(n overspan.NetworkID, node overspan.NodeID) string {
	return k.prefix + "acks/" + string(n) + "/" + string(node)
}

// AllAcks returns the range of the acknowledgements of all networks.
func (k Keys) AllAcks() KeyRange { return Prefix(k.prefix + "acks/") }

// Acks returns the range of a network's acknowledgements.
func (k Keys) Acks(n overspan.NetworkID) KeyRange {
	return Prefix(k.prefix + "acks/" + string(n) + "/")
}

// globalName stands in the place of the node in the name key of a global network.
const globalName = "global"

// after returns the key next behind k in the order of keys.
func after(k string) string { return k + "\x00" }
