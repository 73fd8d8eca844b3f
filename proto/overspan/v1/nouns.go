package overspanv1

// The records and the nouns of package overspan, both ways. To a record, every
// noun can be turned; to a noun only a record that holds together. Noun methods
// refuse the others with an error of class overspan.ErrCorrupt that names the
// field and its value; what a record's key says is given to them, or compared
// by package store.

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/overspan/overspan"
)

// maxMTU is what a 16-bit IP length leaves; minMTU is IPv4's least (RFC 791).
const (
	minMTU = 68
	maxMTU = 65535
)

// maxPort is the largest 16-bit port.
const maxPort = 1<<16 - 1

// maxVNI is the largest 24-bit network identifier.
const maxVNI = 1<<24 - 1

// MetaRecord returns the record of what a cluster was set up with.
func MetaRecord(m overspan.Meta) *Meta {
	return &Meta{
		Schema:      uint32(m.Schema),
		ClusterId:   m.ClusterID,
		OverlayPool: poolRecord(m.Pools.Overlay),
		BridgePool:  poolRecord(m.Pools.Bridge),
		Ipv6Pool:    poolRecord(m.Pools.IPv6),
		FirstVni:    m.VNIs.First,
		LastVni:     m.VNIs.Last,
	}
}

// Noun reads the record.
func (x *Meta) Noun() (overspan.Meta, error) {
	r := reader{record: "meta"}
	m := overspan.Meta{
		Schema:    int(x.GetSchema()),
		ClusterID: r.id("cluster_id", x.GetClusterId()),
		Pools: overspan.Pools{
			Overlay: r.pool("overlay_pool", x.GetOverlayPool(), overspan.IPv4),
			Bridge:  r.pool("bridge_pool", x.GetBridgePool(), overspan.IPv4),
			IPv6:    r.pool("ipv6_pool", x.GetIpv6Pool(), overspan.IPv6),
		},
		VNIs: overspan.VNIRange{First: x.GetFirstVni(), Last: x.GetLastVni()},
	}
	r.check(m.Schema > 0, "schema", x.GetSchema(), "want 1 or more")
	r.check(m.VNIs.First > 0 && m.VNIs.First <= m.VNIs.Last && m.VNIs.Last <= maxVNI,
		"first_vni to last_vni", fmt.Sprintf("%d to %d", m.VNIs.First, m.VNIs.Last), "want a range within 1 to 16777215")
	return result(m, r)
}

func poolRecord(p overspan.Pool) *Pool {
	return &Pool{Prefix: p.Prefix.String(), Bits: uint32(p.Bits)}
}

func (r *reader) pool(field string, x *Pool, family overspan.Family) overspan.Pool {
	p := overspan.Pool{Prefix: r.prefix(field+".prefix", x.GetPrefix()), Bits: int(x.GetBits())}
	if p.Prefix.IsValid() {
		r.check(overspan.FamilyOf(p.Prefix.Addr()) == family, field+".prefix", x.GetPrefix(), "want "+string(family))
		r.check(p.Bits >= p.Prefix.Bits() && p.Bits < p.Prefix.Addr().BitLen(), field+".bits", x.GetBits(), "want a length between the pool's and the address's")
	}
	return p
}

// NodeRecord returns the record of a registration.
func NodeRecord(n overspan.Node) *Node {
	return &Node{
		Id:      string(n.ID),
		Name:    n.Name,
		Vteps:   texts(n.VTEPs),
		Mtu:     uint32(n.MTU),
		Routes:  texts(n.Routes),
		Version: n.Version,

		Draining: n.Draining,
	}
}

// Noun reads the record.
func (x *Node) Noun() (overspan.Node, error) {
	r := reader{record: "node " + overspan.ShortID(x.GetId())}
	n := overspan.Node{
		ID:      overspan.NodeID(r.id("id", x.GetId())),
		Name:    x.GetName(),
		MTU:     r.mtu("mtu", x.GetMtu()),
		Version: x.GetVersion(),

		Draining: x.GetDraining(),
	}
	r.check(n.Name != "", "name", x.GetName(), "want a name")
	for i, text := range x.GetVteps() {
		a := r.addr(fmt.Sprintf("vteps[%d]", i), text)
		second := a.IsValid() && n.VTEP(overspan.FamilyOf(a)).IsValid()
		r.check(!second, fmt.Sprintf("vteps[%d]", i), text, "want one of each family")
		n.VTEPs = append(n.VTEPs, a)
	}
	r.check(len(n.VTEPs) > 0, "vteps", x.GetVteps(), "want an address")
	for i, text := range x.GetRoutes() {
		n.Routes = append(n.Routes, r.prefix(fmt.Sprintf("routes[%d]", i), text))
	}
	return result(n, r)
}

// FrozenRecord returns the record of a freeze.
func FrozenRecord(f overspan.Freeze) *Frozen {
	return &Frozen{Reason: f.Reason, Node: string(f.Node), NodeName: f.NodeName, Since: stamp(f.Since)}
}

// Noun reads the record. Whatever it says, the cluster is frozen: nothing in it
// is refused.
func (x *Frozen) Noun() overspan.Freeze {
	f := overspan.Freeze{Reason: x.GetReason(), Node: overspan.NodeID(x.GetNode()), NodeName: x.GetNodeName()}
	if x.GetSince().IsValid() {
		f.Since = x.GetSince().AsTime()
	}
	return f
}

// ReportRecord returns the record of a report.
func ReportRecord(p overspan.Report) *Report {
	return &Report{
		NodeName:  p.NodeName,
		Since:     stamp(p.Since),
		Networks:  uint32(p.Networks),
		Blocks:    uint32(p.Blocks),
		Endpoints: uint32(p.Endpoints),
		Failures:  p.Failures,
	}
}

// Noun reads the record. It is only ever shown to people: nothing in it is
// refused.
func (x *Report) Noun() overspan.Report {
	p := overspan.Report{
		NodeName:  x.GetNodeName(),
		Networks:  int(x.GetNetworks()),
		Blocks:    int(x.GetBlocks()),
		Endpoints: int(x.GetEndpoints()),
		Failures:  x.GetFailures(),
	}
	if x.GetSince().IsValid() {
		p.Since = x.GetSince().AsTime()
	}
	return p
}

// PresenceRecord returns the record of a presence.
func PresenceRecord(p overspan.Presence) *Presence {
	return &Presence{
		MachineId: p.MachineID,
		BootId:    p.BootID,
		PidSpace:  p.PIDSpace,
		Pid:       int64(p.PID),
		StartTime: p.StartTime,
		Instance:  p.Instance,
	}
}

// Noun reads the record.
func (x *Presence) Noun() (overspan.Presence, error) {
	r := reader{record: "presence"}
	p := overspan.Presence{
		MachineID: x.GetMachineId(),
		BootID:    x.GetBootId(),
		PIDSpace:  x.GetPidSpace(),
		PID:       r.pid("pid", x.GetPid()),
		StartTime: x.GetStartTime(),
		Instance:  x.GetInstance(),
	}
	r.check(p.Instance != "", "instance", x.GetInstance(), "want the nonce of a run")
	return result(p, r)
}

// BlockRecord returns the record of a block; its key says where it lies.
func BlockRecord(b overspan.Block) *Block {
	return &Block{Node: string(b.Node), Ack: b.Ack}
}

// Noun reads the record of the block at a range.
func (x *Block) Noun(at overspan.Range) (overspan.Block, error) {
	r := reader{record: fmt.Sprintf("block %s", at)}
	r.check(at.IsBlock(), "range", at, "want an aligned power of two up to 64")
	b := overspan.Block{Range: at, Node: overspan.NodeID(r.id("node", x.GetNode())), Ack: x.GetAck()}
	return result(b, r)
}

// WantRecord returns the record of a want. Registration is the create-revision
// of the asker's registration.
func WantRecord(w overspan.Want, registration int64) *Want {
	out := &Want{Registration: registration}
	if w.Slot != nil {
		out.Exact, out.Slot = true, uint64(*w.Slot)
	}
	return out
}

// Noun reads the record of what asker wants of holder; the asker's
// registration stays in the record.
func (x *Want) Noun(n overspan.NetworkID, holder, asker overspan.NodeID) (overspan.Want, error) {
	r := reader{record: "want of " + overspan.ShortID(asker)}
	r.check(x.GetRegistration() > 0, "registration", x.GetRegistration(), "want a revision")
	r.check(x.GetExact() || x.GetSlot() == 0, "slot", x.GetSlot(), "want none where exact is not set")
	r.check(holder != asker, "asker", asker, "want another node than the holder")
	w := overspan.Want{Network: n, Holder: holder, Asker: asker}
	if x.GetExact() {
		slot := overspan.Slot(x.GetSlot())
		w.Slot = &slot
	}
	return result(w, r)
}

// EndpointRecord returns the record of an endpoint.
func EndpointRecord(e overspan.Endpoint) *Endpoint {
	out := &Endpoint{
		Id:        string(e.ID),
		Network:   string(e.Network),
		Node:      string(e.Node),
		Name:      e.Name,
		Ipv4:      text(e.IPv4),
		Ipv6:      text(e.IPv6),
		Mac:       e.MAC.String(),
		Sandbox:   e.Sandbox,
		Interface: e.Interface,
		Created:   stamp(e.Created),
		Ack:       e.Ack,
		Aliases:   e.Aliases,
		Ports:     portRecords(e.Ports),
	}
	for _, s := range e.Slots {
		out.Slots = append(out.Slots, uint64(s))
	}
	return out
}

// portRecords returns published ports as records.
func portRecords(ports []overspan.Port) []*Port {
	var out []*Port
	for _, p := range ports {
		out = append(out, &Port{Protocol: string(p.Protocol), Port: uint32(p.Port), HostIp: text(p.HostIP), HostPort: uint32(p.HostPort)})
	}
	return out
}

// Noun reads the record. Whether its addresses are those of its slots only the
// network can tell.
func (x *Endpoint) Noun() (overspan.Endpoint, error) {
	r := reader{record: "endpoint " + overspan.ShortID(x.GetId())}
	e := overspan.Endpoint{
		ID:        overspan.EndpointID(r.id("id", x.GetId())),
		Network:   overspan.NetworkID(r.id("network", x.GetNetwork())),
		Node:      overspan.NodeID(r.id("node", x.GetNode())),
		Name:      r.name("endpoint", x.GetName()),
		IPv4:      r.addrOf("ipv4", x.GetIpv4(), overspan.IPv4),
		IPv6:      r.addrOf("ipv6", x.GetIpv6(), overspan.IPv6),
		MAC:       r.mac("mac", x.GetMac()),
		Sandbox:   x.GetSandbox(),
		Interface: x.GetInterface(),
		Created:   r.time("created", x.GetCreated()),
		Ack:       x.GetAck(),
		Aliases:   x.GetAliases(),
	}
	for _, a := range e.Aliases {
		r.name("alias", a)
	}
	for _, s := range x.GetSlots() {
		r.check(!slices.Contains(e.Slots, overspan.Slot(s)), "slots", x.GetSlots(), "want each once")
		e.Slots = append(e.Slots, overspan.Slot(s))
	}
	r.check(len(e.Addrs()) > 0, "ipv4 and ipv6", "", "want an address")
	if r.check(len(e.Slots) >= 1 && len(e.Slots) <= max(1, len(e.Addrs())), "slots", x.GetSlots(), "want one, or one for each address") {
		e.Slot = e.Slots[0]
	}
	e.Ports = r.publications(x.GetPorts())
	return result(e, r)
}

// publications reads published ports.
func (r *reader) publications(ports []*Port) (out []overspan.Port) {
	for i, p := range ports {
		out = append(out, r.publication(fmt.Sprintf("ports[%d]", i), p))
	}
	return out
}

// publication reads a published port.
func (r *reader) publication(field string, x *Port) overspan.Port {
	p := overspan.Port{Protocol: overspan.Protocol(x.GetProtocol())}
	var err error
	p.HostIP, err = netip.ParseAddr(x.GetHostIp())
	r.check(err == nil && p.HostIP.Zone() == "" && !p.HostIP.Is4In6(), field+".host_ip", x.GetHostIp(), "want an IP address, 0.0.0.0 or ::")
	r.check(slices.Contains(overspan.Protocols(), p.Protocol), field+".protocol", x.GetProtocol(), "want tcp, udp or sctp")
	p.Port, p.HostPort = r.port(field+".port", x.GetPort()), r.port(field+".host_port", x.GetHostPort())
	return p
}

func (r *reader) port(field string, n uint32) uint16 {
	r.check(n > 0 && n <= maxPort, field, n, "want a number within 1 to 65535")
	return uint16(n)
}

func text(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func texts[T fmt.Stringer](in []T) []string {
	var out []string
	for _, v := range in {
		out = append(out, v.String())
	}
	return out
}

func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
