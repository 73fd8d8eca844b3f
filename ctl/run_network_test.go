package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRunNetworks(t *testing.T) {
	type networks = []runNetwork
	for _, tt := range []struct {
		name string
		req  runRequest
		want networks
	}{
		{"none is the default", runRequest{}, networks{{name: "bridge"}}},
		{"a name", runRequest{networks: []string{"demo"}, ip: "10.0.0.9", aliases: []string{"db"}}, networks{{name: "demo", ip: "10.0.0.9", aliases: []string{"db"}}}},
		{"the long form", runRequest{networks: []string{"name=demo,alias=a,Alias=b,ip=10.0.0.9,ip6=fd00::9,mac-address=02:00:00:00:00:01,gw-priority=-1"}}, networks{{
			name: "demo", ip: "10.0.0.9", ip6: "fd00::9", mac: "02:00:00:00:00:01", aliases: []string{"a", "b"}, gatewayPriority: -1,
			given: []string{"alias", "alias", "ip", "ip6", "mac-address", "gw-priority"},
		}}},
		{"commas in quotes", runRequest{networks: []string{`driver-opt=ifname=lan0,name=demo,"driver-opt=sysctls=net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.conf.IFNAME.accept_ra=0"`}}, networks{{
			name:          "demo",
			driverOptions: map[string]string{"ifname": "lan0", "sysctls": "net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.conf.IFNAME.accept_ra=0"},
			given:         []string{"driver-opt", "driver-opt"},
		}}},
		{"a flag adds to the long form", runRequest{networks: []string{"name=demo,ip=10.0.0.9"}, mac: "02:00:00:00:00:01", aliases: []string{"db"}}, networks{{
			name: "demo", ip: "10.0.0.9", mac: "02:00:00:00:00:01", aliases: []string{"db"}, given: []string{"ip"},
		}}},
		{"several, each with its own", runRequest{networks: []string{"name=demo,ip=10.0.0.9", "other", "name=third,ip=10.0.2.9"}}, networks{
			{name: "demo", ip: "10.0.0.9", given: []string{"ip"}}, {name: "other"}, {name: "third", ip: "10.0.2.9", given: []string{"ip"}},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			mode, err := tt.req.mode()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, mode.networks, cmp.AllowUnexported(runNetwork{})); diff != "" {
				t.Errorf("networks (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRunNetworksRefused(t *testing.T) {
	for _, tt := range []struct {
		req  runRequest
		want string
	}{
		{runRequest{networks: []string{"name=demo,color=red"}}, "invalid field key color"},
		{runRequest{networks: []string{"name=demo,ip"}}, `invalid field "ip"`},
		{runRequest{networks: []string{"name=demo,ip="}}, `invalid field "ip="`},
		{runRequest{networks: []string{"alias=db"}}, "names no network"},
		{runRequest{networks: []string{"name=demo\nip=10.0.0.9"}}, "no line of CSV"},
		{runRequest{networks: []string{`name=demo,"alias=db`}}, "no line of CSV"},
		{runRequest{networks: []string{"name=demo,name=other"}}, "name is given twice"},
		{runRequest{networks: []string{"name=demo,ip=10.0.0.9,ip=10.0.0.8"}}, "ip is given twice"},
		{runRequest{networks: []string{"name=demo,driver-opt=ifname"}}, "want key=value"},
		{runRequest{networks: []string{"name=demo,driver-opt=ifname=a,driver-opt=ifname=b"}}, "driver-opt ifname is given twice"},
		{runRequest{networks: []string{"name=demo,gw-priority=high"}}, `invalid gw-priority "high"`},
		{runRequest{networks: []string{"name=demo,link-local-ip=169.254.1.1"}}, "link-local-ip is not supported"},
		{runRequest{networks: []string{"demo", "name=demo,ip=10.0.0.9"}}, `network "demo" is specified multiple times`},
		{runRequest{networks: []string{"name=demo,ip=10.0.0.9"}, ip: "10.0.0.8"}, "cannot specify both --ip and per-network ip"},
		{runRequest{networks: []string{"name=demo,ip6=fd00::9"}, ip6: "fd00::8"}, "cannot specify both --ip6 and per-network ip6"},
		{runRequest{networks: []string{"name=demo,mac-address=02:00:00:00:00:01"}, mac: "02:00:00:00:00:01"}, "cannot specify both --mac-address and per-network mac-address"},
		{runRequest{networks: []string{"other", "name=demo,alias=a"}, aliases: []string{"b"}}, "cannot specify both --alias and per-network alias"},
		{runRequest{networks: []string{"name=bridge,ip=172.16.0.9"}}, "supported on user defined networks only"},
		{runRequest{networks: []string{"name=host,ip=10.0.0.9"}}, "supported on user defined networks only"},
		{runRequest{networks: []string{"name=none,alias=db"}}, "conflicting options: alias and the network mode"},
		{runRequest{networks: []string{"name=container:web,gw-priority=1"}}, "conflicting options: gw-priority and the network mode"},
		{runRequest{networks: []string{"name=host", "demo"}}, "non-user-defined network-modes"},
	} {
		if _, err := tt.req.mode(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want: %s", tt.req, err, tt.want)
		}
	}
}
