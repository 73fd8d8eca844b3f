package e2e

import (
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/overspan/overspan/e2e/lab"
)

// servicesAreFound checks, of scenario 32, what box is told of the services that
// the endpoints web, of another node, and db of its network have published.
func (c *cluster) servicesAreFound(box *lab.Sandbox, network string, web, db *lab.Sandbox) {
	c.t.Helper()
	gateway := c.gateway(box.Node, network)
	webAddr, dbAddr := c.addr(web).String(), c.addr(db).String()
	webAt := fmt.Sprintf("0 0 80 %s.%s.", web.Name, network)
	dbAt := fmt.Sprintf("0 0 80 %s.%s.", db.Name, network)
	for _, q := range []struct {
		name string
		kind uint16
		want []string
		at   []string // in the additional section
	}{
		{name: "_http._tcp.web", kind: dns.TypeSRV, want: []string{webAt}, at: []string{webAddr}},
		{name: "_80._TCP.Web." + network, kind: dns.TypeSRV, want: []string{webAt}, at: []string{webAddr}},
		{name: "_http._tcp.www", kind: dns.TypeSRV, want: []string{dbAt, webAt}, at: []string{dbAddr, webAddr}},
		{name: "_5353._udp.friend", kind: dns.TypeSRV, want: []string{strings.Replace(dbAt, " 80 ", " 5353 ", 1)}, at: []string{dbAddr}},
		{name: "_http._tcp.web", kind: dns.TypeA},
		{name: "_8080._tcp.web", kind: dns.TypeSRV, want: []string{"NXDOMAIN"}}, // the host's port
		{name: "_http._udp.web", kind: dns.TypeSRV, want: []string{"NXDOMAIN"}},
	} {
		for _, transport := range []string{"udp", "tcp"} {
			reply := c.told(box, gateway, transport, q.name, q.kind, q.want...)
			var at []string
			for _, rr := range reply.Extra {
				at = append(at, strings.TrimPrefix(rr.String(), rr.Header().String()))
			}
			slices.Sort(at)
			slices.Sort(q.at)
			if !slices.Equal(at, q.at) {
				c.t.Errorf("for %s by %s the addresses %q come along; want %q", q.name, transport, at, q.at)
			}
		}
	}
	// As a program within asks, by its resolv.conf.
	out, err := box.Node.Exec(c.t.Context(), "ip", "netns", "exec", box.Name, "busybox", "nslookup", "-type=srv", "_http._tcp.web")
	c.must(err)
	if !strings.Contains(out, webAt[:len(webAt)-1]) {
		c.t.Errorf("in %s nslookup prints no %q:\n%s", box.Name, webAt, out)
	}
}
