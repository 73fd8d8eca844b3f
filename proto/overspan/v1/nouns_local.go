package overspanv1

import (
	"net/netip"

	"github.com/overspan/overspan"
)

// SandboxRecord returns the record of a sandbox.
func SandboxRecord(s overspan.Sandbox) *Sandbox {
	return &Sandbox{
		Id:       string(s.ID),
		Name:     s.Name,
		Kind:     string(s.Kind),
		Netns:    s.Netns,
		NetnsDev: s.Inode.Dev,
		NetnsIno: s.Inode.Ino,
		Pid:      int64(s.PID),
		Created:  stamp(s.Created),
		Hostname: s.Hostname,
		Resolver: ResolverRecord(s.Resolver),
		Hosts:    HostNameRecords(s.Hosts),
		Ports:    portRecords(s.Ports),

		NetnsBoot:   s.Inode.Boot,
		NetnsCookie: s.Inode.Cookie,
	}
}

// Noun reads the record.
func (x *Sandbox) Noun() (overspan.Sandbox, error) {
	r := reader{record: "sandbox " + overspan.ShortID(x.GetId())}
	s := overspan.Sandbox{
		ID:      overspan.SandboxID(r.id("id", x.GetId())),
		Name:    r.name("sandbox", x.GetName()),
		Kind:    overspan.SandboxKind(x.GetKind()),
		Netns:   x.GetNetns(),
		Inode:   overspan.NetnsID{Dev: x.GetNetnsDev(), Ino: x.GetNetnsIno(), Boot: x.GetNetnsBoot(), Cookie: x.GetNetnsCookie()},
		PID:     r.pid("pid", x.GetPid()),
		Created: r.time("created", x.GetCreated()),
		Ports:   r.publications(x.GetPorts()),
	}
	var err error
	s.SandboxSettings, err = SettingsOf(x.GetHostname(), x.GetResolver(), x.GetHosts())
	r.check(err == nil, "hostname, resolver and hosts", err, "want what a user may say")
	switch s.Kind {
	case overspan.SandboxMade, overspan.SandboxPID, overspan.SandboxNetns, overspan.SandboxDocker:
	default:
		r.check(false, "kind", x.GetKind(), "want sandbox, pid, netns or docker")
	}
	r.check(s.Netns != "", "netns", x.GetNetns(), "want a path")
	return result(s, r)
}

// ResolverRecord returns how names are looked up, as a record; nil for the zero
// Resolver.
func ResolverRecord(r overspan.Resolver) *Resolver {
	if len(r.Servers)+len(r.Search)+len(r.Options) == 0 {
		return nil
	}
	return &Resolver{Servers: texts(r.Servers), Search: r.Search, Options: r.Options}
}

// HostNameRecords returns lines of hosts(5) as records.
func HostNameRecords(hosts []overspan.HostName) []*HostName {
	var out []*HostName
	for _, h := range hosts {
		out = append(out, &HostName{Name: h.Name, Address: h.Addr.String()})
	}
	return out
}

// SettingsOf reads what a user says about a sandbox, and refuses what the files
// that it goes into cannot hold.
func SettingsOf(hostname string, resolver *Resolver, hosts []*HostName) (overspan.SandboxSettings, error) {
	s := overspan.SandboxSettings{Hostname: hostname}
	s.Resolver.Search, s.Resolver.Options = resolver.GetSearch(), resolver.GetOptions()
	for _, text := range resolver.GetServers() {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return s, overspan.Errorf(overspan.ErrInvalid, "invalid DNS server %s: want an IP address", quote(text))
		}
		s.Resolver.Servers = append(s.Resolver.Servers, a)
	}
	for _, h := range hosts {
		a, err := netip.ParseAddr(h.GetAddress())
		if err != nil {
			return s, overspan.Errorf(overspan.ErrInvalid, "invalid address %s of host %s: want an IP address", quote(h.GetAddress()), quote(h.GetName()))
		}
		s.Hosts = append(s.Hosts, overspan.HostName{Name: h.GetName(), Addr: a})
	}
	return s, s.Check()
}

// LinkRecords returns a sandbox's own names for others as records.
func LinkRecords(links []overspan.Link) []*Link {
	var out []*Link
	for _, l := range links {
		out = append(out, &Link{Name: l.Name, Alias: l.Alias})
	}
	return out
}

// LinksOf reads a sandbox's own names for others.
func LinksOf(links []*Link) []overspan.Link {
	var out []overspan.Link
	for _, l := range links {
		out = append(out, overspan.Link{Name: l.GetName(), Alias: l.GetAlias()})
	}
	return out
}

// AttachmentRecord returns the record of an attachment.
func AttachmentRecord(a overspan.Attachment) *Attachment {
	x := &Attachment{
		Endpoint:  EndpointRecord(a.Endpoint),
		Sandbox:   string(a.Sandbox),
		Netns:     a.Netns,
		Committed: a.Committed,

		NetworkName:  a.NetworkName,
		Registration: a.Registration,

		GatewayPriority: a.GatewayPriority,
		DriverOptions:   a.DriverOptions,
		Links:           LinkRecords(a.Links),
	}
	if a.Local != nil {
		x.Local = NetworkRecord(*a.Local)
	}
	return x
}

// Noun reads the record.
func (x *Attachment) Noun() (overspan.Attachment, error) {
	r := reader{record: "attachment of endpoint " + overspan.ShortID(x.GetEndpoint().GetId())}
	e, err := x.GetEndpoint().Noun()
	if err != nil {
		r.err = err
	}
	a := overspan.Attachment{
		Endpoint:  e,
		Sandbox:   overspan.SandboxID(r.id("sandbox", x.GetSandbox())),
		Netns:     x.GetNetns(),
		Committed: x.GetCommitted(),

		NetworkName:  x.GetNetworkName(),
		Registration: x.GetRegistration(),

		GatewayPriority: x.GetGatewayPriority(),
		DriverOptions:   x.GetDriverOptions(),
		Links:           LinksOf(x.GetLinks()),
	}
	for _, l := range a.Links {
		r.name("link", l.Name)
		r.name("link", l.Alias)
	}
	if x.GetLocal() != nil {
		n, err := x.GetLocal().Noun()
		if err != nil {
			r.err = err
		}
		a.Local = &n
	}
	return result(a, r)
}
