package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/overspan/overspan/e2e/lab"
)

// The servers that BenchmarkNames compares.
const (
	gatewayServer = "gateway" // the agent, on a network's gateway
	dnsmasqServer = "dnsmasq" // on another address of the same host, with the same names
)

// namesWindow is how many questions wait for their answer at once, and namesWhile
// how long each server is asked in a round.
const (
	namesWindow = 16
	namesWhile  = 200 * time.Millisecond
)

// BenchmarkNames measures how many questions for the names of containers are
// answered, by UDP, to a container that asks for one after the other.
func BenchmarkNames(b *testing.B) {
	const containers = 50
	m := startBenchOf(b, 1, 1)
	n := m.Nodes[0]
	m.create("demo")
	var hosts strings.Builder
	var questions [][]byte
	var client *lab.Sandbox
	for i := range containers {
		box := m.netns(n, fmt.Sprintf("web%d", i))
		m.must(m.attach("demo", box.Name))
		addrs, err := box.Addrs(eth0)
		m.must(err)
		fmt.Fprintf(&hosts, "%s %s\n", addrs[0], box.Name)
		raw, err := new(dns.Msg).SetQuestion(box.Name+".", dns.TypeA).Pack()
		m.must(err)
		questions = append(questions, raw)
		client = box
	}
	servers := map[string]netip.Addr{gatewayServer: netip.MustParseAddr("10.128.0.1"), dnsmasqServer: n.Addrs[0]}
	m.dnsmasq(n, servers[dnsmasqServer], hosts.String())
	figures := map[string][]float64{}
	ways := []string{gatewayServer, dnsmasqServer}
	for round := 0; b.Loop(); round++ {
		for i := range ways {
			way := ways[(round+i)%len(ways)]
			answered, err := flood(client, servers[way], questions)
			m.must(err)
			figures[way] = append(figures[way], float64(answered)/namesWhile.Seconds())
		}
	}
	b.ReportMetric(0, "ns/op") // a round's length says nothing
	ours, reference := median(figures[gatewayServer]), median(figures[dnsmasqServer])
	b.ReportMetric(ours, gatewayServer+"-queries/s")
	b.ReportMetric(reference, dnsmasqServer+"-queries/s")
	b.ReportMetric(ours/reference, gatewayServer+"-queries/s:"+dnsmasqServer+"-queries/s")
}

// dnsmasq starts dnsmasq on an address of a node, with the names of a hosts(5).
func (m *bench) dnsmasq(n *lab.Node, addr netip.Addr, hosts string) {
	m.b.Helper()
	m.must(os.WriteFile(n.Path("/run/names"), []byte(hosts), 0o644))
	server, err := n.Host.Start(exec.Command("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--user=root",
		"--no-hosts", "--no-resolv", "--bind-interfaces", "--except-interface=lo", "--listen-address="+addr.String(), "--addn-hosts=/run/names", "--local-ttl=5"))
	m.must(err)
	m.b.Cleanup(func() { server.Stop(context.Background(), syscall.SIGTERM) })
	// It answers as soon as it listens.
	m.must(lab.Eventually(m.b.Context(), settleWithin, func(context.Context) error {
		return n.Do(func() error {
			_, err := dns.Exchange(new(dns.Msg).SetQuestion("web0.", dns.TypeA), netip.AddrPortFrom(addr, 53).String())
			return err
		})
	}))
}

// flood asks a server for as long as a round takes, and returns how many questions
// it has answered with one address.
func flood(box *lab.Sandbox, server netip.Addr, questions [][]byte) (answered int, err error) {
	var conn net.Conn
	if err := box.Do(func() (err error) {
		conn, err = net.Dial("udp", netip.AddrPortFrom(server, 53).String())
		return err
	}); err != nil {
		return 0, err
	}
	defer conn.Close()
	deadline := time.Now().Add(namesWhile)
	if err := conn.SetReadDeadline(deadline); err != nil {
		return 0, err
	}
	buf := make([]byte, dns.MinMsgSize)
	asked := 0
	for ; asked < namesWindow; asked++ {
		if _, err := conn.Write(questions[asked%len(questions)]); err != nil {
			return 0, err
		}
	}
	for {
		size, err := conn.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return answered, nil
		}
		if err != nil {
			return answered, err
		}
		if size < 12 || buf[7] != 1 { // ANCOUNT
			return answered, fmt.Errorf("%s answers %x", server, buf[:size])
		}
		answered++
		asked++
		if _, err := conn.Write(questions[asked%len(questions)]); err != nil {
			return answered, err
		}
	}
}
