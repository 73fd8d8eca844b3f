package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/overspan/overspan"
)

// forwardBound is how long others have to answer altogether: the asker hears of
// their failure within 5 s, before its own patience ends.
const forwardBound = 4500 * time.Millisecond

// rounds is how often each server is asked: a datagram may get lost.
const rounds = 2

// forwardsMost bounds how many questions wait for others at once, and
// forwardsEach how many of these are one sandbox's: what nobody answers waits
// long, and who asks too much shall not silence its neighbours. Who is over the
// bound is told to try again, at once.
const (
	forwardsMost = 512
	forwardsEach = 64
)

var errBusy = errors.New("too many questions wait for an answer")

// A forwarder asks the servers of the world.
type forwarder struct {
	port uint16 // of the servers

	mu      sync.Mutex // guards all below
	waiting int        // questions
	by      map[overspan.SandboxID]int
}

func newForwarder(port uint16) *forwarder {
	return &forwarder{port: port, by: map[overspan.SandboxID]int{}}
}

// enter counts a question of a sandbox's until leave, or refuses it.
func (f *forwarder) enter(who overspan.SandboxID) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.waiting >= forwardsMost || f.by[who] >= forwardsEach {
		return errBusy
	}
	f.waiting++
	f.by[who]++
	return nil
}

func (f *forwarder) leave(who overspan.SandboxID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiting--
	if f.by[who]--; f.by[who] == 0 {
		delete(f.by, who)
	}
}

// ask asks one server after the other for a sandbox, and returns the first answer
// that is none about the server's own trouble.
func (f *forwarder) ask(ctx context.Context, who overspan.SandboxID, query *dns.Msg, network string, servers []netip.Addr) (*dns.Msg, error) {
	if err := f.enter(who); err != nil {
		return nil, err
	}
	defer f.leave(who)
	if len(servers) == 0 {
		return nil, errors.New("no server to ask")
	}
	ctx, cancel := context.WithTimeout(ctx, forwardBound)
	defer cancel()
	deadline := time.Now().Add(forwardBound)
	var last error
	for tries := rounds * len(servers); tries > 0; tries-- {
		server := servers[(rounds*len(servers)-tries)%len(servers)]
		reply, err := f.exchange(ctx, query, network, server, time.Until(deadline)/time.Duration(tries))
		if err == nil {
			return reply, nil
		}
		last = err
		if ctx.Err() != nil {
			break
		}
	}
	return nil, last
}

// exchange asks one server, over TCP if its answer does not fit into a datagram.
func (f *forwarder) exchange(ctx context.Context, query *dns.Msg, network string, server netip.Addr, bound time.Duration) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	out := query.Copy()
	out.Id = dns.Id()
	at := netip.AddrPortFrom(server, f.port).String()
	client := dns.Client{Net: network, Timeout: bound, UDPSize: dns.DefaultMsgSize}
	reply, _, err := client.ExchangeContext(ctx, out, at)
	if err == nil && reply.Truncated && network == "udp" {
		client.Net = "tcp"
		reply, _, err = client.ExchangeContext(ctx, out, at)
	}
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", server, err)
	}
	if !answers(reply, out) {
		return nil, fmt.Errorf("ask %s: it answers another question", server)
	}
	if reply.Rcode == dns.RcodeServerFailure || reply.Rcode == dns.RcodeRefused {
		return nil, fmt.Errorf("ask %s: %s", server, dns.RcodeToString[reply.Rcode])
	}
	reply.Id = query.Id
	return reply, nil
}

// answers reports whether a reply is one to a query.
func answers(reply, query *dns.Msg) bool {
	if !reply.Response || reply.Id != query.Id || len(reply.Question) != 1 {
		return false
	}
	got, want := reply.Question[0], query.Question[0]
	return got.Qtype == want.Qtype && got.Qclass == want.Qclass && strings.EqualFold(got.Name, want.Name)
}

// gatewaySet is all gateways of the cluster, read once for all questions between two
// changes of its networks.
type gatewaySet struct {
	mu       sync.Mutex // guards all below
	networks map[overspan.NetworkID]*overspan.Network
	addrs    map[netip.Addr]struct{}
}

// of returns the gateways of some networks; nobody changes the set.
func (g *gatewaySet) of(networks map[overspan.NetworkID]*overspan.Network) map[netip.Addr]struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.addrs != nil && overspan.SameMap(g.networks, networks) {
		return g.addrs
	}
	g.networks, g.addrs = networks, map[netip.Addr]struct{}{}
	for _, n := range networks {
		for _, addr := range n.Gateways() {
			g.addrs[addr] = struct{}{}
		}
	}
	return g.addrs
}
