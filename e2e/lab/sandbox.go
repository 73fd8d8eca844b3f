package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"path"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// netnsDir is where ip-netns(8) keeps namespaces. It is below /run, so every
// host has its own.
const netnsDir = "/run/netns"

// A Sandbox is a container's network namespace on a node.
type Sandbox struct {
	Node *Node
	Name string
	Path string // on the node

	net   namespace
	links *netlink.Handle
}

// AddNetns makes a network namespace on the node as ip-netns(8) does.
func (n *Node) AddNetns(ctx context.Context, name string) (*Sandbox, error) {
	if _, err := n.Exec(ctx, "ip", "netns", "add", name); err != nil {
		return nil, err
	}
	return n.OpenSandbox(name, path.Join(netnsDir, name))
}

// OpenSandbox takes hold of a network namespace that exists on the node.
func (n *Node) OpenSandbox(name, path string) (*Sandbox, error) {
	ns, err := openNamespace(n.Path(path))
	if err != nil {
		return nil, fmt.Errorf("sandbox %s on %s: %w", name, n.Name, err)
	}
	links, err := netlink.NewHandleAt(netns.NsHandle(ns.fd()))
	if err != nil {
		ns.close()
		return nil, fmt.Errorf("sandbox %s on %s: open netlink socket: %w", name, n.Name, err)
	}
	return &Sandbox{Node: n, Name: name, Path: path, net: ns, links: links}, nil
}

// Close lets go of the namespace; it goes on existing.
func (s *Sandbox) Close() {
	s.links.Close()
	s.net.close()
}

// DelNetns closes a sandbox that AddNetns made and removes its namespace.
func (s *Sandbox) DelNetns(ctx context.Context) error {
	s.Close()
	_, err := s.Node.Exec(ctx, "ip", "netns", "del", s.Name)
	return err
}

// Do runs f in the sandbox's network namespace. Sockets that f opens stay there.
func (s *Sandbox) Do(f func() error) error { return s.net.do(f) }

// Run runs a command in the sandbox. The error says that it could not be run;
// a status other than 0 is none.
func (s *Sandbox) Run(ctx context.Context, name string, args ...string) (Result, error) {
	words := shown(append([]string{name}, args...)...)
	return run(exec.CommandContext(ctx, name, args...), words, func() error {
		return errors.Join(s.Node.enter(), s.net.enter())
	})
}

// Exec runs a command in the sandbox that must succeed, and returns its output.
func (s *Sandbox) Exec(ctx context.Context, name string, args ...string) (string, error) {
	res, err := s.Run(ctx, name, args...)
	if err == nil {
		err = res.Err()
	}
	if err != nil {
		return "", fmt.Errorf("in %s on %s: %w", s.Name, s.Node.Name, err)
	}
	return res.Stdout, nil
}

// Addrs returns the addresses of one of the sandbox's interfaces, but for the
// link-local ones, IPv4 first.
func (s *Sandbox) Addrs(dev string) ([]netip.Addr, error) {
	link, err := s.links.LinkByName(dev)
	if err != nil {
		return nil, fmt.Errorf("find %s in %s: %w", dev, s.Name, err)
	}
	var out []netip.Addr
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		addrs, err := s.links.AddrList(link, family)
		if err != nil {
			return nil, fmt.Errorf("list addresses of %s in %s: %w", dev, s.Name, err)
		}
		for _, a := range addrs {
			if ip, ok := netip.AddrFromSlice(a.IP); ok && !ip.Unmap().IsLinkLocalUnicast() {
				out = append(out, ip.Unmap())
			}
		}
	}
	return out, nil
}

// Link returns one of the sandbox's interfaces.
func (s *Sandbox) Link(dev string) (*netlink.LinkAttrs, error) {
	link, err := s.links.LinkByName(dev)
	if err != nil {
		return nil, fmt.Errorf("find %s in %s: %w", dev, s.Name, err)
	}
	return link.Attrs(), nil
}

// Plug joins the sandbox to its node by a bare veth pair with an address at the
// sandbox's end: what an attach costs at the least.
func (s *Sandbox) Plug(outside, inside string, addr *net.IPNet) error {
	veth := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: outside, Flags: net.FlagUp},
		PeerName:      inside,
		PeerNamespace: netlink.NsFd(s.net.fd()),
	}
	if err := s.Node.links.LinkAdd(veth); err != nil {
		return fmt.Errorf("add veth %s: %w", outside, err)
	}
	end, err := s.links.LinkByName(inside)
	if err != nil {
		return fmt.Errorf("find %s in %s: %w", inside, s.Name, err)
	}
	if err := s.links.AddrAdd(end, &netlink.Addr{IPNet: addr}); err != nil {
		return fmt.Errorf("add address %s in %s: %w", addr, s.Name, err)
	}
	if err := s.links.LinkSetUp(end); err != nil {
		return fmt.Errorf("set %s up in %s: %w", inside, s.Name, err)
	}
	return nil
}
