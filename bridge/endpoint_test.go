package bridge_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/bridge"
	"github.com/overspan/overspan/kernel"
)

func TestEndpointOptions(t *testing.T) {
	given := map[string]string{
		"com.docker.network.endpoint.ifname": "net0",
		"sysctls":                            "net.ipv6.conf.IFNAME.accept_ra=0, net.ipv4.conf.IFNAME.log_martians=01",
	}
	want := bridge.EndpointOptions{Interface: "net0", Sysctls: []bridge.EndpointSysctl{
		{Family: "ipv4", Dir: "conf", Key: "log_martians", Value: 1}, {Family: "ipv6", Dir: "conf", Key: "accept_ra"},
	}}
	got, err := bridge.ParseEndpointOptions(given)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	given["from a later version"] = "x"
	if diff := cmp.Diff(want, bridge.EndpointOptionsOf(given)); diff != "" {
		t.Errorf("stored (-want +got):\n%s", diff)
	}
}

func TestEndpointOptionsRefused(t *testing.T) {
	for _, test := range []struct{ name, value, say string }{
		{"color", "red", "unknown option"},
		{"sysctls", "", "invalid sysctl"},
		{"sysctls", "net.ipv4.conf.IFNAME.log_martians", "invalid sysctl"},
		{"sysctls", "net.ipv4.conf.IFNAME.log_martians=yes", "invalid sysctl"},
		{"sysctls", "net.ipv4.conf.all.log_martians=1", "invalid sysctl"},
		{"sysctls", "net.ipv4.conf.IFNAME.../../../ip_forward=1", "invalid sysctl"},
		{"sysctls", "net.ipv4.conf.IFNAME.a/b=1", "invalid sysctl"},
		{"sysctls", "net.ipv4.route.IFNAME.x=1", "invalid sysctl"},
		{"sysctls", "net.core.conf.IFNAME.x=1", "invalid sysctl"},
		{"sysctls", "net.mpls.conf.IFNAME.input=1,net.mpls.conf.IFNAME.input=0", "given twice"},
	} {
		_, err := bridge.ParseEndpointOptions(map[string]string{test.name: test.value})
		if !errors.Is(err, overspan.ErrInvalid) || !strings.Contains(err.Error(), test.say) {
			t.Errorf("%s=%s: %v, want: %s", test.name, test.value, err, test.say)
		}
	}
	twice := map[string]string{"ifname": "a", "com.docker.network.endpoint.ifname": "a"}
	if _, err := bridge.ParseEndpointOptions(twice); !errors.Is(err, overspan.ErrInvalid) {
		t.Errorf("an option by both of its names: %v", err)
	}
	six, four := network("d", 1), network("4", 1)
	four.IPv6 = overspan.Subnet{}
	o, err := bridge.ParseEndpointOptions(map[string]string{"sysctls": "net.ipv6.conf.IFNAME.disable_ipv6=1"})
	if err != nil || o.CheckFor(four) != nil || !errors.Is(o.CheckFor(six), overspan.ErrInvalid) {
		t.Errorf("disable_ipv6: %v; in a network with IPv6: %v; without: %v", err, o.CheckFor(six), o.CheckFor(four))
	}
}

func TestPlanOfASecondaryPort(t *testing.T) {
	n := network("d", 1)
	p := bridge.Port{
		Endpoint: endpoint(n, "1", 16), Netns: "/run/netns/web1", Secondary: []overspan.Family{overspan.IPv4},
		Options: map[string]string{"sysctls": "net.ipv4.conf.IFNAME.log_martians=1"},
	}
	in := bridge.PlanPort(n, p).Insides[overspan.VethName(p.Endpoint.ID)]
	if len(in.Routes) != 1 || in.Routes[0].Via != n.IPv6.Gateway {
		t.Errorf("routes %v, want the one by %s", in.Routes, n.IPv6.Gateway)
	}
	if diff := cmp.Diff([]kernel.Sysctl{{Path: "net/ipv4/conf/eth0/log_martians", Value: "1"}}, in.Sysctls); diff != "" {
		t.Errorf("sysctls (-want +got):\n%s", diff)
	}
}
