package dns

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
	"weak"

	"github.com/miekg/dns"

	"github.com/overspan/overspan"
)

// A caller asks a desk that serves network demo, by UDP from one address.
type caller struct {
	t     *testing.T
	place *town
	conn  *net.UDPConn
}

// newCaller has the sandbox client be at a loopback address, and a desk at
// another.
func newCaller(t *testing.T, resolverPort uint16) *caller {
	t.Helper()
	s := asking(t, resolverPort, "127.0.0.1")
	place := s.node.(*town)
	for i, a := range place.attachments {
		if a.Endpoint.Name == "client" {
			place.attachments[i].Endpoint.IPv4 = netip.MustParseAddr("127.0.0.1")
		}
	}
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	d := &door{server: s, at: spot{network: "demo"}, ctx: t.Context()}
	k := &desk{door: d, conn: conn}
	ended := make(chan error, 1)
	go func() { ended <- k.serve() }()
	c := &caller{t: t, place: place}
	if c.conn, err = net.DialUDP("udp", nil, conn.LocalAddr().(*net.UDPAddr)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.conn.Close()
		conn.Close()
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("serve ends: %v", err)
		}
		s.running.Wait()
	})
	return c
}

// send sends a message, and hear returns the next one that comes.
func (c *caller) send(raw []byte) {
	c.t.Helper()
	if _, err := c.conn.Write(raw); err != nil {
		c.t.Fatal(err)
	}
}

func (c *caller) hear() *dns.Msg {
	c.t.Helper()
	buf := make([]byte, dns.MaxMsgSize)
	if err := c.conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		c.t.Fatal(err)
	}
	n, err := c.conn.Read(buf)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Fatal("no answer")
	}
	reply := new(dns.Msg)
	if err := errors.Join(err, reply.Unpack(buf[:n])); err != nil {
		c.t.Fatal(err)
	}
	return reply
}

// told asks, and returns what the answer says.
func (c *caller) told(name string, kind uint16) string {
	c.t.Helper()
	query := new(dns.Msg).SetQuestion(name, kind)
	raw, err := query.Pack()
	if err != nil {
		c.t.Fatal(err)
	}
	c.send(raw)
	reply := c.hear()
	if !answers(reply, query) {
		c.t.Errorf("this is no answer to %s:\n%s", query, reply)
	}
	out := []string{dns.RcodeToString[reply.Rcode]}
	for _, rr := range reply.Answer {
		out = append(out, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	return strings.Join(out, " ")
}

// Asked again, a desk says the same, until something changes.
func TestDeskAnswersWhatIsSoNow(t *testing.T) {
	c := newCaller(t, 53)
	twice := func(name string, kind uint16, want string) {
		t.Helper()
		for range 2 {
			if got := c.told(name, kind); got != want {
				t.Errorf("%s %s: %s; want %s", dns.TypeToString[kind], name, got, want)
			}
		}
	}
	twice("db.", dns.TypeA, "NOERROR 10.0.0.3")
	twice("DB.demo.", dns.TypeA, "NOERROR 10.0.0.3")
	twice("db.", dns.TypeAAAA, "NOERROR fd00::3")
	twice("db.", dns.TypeMX, "NOERROR")
	twice("99.0.0.10.in-addr.arpa.", dns.TypePTR, "NXDOMAIN")
	twice("_http._tcp.db.", dns.TypeSRV, "NOERROR 0 0 80 Db.Demo.")

	c.place.mu.Lock()
	next, segment := *c.place.snapshot, *c.place.snapshot.Segments.Get("demo")
	next.Segments = overspan.IDMapOf(map[overspan.NetworkID]*overspan.Segment{"demo": &segment})
	c.place.snapshot = &next
	c.place.endpoint("demo", "h2", "Db", 33)
	segment.Endpoints.Delete(3)
	c.place.mu.Unlock()
	twice("db.", dns.TypeA, "NOERROR 10.0.0.33")
	twice("db.", dns.TypeMX, "NOERROR")
}

// Names with several addresses have them in an order that changes.
func TestDeskShuffles(t *testing.T) {
	c := newCaller(t, 53)
	c.place.mu.Lock()
	c.place.snapshot.Nodes["h3"].Presence = &overspan.Presence{}
	c.place.mu.Unlock()
	seen := map[string]struct{}{}
	for range 64 {
		seen[c.told("data.", dns.TypeA)] = struct{}{}
	}
	if len(seen) != 2 {
		t.Errorf("64 answers: %v", seen)
	}
}

// What is no question is refused or ignored; what others answer keeps nobody from
// asking for more.
func TestDeskAndOddMessages(t *testing.T) {
	release := make(chan struct{})
	c := newCaller(t, upstream(t, func(_, reply *dns.Msg) {
		<-release
		reply.Rcode = dns.RcodeNameError
	}))
	query, err := new(dns.Msg).SetQuestion("example.org.", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	c.send(query)
	answer := append([]byte(nil), query...)
	answer[2] |= 0x80 // QR
	for _, raw := range [][]byte{nil, {1, 2, 3}, query[:headerSize-1], answer, answer[:headerSize+1]} {
		c.send(raw)
	}
	if got := c.told("web.", dns.TypeA); got != "NOERROR 10.0.0.2" {
		t.Errorf("web.: %s", got)
	}
	c.send(query[:headerSize+3])
	if reply := c.hear(); reply.Rcode != dns.RcodeFormatError || reply.Id != uint16(query[0])<<8|uint16(query[1]) {
		t.Errorf("half a question is answered with\n%s", reply)
	}
	close(release)
	if reply := c.hear(); reply.Rcode != dns.RcodeNameError || reply.Id != uint16(query[0])<<8|uint16(query[1]) {
		t.Errorf("example.org. is answered with\n%s", reply)
	}
}

// TestAMemoKeepsNoSnapshot: at a gateway where nobody asks any more, what was known
// at the last question can go.
func TestAMemoKeepsNoSnapshot(t *testing.T) {
	var m memo
	who, raw := netip.MustParseAddr("10.0.0.2"), make([]byte, headerSize)
	seen := func() weak.Pointer[overspan.Snapshot] {
		now := moment{snapshot: &overspan.Snapshot{Revision: 7}, local: &local{}}
		m.note(now, who, raw, []byte("a reply"), taken{reply: new(dns.Msg), result: resultAnswer})
		if _, known := m.find(now, who, raw); !known {
			t.Error("the reply is not known")
		}
		if _, known := m.find(moment{snapshot: &overspan.Snapshot{Revision: 7}, local: now.local}, who, raw); known {
			t.Error("the reply is known of another moment")
		}
		return weak.Make(now.snapshot)
	}()
	runtime.GC()
	if seen.Value() != nil {
		t.Error("the snapshot is kept")
	}
	runtime.KeepAlive(&m)
}
