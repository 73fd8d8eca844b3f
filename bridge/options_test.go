package bridge_test

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/bridge"
)

var compareAddrs = cmpopts.EquateComparable(netip.Addr{})

func TestOptions(t *testing.T) {
	all := bridge.Options{
		Masquerade:  false,
		ICC:         false,
		SNAT4:       netip.MustParseAddr("192.0.2.1"),
		SNAT6:       netip.MustParseAddr("2001:db8::1"),
		HostBinding: netip.MustParseAddr("127.0.0.1"),
		Name:        "br-app",
		MTU:         1400,
	}
	for name, c := range map[string]struct {
		driver overspan.Driver
		given  map[string]string
		want   bridge.Options
	}{
		"none": {overspan.DriverBridge, nil, bridge.Options{ICC: true, Masquerade: true}},
		"short names": {overspan.DriverBridge, map[string]string{
			"icc": "false", "masquerade": "0", "snat4": "192.0.2.1", "snat6": "2001:db8::1",
			"host_binding": "127.0.0.1", "name": "br-app", "mtu": "1400",
		}, all},
		"docker's names": {overspan.DriverBridge, map[string]string{
			"com.docker.network.bridge.enable_icc":           "false",
			"com.docker.network.bridge.enable_ip_masquerade": "false",
			"com.docker.network.host_ipv4":                   "192.0.2.1",
			"com.docker.network.host_ipv6":                   "2001:db8::1",
			"com.docker.network.bridge.host_binding_ipv4":    "127.0.0.1",
			"com.docker.network.bridge.name":                 "br-app",
			"com.docker.network.driver.mtu":                  "1400",
		}, all},
		"of an overlay": {
			overspan.DriverOverlay,
			map[string]string{"vni": "5000", "com.docker.network.driver.mtu": "1400"},
			bridge.Options{ICC: true, Masquerade: true, VNI: 5000, MTU: 1400},
		},
		"switched on as it is": {
			overspan.DriverOverlay,
			map[string]string{"icc": "true", "masquerade": "1"},
			bridge.Options{ICC: true, Masquerade: true},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := bridge.ParseOptions(c.driver, c.given)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got, compareAddrs); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			stored := bridge.OptionsOf(&overspan.Network{Driver: c.driver, Options: c.given})
			if diff := cmp.Diff(c.want, stored, compareAddrs); diff != "" {
				t.Errorf("stored (-want +got):\n%s", diff)
			}
		})
	}
}

func TestBadOptions(t *testing.T) {
	for name, c := range map[string]struct {
		driver overspan.Driver
		option string
		say    []string
	}{
		"unknown":                 {overspan.DriverBridge, "color=red", []string{`"color"`, "bridge", "icc", "mtu", "name"}},
		"of the other driver":     {overspan.DriverBridge, "vni=5000", []string{`"vni"`, "bridge"}},
		"name of an overlay":      {overspan.DriverOverlay, "name=br-app", []string{`"name"`, "overlay"}},
		"no truth":                {overspan.DriverBridge, "icc=maybe", []string{"icc=maybe", "true or false"}},
		"docker's name is told":   {overspan.DriverBridge, "com.docker.network.driver.mtu=big", []string{"com.docker.network.driver.mtu=big"}},
		"MTU too small":           {overspan.DriverBridge, "mtu=67", []string{"mtu=67", "68"}},
		"MTU too large":           {overspan.DriverBridge, "mtu=65536", []string{"mtu=65536", "65535"}},
		"VNI is zero":             {overspan.DriverOverlay, "vni=0", []string{"vni=0"}},
		"VNI too large":           {overspan.DriverOverlay, "vni=16777216", []string{"vni=16777216"}},
		"snat4 is IPv6":           {overspan.DriverBridge, "snat4=2001:db8::1", []string{"snat4=2001:db8::1", "IPv4"}},
		"snat4 is loopback":       {overspan.DriverBridge, "snat4=127.0.0.1", []string{"snat4=127.0.0.1"}},
		"snat6 is IPv4":           {overspan.DriverBridge, "snat6=192.0.2.1", []string{"snat6=192.0.2.1", "IPv6"}},
		"snat6 is link-local":     {overspan.DriverBridge, "snat6=fe80::1", []string{"snat6=fe80::1"}},
		"binding is no address":   {overspan.DriverBridge, "host_binding=eth0", []string{"host_binding=eth0", "address"}},
		"binding is multicast":    {overspan.DriverBridge, "host_binding=224.0.0.1", []string{"host_binding=224.0.0.1"}},
		"bridge's name is ours":   {overspan.DriverBridge, "name=osb-abc", []string{"name=osb-abc", "osb-"}},
		"bridge's name is long":   {overspan.DriverBridge, "name=sixteencharacter", []string{"sixteencharacter", "15"}},
		"bridge's name is a path": {overspan.DriverBridge, "name=br/0", []string{"name=br/0"}},
		"bridge's name is a flag": {overspan.DriverBridge, "name=-br0", []string{"name=-br0"}},
		"bridge's name is empty":  {overspan.DriverBridge, "name=", []string{"name="}},
		"the kernel's own name":   {overspan.DriverBridge, "name=default", []string{"name=default"}},
	} {
		t.Run(name, func(t *testing.T) {
			key, value, _ := strings.Cut(c.option, "=")
			given := map[string]string{key: value}
			_, err := bridge.ParseOptions(c.driver, given)
			if !errors.Is(err, overspan.ErrInvalid) {
				t.Fatalf("error %v; want ErrInvalid", err)
			}
			for _, word := range c.say {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("%q does not say %q", err, word)
				}
			}
			stored := bridge.OptionsOf(&overspan.Network{Driver: c.driver, Options: given})
			if diff := cmp.Diff(bridge.Options{ICC: true, Masquerade: true}, stored, compareAddrs); diff != "" {
				t.Errorf("a stored one is not left out (-want +got):\n%s", diff)
			}
		})
	}
}

// TestEveryOptionIsDocumented: what an error offers, users can read about.
func TestEveryOptionIsDocumented(t *testing.T) {
	doc, err := os.ReadFile("../docs/networks.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, driver := range []overspan.Driver{overspan.DriverBridge, overspan.DriverOverlay} {
		_, err := bridge.ParseOptions(driver, map[string]string{"?": ""})
		_, names, found := strings.Cut(err.Error(), ": use ")
		if !found {
			t.Fatalf("the error offers no names: %v", err)
		}
		for _, name := range strings.Split(names, ", ") {
			if !strings.Contains(string(doc), "| `"+name+"` | `com.docker.network.") {
				t.Errorf("docs/networks.md does not explain the option %s", name)
			}
		}
	}
}

func TestOptionGivenTwice(t *testing.T) {
	_, err := bridge.ParseOptions(overspan.DriverBridge, map[string]string{"mtu": "1400", "com.docker.network.driver.mtu": "1400"})
	if !errors.Is(err, overspan.ErrInvalid) || !strings.Contains(err.Error(), "com.docker.network.driver.mtu and mtu") {
		t.Errorf("error %v", err)
	}
}
