// Package lab makes hosts out of namespaces on one machine, each with an agent,
// and leaves them running: something to play with.
//
// A host is a process, its first one, which Serve is; the host lasts as long as
// that process. What is up is written in the lab's directory.
package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/overspan/overspan"
)

// MostNodes is how many nodes a lab may have.
const MostNodes = 64

// underlay is the subnet of the nodes' interfaces; node number n has its n-th address.
var underlay = netip.MustParsePrefix("10.99.0.0/24")

// etcdPort is where the first node's agent serves etcd.
const etcdPort = 2379

// A Lab is what stands in a directory: hosts, which may have ended since.
type Lab struct {
	Dir   string `json:"-"`
	Nodes []Node

	// Switch is the host that the others' cables lead to.
	Switch Host
}

// A Host is a set of namespaces. The process is known by its start time too: ids
// are used again.
type Host struct {
	Name    string
	PID     int
	Started uint64 // clock ticks since boot, proc_pid_stat(5)
}

// A Node is a host with an agent.
type Node struct {
	Host
	Address netip.Addr
}

// record is the file that tells what a lab is made of.
const record = "lab.json"

// Open reads what stands in a directory. An error of class overspan.ErrNotFound
// means that there is no lab.
func Open(dir string) (*Lab, error) {
	if err := check(dir); err != nil {
		return nil, err
	}
	l := &Lab{Dir: dir}
	text, err := os.ReadFile(filepath.Join(dir, record))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, overspan.Errorf(overspan.ErrNotFound, "there is no lab in %s; make one: ctl lab up", dir)
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, l); err != nil {
		return nil, overspan.Errorf(overspan.ErrCorrupt, "read %s: %w; end what runs of the lab, and delete %s", filepath.Join(dir, record), err, dir)
	}
	return l, nil
}

// save writes the lab's record, whole or not at all.
func (l *Lab) save() error {
	text, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return err
	}
	fresh := filepath.Join(l.Dir, record+".new")
	if err := os.WriteFile(fresh, append(text, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(fresh, filepath.Join(l.Dir, record))
}

// Node finds a node by its name.
func (l *Lab) Node(name string) (*Node, error) {
	var names []string
	for i := range l.Nodes {
		if l.Nodes[i].Name == name {
			return &l.Nodes[i], nil
		}
		names = append(names, l.Nodes[i].Name)
	}
	return nil, overspan.Errorf(overspan.ErrNotFound, "the lab has no node %q; it has %s", name, strings.Join(names, ", "))
}

// Socket names the socket of a node's agent, as it is reached from the machine.
func (l *Lab) Socket(n *Node) string {
	return filepath.Join(l.Dir, n.Name, "run", "overspan", "agent.sock")
}

// Log names the file that a node's agent writes to.
func (l *Lab) Log(n *Node) string { return filepath.Join(l.Dir, n.Name, "agent.log") }

// Options say what Up makes.
type Options struct {
	Dir   string
	Nodes int
	Agent string // the program

	// Ready waits until the nodes that were started are of use.
	Ready func(context.Context, *Lab) error
}

// Up makes a lab, starts its agents, and waits until they are ready. Where it fails
// nothing is left, but for what stood before.
func Up(ctx context.Context, opts Options) (*Lab, error) {
	if err := opts.check(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(opts.Dir, 0o755); err != nil {
		return nil, err
	}
	release, err := claim(opts.Dir)
	if err != nil {
		return nil, err
	}
	defer release()
	if err := clear(opts.Dir); err != nil {
		return nil, err
	}
	l := &Lab{Dir: opts.Dir}
	if err = l.build(ctx, opts); err == nil {
		err = opts.Ready(ctx, l)
	}
	if err != nil {
		return nil, errors.Join(err, l.end(context.WithoutCancel(ctx)))
	}
	return l, nil
}

func (o Options) check() error {
	if o.Nodes < 1 || o.Nodes > MostNodes {
		return overspan.Errorf(overspan.ErrInvalid, "a lab has 1 to %d nodes, not %d", MostNodes, o.Nodes)
	}
	return errors.Join(check(o.Dir), root())
}

// root checks that this process may make and end hosts.
func root() error {
	if os.Geteuid() != 0 {
		return overspan.Errorf(overspan.ErrDenied, "a lab is made of network namespaces: be root")
	}
	return nil
}

// clear takes away what is left of a lab that has ended, as by a reboot.
func clear(dir string) error {
	old, err := Open(dir)
	if errors.Is(err, overspan.ErrNotFound) {
		return vacant(dir)
	}
	if err != nil {
		return err
	}
	for _, h := range old.hosts() {
		if h.alive() {
			return overspan.Errorf(overspan.ErrExists, "a lab of %d nodes is up in %s; take it down first: ctl lab down", len(old.Nodes), dir)
		}
	}
	return empty(dir)
}

func (l *Lab) hosts() []Host {
	hosts := []Host{l.Switch}
	for _, n := range l.Nodes {
		hosts = append(hosts, n.Host)
	}
	return hosts
}

// build makes the hosts and writes down each as it is made, plugs them in, and
// has their agents start.
func (l *Lab) build(ctx context.Context, opts Options) error {
	// Before anything is in the directory it is known as a lab's.
	if err := l.save(); err != nil {
		return err
	}
	var boots []*boot
	defer func() {
		for _, b := range boots {
			b.close()
		}
	}()
	add := func(name string, agent []string) (Host, error) {
		b, h, err := l.boot(ctx, name, agent)
		if err == nil {
			boots = append(boots, b)
		}
		return h, err
	}
	var err error
	if l.Switch, err = add("switch", nil); err != nil {
		return err
	}
	if err := errors.Join(l.save(), l.Switch.makeSwitch(ctx)); err != nil {
		return err
	}
	for i := range opts.Nodes {
		n := Node{Address: nth(underlay.Addr(), i+1)}
		if n.Host, err = add(fmt.Sprintf("h%d", i+1), l.agentArgs(opts.Agent, i)); err != nil {
			return err
		}
		l.Nodes = append(l.Nodes, n)
		if err := errors.Join(l.save(), l.Switch.plug(ctx, n)); err != nil {
			return err
		}
	}
	for _, b := range boots {
		if err := b.release(); err != nil {
			return err
		}
	}
	return nil
}

// agentArgs is the command line of the agent of node number i. Its socket and its
// metrics are where every agent has them.
func (l *Lab) agentArgs(agent string, i int) []string {
	name := fmt.Sprintf("h%d", i+1)
	args := []string{
		agent, "--node-name", name, "--cluster", "lab",
		"--advertise-address", nth(underlay.Addr(), i+1).String(),
		"--state-dir", filepath.Join(l.Dir, name, "state"),
	}
	if i == 0 {
		return append(args, "--embedded-etcd")
	}
	return append(args, "--etcd-endpoints", fmt.Sprintf("http://%s:%d", nth(underlay.Addr(), 1), etcdPort))
}

func nth(a netip.Addr, n int) netip.Addr {
	for range n {
		a = a.Next()
	}
	return a
}

// Down ends the lab in a directory; where there is none, all is as it should be.
func Down(ctx context.Context, dir string) error {
	release, err := claim(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return check(dir)
	}
	if err != nil {
		return err
	}
	defer release()
	l, err := Open(dir)
	if errors.Is(err, overspan.ErrNotFound) {
		return nil
	}
	if err == nil {
		err = root()
	}
	if err != nil {
		return err
	}
	return l.end(ctx)
}

// end ends all of a lab's hosts, with everything that runs on them, and deletes
// its directory.
func (l *Lab) end(ctx context.Context) error {
	var errs []error
	for _, h := range l.hosts() {
		if err := h.end(ctx); err != nil {
			errs = append(errs, fmt.Errorf("end host %s: %w", h.Name, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err // its record is needed to try again
	}
	return os.RemoveAll(l.Dir)
}
