package dns

import (
	"context"
	"errors"
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

	// Plugged returns this node's sandboxes and attachments of one moment.
	Plugged() overspan.Plugged

	// Changed returns a channel that closes at the next change of Called.
	Changed() <-chan struct{}
}

// Config is what a server is told at its start.
type Config struct {
	Port       uint16 // where it answers and asks others
	ResolvConf string // the host's resolv.conf(5)
	NetnsDir   string // where ip-netns(8) finds files for its namespaces; "": none are written
}

// What could not be done is tried once more after again, which is also when a change
// of the host's resolv.conf is met; files are looked at every lookAfter.
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
	sight   sight      // of the last pass
	doors   map[overspan.NetworkID][]*door
	trouble map[overspan.NetworkID][]string // why names are not served
	named   map[string][]overspan.SandboxID // who is in a namespace of ip-netns(8)
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
		doors:   map[overspan.NetworkID][]*door{},
		trouble: map[overspan.NetworkID][]string{},
		named:   map[string][]overspan.SandboxID{},
		local:   &local{},
		indexes: map[overspan.NetworkID]*index{},
		files:   &netnsFiles{dir: cfg.NetnsDir, written: map[string]string{}},
	}
}

// Run answers until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	defer s.close()
	retry, whole := time.NewTicker(again), time.NewTicker(lookAfter)
	defer retry.Stop()
	defer whole.Stop()
	for what := lookAll; ; {
		changed := s.node.Changed()
		if s.settle(what) {
			what = lookChanged
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-retry.C:
			what = max(what, lookAgain)
		case <-whole.C:
			what = lookAll
		}
	}
}

// Warnings tells what keeps names from being served.
func (s *Server) Warnings() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for why := range maps.Values(s.trouble) {
		out = append(out, why...)
	}
	slices.Sort(out)
	if s.unfiled != "" {
		out = append(out, s.unfiled)
	}
	return out
}

// close ends all that is open.
func (s *Server) close() {
	s.mu.Lock()
	s.closed = true
	for _, doors := range s.doors {
		for _, d := range doors {
			d.close()
		}
	}
	clear(s.doors)
	s.mu.Unlock()
	s.running.Wait()
}

// moment returns what is known now.
func (s *Server) moment() moment {
	now := moment{snapshot: s.node.Called()}
	plugged := s.node.Plugged()
	s.known.Lock()
	defer s.known.Unlock()
	if s.local.plugged != plugged {
		s.local = s.local.follow(plugged)
	}
	now.local = s.local
	return now
}

// names returns what may be known to who asks; ok is false if that is no sandbox
// of this node, or nothing is known yet.
func (s *Server) names(now moment, from spot) (v names, ok bool) {
	v = names{
		snapshot: now.snapshot, self: s.node.Self(), local: now.local, asker: now.local.asker(from),
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
