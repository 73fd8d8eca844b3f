package main

import (
	"strings"

	"github.com/spf13/pflag"

	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// sandboxFlags are what a user may say of a sandbox that is made.
type sandboxFlags struct {
	hostname                      string
	servers, search, options, add []string
}

// register adds the flags. The letter is that of --hostname, "" for none.
func (s *sandboxFlags) register(f *pflag.FlagSet, letter string) {
	f.StringVarP(&s.hostname, "hostname", letter, "", "hostname that its commands see (default: the name)")
	f.StringArrayVar(&s.servers, "dns", nil, "server to ask for names of the world, in place of the host's; may be repeated")
	f.StringArrayVar(&s.search, "dns-search", nil, "domain to try short names in, '.' for none; may be repeated")
	f.StringArrayVar(&s.options, "dns-option", nil, "option of resolv.conf, such as ndots:1; may be repeated")
	f.StringArrayVar(&s.add, "add-host", nil, "NAME:ADDRESS: line of /etc/hosts; may be repeated")
}

// request returns the request to make the sandbox.
func (s *sandboxFlags) request(name string) (*overspanv1.CreateSandboxRequest, error) {
	req := &overspanv1.CreateSandboxRequest{Name: name, Hostname: s.hostname}
	if len(s.servers)+len(s.search)+len(s.options) > 0 {
		req.Resolver = &overspanv1.Resolver{Servers: s.servers, Search: s.search, Options: s.options}
	}
	for _, text := range s.add {
		// An IPv6 address has colons, and may have brackets as in a URL.
		host, address, both := strings.Cut(text, ":")
		if !both {
			return nil, usagef("invalid --add-host %q: want NAME:ADDRESS", text)
		}
		address = strings.TrimSuffix(strings.TrimPrefix(address, "["), "]")
		req.Hosts = append(req.Hosts, &overspanv1.HostName{Name: host, Address: address})
	}
	return req, nil
}
