package main

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/overspan/overspan"
)

// containerPrefix begins a --network that is another sandbox's.
const containerPrefix = "container:"

// A runMode is where a command runs: in a sandbox of its own that is plugged
// into networks, if into any; in that of another; or on the host.
type runMode struct {
	name     string // of what is no network; "" with networks
	networks []runNetwork
	shared   string // the sandbox whose network namespace it is; "" for its own
	host     bool
}

// mode understands --network, and refuses what does not go with it, in docker's
// words.
func (r runRequest) mode() (runMode, error) {
	networks, err := parseRunNetworks(r.networks)
	if err != nil {
		return runMode{}, err
	}
	for _, n := range networks {
		m, special, err := specialMode(n.name)
		switch {
		case err != nil:
			return runMode{}, err
		case !special:
			continue
		case len(networks) > 1:
			return runMode{}, usagef("conflicting options: cannot attach both user-defined and non-user-defined network-modes: --network %s goes with no other", n.name)
		}
		m.name = n.name
		return m, r.checkSpecial(n, m)
	}
	if (r.ip != "" || r.ip6 != "" || r.mac != "") && len(networks) != 1 {
		return runMode{}, usagef("--ip, --ip6 and --mac-address want exactly one --network; of several, --network name=NETWORK,ip=ADDRESS says whose each is")
	}
	for i := range networks {
		if err := r.settle(&networks[i]); err != nil {
			return runMode{}, err
		}
	}
	return runMode{networks: networks}, nil
}

// settle adds to a network what flags of their own say, and refuses what both say.
func (r runRequest) settle(n *runNetwork) error {
	for _, flag := range []struct {
		key   string
		given bool
	}{{"alias", len(r.aliases) > 0}, {"ip", r.ip != ""}, {"ip6", r.ip6 != ""}, {"mac-address", r.mac != ""}} {
		if flag.given && slices.Contains(n.given, flag.key) {
			return usagef("conflicting options: cannot specify both --%s and per-network %s: leave out one of them for network %s", flag.key, flag.key, n.name)
		}
	}
	n.ip, n.ip6, n.mac = cmp.Or(n.ip, r.ip), cmp.Or(n.ip6, r.ip6), cmp.Or(n.mac, r.mac)
	n.aliases = slices.Concat(n.aliases, r.aliases)
	if n.fixed() && n.name == overspan.DefaultNetwork {
		return usagef("user specified IP address is supported on user defined networks only: --ip and --ip6 want another --network than %s", overspan.DefaultNetwork)
	}
	return nil
}

// specialMode returns what a --network means that is the name of no network.
func specialMode(network string) (m runMode, special bool, err error) {
	target, shared := strings.CutPrefix(network, containerPrefix)
	switch {
	case shared && target == "":
		return m, true, usagef("invalid container format container:<name|id>: --network %s names none", network)
	case shared:
		return runMode{shared: target}, true, nil
	case network == string(overspan.DriverHost):
		return runMode{host: true}, true, nil
	}
	return m, network == string(overspan.DriverNone), nil
}

// checkSpecial refuses what needs a network, or, where the namespace is not the
// command's own, what would have to change that.
func (r runRequest) checkSpecial(n runNetwork, m runMode) error {
	network := n.name
	if n.fixed() || r.ip != "" || r.ip6 != "" {
		return usagef("user specified IP address is supported on user defined networks only: it does not go with --network %s", network)
	}
	given := map[string]bool{"alias": len(r.aliases) > 0, "link": len(r.links) > 0, "mac-address": r.mac != ""}
	if m.host || m.shared != "" {
		given["name"], given["hostname"] = r.name != "", r.settings.hostname != ""
		given["dns"], given["dns-search"] = len(r.settings.servers) > 0, len(r.settings.search) > 0
		given["dns-option"], given["add-host"] = len(r.settings.options) > 0, len(r.settings.add) > 0
	}
	if m.shared != "" && r.doors.some() {
		return usagef("conflicting options: port publishing and the container type network mode: --publish and --publish-all do not go with --network %s", network)
	}
	if len(n.given) > 0 {
		return usagef("conflicting options: %s and the network mode: it does not go with --network name=%s", n.given[0], network)
	}
	for _, option := range slices.Sorted(maps.Keys(given)) {
		if given[option] {
			return usagef("conflicting options: %s and the network mode: --%s does not go with --network %s", option, option, network)
		}
	}
	return nil
}
