package daemon

import (
	"net/netip"

	"github.com/overspan/overspan"
	"github.com/overspan/overspan/agent/ports"
	"github.com/overspan/overspan/bridge"
)

// connectWant is a checked request: what the user fixed of the endpoint.
type connectWant struct {
	ip, ip6   netip.Addr
	mac       overspan.MAC
	name      string
	ifname    string
	aliases   []string
	links     []overspan.Link
	waitLocal bool
	publish   []ports.Spec

	gatewayPriority int32
	driverOptions   map[string]string
	options         bridge.EndpointOptions // what driverOptions mean
}

// chooses reports whether the addresses are for this node to choose.
func (w connectWant) chooses() bool { return !w.ip.IsValid() && !w.ip6.IsValid() && w.mac.IsZero() }

func parseConnect(req ConnectRequest) (connectWant, error) {
	w := connectWant{
		name: req.Name, ifname: req.Interface, waitLocal: req.Wait != WaitNone,
		gatewayPriority: req.GatewayPriority, driverOptions: req.DriverOptions,
		aliases: req.Aliases, links: req.Links,
	}
	var err error
	if w.ip, err = parseIP(req.IP, overspan.IPv4); err != nil {
		return w, err
	}
	if w.ip6, err = parseIP(req.IP6, overspan.IPv6); err != nil {
		return w, err
	}
	if req.MAC != "" {
		if w.mac, err = overspan.ParseMAC(req.MAC); err != nil {
			return w, err
		}
		if w.mac.IsDerived() {
			return w, overspan.Errorf(overspan.ErrInvalid, "MAC address %s is reserved: 02:42:… belongs to the addresses of the network; choose another", w.mac)
		}
	}
	if req.Name != "" {
		if err := overspan.CheckName("endpoint", req.Name); err != nil {
			return w, err
		}
	}
	if w.options, err = bridge.ParseEndpointOptions(req.DriverOptions); err != nil {
		return w, err
	}
	if w.ifname == "" {
		w.ifname = w.options.Interface
	} else if w.options.Interface != "" && w.options.Interface != w.ifname {
		return w, overspan.Errorf(overspan.ErrInvalid, "the interface is to be called both %s and %s", w.ifname, w.options.Interface)
	}
	if err := checkNames(req.Aliases, req.Links); err != nil {
		return w, err
	}
	if w.publish, err = parsePublish(req); err != nil {
		return w, err
	}
	return w, checkInterfaceName(w.ifname)
}

func parseIP(s string, f overspan.Family) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil || overspan.FamilyOf(a) != f || a.Zone() != "" {
		want := "an IPv4 address such as 10.1.0.2"
		if f == overspan.IPv6 {
			want = "an IPv6 address such as fd00:1::2"
		}
		return netip.Addr{}, overspan.Errorf(overspan.ErrInvalid, "invalid address %q: want %s", s, want)
	}
	return a, nil
}
