package kernel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/overspan/overspan"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// HostConfig says how a Host works.
type HostConfig struct {
	// NetnsDir is the directory of the namespaces that AddNetns pins; below
	// the run directory of the agent. "" if there are none.
	NetnsDir string

	// NoPrograms: none is attached to a link, those that are there may go.
	NoPrograms bool

	// Leaving: the agent is being uninstalled. An empty clsact on a foreign device
	// is then deleted along with our filter.
	Leaving bool

	Logger *slog.Logger // nil: nothing is logged
}

// A Host is the kernel of the network namespace that NewHost was called in. It
// stays bound to it, whichever thread calls its methods. It keeps nothing but
// sockets, what finds the maps of its program, and which flows it has failed to
// flush: what it did is read back from the kernel. It is safe for concurrent use,
// though only one reconciler should call Apply.
type Host struct {
	config    HostConfig
	log       *slog.Logger
	ns        netns.NsHandle
	route     *conn
	netfilter *conn
	xfrm      *conn // nil where the kernel has no IPsec
	handle    *netlink.Handle
	noIPv6    bool
	rules     map[overspan.Family]*ruleTool // without the families whose tools are missing, or that the kernel lacks

	port   func() (*portProgram, error) // loads it, or finds it, once
	loaded atomic.Pointer[portProgram]  // by port
	guard  func() Guard                 // tries once

	loading sync.Mutex // held while a program is loaded again

	owing     sync.Mutex // guards both below
	owed      map[Flow]struct{}
	inherited bool // what the agent before this one owed is among them

	bearing sync.Mutex  // held while a link is in the born group
	echoes  echoes      // what Watch does not hint at
	changes generations // of rules, which it does not hint at either
}

// NewHost opens the kernel of the calling thread's network namespace.
func NewHost(config HostConfig) (*Host, error) {
	h := &Host{config: config, log: config.Logger, ns: netns.None()}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := h.open(); err != nil {
		h.Close()
		return nil, fmt.Errorf("open the kernel's network state: %w", err)
	}
	h.rules = findRuleTools(h.log)
	if h.noIPv6 = lacksIPv6(); h.noIPv6 {
		delete(h.rules, overspan.IPv6)
	}
	h.port = sync.OnceValues(h.loadPort)
	h.guard = sync.OnceValue(h.tryGuards)
	return h, nil
}

func (h *Host) open() (err error) {
	if h.ns, err = netns.Get(); err != nil {
		return err
	}
	if h.route, err = dial(unix.NETLINK_ROUTE); err != nil {
		return err
	}
	if h.netfilter, err = dial(unix.NETLINK_NETFILTER); err != nil {
		return err
	}
	if h.xfrm, err = dialXFRM(); err != nil {
		return err
	}
	h.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE)
	return err
}

// Close closes the sockets. The kernel's state stays as it is.
func (h *Host) Close() {
	for _, c := range []*conn{h.route, h.netfilter, h.xfrm} {
		if c != nil {
			c.close()
		}
	}
	h.closePort()
	if h.handle != nil {
		h.handle.Close()
	}
	if h.ns.IsOpen() {
		h.ns.Close()
	}
}

// Retire deletes the links in the doomed group, and with them the containers'
// ends, and what the program is told of links that are gone. It takes tens of
// milliseconds, and may run beside Apply.
func (h *Host) Retire(ctx context.Context) error {
	links, err := h.route.links(0)
	if err != nil {
		return fmt.Errorf("retire: list links: %w", err)
	}
	var doomed []message
	var errs []error
	foreign := false
	for _, d := range links {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case d.group == bornGroup && d.ours():
			errs = append(errs, h.retireUnborn(d))
		case d.group == doomedGroup && d.ours():
			doomed = append(doomed, deleteLink(d.index))
		case d.group == doomedGroup:
			foreign = true
		}
	}
	if len(doomed) > 0 && !foreign {
		// One message and one wait for all of them.
		doomed = []message{deleteGroup(doomedGroup)}
	}
	for _, err := range h.route.execAll(doomed) {
		if !errors.Is(err, errNoDevice) {
			errs = append(errs, err)
		}
	}
	errs = append(errs, h.sweepPorts())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("retire: %w", err)
	}
	return nil
}

// retireUnborn deletes a link whose maker died before it had its alias, but not
// one that is just being made.
func (h *Host) retireUnborn(d device) error {
	h.bearing.Lock()
	defer h.bearing.Unlock()
	now, err := h.route.linkAt(d.index)
	if err == nil && now.group == bornGroup && now.name == d.name {
		err = h.route.exec(deleteLink(d.index))
	}
	if errors.Is(err, errNoDevice) {
		return nil
	}
	return err
}
