package bridge

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/kernel"
)

// EndpointOptions is what the options of an endpoint mean.
type EndpointOptions struct {
	Interface string           // its name; "": the first free ethN
	Sysctls   []EndpointSysctl // of the interface, sorted
}

// An EndpointSysctl is a setting of an interface in net/FAMILY/conf or
// net/FAMILY/neigh of its container.
type EndpointSysctl struct {
	Family string // "ipv4", "ipv6" or "mpls"
	Dir    string // "conf" or "neigh"
	Key    string
	Value  int64
}

// endpointPrefix begins docker's names of the options; short ones go without.
const endpointPrefix = "com.docker.network.endpoint."

// The options, by short name.
const (
	optionIfname  = "ifname"
	OptionSysctls = "sysctls"
)

// ifnameHolder stands for the interface's name in what users write.
const ifnameHolder = "IFNAME"

// sysctlForm is what a setting looks like.
const sysctlForm = "net.ipv4.conf.IFNAME.KEY=NUMBER, with ipv4, ipv6 or mpls, conf or neigh"

// ParseEndpointOptions understands what a user says of a new endpoint, or says
// with ErrInvalid what is wrong with it.
func ParseEndpointOptions(given map[string]string) (EndpointOptions, error) {
	var o EndpointOptions
	seen := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		short := strings.TrimPrefix(name, endpointPrefix)
		if seen[short] {
			return o, overspan.Errorf(overspan.ErrInvalid, "options %s and %s are the same: give one of them", name, endpointPrefix+short)
		}
		seen[short] = true
		var err error
		switch short {
		case optionIfname:
			o.Interface = given[name]
		case OptionSysctls:
			o.Sysctls, err = parseSysctls(given[name])
		default:
			err = overspan.Errorf(overspan.ErrInvalid, "unknown option %q of an endpoint: use %s or %s", name, endpointPrefix+OptionSysctls, endpointPrefix+optionIfname)
		}
		if err != nil {
			return o, err
		}
	}
	return o, nil
}

// EndpointOptionsOf returns what the stored options of an endpoint mean. What
// this version does not understand another has written: it is left out.
func EndpointOptionsOf(stored map[string]string) EndpointOptions {
	var out EndpointOptions
	for name, value := range stored {
		o, err := ParseEndpointOptions(map[string]string{name: value})
		if err != nil {
			continue
		}
		out.Interface = cmp.Or(out.Interface, o.Interface)
		if len(o.Sysctls) > 0 {
			out.Sysctls = o.Sysctls
		}
	}
	return out
}

// CheckFor refuses options that contradict the endpoint's network.
func (o EndpointOptions) CheckFor(n *overspan.Network) error {
	for _, s := range o.Sysctls {
		if s.Key == "disable_ipv6" && s.Value != 0 && n.IPv6.IsValid() {
			return overspan.Errorf(overspan.ErrInvalid, "sysctl %s contradicts network %s, which has IPv6", s, n.Name)
		}
	}
	return nil
}

// parseSysctls reads settings with commas between them, such as
// net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.conf.IFNAME.accept_ra=0.
func parseSysctls(text string) ([]EndpointSysctl, error) {
	var out []EndpointSysctl
	for _, part := range strings.Split(text, ",") {
		s, ok := parseSysctl(strings.TrimSpace(part))
		if !ok {
			return nil, overspan.Errorf(overspan.ErrInvalid, "invalid sysctl %q of an endpoint: want %s", part, sysctlForm)
		}
		if slices.ContainsFunc(out, func(o EndpointSysctl) bool { return o.path(ifnameHolder) == s.path(ifnameHolder) }) {
			return nil, overspan.Errorf(overspan.ErrInvalid, "sysctl %s of an endpoint is given twice", part)
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b EndpointSysctl) int { return strings.Compare(a.path(ifnameHolder), b.path(ifnameHolder)) })
	return out, nil
}

func parseSysctl(text string) (EndpointSysctl, bool) {
	name, value, _ := strings.Cut(text, "=")
	parts := strings.Split(name, ".")
	if len(parts) != 5 || parts[0] != "net" || parts[3] != ifnameHolder || !isSysctlKey(parts[4]) {
		return EndpointSysctl{}, false
	}
	n, err := strconv.ParseInt(value, 10, 64)
	s := EndpointSysctl{Family: parts[1], Dir: parts[2], Key: parts[4], Value: n}
	return s, err == nil && slices.Contains([]string{"ipv4", "ipv6", "mpls"}, s.Family) && slices.Contains([]string{"conf", "neigh"}, s.Dir)
}

// isSysctlKey keeps slashes and dots, which lead elsewhere, out of paths.
func isSysctlKey(s string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789_") == ""
}

// String returns the setting as users write it.
func (s EndpointSysctl) String() string {
	return fmt.Sprintf("net.%s.%s.%s.%s=%d", s.Family, s.Dir, ifnameHolder, s.Key, s.Value)
}

func (s EndpointSysctl) path(ifname string) string {
	return strings.Join([]string{"net", s.Family, s.Dir, ifname, s.Key}, "/")
}

// sysctls returns the settings of an interface as the kernel names them.
func (o EndpointOptions) sysctls(ifname string) []kernel.Sysctl {
	var out []kernel.Sysctl
	for _, s := range o.Sysctls {
		out = append(out, kernel.Sysctl{Path: s.path(ifname), Value: strconv.FormatInt(s.Value, 10)})
	}
	return out
}
