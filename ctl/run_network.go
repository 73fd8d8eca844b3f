package main

import (
	"encoding/csv"
	"slices"
	"strconv"
	"strings"

	"github.com/overspan/overspan"
	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// A runNetwork is what one --network of run says.
type runNetwork struct {
	name            string
	ip, ip6, mac    string
	aliases         []string
	driverOptions   map[string]string
	gatewayPriority int32

	given []string // the keys besides name, in order
}

// networkForm is docker's long form of --network.
const networkForm = "want NETWORK, or name=NETWORK[,alias=NAME][,ip=ADDRESS][,ip6=ADDRESS][,mac-address=MAC][,driver-opt=KEY=VALUE][,gw-priority=NUMBER]"

// parseRunNetworks reads every --network; none is the default network.
func parseRunNetworks(texts []string) ([]runNetwork, error) {
	if len(texts) == 0 {
		return []runNetwork{{name: overspan.DefaultNetwork}}, nil
	}
	var out []runNetwork
	for _, text := range texts {
		n, err := parseRunNetwork(text)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(out, func(o runNetwork) bool { return o.name == n.name && !n.special() }) {
			return nil, usagef("network %q is specified multiple times: give all that is wanted of it in one --network", n.name)
		}
		out = append(out, n)
	}
	return out, nil
}

// parseRunNetwork reads one --network. No network's name has an equals sign; a
// field of the long form with commas in it goes into quotes, as in a line of CSV.
func parseRunNetwork(text string) (runNetwork, error) {
	if !strings.Contains(text, "=") {
		return runNetwork{name: text}, nil
	}
	lines, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil || len(lines) != 1 {
		return runNetwork{}, usagef("invalid --network %q: it is no line of CSV: %s", text, networkForm)
	}
	var n runNetwork
	for _, field := range lines[0] {
		key, value, both := strings.Cut(field, "=")
		key, value = strings.ToLower(strings.TrimSpace(key)), strings.TrimSpace(value)
		if !both || value == "" {
			return runNetwork{}, usagef("invalid field %q of --network %q: want KEY=VALUE", field, text)
		}
		if err := n.set(key, value); err != nil {
			return runNetwork{}, usagef("--network %q: %w", text, err)
		}
	}
	if n.name == "" {
		return runNetwork{}, usagef("--network %q names no network: %s", text, networkForm)
	}
	return n, nil
}

// repeatable are the keys of the long form that may be given more than once.
var repeatable = []string{"alias", "driver-opt"}

// set notes what one field of the long form says.
func (n *runNetwork) set(key, value string) error {
	if slices.Contains(n.given, key) && !slices.Contains(repeatable, key) || key == "name" && n.name != "" {
		return usagef("%s is given twice", key)
	}
	switch key {
	case "name":
		n.name = value
		return nil
	case "alias":
		n.aliases = append(n.aliases, value)
	case "ip":
		n.ip = value
	case "ip6":
		n.ip6 = value
	case "mac-address":
		n.mac = value
	case "driver-opt":
		if err := n.setDriverOption(value); err != nil {
			return err
		}
	case "gw-priority":
		priority, err := strconv.ParseInt(value, 10, 32)
		if err != nil {
			return usagef("invalid gw-priority %q: want a whole number, such as 1 or -1", value)
		}
		n.gatewayPriority = int32(priority)
	case "link-local-ip":
		return usagef("link-local-ip is not supported, since link-local addresses do not pass between nodes: use ip or ip6")
	default:
		return usagef("invalid field key %s: %s", key, networkForm)
	}
	n.given = append(n.given, key)
	return nil
}

func (n *runNetwork) setDriverOption(text string) error {
	options, err := keyValues("driver-opt", []string{text}, true)
	if err != nil {
		return err
	}
	for key, value := range options {
		if _, twice := n.driverOptions[key]; twice {
			return usagef("driver-opt %s is given twice", key)
		}
		if n.driverOptions == nil {
			n.driverOptions = map[string]string{}
		}
		n.driverOptions[key] = value
	}
	return nil
}

// special reports whether it is a mode that is the name of no network.
func (n runNetwork) special() bool {
	_, special, _ := specialMode(n.name)
	return special
}

// fixed reports whether an address is asked for.
func (n runNetwork) fixed() bool { return n.ip != "" || n.ip6 != "" }

// connect returns the request to plug a sandbox into the network.
func (n runNetwork) connect(target string, links []*overspanv1.Link) *overspanv1.ConnectRequest {
	return &overspanv1.ConnectRequest{
		Network: n.name, Target: target, Ip: n.ip, Ip6: n.ip6, Mac: n.mac, Aliases: n.aliases, Links: links,
		DriverOptions: n.driverOptions, GatewayPriority: n.gatewayPriority,
	}
}

// networkNames are those of every --network that can be understood.
func (r runRequest) networkNames() (names []string) {
	for _, text := range r.networks {
		if n, err := parseRunNetwork(text); err == nil {
			names = append(names, n.name)
		}
	}
	return names
}
