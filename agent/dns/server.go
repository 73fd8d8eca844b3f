package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/overspan/overspan"
)

// A Node is the agent, as far as names follow from it.
type Node interface {
	Self() overspan.NodeID

	// Called returns the newest snapshot that names may be answered from; nil
	// before the first.
	Called() *overspan.Snapshot

	// Plugged returns this node's sandboxes and attachments of one moment, oldest
	// first, and a number that grows with each change of them.
	Plugged() (version uint64, sandboxes []*overspan.Sandbox, attachments []*overspan.Attachment)

	// Changed returns a channel that closes at the next change of Called.
	Changed() <-chan struct{}
}

// Config is what a server is told at its start.
type Config struct {
	Port       uint16 // where it answers and asks others
	ResolvConf string // the host's resolv.conf(5)
	NetnsDir   string // where ip-netns(8) finds files for its namespaces; "": none are written
}

// What could not be done is tried once more after again; files are looked at
// every lookAfter.
const (
	again     = 2 * time.Second
	lookAfter = 30 * time.Second
)

// Server answers names on the gateways of this node's networks.
type Server struct {
	node    Node
	cfg     Config
	log     *slog.Logger
	host    hostFile
	forward *forwarder
	ours    gatewaySet
	results *prometheus.CounterVec

	mu      sync.Mutex // guards all below, and is held while sockets are opened and closed
	doors   map[spot]*door
	trouble map[spot]string // what cannot be served, and why
	files   *netnsFiles
	unfiled string // why files could not be written; "" if they were
	closed  bool
	running sync.WaitGroup // what serves the doors

	known   sync.Mutex // guards all below
	local   *local
	indexes map[overspan.NetworkID]*index
}

// New returns a server without sockets.
func New(node Node, cfg Config, log *slog.Logger) *Server {
	return &Server{
		node:    node,
		cfg:     cfg,
		log:     log,
		host:    hostFile{path: cfg.ResolvConf},
		forward: newForwarder(cfg.Port),
		results: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "overspan_dns_queries_total",
			Help: "Questions that containers asked, by what became of them.",
		}, []string{"result"}),
		doors:   map[spot]*door{},
		trouble: map[spot]string{},
		indexes: map[overspan.NetworkID]*index{},
		files:   &netnsFiles{dir: cfg.NetnsDir, written: map[string]string{}},
	}
}

// Run answers until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	defer s.close()
	retry, look := time.NewTicker(again), time.NewTicker(lookAfter)
	defer retry.Stop()
	defer look.Stop()
	for all := true; ; {
		changed := s.node.Changed()
		if s.settle(all) {
			all = false
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-retry.C:
		case <-look.C:
			all = true
		}
	}
}

// Settle opens sockets on the gateways of all networks that this node has an
// endpoint in, and closes the others; and it tells the namespaces of ip-netns(8)
// whom to ask. It returns once that is so.
func (s *Server) Settle() { s.settle(false) }

// settle carries Settle out; false if nothing is known yet. Unless all is to be
// looked at, the files that were written before are taken to be there.
func (s *Server) settle(all bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	snapshot := s.node.Called()
	if s.closed || snapshot == nil {
		return false
	}
	_, sandboxes, attachments := s.node.Plugged()
	s.settleDoors(snapshot, attachments)
	s.forgetIndexes()
	s.unfiled = ""
	if s.cfg.NetnsDir == "" {
		return true
	}
	if err := s.settleFiles(snapshot, sandboxes, attachments, all); err != nil {
		s.unfiled = "names cannot be looked up in namespaces of ip-netns(8): " + err.Error()
	}
	return true
}

// settleFiles has each namespace's resolv.conf say what it should. The caller
// holds mu.
func (s *Server) settleFiles(snapshot *overspan.Snapshot, sandboxes []*overspan.Sandbox, attachments []*overspan.Attachment, all bool) error {
	host, err := s.host.read()
	if err != nil {
		return err
	}
	return s.files.settle(netnsWanted(snapshot, sandboxes, attachments, host), all)
}

// settleDoors opens and closes what Settle says. The caller holds mu.
func (s *Server) settleDoors(snapshot *overspan.Snapshot, attachments []*overspan.Attachment) {
	want, unsure := gateways(snapshot, attachments)
	unwanted := func(at spot) bool {
		_, wanted := want[at]
		_, doubted := unsure[at.network]
		return !wanted && !doubted
	}
	for at, d := range s.doors {
		if unwanted(at) {
			d.close()
			delete(s.doors, at)
		}
	}
	maps.DeleteFunc(s.trouble, func(at spot, _ string) bool { return unwanted(at) })
	for at := range want {
		if s.doors[at] != nil {
			continue
		}
		d, err := s.open(at)
		if err == nil {
			s.doors[at] = d
			delete(s.trouble, at)
			continue
		}
		why := fmt.Sprintf("names are not served in network %s: %v: what else listens on this port must leave out the gateways' addresses", snapshot.Networks[at.network].Name, err)
		if s.trouble[at] != why {
			s.log.Warn("cannot serve names", "network", at.network, "error", err)
		}
		s.trouble[at] = why
	}
}

// gateways returns where names are to be served, and of which networks that cannot
// be told.
func gateways(snapshot *overspan.Snapshot, attachments []*overspan.Attachment) (want map[spot]struct{}, unsure map[overspan.NetworkID]struct{}) {
	want, unsure = map[spot]struct{}{}, map[overspan.NetworkID]struct{}{}
	for _, a := range attachments {
		id := a.Endpoint.Network
		if unread(snapshot, id) {
			unsure[id] = struct{}{}
		}
		if n := snapshot.Networks[id]; n != nil {
			for _, addr := range n.Gateways() {
				want[spot{id, addr}] = struct{}{}
			}
		}
	}
	return want, unsure
}

// unread reports whether a network that is not known may be one whose record cannot
// be read, which does not mean that it is gone.
func unread(snapshot *overspan.Snapshot, id overspan.NetworkID) bool {
	return snapshot.Networks[id] == nil && len(snapshot.Bad) > 0
}

// Warnings tells what keeps names from being served.
func (s *Server) Warnings() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := slices.Sorted(maps.Values(s.trouble))
	if s.unfiled != "" {
		out = append(out, s.unfiled)
	}
	return out
}

// close ends all that is open.
func (s *Server) close() {
	s.mu.Lock()
	s.closed = true
	for _, d := range s.doors {
		d.close()
	}
	clear(s.doors)
	s.mu.Unlock()
	s.running.Wait()
}

// forgetIndexes drops the indexes of networks that nobody here asks in any more.
// The caller holds mu.
func (s *Server) forgetIndexes() {
	open := map[overspan.NetworkID]struct{}{}
	for at := range s.doors {
		open[at.network] = struct{}{}
	}
	s.known.Lock()
	defer s.known.Unlock()
	maps.DeleteFunc(s.indexes, func(id overspan.NetworkID, _ *index) bool { _, is := open[id]; return !is })
}

// moment returns what is known now.
func (s *Server) moment() moment {
	now := moment{snapshot: s.node.Called()}
	version, sandboxes, attachments := s.node.Plugged()
	s.known.Lock()
	defer s.known.Unlock()
	if s.local == nil || s.local.version != version {
		s.local = newLocal(version, sandboxes, attachments)
	}
	now.local = s.local
	return now
}

// names returns what may be known to who asks; ok is false if that is no sandbox
// of this node, or nothing is known yet.
func (s *Server) names(now moment, from spot) (v names, ok bool) {
	v = names{
		snapshot: now.snapshot, self: s.node.Self(), local: now.local, asker: now.local.askers[from],
		index: s.index, port: lookPort, intn: rand.IntN,
	}
	return v, v.snapshot != nil && v.asker != nil
}

func (s *Server) index(id overspan.NetworkID) *index {
	s.known.Lock()
	defer s.known.Unlock()
	x := s.indexes[id]
	if x == nil {
		x = newIndex()
		s.indexes[id] = x
	}
	return x
}

// servers returns whom to ask for names of the world: those of the sandbox, else
// those of the host, and never gateways of ours.
func (s *Server) servers(v names) ([]netip.Addr, error) {
	servers := v.asker.servers
	if len(servers) == 0 {
		host, err := s.host.read()
		if err != nil {
			return nil, err
		}
		servers = host.Servers
	}
	ours := s.ours.of(v.snapshot.Networks)
	return slices.DeleteFunc(slices.Clone(servers), func(a netip.Addr) bool {
		_, is := ours[a]
		return is
	}), nil
}

// A taken query is one with what is to be replied so far.
type taken struct {
	query     *dns.Msg
	transport string // by which it came: "udp" or "tcp"
	size      int    // of the reply at the most, in bytes
	asked     names
	reply     *dns.Msg
	result    string // resultForward: others are to be asked first
}

// reply returns the answer to a query that came over a transport, and what kind of
// one it is.
func (s *Server) reply(ctx context.Context, from spot, transport string, query *dns.Msg) (*dns.Msg, string) {
	t := s.take(s.moment(), from, transport, query)
	if t.result == resultForward {
		s.passOn(ctx, &t)
	}
	return t.reply, t.result
}

// take answers a query as far as that follows from what is known.
func (s *Server) take(now moment, from spot, transport string, query *dns.Msg) taken {
	t := taken{query: query, transport: transport, size: replySize(query, transport), reply: new(dns.Msg).SetReply(query)}
	t.reply.RecursionAvailable = true
	opt := query.IsEdns0()
	if opt != nil {
		t.reply.SetEdns0(udpSize, opt.Do())
	}
	refuse := func(code int) taken {
		t.reply.Rcode, t.result = code, resultRefused
		return t
	}
	switch {
	case query.Opcode != dns.OpcodeQuery:
		return refuse(dns.RcodeNotImplemented)
	case len(query.Question) != 1:
		return refuse(dns.RcodeFormatError)
	case opt != nil && opt.Version() != 0:
		return refuse(dns.RcodeBadVers)
	}
	v, known := s.names(now, from)
	if !known {
		return refuse(dns.RcodeRefused)
	}
	t.asked = v
	if t.result = answer(v, t.reply); t.result != resultForward {
		t.fit()
	}
	return t
}

// passOn has others answer a query.
func (s *Server) passOn(ctx context.Context, t *taken) {
	servers, err := s.servers(t.asked)
	var told *dns.Msg
	if err == nil {
		told, err = s.forward.ask(ctx, t.asked.asker.sandbox, t.query, t.transport, servers)
	}
	if err != nil {
		s.log.Debug("nobody answers", "name", t.query.Question[0].Name, "error", err)
		t.reply.Rcode, t.result = dns.RcodeServerFailure, resultFailed
		if errors.Is(err, errBusy) {
			t.result = resultBusy
		}
		return
	}
	t.reply = told
	t.fit()
}

// fit has the reply be no longer than the asker takes.
func (t *taken) fit() {
	t.reply.Compress = true
	t.reply.Truncate(t.size)
}

// udpSize is the size up to which datagrams pass everywhere, and the most that an
// answer by UDP has whatever the asker would take: DNS flag day 2020.
const udpSize = 1232

// replySize returns how large a reply may be, in bytes.
func replySize(query *dns.Msg, transport string) int {
	if transport != "udp" {
		return dns.MaxMsgSize
	}
	if opt := query.IsEdns0(); opt != nil {
		return min(max(int(opt.UDPSize()), dns.MinMsgSize), udpSize)
	}
	return dns.MinMsgSize
}

// Describe implements prometheus.Collector.
func (s *Server) Describe(c chan<- *prometheus.Desc) { s.results.Describe(c) }

// Collect implements prometheus.Collector.
func (s *Server) Collect(c chan<- prometheus.Metric) { s.results.Collect(c) }
