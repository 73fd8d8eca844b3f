package overspanv1

import (
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
		Inode:   overspan.NetnsID{Dev: x.GetNetnsDev(), Ino: x.GetNetnsIno()},
		PID:     r.pid("pid", x.GetPid()),
		Created: r.time("created", x.GetCreated()),
	}
	switch s.Kind {
	case overspan.SandboxMade, overspan.SandboxPID, overspan.SandboxNetns, overspan.SandboxDocker:
	default:
		r.check(false, "kind", x.GetKind(), "want sandbox, pid, netns or docker")
	}
	r.check(s.Netns != "", "netns", x.GetNetns(), "want a path")
	return result(s, r)
}

// AttachmentRecord returns the record of an attachment.
func AttachmentRecord(a overspan.Attachment) *Attachment {
	return &Attachment{
		Endpoint:  EndpointRecord(a.Endpoint),
		Sandbox:   string(a.Sandbox),
		Netns:     a.Netns,
		Committed: a.Committed,

		NetworkName:  a.NetworkName,
		Registration: a.Registration,

		GatewayPriority: a.GatewayPriority,
		DriverOptions:   a.DriverOptions,
	}
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
	}
	return result(a, r)
}
