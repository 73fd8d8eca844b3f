package kernel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	// watchBytes is asked for as the receive queue of an event socket.
	watchBytes = 16 << 20

	// watchPoll bounds how long a watcher overlooks the end of its context.
	watchPoll = 200 * time.Millisecond

	// watchRetry is how far apart two subscriptions lie at least. What happens
	// in between is unknown, and looked at after the second.
	watchRetry = time.Second

	// nftGroup is NFNLGRP_NFTABLES: what changes nftables, and so the nft
	// flavour of iptables, is announced there. The legacy tools announce nothing.
	nftGroup = 7
)

// rtGroups are the rtnetlink groups that a watcher listens to.
func rtGroups() []int {
	return []int{
		unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_TC,
		unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
		unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF,
	}
}

// Watch sends hints at changes in the host's namespace until ctx ends, then
// closes the channel. Hints wait in a set while nobody reads, so a burst of
// events is a few hints, and none is ever lost: where the kernel dropped
// events, one hint says that anything may have changed. Changes that this Host
// makes are hinted at as well, but for neighbours and forwarding entries.
//
// Sets, sysctls but those for forwarding, and rules of the legacy flavour of
// iptables change without an event.
func (h *Host) Watch(ctx context.Context) <-chan Hint {
	out := make(chan Hint)
	p := &pending{hints: map[Hint]struct{}{}, wake: make(chan struct{}, 1)}
	var readers sync.WaitGroup
	readers.Go(func() {
		h.watchFamily(ctx, unix.NETLINK_ROUTE, rtGroups(), &linkEvents{conn: h.route, own: &h.echoes, to: p})
	})
	readers.Go(func() {
		h.watchFamily(ctx, unix.NETLINK_NETFILTER, []int{nftGroup}, &ruleEvents{own: &h.changes, to: p})
	})
	if h.xfrm != nil {
		readers.Go(func() { h.watchFamily(ctx, unix.NETLINK_XFRM, []int{xfrmPolicies}, policyEvents{p}) })
	}
	go func() {
		defer close(out)
		p.deliver(ctx, out)
		readers.Wait()
	}()
	return out
}

// events turns one kind of netlink events into hints.
type events interface {
	// restart is called when a subscription begins: what happened before it
	// is unknown. An error ends the subscription, and it is tried again.
	restart() error
	event(kind uint16, sender uint32, body []byte)
	idle() // now and then, while nothing happens
}

// watchFamily listens until ctx ends, and subscribes again after any error: the
// events that were lost with it, or waited behind it, are worth one look at
// everything.
func (h *Host) watchFamily(ctx context.Context, family int, groups []int, to events) {
	for {
		again := time.After(watchRetry)
		err := h.listen(ctx, family, groups, to)
		if ctx.Err() != nil {
			return
		}
		h.log.Warn("kernel events lost: looking at everything", "error", err)
		select {
		case <-ctx.Done():
			return
		case <-again:
		}
	}
}

func (h *Host) listen(ctx context.Context, family int, groups []int, to events) error {
	var c *conn
	err := do(h.ns, func() (err error) {
		c, err = dial(family)
		return err
	})
	if err != nil {
		return err
	}
	defer c.close()
	if err := c.subscribe(groups); err != nil {
		return err
	}
	if err := to.restart(); err != nil {
		return err
	}
	for ctx.Err() == nil {
		msgs, err := c.receive()
		switch {
		case errors.Is(err, unix.EAGAIN):
			to.idle()
		case err != nil:
			return err // ENOBUFS: the queue overflowed
		}
		for _, m := range msgs {
			to.event(m.Header.Type, m.Header.Pid, m.Data)
		}
	}
	return nil
}

func (c *conn) subscribe(groups []int) error {
	_ = unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, watchBytes)
	poll := unix.NsecToTimeval(watchPoll.Nanoseconds())
	if err := unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &poll); err != nil {
		return err
	}
	for _, g := range groups {
		if err := unix.SetsockoptInt(c.fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g); err != nil {
			return fmt.Errorf("subscribe to netlink group %d: %w", g, err)
		}
	}
	return nil
}

// pending is the hints that wait for their reader.
type pending struct {
	wake chan struct{} // size 1: there are hints

	mu    sync.Mutex
	hints map[Hint]struct{} // guarded by mu
}

// add never blocks: the kernel's queue must be drained.
func (p *pending) add(hint Hint) {
	p.mu.Lock()
	p.hints[hint] = struct{}{}
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *pending) take() map[Hint]struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	taken := p.hints
	p.hints = map[Hint]struct{}{}
	return taken
}

func (p *pending) deliver(ctx context.Context, out chan<- Hint) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		}
		for hint := range p.take() {
			select {
			case <-ctx.Done():
				return
			case out <- hint:
			}
		}
	}
}

// ruleEvents hints at changes of the tables that chains of ours are in, but for
// those that our own tools make: nftables ends what it tells of each with its
// number.
type ruleEvents struct {
	own     *generations
	to      *pending
	changed bool // a table of ours, since the last end
}

func (r *ruleEvents) event(kind uint16, _ uint32, body []byte) {
	if kind == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN {
		if r.changed {
			r.own.heard(decodeGeneration(body), func() { r.to.add(Hint{Rules: true}) })
		}
		r.changed = false
		return
	}
	r.changed = r.changed || slices.Contains(ruleTables(), tableOf(body))
}

func (r *ruleEvents) restart() error {
	r.changed = false
	r.to.add(Hint{Rules: true})
	return nil
}

// idle makes up for an end that was not told.
func (r *ruleEvents) idle() {
	if r.changed {
		r.changed = false
		r.to.add(Hint{Rules: true})
	}
}

// tableOf returns the table of IPv4 or IPv6 that a message of nftables is
// about: the first attribute of all of them, but for the one that only counts
// changes.
func tableOf(body []byte) string {
	if len(body) < nl.SizeofNfgenmsg || body[0] != unix.AF_INET && body[0] != unix.AF_INET6 {
		return ""
	}
	for kind, v := range walk(body[nl.SizeofNfgenmsg:]) {
		if kind == unix.NFTA_TABLE_NAME {
			return unix.ByteSliceToString(v)
		}
	}
	return ""
}

// policyEvents hints at changes of IPsec policies.
type policyEvents struct{ to *pending }

func (p policyEvents) event(uint16, uint32, []byte) { p.to.add(Hint{Underlay: true}) }
func (p policyEvents) idle()                        {}

func (p policyEvents) restart() error {
	p.to.add(Hint{Underlay: true})
	return nil
}

// linkEvents hints at changes of our devices, and of the host's own addresses
// and routes.
type linkEvents struct {
	conn  *conn
	own   *echoes
	to    *pending
	names map[int]string // of our devices, by index
}

// restart learns the names; from then on the events tell them.
func (l *linkEvents) restart() error {
	l.to.add(Hint{All: true})
	l.names = map[int]string{}
	links, err := l.conn.links(0)
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	for _, d := range links {
		l.learn(d)
	}
	return nil
}

// learn notes the name of a link, if it is one of ours. The alias follows the
// link a moment later, so the name alone must do.
func (l *linkEvents) learn(d device) {
	if hasOurName(d.name) {
		l.names[d.index] = d.name
	} else {
		delete(l.names, d.index)
	}
}

func (l *linkEvents) idle() { l.own.forget(time.Now()) }

func (l *linkEvents) event(kind uint16, sender uint32, body []byte) {
	switch kind {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		l.link(kind, body)
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		e, err := decodeEntry(body)
		if err == nil && sender != l.conn.port && !l.own.hears(kind, e) {
			l.device(e.index)
		}
	case unix.RTM_NEWTFILTER, unix.RTM_DELTFILTER, unix.RTM_DELQDISC:
		if sender != l.conn.port && !l.device(filterDevice(body)) && aboutUnderlay(kind, body) {
			l.to.add(Hint{Underlay: true})
		}
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		// That a link-local address is there is mostly nobody's doing: the kernel
		// tells of each again when it has found no duplicate.
		a, err := decodeAddr(body)
		switch local := a.prefix.Addr().IsLinkLocalUnicast(); {
		case err != nil || local && kind == unix.RTM_NEWADDR:
		case !l.device(a.index) && !local:
			l.to.add(Hint{Routes: true})
		}
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		dst, dev := routeTo(body)
		if _, ours := l.names[dev]; !ours && !dst.IsLinkLocalUnicast() {
			l.to.add(Hint{Routes: true})
		}
	case unix.RTM_NEWNETCONF:
		if switchesForwarding(body) {
			l.to.add(Hint{Forwarding: true})
		}
	}
}

// link hints at a link of ours, under the name that it had and the one that it
// has: a rename takes it away. Of others, also under names like ours, it says
// that there was something.
func (l *linkEvents) link(kind uint16, body []byte) {
	d, err := decodeLink(body)
	if err != nil {
		return
	}
	l.device(d.index)
	if body[0] == unix.AF_BRIDGE {
		return // about the port, not the link: RTM_DELLINK means that it left its bridge
	}
	l.learn(d)
	l.device(d.index)
	if !d.ours() {
		l.to.add(Hint{Links: true})
	}
	if kind == unix.RTM_DELLINK {
		delete(l.names, d.index)
	}
}

// device hints at a device if it is ours.
func (l *linkEvents) device(index int) bool {
	name, ok := l.names[index]
	if ok {
		l.to.add(Hint{Dev: name})
	}
	return ok
}

// What x/sys lacks of linux/netconf.h.
const (
	sizeofNetconfMsg   = 4 // struct netconfmsg, padded
	netconfaIfindex    = 1
	netconfaForwarding = 2
	netconfAll         = -1 // NETCONFA_IFINDEX_ALL: the host as a whole
)

// switchesForwarding reports whether a message about settings is about the
// host's forwarding as a whole.
func switchesForwarding(b []byte) bool {
	whole, forwarding := false, false
	for kind, v := range walk(b[min(len(b), sizeofNetconfMsg):]) {
		switch kind {
		case netconfaIfindex:
			whole = int32(getU32(v)) == netconfAll
		case netconfaForwarding:
			forwarding = true
		}
	}
	return whole && forwarding
}

// routeTo returns a route's destination, invalid for a default route, and the
// device that it leads to.
func routeTo(b []byte) (dst netip.Addr, dev int) {
	for kind, v := range walk(b[min(len(b), unix.SizeofRtMsg):]) {
		switch kind {
		case unix.RTA_DST:
			dst = getAddr(v)
		case unix.RTA_OIF:
			dev = int(getU32(v))
		}
	}
	return dst, dev
}
