package ports_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/ports"
)

var comparable = cmpopts.EquateComparable(netip.Addr{})

func TestParseSpecs(t *testing.T) {
	tcp := func(host, last, port uint16) ports.Spec {
		return ports.Spec{Protocol: overspan.TCP, First: host, Last: last, Port: port}
	}
	at := func(ip string, s ports.Spec) ports.Spec {
		s.HostIP = netip.MustParseAddr(ip)
		return s
	}
	udp := func(s ports.Spec) ports.Spec {
		s.Protocol = overspan.UDP
		return s
	}
	for text, want := range map[string][]ports.Spec{
		"80":                      {tcp(0, 0, 80)},
		"8080:80":                 {tcp(8080, 8080, 80)},
		"8080:80/tcp":             {tcp(8080, 8080, 80)},
		"53:53/UDP":               {udp(tcp(53, 53, 53))},
		"127.0.0.1:9000:90/udp":   {udp(at("127.0.0.1", tcp(9000, 9000, 90)))},
		"127.0.0.1::90":           {at("127.0.0.1", tcp(0, 0, 90))},
		"127.0.0.1:90":            {at("127.0.0.1", tcp(0, 0, 90))},
		"[2001:db8::1]:8080:80":   {at("2001:db8::1", tcp(8080, 8080, 80))},
		"[::1]::80":               {at("::1", tcp(0, 0, 80))},
		"[::1]:80":                {at("::1", tcp(0, 0, 80))},
		"[::ffff:10.0.0.1]:80:80": {at("10.0.0.1", tcp(80, 80, 80))},
		":80":                     {tcp(0, 0, 80)},
		"8100-8105:22":            {tcp(8100, 8105, 22)},
		"80-81":                   {tcp(0, 0, 80), tcp(0, 0, 81)},
		"7000-7001:80-81":         {tcp(7000, 7000, 80), tcp(7001, 7001, 81)},
		"65535:65535":             {tcp(65535, 65535, 65535)},
	} {
		got, err := ports.ParseSpecs(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if diff := cmp.Diff(want, got, comparable); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
	}
}

func TestParseSpecsRefuses(t *testing.T) {
	for text, words := range map[string]string{
		"":                  "no port specified",
		"8080:":             "no port specified",
		"0":                 "invalid container port",
		"65536:80":          "invalid host port",
		"x:80":              "invalid host port",
		"80:x":              "invalid container port",
		"-1:80":             "invalid host port",
		"80/icmp":           "invalid protocol",
		"80/tcp/udp":        "invalid protocol",
		"80-79":             "80 is above 79",
		"8000-8002:80-81":   "invalid ranges specified for container and host ports: 80-81 and 8000-8002",
		"300.0.0.1:80:80":   "invalid IP address",
		"fe80::1%eth0:80":   "brackets",
		"::1:80:80":         "brackets",
		"[::1:80:80":        "invalid port",
		"[]:80:80":          "invalid port",
		"[::1]80":           "invalid port",
		"224.0.0.1:80:80":   "invalid IP address",
		"[fe80::1%0]:80:80": "invalid IP address",
		"1-1001":            "more than 1000",
	} {
		specs, err := ports.ParseSpecs(text)
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%q: %v, %v; want an error with %q", text, specs, err, words)
		}
	}
	if _, err := ports.ParseExposed("80:80"); err == nil {
		t.Error("a host port was exposed")
	}
}

// FuzzParseSpecs: what is accepted holds together, and means the same when it is
// written out port by port.
func FuzzParseSpecs(f *testing.F) {
	for _, text := range []string{"80", "127.0.0.1:9000:90/udp", "[::1]:80-82:90-92/sctp", "8100-8105:22", "1:2:3:4", "[::1", "80-", ":::", "1.2.3.4::5"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		specs, err := ports.ParseSpecs(text)
		if err != nil {
			return
		}
		if len(specs) == 0 || len(specs) > ports.Most {
			t.Fatalf("%q: %d specs", text, len(specs))
		}
		for _, s := range specs {
			again, err := ports.ParseSpecs(s.String())
			if s.Port == 0 || s.First > s.Last || err != nil || !slices.Equal(again, []ports.Spec{s}) {
				t.Errorf("%q: %+v reads back from %q as %+v, %v", text, s, s, again, err)
			}
		}
	})
}
