package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestHostsFile(t *testing.T) {
	sb := sandboxItem{Endpoints: []endpointItem{
		{Name: "web1", IPv4Address: "10.0.0.2/24", IPv6Address: "fd00::2/64"},
		{Name: "api", IPv6Address: "fd01::9/64"},
	}}
	want := `127.0.0.1	localhost
::1	localhost ip6-localhost ip6-loopback
ff02::1	ip6-allnodes
ff02::2	ip6-allrouters
10.0.0.2	web1
fd00::2	web1
fd01::9	web1 api
`
	if diff := cmp.Diff(want, string(hostsFile(sb, "web1"))); diff != "" {
		t.Errorf("hosts (-want +got):\n%s", diff)
	}
}

func TestResolvFile(t *testing.T) {
	for _, tt := range []struct{ name, host, want string }{
		{"empty", "", ""},
		{"plain", "nameserver 10.0.0.53\nsearch example.org\n", "nameserver 10.0.0.53\nsearch example.org\n"},
		{"stub resolver", "# stub\nnameserver 127.0.0.53\noptions edns0\n", "# stub\noptions edns0\n"},
		{"loopback beside others", "nameserver ::1\n nameserver\t127.0.0.1\nnameserver 2001:db8::1", "nameserver 2001:db8::1"},
		{"what cannot be read is left", "nameserver\nnameserver x\n", "nameserver\nnameserver x\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, string(resolvFile([]byte(tt.host)))); diff != "" {
				t.Errorf("resolv.conf (-want +got):\n%s", diff)
			}
		})
	}
}
