package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// Cluster is the name of a lab's cluster: its keys lie below Prefix.
const (
	Cluster = "lab"
	Prefix  = "/overspan/" + Cluster + "/v1/"
)

// defaultMTU is that of the hosts' underlay interface where none is asked for.
const defaultMTU = 1500

// Options say how a lab is built. The zero value is a lab without nodes.
type Options struct {
	Nodes        int
	Underlay     Underlay
	MTU          []int    // of the nodes' underlay interface; 0 or missing: 1500
	EtcdMembers  int      // servers of etcd, each on its own host; 0: one
	EtcdQuota    int64    // bytes that etcd holds before it is out of space; 0: etcd's default
	EmbeddedEtcd bool     // etcd runs inside the first node's agent
	NoBridgeCall bool     // bridged packets do not pass iptables; the kernel's default is that they do
	ForwardDrop  bool     // policy of FORWARD, as Docker sets it
	Forwarding   bool     // the nodes route between their interfaces
	Flags        []string // further flags of every agent
	Bin          Binaries
}

// A Lab is a handful of nodes on one underlay.
type Lab struct {
	Dir   string
	Nodes []*Node
	Etcd  *Etcd

	opts    Options
	bin     Binaries
	segment *segment
	hosts   []*Host
}

// New builds a lab: hosts, underlay, and etcd, which runs already unless it is
// embedded. No agent runs yet.
func New(ctx context.Context, opts Options) (*Lab, error) {
	dir, err := os.MkdirTemp("", "overspan-lab-")
	if err != nil {
		return nil, err
	}
	l := &Lab{Dir: dir, opts: opts, bin: opts.Bin}
	if err := l.build(ctx); err != nil {
		return nil, errors.Join(err, l.Close(context.WithoutCancel(ctx)))
	}
	return l, nil
}

func (l *Lab) build(ctx context.Context) error {
	var err error
	if l.segment, err = newSegment(); err != nil {
		return err
	}
	for i := range l.opts.Nodes {
		mtu := 0
		if i < len(l.opts.MTU) {
			mtu = l.opts.MTU[i]
		}
		h, err := l.addHost(ctx, fmt.Sprintf("h%d", i+1), uint8(i+1), cmp.Or(mtu, defaultMTU))
		if err != nil {
			return err
		}
		node, err := l.openNode(h)
		if err != nil {
			return err
		}
		node.Flags = l.opts.Flags
		l.Nodes = append(l.Nodes, node)
	}
	return l.buildEtcd(ctx)
}

// buildEtcd makes etcd's hosts and starts its servers.
func (l *Lab) buildEtcd(ctx context.Context) error {
	l.Etcd = &Etcd{quota: l.opts.EtcdQuota, part: l.bin.Part}
	if l.opts.EmbeddedEtcd {
		first := l.Nodes[0].Host
		l.Etcd.URL = etcdURL(first.Addrs[0], etcdClientPort)
		l.Etcd.Members = []*Member{{Host: first, URL: l.Etcd.URL, etcd: l.Etcd}}
		return nil
	}
	var urls []string
	for i := range max(1, l.opts.EtcdMembers) {
		name := "etcd"
		if l.opts.EtcdMembers > 1 {
			name = fmt.Sprintf("etcd%d", i+1)
		}
		h, err := l.addHost(ctx, name, uint8(etcdNumber+i), defaultMTU)
		if err != nil {
			return err
		}
		m, err := l.Etcd.openMember(h)
		if err != nil {
			return err
		}
		l.Etcd.Members = append(l.Etcd.Members, m)
		urls = append(urls, m.URL)
	}
	l.Etcd.URL = strings.Join(urls, ",")
	return l.Etcd.Start(ctx)
}

// addHost makes a host and plugs it in.
func (l *Lab) addHost(ctx context.Context, name string, number uint8, mtu int) (*Host, error) {
	h, err := newHost(ctx, name, l.Dir, l.bin.Part)
	if err != nil {
		return nil, err
	}
	l.hosts = append(l.hosts, h)
	h.Addrs = l.opts.Underlay.addrs(number)
	if err := h.Sysctl(l.sysctls()); err != nil {
		return nil, err
	}
	if l.opts.ForwardDrop {
		for _, iptables := range []string{"iptables", "ip6tables"} {
			if _, err := h.Exec(ctx, iptables, "-w", "-P", "FORWARD", "DROP"); err != nil {
				return nil, err
			}
		}
	}
	return h, l.segment.plug(h, mtu)
}

// sysctls returns settings that differ between machines, and what the lab has
// instead.
func (l *Lab) sysctls() map[string]string {
	call, forward := "1", "0"
	if l.opts.NoBridgeCall {
		call = "0"
	}
	if l.opts.Forwarding {
		forward = "1"
	}
	settings := map[string]string{
		"net/ipv4/ip_forward":             forward,
		"net/ipv4/conf/all/rp_filter":     "0",
		"net/ipv4/conf/default/rp_filter": "0",
		"net/ipv6/conf/all/disable_ipv6":  "0",
		"net/ipv6/conf/all/forwarding":    forward,
	}
	if _, err := os.Stat("/proc/sys/net/bridge"); err == nil {
		settings["net/bridge/bridge-nf-call-iptables"] = call
		settings["net/bridge/bridge-nf-call-ip6tables"] = call
	}
	return settings
}

// Start starts the agents of all nodes at once and waits until all are ready;
// with an embedded etcd, the first node's before the others.
func (l *Lab) Start(ctx context.Context) error {
	nodes := l.Nodes
	if l.opts.EmbeddedEtcd {
		if err := nodes[0].Start(ctx); err != nil {
			return err
		}
		nodes = nodes[1:]
	}
	var all errgroup.Group
	for _, n := range nodes {
		all.Go(func() error { return n.Start(ctx) })
	}
	return all.Wait()
}

// closeWithin bounds how long a lab may take to end.
const closeWithin = 30 * time.Second

// Close ends everything and removes the lab's directory. It reports agents
// that did not end well, or complained of what must never happen.
func (l *Lab) Close(ctx context.Context) error {
	ctx, cancel := WithTimeout(ctx, closeWithin)
	defer cancel()
	var errs errgroup.Group
	ends := make([]error, len(l.Nodes))
	for i, n := range l.Nodes {
		if l.opts.EmbeddedEtcd && i == 0 {
			continue // the others need it to take their leave
		}
		errs.Go(func() error {
			ends[i] = n.close(ctx)
			return nil
		})
	}
	errs.Wait()
	if l.Etcd != nil {
		ends = append(ends, l.Etcd.close(ctx))
	}
	if l.opts.EmbeddedEtcd && len(l.Nodes) > 0 {
		ends[0] = l.Nodes[0].close(ctx)
	}
	hostEnds := make([]error, len(l.hosts))
	for i, h := range l.hosts {
		errs.Go(func() error {
			hostEnds[i] = h.close(ctx)
			return nil
		})
	}
	errs.Wait()
	if l.segment != nil {
		l.segment.close()
	}
	return errors.Join(errors.Join(ends...), errors.Join(hostEnds...), os.RemoveAll(l.Dir))
}
