package ipam

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/overspan/overspan"
)

// A Spec is what a user says about a new network's addresses, word for word.
// Each gateway, range and auxiliary address belongs to the subnet it lies in.
type Spec struct {
	Name     string
	Driver   string // "" is bridge
	Subnets  []string
	Gateways []string
	Ranges   []string
	Aux      map[string]string // name to address
	IPv6     bool              // choose an IPv6 subnet if none is given
	NoIPv4   bool              // choose no IPv4 subnet
}

// A Plan is a Spec that has been understood. Which subnet an automatic family
// takes is open until Settle.
type Plan struct {
	Name     string
	Driver   overspan.Driver
	IPv4     overspan.Subnet // zero if the network has none, or an automatic one
	IPv6     overspan.Subnet
	AutoIPv4 bool
	AutoIPv6 bool
}

// Limits of a subnet's prefix length: the longest that leaves two addresses
// beside the gateway's, or one in IPv4, which has a broadcast address.
const (
	maxBitsIPv4 = 30
	maxBitsIPv6 = 126
)

// unusable lists prefixes in which no network can have addresses, and why.
var unusable = []struct {
	prefix netip.Prefix
	why    string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "addresses of this host on this network (RFC 1122)"},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback addresses"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local addresses"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast addresses"},
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved addresses (RFC 1112)"},
	{netip.MustParsePrefix("::/8"), "loopback, IPv4-mapped and other reserved addresses"},
	{netip.MustParsePrefix("fe80::/10"), "link-local addresses"},
	{netip.MustParsePrefix("ff00::/8"), "multicast addresses"},
}

// ParseSpec understands a Spec, or says with ErrInvalid what is wrong with it.
func ParseSpec(s Spec) (Plan, error) {
	if err := overspan.CheckName("network", s.Name); err != nil {
		return Plan{}, err
	}
	p := Plan{Name: s.Name}
	for _, step := range []func(Spec) error{p.parseDriver, p.parseSubnets, p.parseRanges, p.parseAux, p.parseGateways} {
		if err := step(s); err != nil {
			return Plan{}, err
		}
	}
	if !p.AutoIPv4 && !p.AutoIPv6 {
		return p, checkLendable(p.IPv4, p.IPv6)
	}
	return p, nil
}

func (p *Plan) parseDriver(s Spec) error {
	p.Driver = overspan.Driver(cmp.Or(s.Driver, string(overspan.DriverBridge)))
	switch p.Driver {
	case overspan.DriverOverlay, overspan.DriverBridge:
		return nil
	case overspan.DriverHost, overspan.DriverNone:
		return overspan.Errorf(overspan.ErrInvalid, "driver %s has only its predefined network: use overlay or bridge", p.Driver)
	}
	return overspan.Errorf(overspan.ErrInvalid, "unknown driver %q: use overlay or bridge", s.Driver)
}

func (p *Plan) parseSubnets(s Spec) error {
	for _, text := range s.Subnets {
		prefix, err := parsePrefix("subnet", text)
		if err != nil {
			return err
		}
		if err := checkLength(prefix.Addr(), prefix.Bits()); err != nil {
			return err
		}
		if err := checkUsable("subnet", prefix); err != nil {
			return err
		}
		subnet := p.family(prefix.Addr())
		if subnet.IsValid() {
			return overspan.Errorf(overspan.ErrInvalid, "subnets %s and %s are of one family: a network has one of each", subnet.Prefix, prefix)
		}
		subnet.Prefix = prefix
	}
	if s.NoIPv4 && p.IPv4.IsValid() {
		return overspan.Errorf(overspan.ErrInvalid, "subnet %s is given for a network without IPv4: leave out one of the two", p.IPv4.Prefix)
	}
	p.AutoIPv4 = !p.IPv4.IsValid() && !s.NoIPv4
	p.AutoIPv6 = !p.IPv6.IsValid() && s.IPv6
	if s.NoIPv4 && !p.IPv6.IsValid() && !p.AutoIPv6 {
		return overspan.Errorf(overspan.ErrInvalid, "network %s would have neither IPv4 nor IPv6: ask for IPv6, or give an IPv6 subnet", s.Name)
	}
	return nil
}

func (p *Plan) parseRanges(s Spec) error {
	for _, text := range s.Ranges {
		prefix, err := parsePrefix("ip range", text)
		if err != nil {
			return err
		}
		subnet, err := p.around("ip range "+prefix.String(), prefix.Addr())
		if err != nil {
			return err
		}
		if prefix.Bits() < subnet.Prefix.Bits() {
			return overspan.Errorf(overspan.ErrInvalid, "ip range %s is larger than its subnet %s", prefix, subnet.Prefix)
		}
		if subnet.Range.IsValid() {
			return overspan.Errorf(overspan.ErrInvalid, "ip ranges %s and %s both lie in subnet %s: give one", subnet.Range, prefix, subnet.Prefix)
		}
		subnet.Range = prefix
	}
	return nil
}

func (p *Plan) parseAux(s Spec) error {
	names := map[netip.Addr]string{}
	for _, name := range slices.Sorted(maps.Keys(s.Aux)) {
		if err := overspan.CheckName("auxiliary address", name); err != nil {
			return err
		}
		a, err := parseAddr("auxiliary address", s.Aux[name])
		if err != nil {
			return err
		}
		subnet, err := p.around("auxiliary address "+a.String(), a)
		if err != nil {
			return err
		}
		if other, taken := names[a]; taken {
			return overspan.Errorf(overspan.ErrInvalid, "auxiliary addresses %q and %q are both %s", other, name, a)
		}
		names[a] = name
		if subnet.Aux == nil {
			subnet.Aux = map[string]netip.Addr{}
		}
		subnet.Aux[name] = a
	}
	return nil
}

// parseGateways comes after the auxiliary addresses: it must know them.
func (p *Plan) parseGateways(s Spec) error {
	for _, text := range s.Gateways {
		a, err := parseAddr("gateway", text)
		if err != nil {
			return err
		}
		subnet, err := p.around("gateway "+a.String(), a)
		if err != nil {
			return err
		}
		if subnet.Gateway.IsValid() {
			return overspan.Errorf(overspan.ErrInvalid, "gateways %s and %s both lie in subnet %s: give one", subnet.Gateway, a, subnet.Prefix)
		}
		if why := neverGateway(*subnet, a); why != "" {
			return overspan.Errorf(overspan.ErrInvalid, "gateway %s is %s of subnet %s: choose another", a, why, subnet.Prefix)
		}
		subnet.Gateway = a
	}
	for _, subnet := range []*overspan.Subnet{&p.IPv4, &p.IPv6} {
		if !subnet.IsValid() || subnet.Gateway.IsValid() {
			continue
		}
		if subnet.Gateway = defaultGateway(*subnet); !subnet.Gateway.IsValid() {
			return overspan.Errorf(overspan.ErrInvalid, "subnet %s has no address left for a gateway: give fewer auxiliary addresses or a larger subnet", subnet.Prefix)
		}
	}
	return nil
}

// family returns the plan's subnet of an address's family.
func (p *Plan) family(a netip.Addr) *overspan.Subnet {
	if a.Is4() {
		return &p.IPv4
	}
	return &p.IPv6
}

// around returns the given subnet that an address lies in. What names the user's
// word: "gateway 10.1.0.1".
func (p *Plan) around(what string, a netip.Addr) (*overspan.Subnet, error) {
	subnet := p.family(a)
	switch {
	case !subnet.IsValid():
		return nil, overspan.Errorf(overspan.ErrInvalid, "%s is in none of the network's subnets: give the subnet that it belongs to", what)
	case !subnet.Prefix.Contains(a):
		return nil, overspan.Errorf(overspan.ErrInvalid, "%s is not in subnet %s", what, subnet.Prefix)
	}
	return subnet, nil
}

// neverGateway says what keeps an address of the subnet from being its
// gateway; "" if nothing does.
func neverGateway(s overspan.Subnet, a netip.Addr) string {
	alone := overspan.Network{IPv4: s}
	if a.Is6() {
		alone = overspan.Network{IPv6: s}
	}
	slot, ok := s.Slot(a)
	if !ok {
		return "too far above the base"
	}
	return alone.Reserved(slot)
}

// defaultGateway returns the first address that can be the gateway; the zero
// Addr if there is none.
func defaultGateway(s overspan.Subnet) netip.Addr {
	for a := s.Prefix.Addr().Next(); s.Prefix.Contains(a); a = a.Next() {
		if neverGateway(s, a) == "" {
			return a
		}
	}
	return netip.Addr{}
}

func parsePrefix(what, text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, overspan.Errorf(overspan.ErrInvalid, "invalid %s %q: want an address and a prefix length such as 10.1.0.0/16 or fd00:1::/64", what, text)
	}
	if p != p.Masked() {
		return netip.Prefix{}, overspan.Errorf(overspan.ErrInvalid, "invalid %s %s: host bits are set; did you mean %s?", what, p, p.Masked())
	}
	return p, nil
}

func parseAddr(what, text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, overspan.Errorf(overspan.ErrInvalid, "invalid %s %q: want an address such as 10.1.0.1 or fd00:1::1", what, text)
	}
	return a, nil
}

// checkLength refuses a prefix length that leaves a subnet too small.
func checkLength(base netip.Addr, bits int) error {
	limit := maxBitsIPv4
	if base.Is6() {
		limit = maxBitsIPv6
	}
	if bits > limit {
		return overspan.Errorf(overspan.ErrInvalid, "subnet %s/%d is too small: the longest prefix is /%d", base, bits, limit)
	}
	return nil
}

// checkUsable refuses a prefix with addresses that no endpoint can have.
func checkUsable(what string, p netip.Prefix) error {
	for _, u := range unusable {
		if u.prefix.Overlaps(p) {
			return overspan.Errorf(overspan.ErrInvalid, "%s %s cannot be used: %s are %s", what, p, u.prefix, u.why)
		}
	}
	return nil
}

// checkLendable refuses a network in which no endpoint could get an address of
// itself. The two families share their slots.
func checkLendable(v4, v6 overspan.Subnet) error {
	n := &overspan.Network{IPv4: v4, IPv6: v6}
	sp := spaceOf(n)
	if sp.count(sp.window) > 0 {
		return nil
	}
	if v4.IsValid() && v6.IsValid() {
		return overspan.Errorf(overspan.ErrInvalid,
			"%s has no address to lend: an endpoint has the same offset in both subnets, and the ranges have no free offset in common; choose other ranges", dynamicPrefixes(n))
	}
	return overspan.Errorf(overspan.ErrInvalid,
		"%s has no address to lend: all are reserved, or lie 2^32 or more above the subnet's base; choose another range", dynamicPrefixes(n))
}
