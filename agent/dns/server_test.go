package dns

import (
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/overspan/overspan"
)

// Self implements Node.
func (t *town) Self() overspan.NodeID { return "h1" }

// Called implements Node.
func (t *town) Called() *overspan.Snapshot {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.snapshot
}

// Plugged implements Node.
func (t *town) Plugged() overspan.Plugged {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.plugged == nil {
		now := pluggedOf(t.sandboxes, t.attachments)
		t.plugged = &now
	}
	return *t.plugged
}

// pluggedOf returns what is plugged in, given oldest first.
func pluggedOf(sandboxes []*overspan.Sandbox, attachments []*overspan.Attachment) overspan.Plugged {
	var p overspan.Plugged
	for _, sb := range sandboxes {
		p.Sandboxes.Put(sb.ID, sb)
	}
	for _, a := range attachments {
		p.Attachments.Put(a.Endpoint.ID, a)
		with := func(g *overspan.AttachmentGroup) *overspan.AttachmentGroup {
			return overspan.AttachmentGroupOf(append(slices.Clip(g.All()), a))
		}
		p.InNetwork.Put(a.Endpoint.Network, with(p.InNetwork.Get(a.Endpoint.Network)))
		p.InSandbox.Put(a.Sandbox, with(p.InSandbox.Get(a.Sandbox)))
	}
	return p
}

// Changed implements Node: nothing ever does.
func (t *town) Changed() <-chan struct{} { return nil }

var client = spot{"demo", netip.MustParseAddr("10.0.0.10")}

// asking returns a server whose host has the given resolvers, at a port.
func asking(t testing.TB, port uint16, resolvers ...string) *Server {
	t.Helper()
	path := filepath.Join(t.TempDir(), "resolv.conf")
	var text strings.Builder
	for _, r := range resolvers {
		text.WriteString("nameserver " + r + "\n")
	}
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return New(newTown(), Config{Port: port, ResolvConf: path}, slog.New(slog.DiscardHandler))
}

// upstream answers what it is told to, by UDP on a loopback address, and returns
// its port.
func upstream(t *testing.T, handle func(query, reply *dns.Msg)) uint16 {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan struct{})
	srv := &dns.Server{PacketConn: conn, NotifyStartedFunc: func() { close(started) }, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, query *dns.Msg) {
		reply := new(dns.Msg).SetReply(query)
		handle(query, reply)
		w.WriteMsg(reply)
	})}
	done := make(chan error, 1)
	go func() { done <- srv.ActivateAndServe() }()
	<-started
	t.Cleanup(func() {
		srv.Shutdown()
		<-done
	})
	return uint16(conn.LocalAddr().(*net.UDPAddr).Port)
}

func TestForward(t *testing.T) {
	good := func(query, reply *dns.Msg) {
		rr, err := dns.NewRR(query.Question[0].Name + " 60 IN TXT " + strings.Repeat("x", 200))
		if err != nil {
			panic(err)
		}
		reply.Answer = append(reply.Answer, rr, rr, rr, rr)
	}
	query := new(dns.Msg).SetQuestion("example.org.", dns.TypeTXT)
	large := query.Copy().SetEdns0(4096, false)
	for _, tt := range []struct {
		name      string
		handle    func(query, reply *dns.Msg)
		resolvers []string
		query     *dns.Msg
		want      string // result, code, number of answers
		truncated bool
	}{
		{"an answer that fits", good, []string{"127.0.0.1"}, large, "forward NOERROR", false},
		{"one that does not", good, []string{"127.0.0.1"}, query, "forward NOERROR", true},
		{"the second server answers", good, []string{"127.0.0.9", "127.0.0.1"}, large, "forward NOERROR", false},
		{"no server", good, nil, query, "servfail SERVFAIL", false},
		{"never ourselves", good, []string{"10.0.0.1", "fd00::1"}, query, "servfail SERVFAIL", false},
		{"a name that is not", func(_, reply *dns.Msg) { reply.Rcode = dns.RcodeNameError }, []string{"127.0.0.1"}, query, "forward NXDOMAIN", false},
		{"a server in trouble", func(_, reply *dns.Msg) { reply.Rcode = dns.RcodeServerFailure }, []string{"127.0.0.1"}, query, "servfail SERVFAIL", false},
		{"another's answer", func(_, reply *dns.Msg) { reply.Question[0].Name = "example.com." }, []string{"127.0.0.1"}, query, "servfail SERVFAIL", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := asking(t, upstream(t, tt.handle), tt.resolvers...)
			reply, result := s.reply(t.Context(), client, "udp", tt.query)
			if got := result + " " + dns.RcodeToString[reply.Rcode]; got != tt.want || reply.Truncated != tt.truncated {
				t.Errorf("%s, truncated %t; want %s, %t\n%s", got, reply.Truncated, tt.want, tt.truncated, reply)
			}
			if reply.Id != tt.query.Id || !reply.Response {
				t.Errorf("not a reply to the query:\n%s", reply)
			}
		})
	}
}

// Who does not answer costs less than the asker's patience.
func TestForwardIsBounded(t *testing.T) {
	t.Parallel()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0") // silent
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	s := asking(t, uint16(conn.LocalAddr().(*net.UDPAddr).Port), "127.0.0.1")
	begun := time.Now()
	reply, result := s.reply(t.Context(), client, "udp", new(dns.Msg).SetQuestion("example.org.", dns.TypeA))
	if took := time.Since(begun); result != resultFailed || reply.Rcode != dns.RcodeServerFailure || took > 5*time.Second {
		t.Errorf("%s after %s; want a failure within 5 s", result, took)
	}
}

// One sandbox cannot use up the questions that may wait: what is too much is
// refused at once, and its neighbours are served.
func TestForwardIsShared(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex // guards asked
	asked := map[string]struct{}{}
	full, release := make(chan struct{}), make(chan struct{})
	s := asking(t, upstream(t, func(query, _ *dns.Msg) {
		name := query.Question[0].Name
		mu.Lock()
		_, again := asked[name]
		asked[name] = struct{}{}
		if !again && len(asked) == forwardsEach {
			close(full)
		}
		mu.Unlock()
		if name != "neighbour.org." {
			<-release
		}
	}), "127.0.0.1")
	query := func(name string) *dns.Msg { return new(dns.Msg).SetQuestion(name, dns.TypeTXT) }
	var all sync.WaitGroup
	for i := range forwardsEach {
		all.Go(func() {
			if _, result := s.reply(t.Context(), client, "udp", query(fmt.Sprintf("n%d.org.", i))); result != resultForward {
				t.Errorf("question %d: %s; want it passed on", i, result)
			}
		})
	}
	<-full
	for _, from := range []spot{{"demo", netip.MustParseAddr("10.0.0.11")}, {"other", netip.MustParseAddr("10.1.0.11")}} {
		if reply, result := s.reply(t.Context(), from, "udp", query("neighbour.org.")); result != resultForward || reply.Rcode != dns.RcodeSuccess {
			t.Errorf("the neighbour at %s: %s", from.addr, result)
		}
	}
	if reply, result := s.reply(t.Context(), client, "tcp", query("more.org.")); result != resultBusy || reply.Rcode != dns.RcodeServerFailure {
		t.Errorf("one question more: %s %s; want it refused", result, dns.RcodeToString[reply.Rcode])
	}
	if _, result := s.reply(t.Context(), client, "udp", new(dns.Msg).SetQuestion("web.", dns.TypeA)); result != resultAnswer {
		t.Errorf("a name of ours meanwhile: %s", result)
	}
	close(release)
	all.Wait()
	if s.forward.waiting != 0 || len(s.forward.by) != 0 {
		t.Errorf("afterwards %d wait: %v", s.forward.waiting, s.forward.by)
	}
}

// What all sandboxes of a node together may have waiting is bounded too.
func TestForwardsMost(t *testing.T) {
	f := newForwarder(53)
	for i := range forwardsMost {
		if err := f.enter(overspan.SandboxID(fmt.Sprint(i % 10))); err != nil {
			t.Fatalf("question %d: %v", i, err)
		}
	}
	if err := f.enter("another"); err != errBusy {
		t.Errorf("one more: %v", err)
	}
	f.leave("3")
	if err := f.enter("another"); err != nil {
		t.Errorf("after one has left: %v", err)
	}
}

// Whom to ask costs the same however many networks there are, and no gateway is
// asked from the moment on that it is known.
func TestServersAreNoGateways(t *testing.T) {
	s := asking(t, 53, "10.0.0.1", "192.0.2.1", "fd00::1", "10.3.0.1", "192.0.2.2")
	place := s.node.(*town)
	told := func() []netip.Addr {
		v, _ := s.names(s.moment(), client)
		servers, err := s.servers(v)
		if err != nil {
			t.Fatal(err)
		}
		return servers
	}
	check := func(want ...string) {
		t.Helper()
		if got := fmt.Sprint(told()); got != fmt.Sprint(want) {
			t.Errorf("asked are %s; want %s", got, want)
		}
	}
	check("192.0.2.1", "10.3.0.1", "192.0.2.2")
	next := *place.snapshot
	next.Networks = maps.Clone(next.Networks)
	for i := range 1000 {
		prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(3 + i/250), byte(i % 250), 0}), 24)
		n := &overspan.Network{ID: overspan.NetworkID(fmt.Sprint(i)), IPv4: overspan.Subnet{Prefix: prefix}}
		n.IPv4.Gateway = n.IPv4.Addr(1)
		next.Networks[n.ID] = n
	}
	place.snapshot = &next
	check("192.0.2.1", "192.0.2.2")
	if allocs := testing.AllocsPerRun(10, func() { told() }); allocs > 100 {
		t.Errorf("beside 1000 networks it takes %v allocations to know whom to ask", allocs)
	}
	next.Networks = maps.Clone(place.snapshot.Networks)
	delete(next.Networks, "0")
	check("192.0.2.1", "10.3.0.1", "192.0.2.2")
}

func TestReplyToOddQueries(t *testing.T) {
	s := asking(t, 53)
	ask := func(change func(*dns.Msg)) *dns.Msg {
		query := new(dns.Msg).SetQuestion("web.", dns.TypeA)
		change(query)
		return query
	}
	for _, tt := range []struct {
		name  string
		from  spot
		query *dns.Msg
		want  int
	}{
		{"an update", client, ask(func(q *dns.Msg) { q.Opcode = dns.OpcodeUpdate }), dns.RcodeNotImplemented},
		{"nothing", client, ask(func(q *dns.Msg) { q.Question = nil }), dns.RcodeFormatError},
		{"two questions", client, ask(func(q *dns.Msg) { q.Question = append(q.Question, q.Question[0]) }), dns.RcodeFormatError},
		{"a class of its own", client, ask(func(q *dns.Msg) { q.Question[0].Qclass = dns.ClassCHAOS }), dns.RcodeRefused},
		{"a newer EDNS", client, ask(func(q *dns.Msg) { q.SetEdns0(4096, true).IsEdns0().SetVersion(1) }), dns.RcodeBadVers},
		{"nobody of ours", spot{"demo", netip.MustParseAddr("10.0.0.99")}, ask(func(*dns.Msg) {}), dns.RcodeRefused},
		{"in another network", spot{"other", client.addr}, ask(func(*dns.Msg) {}), dns.RcodeRefused},
	} {
		reply, result := s.reply(t.Context(), tt.from, "udp", tt.query)
		if result != resultRefused || reply.Rcode != tt.want || len(reply.Answer) > 0 {
			t.Errorf("%s: %s %s; want %s", tt.name, result, dns.RcodeToString[reply.Rcode], dns.RcodeToString[tt.want])
		}
	}
}

// FuzzReply has any bytes asked: whatever they are, the reply can be packed, fits,
// and is one to them.
func FuzzReply(f *testing.F) {
	s := asking(f, 53) // without servers nothing leaves this process
	for _, name := range []string{"web.", "DB.demo.", "data.", "2.0.0.10.in-addr.arpa.", "_http._tcp.web.", "example.org."} {
		query := new(dns.Msg).SetQuestion(name, dns.TypeANY)
		raw, err := query.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		query := new(dns.Msg)
		if query.Unpack(raw) != nil {
			return
		}
		for _, transport := range []string{"udp", "tcp"} {
			reply, result := s.reply(t.Context(), client, transport, query.Copy())
			out, err := reply.Pack()
			if err != nil {
				t.Fatalf("cannot pack the reply (%s): %v\n%s", result, err, reply)
			}
			if len(out) > replySize(query, transport) {
				t.Fatalf("the reply has %d bytes; at most %d are wanted", len(out), replySize(query, transport))
			}
			if reply.Id != query.Id || !reply.Response {
				t.Fatalf("no reply to the query:\n%s", reply)
			}
		}
	})
}
