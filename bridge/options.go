package bridge

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/overspan/overspan"
)

// Options is what the options of a network mean. OptionsOf and ParseOptions
// make one; without any option they return the defaults, which are not the zero
// value.
type Options struct {
	ICC         bool       // endpoints of the network on one node reach each other; true unless switched off
	Masquerade  bool       // what leaves the network bears an address of the node; true unless switched off
	SNAT4       netip.Addr // which address that is, in place of the route's choice; zero: that choice
	SNAT6       netip.Addr
	HostBinding netip.Addr // where ports are published that name no address; zero: everywhere
	Name        string     // alternative name of the bridge; "": none
	MTU         int        // in bytes; 0: what the underlay leaves
	VNI         uint32     // 0: any free one
}

// Limits of an MTU in bytes: IPv4's least (RFC 791) and the kernel's most for a
// veth. IPv6 needs more; whether a network has it, its options do not know.
const (
	minMTU = 68
	maxMTU = 65535
)

// maxName is how long the name of a link can be (IFNAMSIZ). An alternative one
// could be longer, but there are tools that take no more.
const maxName = 15

// An option is something that users can say of a network, by a short name or by
// docker's.
type option struct {
	short, docker string
	only          overspan.Driver // that has it; "": every driver
	want          string          // what its value is, for people
	set           func(o *Options, value string) bool
}

// allOptions is every option that there is, by short name.
var allOptions = []option{
	{
		short: "host_binding", docker: "com.docker.network.bridge.host_binding_ipv4",
		want: "an address of the host, such as 127.0.0.1",
		set:  func(o *Options, v string) bool { return setAddr(&o.HostBinding, v, bindable) },
	},
	{
		short: "icc", docker: "com.docker.network.bridge.enable_icc",
		want: "true or false",
		set:  func(o *Options, v string) bool { return setBool(&o.ICC, v) },
	},
	{
		short: "masquerade", docker: "com.docker.network.bridge.enable_ip_masquerade",
		want: "true or false",
		set:  func(o *Options, v string) bool { return setBool(&o.Masquerade, v) },
	},
	{
		short: "mtu", docker: "com.docker.network.driver.mtu",
		want: "a number of bytes from 68 to 65535",
		set: func(o *Options, v string) bool {
			mtu, err := strconv.Atoi(v)
			o.MTU = mtu
			return err == nil && minMTU <= mtu && mtu <= maxMTU
		},
	},
	{
		short: "name", docker: "com.docker.network.bridge.name", only: overspan.DriverBridge,
		want: "the name of a link: at most 15 letters, digits, '.', '_', '-', none of Overspan's own osb-, osx- and osv-",
		set: func(o *Options, v string) bool {
			o.Name = v
			return isLinkName(v)
		},
	},
	{
		short: "snat4", docker: "com.docker.network.host_ipv4",
		want: "an IPv4 address of the host",
		set: func(o *Options, v string) bool {
			return setAddr(&o.SNAT4, v, func(a netip.Addr) bool { return a.Is4() && sendable(a) })
		},
	},
	{
		short: "snat6", docker: "com.docker.network.host_ipv6",
		want: "an IPv6 address of the host",
		set: func(o *Options, v string) bool {
			return setAddr(&o.SNAT6, v, func(a netip.Addr) bool { return a.Is6() && !a.Is4In6() && sendable(a) })
		},
	},
	{
		short: "vni", docker: "com.docker.network.driver.overlay.vxlanid_list", only: overspan.DriverOverlay,
		want: "a number of 24 bits",
		set: func(o *Options, v string) bool {
			vni, err := strconv.ParseUint(v, 10, 24)
			o.VNI = uint32(vni)
			return err == nil && vni != 0
		},
	},
}

// ParseOptions understands what a user says of a new network of a driver, or
// says with ErrInvalid what is wrong with it.
func ParseOptions(driver overspan.Driver, given map[string]string) (Options, error) {
	o := defaults()
	by := map[string]string{} // short name to the name that was used
	for _, name := range slices.Sorted(maps.Keys(given)) {
		opt, known := findOption(driver, name)
		if !known {
			return o, overspan.Errorf(overspan.ErrInvalid, "unknown option %q of driver %s: use %s", name, driver, strings.Join(optionNames(driver), ", "))
		}
		if other, twice := by[opt.short]; twice {
			return o, overspan.Errorf(overspan.ErrInvalid, "options %s and %s are the same: give one of them", other, name)
		}
		by[opt.short] = name
		if !opt.set(&o, given[name]) {
			return o, overspan.Errorf(overspan.ErrInvalid, "invalid option %s=%s: want %s", name, given[name], opt.want)
		}
	}
	return o, nil
}

// OptionsOf returns what the stored options of a network mean. What this
// version does not understand another has written: it is left out.
func OptionsOf(n *overspan.Network) Options {
	o := defaults()
	for name, value := range n.Options {
		changed := o
		if opt, known := findOption(n.Driver, name); known && opt.set(&changed, value) {
			o = changed
		}
	}
	return o
}

func defaults() Options { return Options{ICC: true, Masquerade: true} }

func findOption(driver overspan.Driver, name string) (option, bool) {
	for _, opt := range allOptions {
		if (name == opt.short || name == opt.docker) && opt.has(driver) {
			return opt, true
		}
	}
	return option{}, false
}

// has reports whether networks of a driver have an option. A configuration, of
// DriverNull, may be for either kind.
func (opt option) has(driver overspan.Driver) bool {
	return opt.only == "" || opt.only == driver || driver == overspan.DriverNull
}

func optionNames(driver overspan.Driver) []string {
	var out []string
	for _, opt := range allOptions {
		if opt.has(driver) {
			out = append(out, opt.short)
		}
	}
	return out
}

func setBool(to *bool, value string) bool {
	b, err := strconv.ParseBool(value)
	*to = b
	return err == nil
}

func setAddr(to *netip.Addr, value string, good func(netip.Addr) bool) bool {
	a, err := netip.ParseAddr(value)
	*to = a
	return err == nil && a.Zone() == "" && good(a)
}

// sendable reports whether packets of containers can leave under an address.
func sendable(a netip.Addr) bool {
	return !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() && !a.IsLinkLocalUnicast()
}

// bindable reports whether a port can be bound at an address; the unspecified
// one stands for all of its family.
func bindable(a netip.Addr) bool {
	return !a.IsMulticast() && !a.Is4In6() && !(a.Is6() && a.IsLinkLocalUnicast())
}

// isLinkName reports whether a link can have a name that no tool stumbles over,
// and that is none of ours.
func isLinkName(s string) bool {
	bad := func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-", r)
	}
	if s == "" || len(s) > maxName || strings.ContainsFunc(s, bad) || s[0] == '-' {
		return false
	}
	for _, ours := range []string{overspan.BridgeName(""), overspan.VXLANName(""), overspan.VethName("")} {
		if strings.HasPrefix(s, ours) {
			return false
		}
	}
	// The kernel keeps these: the first two in paths, the others for sysctls.
	return !slices.Contains([]string{".", "..", "all", "default"}, s)
}
