package kernel

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/overspan/overspan"
)

// TestKernelWithoutIPv6 plans a network with IPv6 for a host that has none: what
// works without it is there, the rest is neither tried nor drift, and a container
// that is to have an IPv6 address is told why it cannot.
func TestKernelWithoutIPv6(t *testing.T) {
	s := newTestSite(t)
	s.host.noIPv6 = true
	delete(s.host.rules, overspan.IPv6)
	veth := overspan.VethName(s.key.Endpoint)
	for _, path := range []string{ForwardIPv6, "net/ipv6/conf/" + s.net.bridge() + "/accept_ra"} {
		put(&s.want.Sysctls, path, "1")
		s.scope.Sysctls = append(s.scope.Sysctls, path)
	}

	err := s.host.Apply(t.Context(), Diff(read(t, s.host, s.scope), s.want))
	if !errors.Is(err, overspan.ErrUnsupported) || !strings.Contains(err.Error(), "this kernel has no IPv6") {
		t.Errorf("a container with an IPv6 address: %v", err)
	}

	edit(s.want.Insides, veth, func(in *Inside) { in.Addrs, in.Routes = in.Addrs[:1], in.Routes[:1] })
	if err := s.host.Apply(t.Context(), Diff(read(t, s.host, s.scope), s.want)); err != nil {
		t.Error(err)
	}
	have := read(t, s.host, s.scope)
	if rest := Diff(have, s.want); len(rest) > 0 {
		t.Errorf("drift:\n%s", texts(rest))
	}
	for k := range have.Neighs {
		if k.IP.Is6() {
			t.Errorf("neighbour %s", k.IP)
		}
	}
	for key := range have.Chains {
		if key.Family == overspan.IPv6 {
			t.Errorf("chain %s", key)
		}
	}
	for _, lack := range s.host.CheckSupport(t.Context()) {
		if strings.Contains(lack, "ipv6") {
			t.Errorf("what it lacks on purpose is complained of: %s", lack)
		}
	}
	if !slices.Contains(have.Lines(), "no IPv6") {
		t.Error("its state does not say so")
	}
}
