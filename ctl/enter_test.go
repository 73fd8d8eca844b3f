package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestHostsFile(t *testing.T) {
	sb := sandboxItem{Endpoints: []endpointItem{
		{Name: "web1", IPv4Address: "10.0.0.2/24", IPv6Address: "fd00::2/64"},
		{Name: "api", IPv6Address: "fd01::9/64"},
	}, ExtraHosts: []hostItem{{Name: "db", Address: "192.0.2.9"}}}
	want := `127.0.0.1	localhost
::1	localhost ip6-localhost ip6-loopback
ff02::1	ip6-allnodes
ff02::2	ip6-allrouters
10.0.0.2	web1
fd00::2	web1
fd01::9	web1 api
192.0.2.9	db
`
	if diff := cmp.Diff(want, string(hostsFile(sb, "web1"))); diff != "" {
		t.Errorf("hosts (-want +got):\n%s", diff)
	}
}

func TestResolvFile(t *testing.T) {
	sb := sandboxItem{Nameservers: []string{"10.0.0.1"}, DNS: []string{"192.0.2.1"}, DNSSearch: []string{"example.org"}}
	want := "nameserver 10.0.0.1\nsearch example.org\noptions edns0 ndots:0\n"
	if diff := cmp.Diff(want, string(resolvFile([]byte("nameserver 127.0.0.53\noptions edns0\n"), sb))); diff != "" {
		t.Errorf("resolv.conf (-want +got):\n%s", diff)
	}
}
