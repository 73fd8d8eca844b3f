package daemon

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/kernel"
)

// netnsDirs are where ip-netns(8) keeps its named namespaces.
var netnsDirs = []string{"/run/netns", "/var/run/netns"}

// target finds the sandbox that a user means, and registers one that is met
// for the first time. The journal hears of that one with its first attachment:
// without any it is nothing to remember. One that is gone by now, and has not been
// looked for since, is ended first: its name and its path may be another's.
func (d *Daemon) target(ctx context.Context, ref string) (overspan.Sandbox, error) {
	for {
		found, err := d.resolve(ctx, ref)
		if err != nil {
			return overspan.Sandbox{}, err
		}
		inode, err := d.host.Netns(found.Netns)
		if err != nil {
			return overspan.Sandbox{}, fmt.Errorf("target %s: %w", ref, err)
		}
		if own, err := d.host.Netns(kernel.OwnNetns); err != nil {
			return overspan.Sandbox{}, err
		} else if own.Is(inode) {
			return overspan.Sandbox{}, overspan.Errorf(overspan.ErrInvalid, "target %s is this host's own network namespace: only containers' namespaces can be connected", ref)
		}
		sb, err := d.known(found, inode)
		if err != nil || !d.namespaceGone(sb.ID) {
			return sb, err
		}
		if err := d.bury(ctx, sb); err != nil {
			return overspan.Sandbox{}, fmt.Errorf("target %s: end what was there before it: %w", ref, err)
		}
	}
}

// known returns the sandbox whose namespace a target names, and registers it if
// there is none.
func (d *Daemon) known(found overspan.Sandbox, inode overspan.NetnsID) (overspan.Sandbox, error) {
	d.admit.Lock()
	defer d.admit.Unlock()
	for _, sb := range d.local.AllSandboxes() {
		if sb.Inode.Is(inode) {
			return *sb, nil
		}
	}
	switch {
	case found.ID == "":
	case found.Kind == overspan.SandboxMade:
		return overspan.Sandbox{}, overspan.Errorf(overspan.ErrConflict, "sandbox %s: %s is not the namespace that it was; remove the sandbox and make it again", found.Name, found.Netns)
	default:
		return found, nil // another namespace has its path
	}
	found.ID = overspan.SandboxID(overspan.NewID())
	found.Inode = inode
	found.Created = time.Now().UTC()
	if err := overspan.CheckName("sandbox", found.Name); err != nil {
		return overspan.Sandbox{}, err
	}
	d.local.PutSandbox(found)
	return found, nil
}

// resolve reads a target: "pid:N", "netns:/path", "docker:NAME", the name or
// id of a known sandbox, or the name of an ip-netns(8) namespace.
func (d *Daemon) resolve(ctx context.Context, ref string) (overspan.Sandbox, error) {
	kind, rest, _ := strings.Cut(ref, ":")
	switch kind {
	case "pid":
		return pidTarget(rest)
	case "netns":
		return netnsTarget(rest)
	case "docker":
		return d.docker.sandbox(ctx, rest)
	}
	sb, err := d.sandbox(ref)
	if err == nil && (sb.Name == ref || string(sb.ID) == ref) {
		return sb, nil
	}
	// A namespace's whole name outweighs the first digits of a sandbox's id:
	// "db" may be both.
	if overspan.CheckName("target", ref) == nil {
		for _, dir := range netnsDirs {
			path := filepath.Join(dir, ref)
			if _, err := d.host.Netns(path); err == nil {
				return overspan.Sandbox{Name: ref, Kind: overspan.SandboxNetns, Netns: path}, nil
			}
		}
	}
	if err == nil || !errors.Is(err, overspan.ErrNotFound) {
		return sb, err
	}
	return overspan.Sandbox{}, overspan.Errorf(overspan.ErrNotFound, "target %s not found: no sandbox of this node and no namespace in %s has that name; other targets are pid:N, netns:/path and docker:NAME", ref, netnsDirs[0])
}

func pidTarget(s string) (overspan.Sandbox, error) {
	pid, err := strconv.Atoi(s)
	if err != nil || pid <= 0 {
		return overspan.Sandbox{}, overspan.Errorf(overspan.ErrInvalid, "invalid target pid:%s: want the number of a process", s)
	}
	return overspan.Sandbox{
		Name:  fmt.Sprintf("pid-%d", pid),
		Kind:  overspan.SandboxPID,
		Netns: fmt.Sprintf("/proc/%d/ns/net", pid),
		PID:   pid,
	}, nil
}

func netnsTarget(path string) (overspan.Sandbox, error) {
	if !strings.HasPrefix(path, "/") {
		path = filepath.Join(netnsDirs[0], path)
	}
	return overspan.Sandbox{Name: filepath.Base(path), Kind: overspan.SandboxNetns, Netns: filepath.Clean(path)}, nil
}

// sandbox finds a known sandbox by name, id, or a unique prefix of its id.
func (d *Daemon) sandbox(ref string) (overspan.Sandbox, error) {
	id, err := overspan.Match("sandbox", ref, func(yield func(overspan.SandboxID, string) bool) {
		for _, sb := range d.local.AllSandboxes() {
			if !yield(sb.ID, sb.Name) {
				return
			}
		}
	})
	if err != nil {
		return overspan.Sandbox{}, err
	}
	sb, ok := d.local.Sandbox(id)
	if !ok {
		return overspan.Sandbox{}, overspan.Errorf(overspan.ErrNotFound, "sandbox %s not found", ref)
	}
	return sb, nil
}

// findAttachment finds an endpoint of this node in a network by its name or
// id, or by the sandbox that it is plugged into. The network may be gone, or
// another of its name be there by now: its endpoints are known here all the same.
func (d *Daemon) findAttachment(ctx context.Context, network, ref string) (overspan.Attachment, error) {
	n, unknown := d.network(ctx, network)
	if unknown == nil {
		if a, err := d.attachmentAmong(ctx, d.local.InNetwork(n.ID), ref); !errors.Is(err, overspan.ErrNotFound) {
			return a, err
		}
	}
	left := d.leftBehind(network)
	// The default network has no record before its first use.
	unused := network == overspan.DefaultNetwork && errors.Is(unknown, overspan.ErrNotFound)
	if unknown != nil && len(left) == 0 && !unused {
		return overspan.Attachment{}, unknown
	}
	a, err := d.attachmentAmong(ctx, left, ref)
	if !errors.Is(err, overspan.ErrNotFound) {
		return a, err
	}
	where := ""
	if unknown == nil {
		where = elsewhere(d.knowledge().Shown, d.Self(), n.ID, ref)
	}
	return a, overspan.Errorf(overspan.ErrNotFound, "%s is not connected to network %s on this node%s", ref, network, where)
}

// leftBehind returns the attachments to networks that nobody can name any more,
// of which ref was the name or is the id.
func (d *Daemon) leftBehind(ref string) []*overspan.Attachment {
	return slices.DeleteFunc(slices.Clone(d.local.Attachments().List), func(a *overspan.Attachment) bool {
		n := d.networkByID(a.Endpoint.Network)
		return n != nil && !n.Deleting || a.NetworkName != ref && string(a.Endpoint.Network) != ref
	})
}

// attachmentAmong finds one of a network's attachments.
func (d *Daemon) attachmentAmong(ctx context.Context, here []*overspan.Attachment, ref string) (overspan.Attachment, error) {
	found, err := overspan.Match("endpoint", ref, func(yield func(overspan.EndpointID, string) bool) {
		for _, a := range here {
			if !yield(a.Endpoint.ID, a.Endpoint.Name) {
				return
			}
		}
	})
	a, known := d.local.Attachment(found)
	if err == nil && known && (a.Endpoint.Name == ref || string(found) == ref) {
		return a, nil
	}
	// A target's whole name outweighs the first digits of an endpoint's id.
	if sb, err := d.knownSandbox(ctx, ref); err == nil {
		for _, a := range here {
			if a.Sandbox == sb {
				return *a, nil
			}
		}
	}
	if err == nil && !known {
		return a, overspan.Errorf(overspan.ErrNotFound, "endpoint %s not found", ref)
	}
	return a, err
}

// elsewhere tells where an endpoint is that is not attached on this node; "" if
// that is not known. One whose release waits for etcd still stands there as this
// node's own.
func elsewhere(s *overspan.Snapshot, self overspan.NodeID, id overspan.NetworkID, ref string) string {
	if s == nil || s.Segments.Get(id) == nil {
		return ""
	}
	for e := range s.Segments.Get(id).Endpoints.Values() {
		if e.Name != ref && string(e.ID) != ref {
			continue
		}
		if e.Node == self {
			return " any more: it was disconnected, and its address and name are freed as soon as etcd takes it"
		}
		if n := s.Nodes[e.Node]; n != nil && n.Presence != nil {
			return fmt.Sprintf(", but on node %s: disconnect it there", n.Name)
		}
		return fmt.Sprintf(", but on node %s, which is away: free it with --force", s.NodeName(e.Node))
	}
	return ""
}

// knownSandbox finds the sandbox of a target that may be dying: a process that
// is gone is still known by its number, a namespace by its path.
func (d *Daemon) knownSandbox(ctx context.Context, ref string) (overspan.SandboxID, error) {
	sb, err := d.resolve(ctx, ref)
	if err != nil {
		return "", err
	}
	if sb.ID != "" {
		return sb.ID, nil
	}
	inode, inodeErr := d.host.Netns(sb.Netns)
	for _, known := range d.local.AllSandboxes() {
		if inodeErr == nil && known.Inode.Is(inode) || inodeErr != nil && known.Netns == sb.Netns {
			return known.ID, nil
		}
	}
	return "", overspan.Errorf(overspan.ErrNotFound, "sandbox %s not found", ref)
}

// chooseInterface returns the interface's name: the wanted one, or the first
// free ethN.
func chooseInterface(want string, taken []string, sandbox string) (string, error) {
	if want != "" {
		if slices.Contains(taken, want) {
			return "", overspan.Errorf(overspan.ErrExists, "%s has an interface %s already; choose another name", sandbox, want)
		}
		return want, nil
	}
	for i := 0; ; i++ {
		if name := fmt.Sprintf("eth%d", i); !slices.Contains(taken, name) {
			return name, nil
		}
	}
}

// checkInterfaceName refuses what the kernel would: see dev_valid_name in
// net/core/dev.c; and "all" and "default", which name directories of their own
// in /proc/sys/net/ipv4/conf.
func checkInterfaceName(name string) error {
	bad := func(r rune) bool { return r <= ' ' || r > '~' || r == '/' || r == ':' || r == '%' }
	if name == "." || name == ".." || len(name) > 15 || strings.ContainsFunc(name, bad) {
		return overspan.Errorf(overspan.ErrInvalid, "invalid interface name %q: use at most 15 printable characters without space, '/', ':' and '%%'", name)
	}
	if name == "all" || name == "default" {
		return overspan.Errorf(overspan.ErrInvalid, "invalid interface name %q: the kernel keeps it for itself; choose another", name)
	}
	return nil
}
